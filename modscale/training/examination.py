"""A look at what a training came to: what its best weights make of each class, and what they see in some images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from modscale.arrays import FloatArray
from modscale.datasets.images import Images
from modscale.errors import InputError, TrialFailed
from modscale.models.checkpoint import load_weights
from modscale.models.context_maps import context_maps
from modscale.models.efficientmod import build_network
from modscale.specs.spec import ModelSpec
from modscale.training.task import Task

EXAMPLES = 4
"""Validation images whose context is looked at."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Example:
    """A validation image and what the network sees in it."""

    pixels: Images
    """[R, R, C]."""
    name: str
    """Its class, and what it is taken for where that is another; empty where it has no class of its own."""
    maps: Sequence[tuple[int, int, FloatArray]]
    """Of each stage: its number, that of the block in it, and the context [H, W]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examination:
    """What was found."""

    confusion: Sequence[tuple[int, int, int]]
    """Class, answer and how many images (of masks: pixels), where there are any."""
    examples: Sequence[Example]
    """None where the network has no context branch."""


def examine(task: Task, spec: ModelSpec, weights: Path) -> Examination:
    """Looks at the weights that a training of `task` has kept, by one process for itself.

    Raises:
        CheckpointError: the weights are broken, or not of this network.
        TrialFailed: the logits are not finite.
    """
    together, task.place = task.place, replace(task.place, rank=0, processes=1)
    try:
        network = build_network(spec, seed=0)
        load_weights(network, weights)
        network.to(task.place.device).eval()
        confusion, _ = task.judge(network)
        pairs = confusion.nonzero().tolist()
        rows = np.unique(np.linspace(0, task.val_items - 1, EXAMPLES).astype(int))
        pixels, labels = task.read_examples(rows)
        images = torch.from_numpy(pixels).to(task.place.device).permute(0, 3, 1, 2).float() / 255
        examples: list[Example] = []
        with torch.inference_mode():
            inputs = task.normalised(images)
            try:
                maps = context_maps(network, inputs)
            except InputError:  # no block with a context branch
                maps = []
            if not all(bool(one.values.isfinite().all()) for one in maps):
                raise TrialFailed("the context is not finite")
            names = [""] * len(rows) if labels is None else task.answers(network(inputs), labels)
        for i, name in enumerate(names if maps else []):
            found = [(one.stage, one.block, cast("FloatArray", one.values[i].float().cpu().numpy())) for one in maps]
            examples.append(Example(pixels=pixels[i], name=name, maps=found))
        return Examination(
            confusion=tuple((row, column, int(confusion[row, column])) for row, column in pairs), examples=examples
        )
    finally:
        task.place = together
