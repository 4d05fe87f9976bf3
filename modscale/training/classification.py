"""Image classification as a task of a full training: its data, its batches, its loss and its score.

Shapes: B batch, C channels, S and R sides of images as held and as trained, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.datasets.images import Images
from modscale.datasets.labelled import Indices, Labels
from modscale.errors import TrialFailed
from modscale.specs.spec import ModelSpec
from modscale.training.augmentation import augment_images, erase, mix
from modscale.training.images import TrainingImages, open_images
from modscale.training.place import Place
from modscale.training.settings import TrainSettings
from modscale.training.start import fitted
from modscale.training.task import Task
from modscale.training.teacher import distillation_loss


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """What one process learns from in one step."""

    images: Tensor
    """[B, C, R, R], normalised."""
    targets: Tensor
    """[B, K], each row's sum 1."""


class Classification(Task):
    """Learns from the images of `source`; made, the data are loaded."""

    score = "accuracy"
    eval_batch = 100

    def __init__(
        self, source: str, settings: TrainSettings, *, resolution: int, side: int, seed: int, place: Place
    ) -> None:
        """Raises DataError, see `open_images`."""
        self.images: TrainingImages = open_images(
            source, resolution=resolution, side=side, seed=seed, val_split=settings.val_split
        )
        super().__init__(settings, resolution=resolution, seed=seed, place=place)

    @property
    def train_items(self) -> int:
        return len(self.images.y_train)

    @property
    def val_items(self) -> int:
        return len(self.images.y_val)

    @property
    def channels(self) -> int:
        return self.images.channels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.images.class_names

    def describe(self) -> dict[str, Any]:
        """What `train.yaml` has of the data."""
        images = self.images
        return {
            "name": images.name,
            "classes": len(images.class_names),
            "channels": images.channels,
            "train_images": len(images.y_train),
            "val_images": len(images.y_val),
            "held": images.is_held,
            "fingerprint": images.fingerprint,
            "notes": list(images.notes),
        }

    def fit(self, spec: ModelSpec) -> ModelSpec:
        """The network with the input and the head that the data ask for."""
        return fitted(
            spec,
            self.settings,
            in_chans=self.images.channels,
            num_classes=len(self.images.class_names),
            head="classifier",
        )

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """See `train_parts`."""
        parts = self.train_parts(epoch, first_step)
        pairs = zip(parts, self.images.read_train(parts), strict=True)
        for step, (rows, images) in enumerate(pairs, first_step):
            yield self._batch(images, self.images.y_train[rows], self.step_draws(epoch, step))

    def _batch(self, images: Images, labels: np.ndarray, rng: np.random.Generator) -> Batch:
        s, number = self.settings, len(self.images.class_names)
        smoothing = s.label_smoothing or 0.0
        x = augment_images(self._unit(images), s, self.resolution, rng)
        x = self.normalised(x)
        x = erase(x, rng, s.erasing or 0.0)
        targets = F.one_hot(torch.from_numpy(labels), number).float().to(x.device)
        targets = targets * (1 - smoothing) + smoothing / number
        x, targets = mix(x, targets, s, rng)
        return Batch(images=x, targets=targets)

    def _unit(self, images: Images) -> Tensor:
        """Images [B, S, S, C] of bytes as floats [B, C, S, S], 0 to 1, on the device."""
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.place.device).permute(0, 3, 1, 2).float() / 255

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of logits [B, K], and the teacher's part where there is one."""
        loss = F.cross_entropy(outputs.float(), batch.targets)
        if self.teacher is None:
            return loss
        mean, std = self.moments(batch.images)
        told = self.teacher.logits(batch.images * std + mean)
        share = self.settings.distillation.alpha
        return (1 - share) * loss + share * distillation_loss(outputs.float(), told, self.settings.distillation)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        """Accuracy and mean cross-entropy over the validation images, or the first `limit`, by all processes together.

        Raises:
            TrialFailed: the logits are not finite.
        """
        confusion, loss = self.judge(network, limit)
        return {"accuracy": float(confusion.trace() / confusion.sum()), "val_loss": loss}

    @torch.inference_mode()
    def judge(self, network: nn.Module, limit: int | None = None) -> tuple[Tensor, float]:
        """See `Task.judge`. In float32, as an exported file answers."""
        network.eval()
        y, place, number = self.images.y_val, self.place, len(self.class_names)
        parts = self.val_parts(limit)
        totals = torch.zeros(number * number + 1, dtype=torch.float64, device=place.device)  # the last one is the loss
        for rows, images in zip(parts, self.images.read_val(parts), strict=True):
            logits = network(self.normalised(self._unit(images)))
            labels = torch.from_numpy(y[rows]).to(place.device)
            ones = torch.ones(len(rows), dtype=torch.float64, device=place.device)
            totals.index_add_(0, labels * number + logits.argmax(1), ones)
            totals[-1] += F.cross_entropy(logits, labels, reduction="sum").double()
        totals = place.total(totals)
        confusion, loss = totals[:-1].view(number, number), float(totals[-1] / totals[:-1].sum())
        if not np.isfinite(loss):
            raise TrialFailed("the logits are not finite")
        return confusion, loss

    def read_examples(self, rows: Indices) -> tuple[Images, Labels | None]:
        """See `Task.read_examples`."""
        (images,) = self.images.read_val([rows])
        return images, self.images.y_val[rows]
