"""Image classification as a task of a full training: its data, its batches, its loss and its score.

A task is what `training/full.py` asks for: `fit`, `build`, `batches`, `loss`, `evaluate`, and what describes its data.
Another task has the same methods.

Everything that a batch draws follows from the seed, the epoch, the step and the process: a training goes on at any
step as if it had never stopped.

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
from modscale.errors import TrialFailed
from modscale.specs.spec import ModelSpec
from modscale.training import start
from modscale.training.augmentation import augment_images, erase, mix
from modscale.training.images import TrainingImages, open_images
from modscale.training.place import Place
from modscale.training.settings import TrainSettings
from modscale.training.streams import ORDER, STEP, batch_parts, stream
from modscale.training.teacher import Teacher, distillation_loss


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """What one process learns from in one step."""

    images: Tensor
    """[B, C, R, R], normalised."""
    targets: Tensor
    """[B, K], each row's sum 1."""


class Classification:
    """Learns from the images of `source`; made, the data are loaded."""

    score = "accuracy"
    """The key of `evaluate` by which the best weights are known; higher is better."""
    eval_batch = 100
    """Validation images a forward pass."""

    def __init__(
        self, source: str, settings: TrainSettings, *, resolution: int, side: int, seed: int, place: Place
    ) -> None:
        """Raises DataError, see `open_images`."""
        self.images: TrainingImages = open_images(
            source, resolution=resolution, side=side, seed=seed, val_split=settings.val_split
        )
        self.resolution, self.seed, self.place = resolution, seed, place
        self.settings = settings
        self.teacher: Teacher | None = None

    @property
    def train_items(self) -> int:
        return len(self.images.y_train)

    @property
    def val_items(self) -> int:
        return len(self.images.y_val)

    @property
    def channels(self) -> int:
        return self.images.channels

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
        return start.fitted(
            spec,
            self.settings,
            in_chans=self.images.channels,
            num_classes=len(self.images.class_names),
            head="classifier",
        )

    def build(self, spec: ModelSpec) -> nn.Module:
        """The network as it starts, on the CPU."""
        return start.started(spec, self.settings, self.seed)

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """AdamW's groups, each with its rate; vectors (biases, norms, LayerScale) have no weight decay."""
        return start.parameter_groups(network, self.settings)

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """This process's part of each batch of an epoch, from a step on; the incomplete last batch is dropped."""
        s, place = self.settings, self.place
        assert s.batch_size is not None  # noqa: S101  # resolved
        order = stream(self.seed, epoch, ORDER).permutation(self.train_items)
        parts = batch_parts(order, s.batch_size, first_step, place)
        pairs = zip(parts, self.images.read_train(parts), strict=True)
        for step, (rows, images) in enumerate(pairs, first_step):
            rng = stream(self.seed, epoch, STEP, step, place.rank)
            torch.manual_seed(int(rng.integers(2**62)))  # drop path draws from the global state
            yield self._batch(images, self.images.y_train[rows], rng)

    def _batch(self, images: Images, labels: np.ndarray, rng: np.random.Generator) -> Batch:
        s, number = self.settings, len(self.images.class_names)
        smoothing = s.label_smoothing or 0.0
        x = augment_images(self._unit(images), s, self.resolution, rng)
        x = self._normalised(x)
        x = erase(x, rng, s.erasing or 0.0)
        targets = F.one_hot(torch.from_numpy(labels), number).float().to(x.device)
        targets = targets * (1 - smoothing) + smoothing / number
        x, targets = mix(x, targets, s, rng)
        return Batch(images=x, targets=targets)

    def _unit(self, images: Images) -> Tensor:
        """Images [B, S, S, C] of bytes as floats [B, C, S, S], 0 to 1, on the device."""
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.place.device).permute(0, 3, 1, 2).float() / 255

    def _moments(self, like: Tensor) -> list[Tensor]:
        return [like.new_tensor(values)[:, None, None] for values in self.settings.normalisation]

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = self._moments(images)
        return (images - mean) / std

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of logits [B, K], and the teacher's part where there is one."""
        loss = F.cross_entropy(outputs.float(), batch.targets)
        if self.teacher is None:
            return loss
        mean, std = self._moments(batch.images)
        told = self.teacher.logits(batch.images * std + mean)
        share = self.settings.distillation.alpha
        return (1 - share) * loss + share * distillation_loss(outputs.float(), told, self.settings.distillation)

    @torch.inference_mode()
    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        """Accuracy and mean cross-entropy over the validation images, or the first `limit`, by all processes together.

        In float32, as an exported file answers.

        Raises:
            TrialFailed: the logits are not finite.
        """
        network.eval()
        y, place = self.images.y_val, self.place
        mine = np.arange(len(y) if limit is None else min(limit, len(y)))[place.rank :: place.processes]
        parts = [mine[first : first + self.eval_batch] for first in range(0, len(mine), self.eval_batch)]
        totals = torch.zeros(3, dtype=torch.float64, device=place.device)  # correct, loss, images
        for rows, images in zip(parts, self.images.read_val(parts), strict=True):
            logits = network(self._normalised(self._unit(images)))
            labels = torch.from_numpy(y[rows]).to(place.device)
            totals += torch.stack([
                (logits.argmax(1) == labels).sum().double(),
                F.cross_entropy(logits, labels, reduction="sum").double(),
                torch.tensor(float(len(rows)), dtype=torch.float64, device=place.device),
            ])  # fmt: skip
        correct, loss, number = place.total(totals).tolist()
        if not np.isfinite(loss):
            raise TrialFailed("the logits are not finite")
        return {"accuracy": correct / number, "val_loss": loss / number}

    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes the network's input, for whoever uses the weights."""
        mean, std = self.settings.normalisation
        return {
            "input_size": [self.channels, self.resolution, self.resolution],
            "resize": "the centre square, to the input's side by an antialiased bicubic filter",
            "mean": list(mean),
            "std": list(std),
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.images.class_names
