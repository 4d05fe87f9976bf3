"""A whole export: the files that stand alone, what is measured of them, and the model card that tells it.

Nothing of the folder is written before all that was given has been looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from modscale.api.held_out import HeldOut, find_held_out
from modscale.api.known_facts import find_facts
from modscale.api.masks import load_scenes, score_masks
from modscale.datasets.dataset import Dataset, load_dataset
from modscale.deploy.classify import classify, feed
from modscale.deploy.export import ExportResult, Form, export_model
from modscale.deploy.facts import Facts
from modscale.deploy.judgement import Judgement, judge
from modscale.errors import DataError, InputError
from modscale.files import path_text, scratch_folder, write_whole
from modscale.kinds import FIDELITY_FILE, RUN_FILE, TRAIN_FILE, naming_kind
from modscale.latency.protocol import OnnxModel, measure_files
from modscale.latency.summary import Latency
from modscale.machine import describe_machine
from modscale.models.checkpoint import loaded_to_json
from modscale.report.model_card import MARKER, Measured, write_card
from modscale.settings import LatencySettings
from modscale.specs.spec import ModelSpec

CARD_FILE = "README.md"
INT8_FILES = {"good": "model.int8.onnx", "unproven": "model.int8.onnx", "broken": "model.int8.broken.onnx"}
"""What an int8 file is called, by its verdict."""

CALIBRATION_IMAGES = 200
"""Training images whose activations set the ranges of int8; of more classes, one of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOrder:
    """What is to be exported, how, and what is to be measured of it."""

    spec: ModelSpec
    """The network."""
    out: Path
    """The folder to write."""
    weights: Path | None = None
    """A checkpoint; None starts the weights fresh, from `seed`."""
    key: str | None = None
    """The way to the weights in the checkpoint."""
    fresh_head: bool = False
    """Whether the head starts fresh."""
    seed: int = 0
    """Of fresh weights."""
    form: Form = field(default_factory=Form)
    """What the file takes and gives."""
    data: str | None = None
    """Images to measure the accuracy on; None measures none."""
    val_images: int | None = None
    """At most so many validation images; None takes all."""
    int8: bool = False
    """Whether an int8 file is made too; needs `data`."""
    latency: LatencySettings | None = None
    """How the files are timed; None times none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What an export has written and measured."""

    result: ExportResult
    """The files of the network."""
    card: Path
    """The model card."""
    measured: Measured
    """Of the files."""
    tried: tuple[Judgement, ...]
    """Every int8 file that was made, in that order; the last one, or of broken ones the best, was kept."""


def export_network(
    order: ExportOrder,
    *,
    say: Callable[[str], None] = lambda text: None,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Writes the network, its ONNX file, its int8 file where asked for, and the card; `say` hears what is going on.

    Raises:
        InputError: the order cannot be carried out: what is given does not go together, or the folder is another's.
        DataError: the data cannot be read, or are not of the network's classes and channels.
        CheckpointError, MismatchError, TooLargeError: see `export_model`.
        TrialFailed: a file could not be timed.
    """
    _check_order(order)
    _check_folder(order.out)
    facts = find_facts(order.weights, order.spec, fresh_head=order.fresh_head)
    data = scenes = None
    if order.data is not None and order.spec.head == "semantic_fpn":
        say(f"loading the data ({order.data})")
        scenes = load_scenes(order.data, order.spec, facts, limit=order.val_images)
        facts = replace(facts, classes=scenes.class_names)
    elif order.data is not None:
        held_out = find_held_out(order.data, facts.training)
        facts = replace(facts, classes=_agreed_classes(order.data, held_out.class_names, facts, order.spec))
        data = _load(order.data, held_out, order, say)
    with naming_kind(order.weights or "", "checkpoint"):
        result = export_model(
            order.spec,
            order.out,
            weights=order.weights,
            key=order.key,
            fresh_head=order.fresh_head,
            seed=order.seed,
            form=order.form,
            facts=facts,
        )
    for name in set(INT8_FILES.values()):  # of an export before this one, of other weights
        (order.out / name).unlink(missing_ok=True)
    measured = Measured()
    tried: tuple[Judgement, ...] = ()
    if data is not None:
        say(f"answering {len(data.y_val)} validation images")
        answers = classify(result.onnx, data.x_val)
        right = float((answers == data.y_val).mean())
        measured = replace(measured, accuracy=right, val_images=len(data.y_val), data=data.name)
        if order.int8:
            tried = _quantise(result.onnx, order.out, data, answers, say)
            kept = _kept(tried)
            measured = replace(measured, int8=kept, int8_file=INT8_FILES[kept.verdict])
    if scenes is not None:
        say(f"answering {len(scenes.masks)} validation images")
        miou, right = score_masks(result.onnx, scenes)
        measured = replace(measured, miou=miou, accuracy=right, val_images=len(scenes.masks), data=scenes.name)
    if order.latency is not None:
        timed = _time(
            order,
            order.latency,
            [result.onnx, *([order.out / measured.int8_file] if measured.int8 else [])],
            say,
            on_round,
        )
        measured = replace(measured, latency=timed[0], int8_latency=timed[1] if len(timed) > 1 else None)
    trained = result.loaded is not None and result.loaded.trained
    card = write_card(order.spec, order.form, facts, measured, trained=trained, machine=describe_machine())
    write_whole(order.out / CARD_FILE, card)
    return Exported(result=result, card=order.out / CARD_FILE, measured=measured, tried=tried)


def exported_to_json(order: ExportOrder, exported: Exported) -> dict[str, Any]:
    """The document of `modscale export --json`."""
    result, measured = exported.result, exported.measured
    document: dict[str, Any] = {
        "spec": str(result.spec),
        "onnx": str(result.onnx),
        "weights": str(result.weights),
        "card": str(exported.card),
        "trained": result.loaded is not None and result.loaded.trained,
        "loaded": None if result.loaded is None else {"file": str(order.weights), **loaded_to_json(result.loaded)},
        "params": result.params,
        "flops": result.flops,
        "max_abs_error": result.max_abs_error,
        "batch": order.form.batch or "dynamic",
        "outputs": list(order.form.outputs(order.spec)),
        "latency": None if measured.latency is None else asdict(measured.latency),
    }
    if measured.accuracy is not None:
        document |= {"accuracy": measured.accuracy, "val_images": measured.val_images}
    if measured.miou is not None:
        document["miou"] = measured.miou
    if measured.int8 is not None:
        document["int8"] = {
            "onnx": str(order.out / measured.int8_file),
            **asdict(measured.int8),
            "tried": [asdict(one) for one in exported.tried],
            "latency": None if measured.int8_latency is None else asdict(measured.int8_latency),
        }
    return document


def require_good(order: ExportOrder, exported: Exported) -> None:
    """Raises InputError where the int8 file is broken: it was kept, under a name that says so."""
    int8 = exported.measured.int8
    if int8 is not None and int8.verdict == "broken":
        raise InputError(f"the int8 file is broken: {int8.reason}", file=order.out / exported.measured.int8_file)


def _check_order(order: ExportOrder) -> None:
    if not (order.form.logits or order.form.features):
        raise InputError("goes with --features; a file must give something", place="--no-logits")
    if order.int8 and order.spec.head != "classifier":
        raise InputError("is made of classifiers, and this network gives masks", place="--int8")
    if order.data is None and order.int8:
        raise InputError("needs --data DATA, images to calibrate and to judge the file by", place="--int8")
    if order.data is None and order.val_images is not None:
        raise InputError("goes with --data", place="--val-images")
    if order.data is not None and not order.form.logits:
        raise InputError("measures the accuracy of logits; leave out --no-logits", place="--data")


def _check_folder(out: Path) -> None:
    """Refuses a folder in which the files of an export would take the place of another's."""
    others = {RUN_FILE: "a run's", FIDELITY_FILE: "a fidelity check's", TRAIN_FILE: "a training's"}
    for name, whose in others.items():
        if (out / name).is_file():
            raise InputError(f"is {whose} folder; an export takes a folder of its own", file=out, place="--out")
    card = out / CARD_FILE
    if card.is_file() and MARKER.encode() not in card.read_bytes().partition(b"\n")[0]:
        rule = "is there and no card of an export, which would take its place; give another --out, or move it"
        raise InputError(rule, file=card)


def _agreed_classes(source: str, names: tuple[str, ...], facts: Facts, spec: ModelSpec) -> tuple[str, ...]:
    """The names of the network's classes, which must be those of the data."""
    if len(names) != spec.num_classes:
        rule = f"must have the network's {spec.num_classes} classes"
        raise DataError(rule, file=path_text(source), place="--data", value=len(names))
    if facts.classes is not None and facts.classes != names:
        i = next(i for i, (ours, theirs) in enumerate(zip(facts.classes, names, strict=True)) if ours != theirs)
        rule = f"must have the classes that the network was trained on: number {i} is {facts.classes[i]!r}"
        raise DataError(rule, file=path_text(source), place="--data", value=names[i])
    return names


def _load(source: str, held_out: HeldOut, order: ExportOrder, say: Callable[[str], None]) -> Dataset:
    say(f"loading the data ({source})")
    # more than there are would be brought up to that number with training images, see `load_dataset`
    limit = None if order.val_images is None else min(order.val_images, held_out.number)
    data = load_dataset(
        source,
        resolution=order.spec.resolution,
        train_images=max(CALIBRATION_IMAGES, order.spec.num_classes),
        val_images=limit,
        seed=held_out.seed,
        val_split=held_out.val_split,
    )
    channels = data.x_val.shape[3]
    if channels != order.spec.in_chans:
        rule = f"must have the network's {order.spec.in_chans} channels"
        raise DataError(rule, file=path_text(source), place="--data", value=channels)
    return data


def _quantise(
    onnx_file: Path, out: Path, data: Dataset, fp32_answers: Any, say: Callable[[str], None]
) -> tuple[Judgement, ...]:
    """Makes int8 files, the boldest first, until one is not broken; writes that one, or of broken ones the best."""
    from modscale.deploy.quantize import LEVELS, quantise

    tried: list[Judgement] = []
    with scratch_folder() as folder:
        for number, level in enumerate(LEVELS):
            say(f"int8, {level}: calibrating on {len(data.x_train)} training images")
            file = folder / f"{number}.onnx"
            quantise(onnx_file, file, feed(onnx_file, data.x_train), level=level)
            tried.append(judge(classify(file, data.x_val), fp32_answers, data.y_val, level=level))
            say(f"int8, {level}: {tried[-1].verdict}: {tried[-1].reason}")
            if tried[-1].verdict != "broken":
                break
        kept = _kept(tried)
        write_whole(out / INT8_FILES[kept.verdict], (folder / f"{tried.index(kept)}.onnx").read_bytes())
    return tuple(tried)


def _kept(tried: Sequence[Judgement]) -> Judgement:
    return max(tried, key=lambda one: (one.verdict != "broken", one.accuracy))


def _time(
    order: ExportOrder,
    settings: LatencySettings,
    files: Sequence[Path],
    say: Callable[[str], None],
    on_round: Callable[[int, int], None],
) -> list[Latency]:
    side = order.spec.resolution
    shape = (order.form.batch or 1, order.spec.in_chans, side, side)
    models = [OnnxModel(file=file, shape=shape) for file in files]
    return measure_files(models, settings, note=say, on_round=on_round)
