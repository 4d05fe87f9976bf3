"""What a budget can tell apart: how far two networks must be from each other for a search to order them rightly.

From what is recorded of a proxy (`proxy_records.py`): how its estimates order pairs of published networks, against the
difference that full training makes. The chance that a pair d points apart is ordered rightly is taken to be that of a
normal error, Phi(d / e), with the e under which the record's pairs are likeliest. What the number of validation images
and the seed put into an estimate is a part of e, and can be bought down; the rest is what size and a short training
leave open, and stays.

By hand: with e = 1.46 a pair 2.3 points apart is ordered rightly with Phi(1.58) = 94 %, one 2.7 apart with 97 %; what
is told apart with 95 % is 1.645 x 1.46 = 2.4 points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import hypot, sqrt
from statistics import NormalDist

from modscale.analysis.proxy_records import ProxyRecord, find_record
from modscale.settings import ProxySettings
from modscale.specs.known import published_networks
from modscale.training.estimate import WEIGHTS

SURE = 0.95
"""Chance of the right order at which two networks are told apart."""
NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two published networks."""

    better: str
    worse: str
    points: float
    """By how much the published top-1 of the one is above the other's."""
    probability: float
    """That the search orders them so."""

    @property
    def ties(self) -> bool:
        """Whether the search cannot tell them apart."""
        return self.probability < SURE


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """What a budget puts into one estimate, points of top-1 of a network near the anchor."""

    val_images: int
    images_points: float
    """Standard error from the number of validation images."""
    seed_points: float | None
    """Standard deviation between seeds; None: not measured."""

    @property
    def points(self) -> float:
        """Both together."""
        return hypot(self.images_points, self.seed_points or 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToldApart:
    """What a budget can tell apart."""

    record: ProxyRecord
    noise: Noise
    """Of this budget."""
    apart_points: float
    """How far apart in top-1 two networks are that it orders rightly with a chance of `SURE`."""
    pairs: tuple[Pair, ...]
    """Of the published networks that were asked about, nearest first."""
    rest_points: float
    """`apart_points` of a budget without any noise."""


def tell_apart(
    settings: ProxySettings, data: str, val_images: int, names: Sequence[str], *, accuracy: float
) -> ToldApart | None:
    """What a budget with so many validation images tells apart of the published networks of these names.

    `accuracy` is about what the networks of the search are estimated at, a fraction. None: nothing is recorded of the
    proxy with these settings on such data; epochs, images and resolution of the training are among its settings.
    """
    record = find_record(settings, data)
    if record is None or record.pair_error is None or record.loss_spread is None:
        return None
    noise = noise_of(record, settings.method, val_images, accuracy)
    then = noise_of(record, settings.method, record.val_images or val_images, accuracy)
    rest = sqrt(max(0.0, record.pair_error**2 - 2 * then.points**2))
    error = hypot(rest, sqrt(2) * noise.points)
    known = [network for network in published_networks() if network.name in names]
    pairs = [
        Pair(
            better=better.name,
            worse=worse.name,
            points=better.top1 - worse.top1,
            probability=NORMAL.cdf((better.top1 - worse.top1) / error),
        )
        for better, worse in (sorted(pair, key=lambda one: -one.top1) for pair in combinations(known, 2))
    ]
    factor = NORMAL.inv_cdf(SURE)
    return ToldApart(
        record=record,
        noise=noise,
        apart_points=factor * error,
        pairs=tuple(sorted(pairs, key=lambda pair: pair.points)),
        rest_points=factor * rest,
    )


def noise_of(record: ProxyRecord, method: str, val_images: int, accuracy: float) -> Noise:
    """What so many validation images, and the seed, put into an estimate of about `accuracy` (a fraction)."""
    points = 100 * accuracy * (1 - accuracy) * WEIGHTS.evidence[method]
    spread = record.loss_spread or 0.0
    return Noise(
        val_images=val_images,
        images_points=points * spread / sqrt(val_images),
        seed_points=None if record.seed_noise is None else points * record.seed_noise,
    )
