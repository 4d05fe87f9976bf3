"""Which images an export is measured on: the data's validation set, or what the network's own training set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modscale.datasets.dataset import choose_images
from modscale.datasets.synthetic import CLASS_NAMES, FULL_VAL
from modscale.errors import DataError
from modscale.files import path_text


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Images that no training of the network has seen, for all that is known."""

    class_names: tuple[str, ...]
    """Of the data."""
    number: int
    """How many there are."""
    seed: int = 0
    """By which they were set aside, or a part of them is drawn."""
    val_split: float | None = None
    """Share of each class that was set aside, as `datasets.dataset.load_dataset` takes it."""


def find_held_out(source: str, training: Mapping[str, Any]) -> HeldOut:
    """The images of `source` to measure a network on, of whose `training` so much is known; none is decoded.

    Where the data have no validation set, a training sets a share of each class aside by its seed. The same images are
    found again by that, if as many are left and set aside as there were then.

    Raises:
        DataError: the data cannot be read, or have no validation set and are not what that training had.
    """
    if source == "synthetic":
        return HeldOut(class_names=tuple(CLASS_NAMES), number=FULL_VAL)
    seed, share = training.get("seed", -1), training.get("val_split")
    is_known = type(seed) is int and seed >= 0 and (share is None or (type(share) is float and 0 < share < 1))
    split = (seed, share) if is_known else (0, None)
    chosen = choose_images(source, seed=split[0], val_split=split[1])
    found = HeldOut(class_names=chosen.known.class_names, number=len(chosen.val), seed=split[0], val_split=split[1])
    if chosen.known.num_train < len(chosen.known.labels):
        return found
    rule = "has no validation set (val/ or x_val, y_val)"
    if not is_known:
        rule += ", and the network is none whose training is known to have set some of these images aside"
        raise DataError(rule, file=path_text(source))
    now = (len(chosen.train), len(chosen.val))
    then = (training.get("train_images"), training.get("val_images"))
    if now != then:
        rule += f", and is not what the network was trained on: {then[0]} images and {then[1]} set aside"
        raise DataError(rule, file=path_text(source), value=f"{now[0]} and {now[1]}")
    return found
