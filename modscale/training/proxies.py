"""The proxies by name: what gives a network its score in place of full training.

One more proxy is one more function here with its row in `SCORES`, and its settings in `settings.TASK_PROXIES`. A space
names it as `proxy: {method: NAME}`, and `modscale fidelity --proxy NAME` tells how one of classification ranks networks
of known accuracy.

A proxy gives a score at each rung, a share of what it does, and goes on only when the next is asked for; the last one
is its score. One that wraps another maps what the other yields.

The scores cross from the process that holds torch into one that must not: nothing heavy is imported up here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

from modscale.errors import TrialFailed
from modscale.settings import ProxySettings
from modscale.specs.published import published
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec
from modscale.training.estimate import ANCHOR

if TYPE_CHECKING:
    from modscale.training.proxy import ProxyResult
    from modscale.training.proxy_data import ProxyData


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyScore:
    """What a proxy says of one network."""

    score: float
    """Higher is better; in any unit."""
    standard_error: float | None
    """Of the score, as far as one scoring knows it: from the number of held-out images, say. None where it does not."""
    results: Mapping[str, float] = field(default_factory=dict)
    """What a search writes down of it, by the keys of `runs/metrics.py`; one that seeks accuracy needs one here."""


def score_by_training(
    spec: ModelSpec, data: ProxyData, settings: ProxySettings, seed: int, rungs: Sequence[float]
) -> Iterator[ProxyScore]:
    """The top-1 to be expected of full training (`estimate.py`) by a short one (`proxy.py`), and on its way."""
    from modscale.training.estimate import estimate_accuracy, evidence_of

    anchors = train_anchor(data, settings, seed, tuple(rungs))
    for result, anchor in zip(_train(spec, data, settings, seed, tuple(rungs)), anchors, strict=True):
        estimate = estimate_accuracy(
            spec,
            method=settings.method,
            evidence=evidence_of(result.val_loss, anchor.val_loss),
            evidence_error=result.val_loss_error / max(result.val_loss, result.val_loss_error, 1e-6),
        )
        yield ProxyScore(
            score=estimate.accuracy,
            standard_error=estimate.noise,
            results={
                "accuracy": estimate.accuracy,
                "accuracy_standard_error": estimate.standard_error,
                "trained_accuracy": result.accuracy,
                "val_images": result.val_images,
                "val_loss": result.val_loss,
                "anchor_loss": anchor.val_loss,
            },
        )


def train_anchor(
    data: ProxyData, settings: ProxySettings, seed: int, rungs: tuple[float, ...]
) -> tuple[ProxyResult, ...]:
    """What the anchor came to on these data, trained when it is asked for the first time; nothing where none is needed.

    Raises:
        TrialFailed: it cannot be trained with these settings, and so no network can be compared with it.
    """
    from modscale.training.proxy import train_to_rungs

    if SCORES[settings.task][settings.method] is not score_by_training:
        return ()
    key = (seed, rungs)
    if key not in data.known:
        try:
            data.known[key] = tuple(train_to_rungs(_anchor(), data, settings, seed=seed, rungs=rungs))
        except TrialFailed as failure:
            raise TrialFailed(f"the anchor {ANCHOR}, to which it would be compared: {failure}") from failure
    return data.known[key]


def know_anchor(data: ProxyData, seed: int, rungs: tuple[float, ...], anchor: tuple[ProxyResult, ...]) -> None:
    """Takes over what `train_anchor` gave for the same data and settings in another process."""
    if anchor:
        data.known.setdefault((seed, rungs), anchor)


def _train(
    spec: ModelSpec, data: ProxyData, settings: ProxySettings, seed: int, rungs: tuple[float, ...]
) -> Iterator[ProxyResult]:
    """A network's results, a rung after the other; the anchor's stand already."""
    from modscale.training.proxy import proxy_spec, train_to_rungs

    if network_key(proxy_spec(spec, data, settings)) == network_key(proxy_spec(_anchor(), data, settings)):
        return iter(data.known[seed, rungs])
    return train_to_rungs(spec, data, settings, seed=seed, rungs=rungs)


def _anchor() -> ModelSpec:
    return published(ANCHOR)


def score_by_masks(
    spec: ModelSpec, data: ProxyData, settings: ProxySettings, seed: int, rungs: Sequence[float]
) -> Iterator[ProxyScore]:
    """The mIoU on held-out images after a short training under Semantic FPN, as it is.

    No size is put to it, as it is for a classifier: the paper has the mIoU of two networks of ours, both of one size,
    and nothing else says what size is worth there.
    """
    from modscale.training.proxy import train_to_rungs

    for result in train_to_rungs(spec, data, settings, seed=seed, rungs=rungs):
        assert result.miou is not None and result.miou_error is not None  # noqa: S101, PT018  # the data are masks
        yield ProxyScore(
            score=result.miou,
            standard_error=result.miou_error,
            results={
                "miou": result.miou,
                "miou_standard_error": result.miou_error,
                "pixel_accuracy": result.accuracy,
                "val_images": result.val_images,
                "val_loss": result.val_loss,
            },
        )


Score = Callable[["ModelSpec", "ProxyData", ProxySettings, int, Sequence[float]], Iterator[ProxyScore]]
SCORES: dict[str, dict[str, Score]] = {
    "classification": {"thin": score_by_training, "train": score_by_training},
    "segmentation": {"thin": score_by_masks},
}
"""By task and method; each takes a spec, the data, the settings, a seed and the rungs, rising shares that end in 1.

It gives a score a rung.

Raises TrialFailed: the network cannot be scored.
"""


def score_to_rungs(
    spec: ModelSpec, data: ProxyData, settings: ProxySettings, *, seed: int, rungs: Sequence[float] = (1.0,)
) -> Iterator[ProxyScore]:
    """The scores of a network by the method of the settings, one a rung, each worked out when it is asked for.

    Raises:
        TrialFailed: the network cannot be scored, also where a score is not finite.
    """
    for found in SCORES[settings.task][settings.method](spec, data, settings, seed, rungs):
        if not isfinite(found.score):
            raise TrialFailed(f"the proxy {settings.method} gave no finite score: {found.score}")
        yield found


def score_network(spec: ModelSpec, data: ProxyData, settings: ProxySettings, *, seed: int) -> ProxyScore:
    """The final score of a network. Raises TrialFailed as `score_to_rungs` does."""
    (found,) = score_to_rungs(spec, data, settings, seed=seed)
    return found
