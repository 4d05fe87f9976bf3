"""A point near a compound ray with a given latency, found with few measurements.

A measurement takes seconds and is noisy, so thousands of neighbours cannot be tried. A model of the latency,
`constant + a FLOPs + b blocks` with no negative term, is fitted to what was measured, weighted towards the target; it
proposes the next network, whose measurement corrects it. A network within the tolerance is measured once more, and
counts as found only if the mean of both is within it too.

Shapes: N networks, C coordinates of the ray, M measured networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from modscale.arrays import FloatArray, IntArray
from modscale.scaling.compound import SMALLEST_PHI, Ray, largest_phi_within
from modscale.specs.spec import ModelSpec

MAX_MEASUREMENTS = 24
"""Networks measured at most for one budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyFit:
    """The network found for a latency."""

    values: IntArray
    """[C] its coordinates."""
    latency_ms: float
    """Its latency, the mean of both measurements where there are two."""
    noise: float
    """Relative difference of its two measurements; 0 where there is one."""
    measured: int
    """Networks measured on the way."""
    at_limit: bool
    """Whether it is the smallest network of the ray, and still above the budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Log:
    """What was measured on the way to one target."""

    target_ms: float
    tolerance: float
    times: dict[tuple[int, ...], list[float]]
    """Coordinates of a network to its measurements, in order."""

    def error(self, values: tuple[int, ...]) -> float:
        """How far the mean of a network's measurements is from the target, as a share of it."""
        return float(np.mean(self.times[values])) / self.target_ms - 1

    def outcome(self, values: tuple[int, ...], *, at_limit: bool = False) -> LatencyFit:
        times = self.times[values]
        mean = float(np.mean(times))
        return LatencyFit(
            values=np.array(values, dtype=np.int64),
            latency_ms=mean,
            noise=(max(times) - min(times)) / mean,
            measured=len(self.times),
            at_limit=at_limit,
        )


def fit_latency(ray: Ray, target_ms: float, tolerance: float, measure: Callable[[ModelSpec], float]) -> LatencyFit:
    """The network on or near `ray` whose measured latency is within `tolerance` of `target_ms`, or the nearest seen."""
    log = _Log(target_ms=target_ms, tolerance=tolerance, times={})
    smallest = ray.at(SMALLEST_PHI)
    proposal = ray.start
    while _key(proposal) not in log.times:
        if _measure_twice(ray, log, proposal, measure):
            return log.outcome(_key(proposal))
        if (proposal == smallest).all() and log.error(_key(smallest)) > 0:
            return log.outcome(_key(smallest), at_limit=True)
        if len(log.times) == MAX_MEASUREMENTS:
            break
        rows = np.array(list(log.times), dtype=np.int64)
        times = np.array([np.mean(measurements) for measurements in log.times.values()])
        terms = _fit(_features(ray, rows), times, target_ms)
        centre = ray.at(largest_phi_within(ray, target_ms, partial(_predict, ray, terms)))
        if (centre == smallest).all() and _key(smallest) not in log.times:
            proposal = smallest
        else:
            proposal = _propose(ray, ray.around(centre), terms, rows, times, target_ms, tolerance)
    return log.outcome(min(log.times, key=lambda values: abs(log.error(values))))


def _measure_twice(ray: Ray, log: _Log, values: IntArray, measure: Callable[[ModelSpec], float]) -> bool:
    """Measures a network, once more where that lies within the tolerance; whether the mean still does."""
    times = log.times.setdefault(_key(values), [])
    spec = ray.spec(values, ray.base.name)
    for _ in range(2):
        times.append(float(measure(spec)))
        if abs(log.error(_key(values))) > log.tolerance:
            return False
    return True


def _key(values: IntArray) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _features(ray: Ray, values: IntArray) -> FloatArray:
    """[N, 3] what the latency of networks [N, C] is made of: 1, G FLOPs, blocks."""
    _, flops = ray.count(values)
    return np.stack([np.ones(len(values)), flops / 1e9, ray.blocks(values)], axis=1)


def _predict(ray: Ray, terms: FloatArray, values: IntArray) -> float:
    """Latency of one network [C] by the model."""
    return float((_features(ray, values[None]) @ terms)[0])


def _fit(features: FloatArray, times: FloatArray, target_ms: float) -> FloatArray:
    """[3] the terms of the latency with the least weighted relative error, none of them negative."""
    weights = 1 / (np.abs(np.log(times / target_ms)) + 0.05)
    best, least = np.array([0.0, times[-1] / features[-1, 1], 0.0]), np.inf
    for size in (1, 2, 3):
        for chosen in combinations(range(3), size):
            if size > len(times) or 1 not in chosen:  # a latency that does not grow with FLOPs leads nowhere
                continue
            scaled = features[:, chosen] / times[:, None] * weights[:, None]
            terms, *_ = np.linalg.lstsq(scaled, weights, rcond=None)
            error = float(((scaled @ terms - weights) ** 2).sum())
            if (terms >= 0).all() and terms[list(chosen).index(1)] > 0 and error < least - 1e-12:
                best, least = np.zeros(3), error
                best[list(chosen)] = terms
    return best


def _propose(
    ray: Ray,
    candidates: IntArray,
    terms: FloatArray,
    rows: IntArray,
    times: FloatArray,
    target_ms: float,
    tolerance: float,
) -> IntArray:
    """[C] the candidate to measure next: predicted in the middle of the tolerance, new, and nearest to the ray."""
    predicted = _features(ray, candidates) @ terms
    nearest = np.argmin(np.abs(np.log(times / target_ms)))
    predicted *= times[nearest] / _predict(ray, terms, rows[nearest])
    error = np.abs(predicted / target_ms - 1)
    error[(candidates[:, None] == rows).all(axis=2).any(axis=1)] = np.inf
    fits = np.flatnonzero(error <= tolerance / 2)
    if len(fits):
        return candidates[fits[np.argmin(ray.distance(candidates[fits]))]]
    return candidates[np.argmin(error)]
