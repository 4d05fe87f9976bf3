"""The model card of an export: what it is, on what it was trained, what was measured of it, how to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modscale.deploy.export import Form
from modscale.deploy.facts import Facts
from modscale.deploy.judgement import Judgement
from modscale.latency.summary import Latency
from modscale.report.pages import render_page
from modscale.runs.metrics import decimals
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec

MARKER = "modscale export"
"""Stands in the first line of a card, by which an export knows a README.md that it may write over."""

MOST_CLASSES = 1000
"""A card lists no more classes than this; the file has all."""

SCRIPT = """\
import json, sys, numpy, onnxruntime, PIL.Image as Image, PIL.ImageOps as ImageOps
session = onnxruntime.InferenceSession("model.onnx")
known = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
side, names = known["input_size"][1], known["classes"] or range(1_000_000)
image = Image.open(sys.argv[1])
image.draft(None, (2 * side, 2 * side))  # a large JPEG is decoded no finer than it is used
image = ImageOps.fit(ImageOps.exif_transpose(image).convert("MODE"), (side, side), Image.Resampling.BICUBIC)
pixels = numpy.float32((numpy.asarray(image).reshape(side, side, -1) / 255 - known["mean"]) / known["std"])
"""
"""Up to the input, which has no batch yet; MODE is the file's."""
IMAGES = """{"image": pixels.transpose(2, 0, 1)[None].repeat(BATCH, axis=0)}"""
"""The input; BATCH is the file's."""

SCRIPT_CLASSES = """\
logits = session.run(["logits"], IMAGES)[0][0]
print(*(f"{names[i]} {logits[i]:.4f}" for i in logits.argsort()[:-6:-1]), sep="\\n")
"""
SCRIPT_MASKS = """\
mask = session.run(["masks"], IMAGES)[0][0].argmax(0)
print(*(f"{names[i]} {numpy.mean(mask == i):.1%}" for i in numpy.unique(mask)), sep="\\n")
"""
SCRIPT_MAPS = """\
maps = session.run(None, IMAGES)
print(*(f"{output.name} {found.shape}" for output, found in zip(session.get_outputs(), maps)), sep="\\n")
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured of the exported files."""

    accuracy: float | None = None
    """Share of the validation images, or of their pixels, that the ONNX file gets right; None where none were given."""
    miou: float | None = None
    """Mean intersection over union of its masks; None for a classifier."""
    val_images: int = 0
    """How many there were."""
    data: str = ""
    """What they are called."""
    latency: Latency | None = None
    """Of the ONNX file."""
    int8: Judgement | None = None
    """Of the int8 file, where there is one."""
    int8_latency: Latency | None = None
    """Of the int8 file."""
    int8_file: str = ""
    """Its name."""


def write_card(
    spec: ModelSpec, form: Form, facts: Facts, measured: Measured, *, trained: bool, machine: Mapping[str, Any]
) -> bytes:
    """The text of README.md, Markdown. `machine` is that of `describe_machine`."""
    counted = count_model(spec)
    rows = [
        (
            "input",
            f"image [{form.batch or 'any'}, {spec.in_chans}, {spec.resolution}, {spec.resolution}], {_input(form)}",
        ),
        ("outputs", ", ".join(form.outputs(spec))),
        ("params, FLOPs", f"{counted.params:,}, {counted.flops:,} (1 multiply-add is 1)"),
        ("training", _training(facts, trained)),
        ("accuracy", _accuracy(facts, measured)),
        ("latency", _latency(measured.latency, form, machine)),
        ("an image of another size", facts.resize),
    ]
    files = [
        ("model.onnx", "the network for ONNX Runtime, checked against PyTorch"),
        *([(measured.int8_file, _int8_name(measured.int8))] if measured.int8 else []),
        ("model.safetensors", "its weights, by the names of the authors' code"),
        ("spec.yaml", "its architecture, from which modscale builds the network"),
    ]
    usage, end = _usage(spec, form)
    script = (SCRIPT + end).replace("IMAGES", IMAGES)
    script = script.replace("BATCH", str(form.batch or 1)).replace("MODE", {1: "L"}.get(spec.in_chans, "RGB"))
    names = facts.classes or ()
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    context = {
        "marker": MARKER,
        "name": spec.name,
        "what": f"An EfficientMod network of {len(spec.stages)} stages for images of {spec.resolution} pixels,"
        f" {_heads(spec, form)}.",
        "rows": rows,
        "files": files,
        "int8": _int8(measured, measured.int8) if measured.int8 else "",
        "usage": usage,
        "script": script.splitlines(),
        "classes": ", ".join(names[:MOST_CLASSES]) + more,
    }
    return render_page("model_card.md.j2", context, MOST_CLASSES)


def _usage(spec: ModelSpec, form: Form) -> tuple[str, str]:
    """What the script tells of a photograph, and its last lines."""
    if not form.logits:
        return "The maps of a photograph:", SCRIPT_MAPS
    if spec.head == "semantic_fpn":
        return "The class of each pixel of a photograph, and how much of it each class takes:", SCRIPT_MASKS
    return "The best five classes of a photograph:", SCRIPT_CLASSES


def _input(form: Form) -> str:
    if form.folded:
        return "pixels scaled to 0..1; mean and deviation are dealt with inside"
    return "pixels scaled to 0..1, less the mean, by the deviation"


def _heads(spec: ModelSpec, form: Form) -> str:
    maps = f"{len(spec.stages)} feature maps" if form.features else ""
    answers = f"{spec.num_classes} classes"
    answers += " for every pixel, by Semantic FPN" if spec.head == "semantic_fpn" else ""
    return " and ".join(part for part in (answers if form.logits else "", maps) if part)


def _training(facts: Facts, trained: bool) -> str:
    if not trained:
        return "none: the weights are initial ones"
    told = [f"on {facts.training['data']}" if facts.training.get("data") else "on what is not known here"]
    told += [f"{facts.training['epochs']} epochs"] if facts.training.get("epochs") else []
    return ", ".join(told)


def _accuracy(facts: Facts, measured: Measured) -> str:
    told = []
    if measured.accuracy is not None:
        told.append(
            f"{measured.accuracy:.2%} of the {measured.val_images:,} validation images of {measured.data},"
            " measured in ONNX Runtime"
            if measured.miou is None
            else f"mIoU {measured.miou:.2%} ({measured.accuracy:.2%} of the pixels) of the centre squares of"
            f" {measured.val_images:,} validation images of {measured.data}, measured in ONNX Runtime"
        )
    if facts.training.get("accuracy") is not None:
        miou = facts.training.get("miou")
        told.append(
            (f"{facts.training['accuracy']:.2%}" if miou is None else f"mIoU {miou:.2%}")
            + " as its training measured it in PyTorch"
        )
    return "; ".join(told) or "not measured"


def _latency(latency: Latency | None, form: Form, machine: Mapping[str, Any]) -> str:
    if latency is None:
        return "not measured"
    doubts = " (the machine was busy)" if latency.busy else ""
    cores = f"{latency.threads} thread{'s' if latency.threads > 1 else ''} of {machine.get('cpu') or 'a processor'}"
    images = f"{form.batch or 1} image{'s' if (form.batch or 1) > 1 else ''} at once"
    return f"{_ms(latency)}{doubts}, {images}, ONNX Runtime on {cores}"


def _ms(latency: Latency) -> str:
    digits = max(decimals(latency.quiet_ms), 2)
    figure = f"{latency.quiet_ms:.{digits}f} ± {latency.quiet_ci95_ms:.{digits}f} ms"
    return f"{figure} (undisturbed, 95 % interval; median {latency.median_ms:.2f})"


def _int8_name(judgement: Judgement | None) -> str:
    words = {
        "good": "the same in int8",
        "broken": "in int8, BROKEN: see below",
        "unproven": "in int8, unproven: see below",
    }
    return words[judgement.verdict] if judgement else ""


def _int8(measured: Measured, int8: Judgement) -> str:
    told: Sequence[str] = [
        f"{int8.verdict.capitalize()}: {int8.reason}.",
        f"Both give the same class on {int8.agreement:.1%} of them. In int8: {int8.level}.",
        f"Latency {_ms(measured.int8_latency)}." if measured.int8_latency else "Latency not measured.",
    ]
    return " ".join(told)
