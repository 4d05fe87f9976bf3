"""How long a proxy training takes, from a few steps of it.

The steps are the first ones of the training itself, in the same process, threads and batches; what it comes to is
thrown away. Worked by hand: after the warm-up, 24 steps and a scoring of 500
images take 0.90 s, and one more step and a scoring 0.21 s: a step takes (0.90 - 0.21) / 23 = 0.03 s, a scoring 0.18 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modscale.settings import ProxySettings
from modscale.specs.spec import ModelSpec

if TYPE_CHECKING:  # it loads torch
    from modscale.training.proxy_data import ProxyData

WARM_STEPS = 4
"""Steps that are not timed: memory is asked for, kernels are chosen."""
TIMED_STEPS = 24
"""Steps that are."""
SCORED_IMAGES, SCORED_MASKS = 500, 25
"""Validation images that are scored to see how long that takes: whole batches of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast a network trains and is scored."""

    start_s: float
    """Before the first step."""
    step_s: float
    """A step."""
    score_image_s: float
    """A validation image."""
    steps_an_epoch: int
    """Steps of one pass over the training images."""
    val_images: int
    """Validation images that the training is scored on."""

    def seconds(self, epochs: int, val_images: int | None = None, *, share: float = 1.0, scorings: int = 1) -> float:
        """A `share` of a training of so many epochs, scored so often, on all of the validation images or so many."""
        images = self.val_images if val_images is None else val_images
        steps = share * epochs * self.steps_an_epoch
        return self.start_s + steps * self.step_s + scorings * images * self.score_image_s

    def times(self, factor: float) -> Pace:
        """The pace of a machine that takes so many times as long."""
        return replace(
            self,
            start_s=factor * self.start_s,
            step_s=factor * self.step_s,
            score_image_s=factor * self.score_image_s,
        )


def take_pace(spec: ModelSpec, data: ProxyData, settings: ProxySettings, *, seed: int) -> Pace:
    """Trains a few steps of the proxy's training of `spec` and times them.

    Raises:
        TrialFailed: as `train_proxy` does.
    """
    from modscale.training.proxy import train_to_rungs

    images = len(data.y_val)
    scored = min(images, SCORED_MASKS if data.is_dense else SCORED_IMAGES)
    some = replace(data, x_val=data.x_val[:scored], y_val=data.y_val[:scored])
    per_epoch = len(data.y_train) // min(settings.batch_size, len(data.y_train))
    steps = per_epoch * settings.epochs
    warm = min(WARM_STEPS, max(1, steps // 4))
    timed = max(0, min(TIMED_STEPS, steps - warm - 1))
    ends = (warm, warm + timed, min(warm + timed + 1, steps))
    results = train_to_rungs(spec, some, settings, seed=seed, rungs=[end / steps for end in ends])
    first, second, third = (next(results).seconds for _ in ends)
    del results  # what it holds is let go of
    short = third - second
    step = max(0.0, (second - first - short) / (timed - 1)) if timed > 1 else short / 2
    score = max(0.0, short - step)
    return Pace(
        start_s=max(0.0, first - warm * step - score),
        step_s=step,
        score_image_s=score / scored,
        steps_an_epoch=per_epoch,
        val_images=images,
    )
