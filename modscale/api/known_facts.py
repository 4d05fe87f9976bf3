"""What is known of a network from the folder it comes from: a training's, or that of an earlier export."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modscale.deploy import runtime
from modscale.deploy.facts import RESIZE, Facts, untrained_facts
from modscale.document import read_yaml
from modscale.errors import InputError, naming_file, printable
from modscale.kinds import ONNX_FILE, TRAIN_FILE
from modscale.lines import read_lines
from modscale.specs.spec import ModelSpec
from modscale.training.job import best_score, best_scores

METRICS_FILE = "metrics.jsonl"
SCORES = ("accuracy", "ema_accuracy", "miou", "ema_miou")
"""Keys of an epoch's scores; those of the best epoch are of the weights that are exported."""


def find_facts(weights: Path | None, spec: ModelSpec, *, fresh_head: bool = False) -> Facts:
    """What stands beside the weights that are exported: in `train.yaml`, or in the ONNX file of an earlier export.

    Where there is neither, or no weights, the facts of a published checkpoint.

    Raises:
        InputError: what stands there is broken, or not of a network of this many classes and channels.
    """
    default = untrained_facts(spec)
    if weights is None:
        return default
    folder = weights.parent
    if (folder / TRAIN_FILE).is_file():
        facts, place = _of_training(folder), folder / TRAIN_FILE
    elif (folder / ONNX_FILE).is_file() and weights.name == "model.safetensors":
        facts, place = _of_export(folder / ONNX_FILE, default), folder / ONNX_FILE
    else:
        return default
    with naming_file(place):
        if fresh_head:
            return check_facts(Facts(mean=facts.mean, std=facts.std, resize=facts.resize), spec)
        return check_facts(facts, spec)


def check_facts(facts: Facts, spec: ModelSpec) -> Facts:
    """The facts, if they are of a network of this many channels and classes. Raises InputError."""
    if len(facts.mean) != spec.in_chans or len(facts.std) != spec.in_chans:
        rule = f"must be a number for each of the {spec.in_chans} channels"
        raise InputError(rule, place="mean, std", value=facts.mean)
    if facts.classes is not None and len(facts.classes) != spec.num_classes:
        rule = f"must name the {spec.num_classes} classes of the network"
        raise InputError(rule, place="classes", value=len(facts.classes))
    return facts


def _of_training(folder: Path) -> Facts:
    file = folder / TRAIN_FILE
    with naming_file(file):
        document = _mapping(read_yaml(file), "")
        pre = _mapping(document.get("preprocessing"), "preprocessing")
        data = _mapping(document.get("data", {}), "data")
        training = {
            key: data[key]
            for key in ("train_images", "val_images", "fingerprint", "reduce_zero_label")
            if isinstance(data.get(key), (int, str))
        }
        asked = _mapping(document.get("asked", {}), "asked")
        if isinstance(asked.get("seed"), int):  # by which images were set aside, where there was no validation set
            split = _mapping(asked.get("settings", {}), "asked.settings").get("val_split")
            training |= {"seed": asked["seed"], "val_split": split if isinstance(split, float) else None}
        return Facts(
            mean=_channels(pre.get("mean"), "preprocessing.mean"),
            std=_channels(pre.get("std"), "preprocessing.std", above=0.0),
            classes=_names(document.get("classes"), "classes"),
            resize=printable(str(pre.get("resize", RESIZE))),
            training={**_scores(folder / METRICS_FILE), "data": printable(str(data.get("name", ""))), **training},
        )


def _of_export(file: Path, default: Facts) -> Facts:
    """Of a file that says nothing of itself, the default."""
    with naming_file(file):
        try:
            held = runtime.read_metadata(str(file))
        except Exception as error:  # ONNX Runtime raises a dozen kinds, and what stands there may be no JSON
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"is no model of an earlier export ({reason})") from error
        return facts_of(held) if "spec" in held else default


def facts_of(held: Mapping[str, Any]) -> Facts:
    """What `metadata` has made of facts, as facts again. Raises InputError."""
    normalisation = _mapping(held.get("folded") or held, "folded")
    return Facts(
        mean=_channels(normalisation.get("mean"), "mean"),
        std=_channels(normalisation.get("std"), "std", above=0.0),
        classes=None if held.get("classes") is None else _names(held["classes"], "classes"),
        resize=printable(str(held.get("resize", RESIZE))),
        training=_mapping(held.get("training") or {}, "training"),
    )


def _scores(file: Path) -> dict[str, Any]:
    """The scores of the best epoch, and how many epochs there are."""
    rows = [row for _, row in read_lines(file) if isinstance(row, Mapping)]
    scored = [row for row in rows if "accuracy" in row and all(_is_score(row.get(key, 0)) for key in SCORES)]
    best = best_scores(max(scored, key=best_score)) if scored else {"accuracy": None}
    epochs = [row["epoch"] for row in rows if isinstance(row.get("epoch"), int)]
    return {**best, "epochs": max(epochs, default=None)}


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _mapping(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError("must be a mapping, as `modscale train` writes it", place=place, value=value)
    return value


def _channels(value: object, place: str, *, above: float = -math.inf) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else []
    if not numbers or not all(
        isinstance(one, (int, float)) and math.isfinite(one) and one > above and not isinstance(one, bool)
        for one in numbers
    ):
        rule = f"must be a list of numbers{' above 0' if above == 0 else ''}, one a channel"
        raise InputError(rule, place=place, value=value)
    return tuple(float(one) for one in numbers)


def _names(value: object, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InputError("must be a list of the classes' names", place=place, value=value)
    return tuple(printable(str(name)) for name in value)
