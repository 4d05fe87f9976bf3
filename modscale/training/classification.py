"""Image classification as a task of a full training: its data, its batches, its loss and its score.

A task is what `training/full.py` asks for: `fit`, `build`, `batches`, `loss`, `evaluate`, and what describes its data.
Another task has the same methods.

Everything that a batch draws follows from the seed, the epoch, the step and the process: a training goes on at any
step as if it had never stopped.

Shapes: B batch, C channels, S and R sides of images as held and as trained, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.datasets.images import Images
from modscale.errors import TrialFailed
from modscale.models.efficientmod import build_network
from modscale.settings import ProxySettings
from modscale.specs.spec import ModelSpec
from modscale.training import recipe
from modscale.training.augmentation import augment_images, erase, mix
from modscale.training.images import TrainingImages, open_images
from modscale.training.place import Place
from modscale.training.settings import TrainSettings
from modscale.training.teacher import Teacher, distillation_loss

EVAL_BATCH = 100
"""Validation images a forward pass."""
ORDER, STEP = 0, 1
"""What a stream of random numbers is for: the order of an epoch's images, and a step."""


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
        s = self.settings
        layer_scale = spec.layer_scale
        if layer_scale is not None:
            layer_scale = s.layer_scale or (ProxySettings().layer_scale if s.start == "transferred" else layer_scale)
        return replace(
            spec,
            in_chans=self.images.channels,
            num_classes=len(self.images.class_names),
            drop_path_rate=spec.drop_path_rate if s.drop_path is None else s.drop_path,
            layer_scale=layer_scale,
        )

    def build(self, spec: ModelSpec) -> nn.Module:
        """The network as it starts, on the CPU."""
        network = build_network(spec, seed=self.seed)
        if self.settings.start == "transferred":
            recipe.rescale_weights(network)
            recipe.damp_branches(network, self._transferred().layer_scale)
        return network

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """AdamW's groups, each with its rate; vectors (biases, norms, LayerScale) have no weight decay."""
        if self.settings.start == "transferred":
            return recipe.parameter_groups(network, self._transferred())
        decayed = [p for p in network.parameters() if p.ndim >= 2]
        vectors = [p for p in network.parameters() if p.ndim < 2]
        groups = ((decayed, self.settings.weight_decay), (vectors, 0.0))
        return [{"params": p, "lr": self.settings.learning_rate, "weight_decay": decay} for p, decay in groups]

    def _transferred(self) -> ProxySettings:
        s, default = self.settings, ProxySettings()
        return replace(
            default,
            learning_rate=s.learning_rate or default.learning_rate,
            weight_decay=s.weight_decay,
            layer_scale=s.layer_scale or default.layer_scale,
        )

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """This process's part of each batch of an epoch, from a step on; the incomplete last batch is dropped."""
        s, place = self.settings, self.place
        assert s.batch_size is not None  # noqa: S101  # resolved
        order = np.random.default_rng([self.seed, epoch, ORDER]).permutation(self.train_items)
        steps = range(first_step, self.train_items // s.batch_size)
        parts = [
            order[step * s.batch_size : (step + 1) * s.batch_size][place.rank :: place.processes] for step in steps
        ]
        for step, rows, images in zip(steps, parts, self.images.read_train(parts), strict=True):
            rng = np.random.default_rng([self.seed, epoch, STEP, step, place.rank])
            torch.manual_seed(int(rng.integers(2**62)))  # drop path draws from the global state
            yield self._batch(images, self.images.y_train[rows], rng)

    def _batch(self, images: Images, labels: np.ndarray, rng: np.random.Generator) -> Batch:
        s, number = self.settings, len(self.images.class_names)
        x = augment_images(self._unit(images), s, self.resolution, rng)
        x = self._normalised(x)
        x = erase(x, rng, s.erasing or 0.0)
        targets = F.one_hot(torch.from_numpy(labels), number).float().to(x.device)
        targets = targets * (1 - s.label_smoothing) + s.label_smoothing / number
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
        parts = [mine[first : first + EVAL_BATCH] for first in range(0, len(mine), EVAL_BATCH)]
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


TASKS = {"classification": Classification}
"""Each task by its name in the settings."""
