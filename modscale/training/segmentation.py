"""Semantic segmentation as a task of a full training: a class for every pixel, by Semantic FPN on all stages' maps.

What Table 7 was trained by, as the authors' code has it: AdamW, a cosine with warm-up, crops of 512 pixels at half to
twice the size, flips and changes of colour, 40,000 steps of 32 images from ImageNet's weights. Where we differ: the
score is taken on the centre square of each validation image at the network's own size, as an exported file sees it,
and not on the whole image.

Shapes: B batch, C channels, R side, K classes.
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
from modscale.datasets.scenes import IGNORED
from modscale.errors import TrialFailed
from modscale.specs.spec import ModelSpec, check_head_fits
from modscale.training.augmentation import jitter_colours
from modscale.training.joint_augmentation import crop_scene
from modscale.training.mask_scores import mask_loss, mean_iou
from modscale.training.masked_images import Scene, open_scenes
from modscale.training.place import Place
from modscale.training.settings import TrainSettings
from modscale.training.start import fitted
from modscale.training.task import Task


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskBatch:
    """What one process learns from in one step."""

    images: Tensor
    """[B, C, R, R], normalised."""
    masks: Tensor
    """[B, R, R], 0 to K - 1 or `IGNORED`."""


class Segmentation(Task):
    """Learns from the images and masks of `source`; made, the data are loaded."""

    score = "miou"
    eval_batch = 8

    def __init__(
        self, source: str, settings: TrainSettings, *, resolution: int, side: int, seed: int, place: Place
    ) -> None:
        """Raises DataError, see `open_scenes`."""
        self.scenes = open_scenes(
            source, resolution=resolution, side=side, seed=seed, reduce_zero=settings.reduce_zero_label
        )
        super().__init__(settings, resolution=resolution, seed=seed, place=place)

    @property
    def train_items(self) -> int:
        return self.scenes.num_train

    @property
    def val_items(self) -> int:
        return self.scenes.num_val

    @property
    def channels(self) -> int:
        return 3

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.scenes.class_names

    def describe(self) -> dict[str, Any]:
        """What `train.yaml` has of the data."""
        scenes = self.scenes
        return {
            "name": scenes.name,
            "classes": len(scenes.class_names),
            "channels": self.channels,
            "train_images": scenes.num_train,
            "val_images": scenes.num_val,
            "held": scenes.is_held,
            "reduce_zero_label": self.settings.reduce_zero_label,
            "fingerprint": scenes.fingerprint,
            "notes": list(scenes.notes),
        }

    def fit(self, spec: ModelSpec) -> ModelSpec:
        """The network with a mask for each class. Raises InputError for a resolution it cannot have."""
        found = fitted(
            spec, self.settings, in_chans=self.channels, num_classes=len(self.class_names), head="semantic_fpn"
        )
        check_head_fits(found, "resolution")
        return found

    def batches(self, epoch: int, first_step: int) -> Iterator[MaskBatch]:
        """See `train_parts`."""
        parts = self.train_parts(epoch, first_step)
        for step, scenes in enumerate(self.scenes.read_train(parts), first_step):
            yield self._batch(scenes, self.step_draws(epoch, step))

    def _batch(self, scenes: list[Scene], rng: np.random.Generator) -> MaskBatch:
        s, device = self.settings, self.place.device
        assert s.scales is not None  # noqa: S101  # resolved
        mean, _ = s.normalisation
        crops = [
            crop_scene(
                torch.tensor(image, device=device), torch.tensor(mask, device=device), self.resolution, rng,
                scales=s.scales, flip=s.flip, fill=mean,
            )
            for image, mask in scenes
        ]  # fmt: skip
        images, masks = (torch.stack(parts) for parts in zip(*crops, strict=True))
        if s.jitter:
            images = jitter_colours(images, rng, s.jitter)
        return MaskBatch(images=self.normalised(images), masks=masks)

    def loss(self, outputs: Tensor, batch: MaskBatch) -> Tensor:
        """See `mask_loss`."""
        return mask_loss(outputs.float(), batch.masks, self.settings.label_smoothing or 0.0)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        """`miou`, `accuracy` (of pixels) and `val_loss` over the validation images, or the first `limit`.

        By all processes together.

        Raises:
            TrialFailed: the logits are not finite.
        """
        confusion, loss = self.judge(network, limit)
        return {
            "miou": float(mean_iou(torch.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)]))),
            "accuracy": float(confusion.trace()) / float(confusion.sum()),
            "val_loss": loss,
        }

    @torch.inference_mode()
    def judge(self, network: nn.Module, limit: int | None = None) -> tuple[Tensor, float]:
        """See `Task.judge`. In float32, as an exported file answers."""
        network.eval()
        place, number = self.place, len(self.class_names)
        confusion = torch.zeros(number, number, dtype=torch.float64, device=place.device)
        loss = torch.zeros(1, dtype=torch.float64, device=place.device)
        for scenes in self.scenes.read_val(self.val_parts(limit)):
            images, masks = (torch.from_numpy(np.stack(one)).to(place.device) for one in zip(*scenes, strict=True))
            masks = masks.long()
            logits = network(self.normalised(images.permute(0, 3, 1, 2).float() / 255))
            loss += F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum").double()
            confusion += confusion_of(masks, logits.argmax(1), number)
        confusion, loss = place.total(confusion), place.total(loss)
        if not np.isfinite(loss.item()):
            raise TrialFailed("the logits are not finite")
        return confusion, loss.item() / float(confusion.sum())

    def read_examples(self, rows: Indices) -> tuple[Images, Labels | None]:
        """See `Task.read_examples`."""
        (scenes,) = self.scenes.read_val([rows])
        return np.stack([image for image, _ in scenes]), None


def confusion_of(masks: Tensor, answers: Tensor, classes: int) -> Tensor:
    """[K, K] pixels of each class (row) by what they were taken for (column); unlabelled ones are left out."""
    known = masks != IGNORED
    pairs = masks[known] * classes + answers[known]
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).double()
