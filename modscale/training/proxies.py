"""The proxies by name: what gives a network its score in place of full training.

One more proxy is one more function here with its row in `SCORES`, and its settings in `settings.PROXIES`. A space names
it as `proxy: {method: NAME}`, and `modscale fidelity --proxy NAME` tells how it ranks networks of known accuracy.

The scores cross from the process that holds torch into one that must not: nothing heavy is imported up here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    results: Mapping[str, float] = field(default_factory=dict)
    """What a search writes down of it, by the keys of `runs/metrics.py`; one that seeks accuracy needs one here."""


def score_by_training(spec: ModelSpec, data: ProxyData, settings: ProxySettings, seed: int) -> ProxyScore:
    """Accuracy on held-out images after a short training (`training/proxy.py`); binomial error."""
    from modscale.training.proxy import train_proxy

    result = train_proxy(spec, data, settings, seed=seed)
    # None or all of n right counts as half an image off, since an error of exactly 0 would claim certainty.
    share = min(max(result.accuracy, 0.5 / result.val_images), 1 - 0.5 / result.val_images)
    return ProxyScore(
        score=result.accuracy,
        standard_error=sqrt(share * (1 - share) / result.val_images),
        results={"accuracy": result.accuracy, "val_images": result.val_images},
    )


SCORES: dict[str, Callable[[ModelSpec, ProxyData, ProxySettings, int], ProxyScore]] = {"train": score_by_training}
"""Each takes a spec, the data, the settings and a seed. Raises TrialFailed: the network cannot be scored."""


def score_network(spec: ModelSpec, data: ProxyData, settings: ProxySettings, *, seed: int) -> ProxyScore:
    """The score of a network by the method of the settings. Raises TrialFailed, also where it is not finite."""
    found = SCORES[settings.method](spec, data, settings, seed)
    if not isfinite(found.score):
        raise TrialFailed(f"the proxy {settings.method} gave no finite score: {found.score}")
    return found
