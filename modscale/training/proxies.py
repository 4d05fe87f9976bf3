"""The proxies by name: what gives a network its score in place of full training.

One more proxy is one more function here with its row in `SCORES`, and its settings in `settings.PROXIES`. A space names
it as `proxy: {method: NAME}`, and `modscale fidelity --proxy NAME` tells how it ranks networks of known accuracy.

A proxy gives a score at each rung, a share of what it does, and goes on only when the next is asked for; the last one
is its score. One that wraps another maps what the other yields.

The scores cross from the process that holds torch into one that must not: nothing heavy is imported up here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import TYPE_CHECKING

from modscale.errors import TrialFailed
from modscale.settings import ProxySettings
from modscale.specs.spec import ModelSpec

if TYPE_CHECKING:
    from modscale.training.proxy import ProxyData


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyScore:
    """What a proxy says of one network."""

    score: float
    """Higher is better; in any unit."""
    standard_error: float | None
    """Of the score, as far as one scoring knows it: from the number of held-out images, say. None where it does not."""
    rung_value: float | None = None
    """What a rung is to compare instead of the score, where that orders networks finer; higher is better."""
    results: Mapping[str, float] = field(default_factory=dict)
    """What a search writes down of it, by the keys of `runs/metrics.py`; one that seeks accuracy needs one here."""


def score_by_training(
    spec: ModelSpec, data: ProxyData, settings: ProxySettings, seed: int, rungs: Sequence[float]
) -> Iterator[ProxyScore]:
    """Accuracy on held-out images after a short training (`training/proxy.py`), and on its way; binomial error."""
    from modscale.training.proxy import train_to_rungs

    for result in train_to_rungs(spec, data, settings, seed=seed, rungs=rungs):
        # None or all of n right counts as half an image off, since an error of exactly 0 would claim certainty.
        share = min(max(result.accuracy, 0.5 / result.val_images), 1 - 0.5 / result.val_images)
        yield ProxyScore(
            score=result.accuracy,
            standard_error=sqrt(share * (1 - share) / result.val_images),
            rung_value=-result.val_loss,
            results={"accuracy": result.accuracy, "val_images": result.val_images, "val_loss": result.val_loss},
        )


SCORES: dict[str, Callable[[ModelSpec, ProxyData, ProxySettings, int, Sequence[float]], Iterator[ProxyScore]]] = {
    "train": score_by_training
}
"""Each takes a spec, the data, the settings, a seed and the rungs, rising shares that end in 1; gives a score a rung.

Raises TrialFailed: the network cannot be scored.
"""


def score_to_rungs(
    spec: ModelSpec, data: ProxyData, settings: ProxySettings, *, seed: int, rungs: Sequence[float] = (1.0,)
) -> Iterator[ProxyScore]:
    """The scores of a network by the method of the settings, one a rung, each worked out when it is asked for.

    Raises:
        TrialFailed: the network cannot be scored, also where a score is not finite.
    """
    for found in SCORES[settings.method](spec, data, settings, seed, rungs):
        if not isfinite(found.score):
            raise TrialFailed(f"the proxy {settings.method} gave no finite score: {found.score}")
        yield found


def score_network(spec: ModelSpec, data: ProxyData, settings: ProxySettings, *, seed: int) -> ProxyScore:
    """The final score of a network. Raises TrialFailed as `score_to_rungs` does."""
    (found,) = score_to_rungs(spec, data, settings, seed=seed)
    return found
