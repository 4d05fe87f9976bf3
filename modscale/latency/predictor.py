"""The latency of a network from its pieces, with the interval in which a measurement of it would lie.

A network takes the sum of what its pieces take there, in the midst of the others: y = c + sum_p n_p theta_p. What is
observed are whole networks, few of which share more than some pieces, so the theta are estimated together, as Bayesian
linear regression does (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 2 and section
5.4.2 for the leave-one-out residuals):

- a first estimate is the best non-negative combination of what pieces cost (`Piece.costs`), one for all of them;
- each piece deviates from it by a share of its own, by one that it has in common with its kind, and by one with pieces
  of its family of nearly the same sizes; the network as a whole deviates smoothly in its size, the machine in time;
- how large these deviations are is what makes the observations most likely, among a grid.

A piece that was never observed has the deviation of its neighbours and the doubt of its own, so that the interval is
wider; one of a family that was never observed is refused.

The interval: a measurement deviates from its leave-one-out prediction by so many of its standard deviations; the
quantile of that over the observations, and not the normal law's, is what the predictions' deviations are stretched by.
Soon after the calibration the whole machine is a little faster or slower than it was during it (`LEVEL`), on another
day a good deal (`OTHER_DAY`), which its own observations cannot tell: the interval holds soon after it, and
`Prediction.on_another_day` is for whoever has kept the calibration.

Shapes: N networks, P pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modscale.arrays import FloatArray
from modscale.errors import InputError
from modscale.specs.pieces import Piece

COVERED = 0.9
"""Share of the measurements that the interval is to hold."""
Z90 = 1.644854
"""Half the width of a normal interval that holds so many, in standard deviations."""
GRID: Mapping[str, tuple[float, ...]] = {
    "kind": (0.1, 0.3, 0.6),
    "own": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
    "shared": (0.0, 0.05, 0.1, 0.2, 0.4),
    "whole": (0.0, 0.01, 0.02, 0.05),
    "drift": (0.0, 0.01, 0.02, 0.05),
    "noise": (0.001, 0.003, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1),
}
"""Standard deviations tried, as shares: of kinds of pieces, of each piece, of pieces of like sizes, of whole networks
of like sizes, of the machine in time, and of one measurement."""
LENGTH = 0.5
"""Distance, in logarithms of sizes, over which pieces are alike."""
LEVEL = 0.0125
"""Standard deviation, as a share, of the machine's speed from some minutes to the next: `benchmarks/latency.md`."""
OTHER_DAY = 0.025
"""The same from one session to another."""
DRIFT_S = 30.0
"""Seconds over which the machine's speed stays much the same."""
OUTLIER = 4.0
"""Leave-one-out residual from which a measurement is left out as disturbed, in standard deviations by the median
absolute one: of processes with two threads a sixth took 1.65 times as long, which makes the plain deviation large."""
OUTLIER_LEAST = 0.02
"""Share by which it is off at the least."""
OUTLIER_ROUNDS = 12
MOST_LEFT_OUT = 0.35
"""Share of the measurements that are left out at most."""
FEWEST = 8
"""Networks that a fit takes at the least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """One network that was timed."""

    pieces: tuple[Piece, ...]
    """Its pieces, each as often as it occurs."""
    latency_ms: float
    """What was measured."""
    at_s: float = 0.0
    """When, in seconds from the begin of the calibration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a network is expected to take."""

    latency_ms: float
    """The expected measurement."""
    ci90_ms: tuple[float, float]
    """The interval that holds nine of ten measurements soon after the calibration."""
    unseen: int
    """Of its pieces, those that no calibration network had."""

    def on_another_day(self) -> tuple[float, float]:
        """The interval with what the machine's speed changes by from one session to another."""
        own = (self.ci90_ms[1] - self.ci90_ms[0]) / 2
        half = float(np.hypot(own, Z90 * OTHER_DAY * self.latency_ms))
        return (max(0.0, self.latency_ms - half), self.latency_ms + half)


class Predictor:
    """Fitted to observations; see the module."""

    def __init__(self, observations: Sequence[Observation], *, deviations: Deviations | None = None) -> None:
        """With `deviations` as a fit to the same observations found them, nothing is searched for nor left out.

        Raises InputError where there are too few observations.
        """
        if len(observations) < FEWEST:
            raise InputError(f"must have {FEWEST} networks or more", place="networks", value=len(observations))
        self.pieces = list(dict.fromkeys(piece for one in observations for piece in one.pieces))
        self.families = {piece.family for piece in self.pieces}
        counts = self._counts([one.pieces for one in observations])
        times = np.array([one.latency_ms for one in observations])
        moments = np.array([one.at_s for one in observations])
        self.kept = np.ones(len(times), dtype=bool)
        """[N] whether each observation is taken, and not left out as disturbed."""
        self._fit(counts, times, moments, deviations)
        for _ in range(0 if deviations else OUTLIER_ROUNDS):  # the farthest first: they pull others along
            away = np.abs(self.residuals - np.median(self.residuals))
            far = away > max(OUTLIER * 1.4826 * float(np.median(away)), OUTLIER_LEAST, float(away.max()) / 2)
            if not far.any() or far.sum() + (~self.kept).sum() > MOST_LEFT_OUT * len(times):
                break
            self.kept[np.flatnonzero(self.kept)[far]] = False
            self._fit(counts[self.kept], times[self.kept], moments[self.kept], None)
        size = len(self.residuals)
        level = min(1.0, np.ceil(COVERED * (size + 1)) / size)
        self.stretch = float(np.quantile(np.abs(self.residuals / self.scales), level, method="higher"))

    def predict(self, networks: Sequence[Sequence[Piece]]) -> list[Prediction]:
        """One prediction for each network, given as its pieces.

        Raises:
            InputError: a piece is of a family that was never observed.
        """
        for piece in (piece for pieces in networks for piece in pieces):
            if piece.family not in self.families:
                rule = "the calibration has no piece like one of this network, which cannot be predicted from it"
                raise InputError(rule, value=piece.name)
        known = set(self.pieces)
        every = [*self.pieces, *dict.fromkeys(p for pieces in networks for p in pieces if p not in known)]
        counts = _count(networks, every)
        rates = self._rates(every)
        sums = self.constant + counts @ rates
        shares = counts * rates / sums[:, None]
        across = shares @ _covariance(every, self.pieces, self.deviations) @ self.shares.T
        across += self.deviations.whole**2 * _near(_sizes(counts, every), self.sizes, 1.0)
        own = ((shares @ _covariance(every, every, self.deviations)) * shares).sum(axis=1)
        own += self.deviations.whole**2 + self.deviations.drift**2 + self.deviations.noise**2
        centre = across @ self.weights
        variance = np.maximum(own - ((across @ self.inverse) * across).sum(axis=1), self.deviations.noise**2)
        half = self._half_width(np.sqrt(variance))
        return [
            Prediction(
                latency_ms=float(total * (1 + middle)),
                ci90_ms=(float(total * max(1 + middle - width, 0.0)), float(total * (1 + middle + width))),
                unseen=sum(piece not in known for piece in pieces),
            )
            for total, middle, width, pieces in zip(sums, centre, half, networks, strict=True)
        ]

    @property
    def usual_half_width(self) -> float:
        """Half of the interval of a network like those observed, as a share of its latency: the median."""
        return float(np.median(self._half_width(self.scales)))

    def _half_width(self, scales: FloatArray) -> FloatArray:
        """Half of an interval, by the standard deviation that the fit has."""
        return np.hypot(self.stretch * scales, Z90 * LEVEL)

    def _fit(self, counts: FloatArray, times: FloatArray, moments: FloatArray, deviations: Deviations | None) -> None:
        self.rates, self.constant = self._first_estimate(counts, times)
        rates = self._rates(self.pieces)
        sums = self.constant + counts @ rates
        self.shares = counts * rates / sums[:, None]
        self.sizes = _sizes(counts, self.pieces)
        target = times / sums - 1
        later = (moments[:, None] - moments[None]) / DRIFT_S
        parts = {
            name: self.shares @ _covariance(self.pieces, self.pieces, Deviations(**{name: 1.0})) @ self.shares.T
            for name in ("kind", "own", "shared")
        } | {
            "whole": _near(self.sizes, self.sizes, 1.0),
            "drift": np.exp(-(later**2) / 2),
            "noise": np.eye(len(times)),
        }
        self.deviations = deviations or _most_likely(parts, target)
        self.inverse = np.linalg.inv(_mixed(parts, self.deviations))
        self.weights = self.inverse @ target
        left_out = 1 / np.diag(self.inverse)
        self.residuals = self.weights * left_out
        self.scales = np.sqrt(left_out)

    def _first_estimate(self, counts: FloatArray, times: FloatArray) -> tuple[FloatArray, float]:
        """Milliseconds a unit of each column of `_features`, and those of a network beside its pieces."""
        features = _features(self.pieces)
        design = np.column_stack([counts @ features, np.ones(len(counts))]) / times[:, None]
        found = _non_negative(design, np.ones(len(times)))
        return found[:-1], float(found[-1])

    def _rates(self, pieces: Sequence[Piece]) -> FloatArray:
        """[P] the first estimates of what pieces take, milliseconds; never nothing."""
        return np.maximum(_features(pieces) @ self.rates, 1e-4)

    def _counts(self, networks: Sequence[Sequence[Piece]]) -> FloatArray:
        return _count(networks, self.pieces)


def answer_fit(observations: Sequence[Observation]) -> tuple[Deviations, list[bool]]:
    """What a fit found, and which observations it takes, as a child process answers it: NumPy's threads are its own."""
    found = Predictor(observations)
    return found.deviations, found.kept.tolist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviations:
    """Standard deviations, as shares; see `GRID`."""

    kind: float = 0.0
    own: float = 0.0
    shared: float = 0.0
    whole: float = 0.0
    drift: float = 0.0
    noise: float = 0.0


def _mixed(parts: Mapping[str, FloatArray], deviations: Deviations) -> FloatArray:
    """[N, N] the covariance of the measurements."""
    return np.asarray(sum(getattr(deviations, name) ** 2 * part for name, part in parts.items()))


def _most_likely(parts: Mapping[str, FloatArray], target: FloatArray) -> Deviations:
    """The deviations of `GRID` under which `target` is most likely, one after the other until none changes."""

    def surprise(deviations: Deviations) -> float:
        factor = np.linalg.cholesky(_mixed(parts, deviations))
        solved = np.linalg.solve(factor, target)
        return float(solved @ solved) + 2 * float(np.log(np.diag(factor)).sum())

    found = []
    for own, noise in ((0.1, 0.01), (0.02, 0.05)):
        deviations, before = Deviations(kind=0.3, own=own, shared=0.1, noise=noise), None
        while deviations != before:
            before = deviations
            for name, tried in GRID.items():
                deviations = min((replace(deviations, **{name: value}) for value in tried), key=surprise)
        found.append(deviations)
    return min(found, key=surprise)


def _count(networks: Sequence[Sequence[Piece]], pieces: Sequence[Piece]) -> FloatArray:
    """[N, P] how often each piece occurs in each network."""
    place = {piece: i for i, piece in enumerate(pieces)}
    counts = np.zeros((len(networks), len(pieces)))
    for row, network in zip(counts, networks, strict=True):
        for piece, count in Counter(network).items():
            row[place[piece]] = count
    return counts


def _features(pieces: Sequence[Piece]) -> FloatArray:
    """[P, 7] what the first estimate is a combination of."""
    return np.array([piece.costs for piece in pieces])


def _covariance(pieces: Sequence[Piece], others: Sequence[Piece], deviations: Deviations) -> FloatArray:
    """Between the deviations of pieces, as shares of their first estimates."""
    kinds = _equal([piece.kind for piece in pieces], [piece.kind for piece in others])
    alike = _equal([piece.family for piece in pieces], [piece.family for piece in others])
    near = _near(_log_sizes(pieces), _log_sizes(others), LENGTH)
    same = _equal(pieces, others)
    return deviations.kind**2 * kinds + deviations.shared**2 * alike * near + deviations.own**2 * same


def _equal(mine: Sequence[Hashable], theirs: Sequence[Hashable]) -> FloatArray:
    """1 where two are the same, else 0."""
    number = {key: i for i, key in enumerate(dict.fromkeys((*mine, *theirs)))}
    return np.equal.outer([number[key] for key in mine], [number[key] for key in theirs]).astype(np.float64)


def _log_sizes(pieces: Sequence[Piece]) -> FloatArray:
    return np.log([[one.side, one.dim, one.out, one.hidden or one.out] for one in pieces])


def _sizes(counts: FloatArray, pieces: Sequence[Piece]) -> FloatArray:
    """[N, 3] logarithms of params, FLOPs and blocks of networks."""
    per_piece = np.array([[piece.params, piece.flops, 1.0] for piece in pieces])
    return np.log(counts @ per_piece)


def _near(points: FloatArray, others: FloatArray, length: float) -> FloatArray:
    """The squared exponential kernel."""
    squares = ((points[:, None] - others[None]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-squares / (2 * length**2)))


def _non_negative(design: FloatArray, target: FloatArray) -> FloatArray:
    """Least squares under the condition that nothing is negative (Lawson and Hanson 1974, algorithm NNLS)."""
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    scaled = design / scale
    found = np.zeros(design.shape[1])
    active = np.zeros(design.shape[1], dtype=bool)
    tolerance = 1e-10 * len(target)
    for _ in range(10 * design.shape[1]):
        slope = scaled.T @ (target - scaled @ found)
        slope[active] = -np.inf
        best = int(slope.argmax())
        if slope[best] <= tolerance:
            break
        active[best] = True
        while True:
            trial = np.zeros_like(found)
            trial[active] = np.linalg.lstsq(scaled[:, active], target, rcond=None)[0]
            negative = active & (trial <= 0)
            if not negative.any():
                found = trial
                break
            steps = found[negative] / np.maximum(found[negative] - trial[negative], 1e-300)
            found = found + steps.min() * (trial - found)
            active &= found > 1e-12
            found[~active] = 0.0
    return found / scale
