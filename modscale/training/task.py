"""What every task of a full training has: what a step draws, what a process scores, how pixels become an input.

`training/full.py` asks a task for this, and for its own `fit`, `batches`, `loss`, `evaluate` and `describe`.
Shapes: N images, C channels, R resolution, K classes.

Everything that a batch draws follows from the seed, the epoch, the step and the process: a training goes on at any
step as if it had never stopped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modscale.datasets.images import Images
from modscale.datasets.labelled import Indices, Labels
from modscale.deploy.facts import RESIZE
from modscale.training.place import Place
from modscale.training.settings import TrainSettings
from modscale.training.streams import ORDER, STEP, batch_parts, stream
from modscale.training.teacher import Teacher


class Task(ABC):
    """A task on some data, trained at `resolution` pixels in one of several processes."""

    score: str
    """The key of `evaluate` by which the best weights are known; higher is better."""
    eval_batch: int
    """Validation images a forward pass."""

    def __init__(self, settings: TrainSettings, *, resolution: int, seed: int, place: Place) -> None:
        self.settings = settings
        self.resolution, self.seed, self.place = resolution, seed, place
        self.teacher: Teacher | None = None

    @property
    @abstractmethod
    def train_items(self) -> int:
        """Training images."""

    @property
    @abstractmethod
    def val_items(self) -> int:
        """Validation images."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Of an image: 1 or 3."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """K of them, in the order of the logits."""

    @abstractmethod
    def judge(self, network: nn.Module, limit: int | None = None) -> tuple[Tensor, float]:
        """What `evaluate` counts: images (or pixels) [K, K] of a class (row) by the answer, and their mean loss.

        Raises:
            TrialFailed: the logits are not finite.
        """

    @abstractmethod
    def read_examples(self, rows: Indices) -> tuple[Images, Labels | None]:
        """Validation images [N, R, R, C] of these numbers, and their labels [N] where each has one class."""

    def answers(self, logits: Tensor, labels: Labels) -> list[str]:
        """The class of each image by its label, and what it is taken for by its logits [N, K] where that is another."""
        pairs = zip(labels.tolist(), logits.argmax(1).tolist(), strict=True)
        names = self.class_names
        return [names[right] if right == said else f"{names[right]}, taken for {names[said]}" for right, said in pairs]

    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes the network's input, for whoever uses the weights."""
        mean, std = self.settings.normalisation
        return {
            "input_size": [self.channels, self.resolution, self.resolution],
            "resize": RESIZE,
            "mean": list(mean),
            "std": list(std),
        }

    def train_parts(self, epoch: int, first_step: int) -> list[Indices]:
        """This process's part of each batch of an epoch, from a step on; the incomplete last batch is dropped."""
        assert self.settings.batch_size is not None  # noqa: S101  # resolved
        order = stream(self.seed, epoch, ORDER).permutation(self.train_items)
        return batch_parts(order, self.settings.batch_size, first_step, self.place)

    def step_draws(self, epoch: int, step: int) -> np.random.Generator:
        """What this process draws from in a step; torch's global state, for drop path and dropout, follows from it."""
        rng = stream(self.seed, epoch, STEP, step, self.place.rank)
        torch.manual_seed(int(rng.integers(2**62)))
        return rng

    def rows_of(self, batch: Any, rows: slice) -> Any:
        """Some items of a batch, a batch themselves; views."""
        return replace(batch, **{field.name: getattr(batch, field.name)[rows] for field in fields(batch)})

    def val_parts(self, limit: int | None) -> list[Indices]:
        """The validation images that this process scores, of the first `limit`, a forward pass after the other."""
        number = self.val_items if limit is None else min(limit, self.val_items)
        mine = np.arange(number)[self.place.rank :: self.place.processes]
        return [mine[first : first + self.eval_batch] for first in range(0, len(mine), self.eval_batch)]

    def moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation [C, 1, 1], where `like` is."""
        mean, std = self.settings.normalisation
        return like.new_tensor(mean)[:, None, None], like.new_tensor(std)[:, None, None]

    def normalised(self, images: Tensor) -> Tensor:
        """Images [..., C, R, R] of 0 to 1 as the network takes them."""
        mean, std = self.moments(images)
        return (images - mean) / std
