"""How good the masks of an exported file are, on the centre squares of validation images.

Shapes: M images, R the network's resolution, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modscale.datasets.images import Images
from modscale.datasets.masks import open_masks
from modscale.datasets.scenes import FULL_TRAIN, FULL_VAL, IGNORED, SCENE_CLASSES, Masks, make_scenes
from modscale.deploy.classify import segment
from modscale.deploy.facts import Facts
from modscale.errors import DataError
from modscale.files import path_text
from modscale.specs.spec import ModelSpec

AT_ONCE = 16
"""Images whose masks are held at a time."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ValidationScenes:
    """What masks are judged by."""

    name: str
    """Of the data."""
    class_names: tuple[str, ...]
    """K of them."""
    images: Images
    """[M, R, R, 3]."""
    masks: Masks
    """[M, R, R], 0 to K - 1 or `IGNORED`."""


def load_scenes(source: str, spec: ModelSpec, facts: Facts, *, limit: int | None) -> ValidationScenes:
    """The first `limit` validation images of `source`, and their masks.

    Raises:
        DataError: they cannot be read, or are not of the network's classes and channels.
    """
    if source == "synthetic":
        *_, images, masks = make_scenes(num_train=FULL_TRAIN, num_val=FULL_VAL, resolution=spec.resolution, seed=0)
        found = ValidationScenes(name=source, class_names=SCENE_CLASSES, images=images[:limit], masks=masks[:limit])
    else:
        folder = open_masks(source, reduce_zero=bool(facts.training.get("reduce_zero_label", True)))
        squares = [folder.read_square(pair, spec.resolution) for pair in folder.val[:limit]]
        images, masks = (np.stack(parts) for parts in zip(*squares, strict=True))
        found = ValidationScenes(name=folder.name, class_names=folder.class_names, images=images, masks=masks)
    place = {"file": path_text(source), "place": "--data"}
    if len(found.class_names) != spec.num_classes:
        rule = f"must have the network's {spec.num_classes} classes"
        raise DataError(rule, **place, value=len(found.class_names))
    if facts.classes is not None and facts.classes != found.class_names:
        wrong = [pair for pair in zip(facts.classes, found.class_names, strict=True) if pair[0] != pair[1]]
        rule = f"must have the classes that the network was trained on: there it is {wrong[0][0]!r}"
        raise DataError(rule, **place, value=wrong[0][1])
    if spec.in_chans != found.images.shape[3]:
        raise DataError(f"must have the network's {spec.in_chans} channels", **place, value=found.images.shape[3])
    return found


def score_masks(onnx_file: Path, scenes: ValidationScenes) -> tuple[float, float]:
    """The mIoU of an exported file and its accuracy of pixels, each 0 to 1."""
    number = len(scenes.class_names)
    hits, said, there = (np.zeros(number) for _ in range(3))
    for first in range(0, len(scenes.masks), AT_ONCE):
        masks = scenes.masks[first : first + AT_ONCE]
        answers = segment(onnx_file, scenes.images[first : first + AT_ONCE])
        known = masks != IGNORED
        wanted, given = masks[known], answers[known]
        hits += np.bincount(wanted[wanted == given], minlength=number)
        there += np.bincount(wanted, minlength=number)
        said += np.bincount(given, minlength=number)
    union = there + said - hits
    return float((hits[union > 0] / union[union > 0]).mean()), float(hits.sum() / there.sum())
