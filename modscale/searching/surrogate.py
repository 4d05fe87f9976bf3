"""What an architecture may be worth, judged from the trials so far: a Gaussian process for each measured objective.

Counts are known of every architecture before it is measured, so params and FLOPs as objectives are exact and only what
is measured is modelled. A process sees each searched parameter as a number from 0 to 1 (a category as one number an
option) and the logarithms of params and FLOPs. Its kernel is a linear one, since quality and latency follow size first
and then what each option adds, plus a Matern 5/2 over the parameters; scales and noise are the most likely ones of a
fixed grid, so nothing is left to an optimiser's luck. Costs that are positive are modelled as logarithms.

Trials that are under way are taken to come out as they are expected to ("kriging believer", Ginsbourger et al. 2010):
a process is surer near them, and what they are expected to reach is no gain.

What a candidate is worth is its expected gain in hypervolume over the front so far. The hypervolume is a mean over
directions (Zhang and Golovin 2020, "Random hypervolume scalarizations for provable multi-objective black box
optimization", lemma 5), which takes any number of objectives.

Shapes: N trials, C candidates, M objectives, D features, L directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modscale.arrays import FloatArray, IntArray, one_blas_thread
from modscale.pareto import REFERENCE_MARGIN, pareto_front
from modscale.searching.draws import Draws
from modscale.spaces.tables import SpaceTables

SCALES = (0.5, 1.0, 2.0)
"""Length scales of the Matern kernel, in root mean square distances between two architectures drawn at random."""
LINEAR_SHARES = (0.2, 0.7, 0.95)
"""Shares of the linear kernel."""
NOISES = (1e-4, 1e-3, 0.01, 0.1, 0.3, 1.0, 3.0)
"""Variances of the noise, in units of the kernels' sum."""
MOST_MARKED = 8
"""Options up to which each option of a parameter may have an effect of its own."""
MOST_TRIALS = 200
"""Trials that a process is fitted to, at most: the last ones, and of the earlier ones evenly many."""
CANDIDATES = 2000
"""Architectures drawn uniformly that a proposal is chosen from, besides neighbours of the front."""
NEIGHBOURS = 600
"""Of them, before those that are not feasible go."""
DIRECTIONS = 128
"""Over which a hypervolume is a mean."""
DRAWS = 16
"""Values drawn of each candidate's measured objectives."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Every architecture of one list beside every one of another: what their kernels are made of, computed once."""

    distances: FloatArray
    """[N, K] between their features, times the square root of 5."""
    products: FloatArray
    """[N, K] of what the linear kernel sees, a sum over its numbers."""
    width: int
    """How many numbers these are."""
    materns: dict[float, FloatArray] = field(default_factory=dict)
    """Length scale to [N, K] Matern kernel, for those that were asked for."""

    def kernel(self, scale: float, linear: float) -> FloatArray:
        """[N, K] the kernel of the model."""
        if scale not in self.materns:
            far = self.distances / scale
            self.materns[scale] = (1 + far + far**2 / 3) * np.exp(-far)
        return linear * self.products / self.width + (1 - linear) * self.materns[scale]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Process:
    """A fitted Gaussian process of one objective, its values standardised."""

    features: FloatArray
    """[N, D] of the trials."""
    slopes: FloatArray
    """[N, K] what the linear kernel sees, see `describe_slopes`."""
    scale: float
    """Length scale of the Matern kernel."""
    linear: float
    """Share of the linear kernel."""
    noise: float
    """Variance of the noise, in units of the kernels' sum."""
    inverse: FloatArray
    """[N, N] of the kernel matrix with the noise."""
    values: FloatArray
    """[N] standardised."""
    variance: float
    """Most likely variance of the kernels' sum."""
    mean: float
    """Of the values before they were standardised."""
    deviation: float
    """Of the values before they were standardised."""
    logarithmic: bool
    """Whether the values are logarithms."""

    def draw(
        self, features: FloatArray, slopes: FloatArray, normal: FloatArray, pairs: Pairs | None = None
    ) -> FloatArray:
        """[draws, C] values of candidates without noise, each drawn from its own normal; `normal` is [draws, C].

        `pairs` are the candidates beside the trials, where somebody has them.
        """
        pairs = pairs or pairs_of(features, slopes, self.features, self.slopes)
        across = pairs.kernel(self.scale, self.linear)
        centre = across @ (self.inverse @ self.values)
        own = self.linear * (slopes**2).mean(axis=1) + 1 - self.linear
        left = own - ((across @ self.inverse) * across).sum(axis=1)
        spread = np.sqrt(np.maximum(left, 1e-9) * self.variance)
        return self._restored(centre + spread * normal)

    def expect(self, features: FloatArray, slopes: FloatArray) -> FloatArray:
        """[K] the values that candidates are expected to have, of logarithms their medians."""
        return self._restored(self._kernel_to(features, slopes) @ (self.inverse @ self.values))

    def believing(self, features: FloatArray, slopes: FloatArray) -> Process:
        """As though trials [K] at these features had come out as expected: surer near them, the means unchanged."""
        across = self._kernel_to(features, slopes)
        own = pairs_of(features, slopes, features, slopes).kernel(self.scale, self.linear)
        near = self.inverse @ across.T  # the inverse of a matrix bordered by K rows, by blocks
        corner = np.linalg.inv(own + self.noise * np.eye(len(own)) - across @ near)
        inverse = np.block([[self.inverse + near @ corner @ near.T, -near @ corner], [-corner @ near.T, corner]])
        return replace(
            self,
            features=np.concatenate([self.features, features]),
            slopes=np.concatenate([self.slopes, slopes]),
            inverse=inverse,
            values=np.concatenate([self.values, across @ (self.inverse @ self.values)]),
        )

    def _kernel_to(self, features: FloatArray, slopes: FloatArray) -> FloatArray:
        return pairs_of(features, slopes, self.features, self.slopes).kernel(self.scale, self.linear)

    def _restored(self, values: FloatArray) -> FloatArray:
        """Standardised values as those of the objective."""
        found = self.mean + self.deviation * values
        return np.exp(np.clip(found, -700, 700)) if self.logarithmic else found


class Surrogate:
    """The expected gain of architectures, from trials of one space."""

    def __init__(
        self,
        tables: SpaceTables,
        rows: IntArray,
        losses: FloatArray,
        *,
        counts: Sequence[int | None],
        costs: Sequence[bool],
        waiting: IntArray | None = None,
    ) -> None:
        """From trials at `rows` [N, S] with `losses` [N, M], every objective to be minimised.

        Those at `waiting` [K, S] are under way.

        `counts` has for each objective its column in `tables.count` where it is a count, else None; `costs` says of
        which objectives the logarithm may be modelled. At least one trial.
        """
        self.tables = tables
        self.counts = counts
        some = np.unique(np.linspace(0, len(rows) - 1, MOST_TRIALS // 2).round().astype(np.int64))
        kept = np.union1d(some, np.arange(max(0, len(rows) - MOST_TRIALS // 2), len(rows)))
        features, logs = self._described(rows[kept])
        self.centre, self.spread = logs.mean(axis=0), np.maximum(logs.std(axis=0), 1e-9)
        slopes = self._slopes(rows[kept], features, logs)
        self.described = features, slopes
        pairs = pairs_of(features, slopes, features, slopes)
        self.processes = [
            None if column is not None else fit_process(features, slopes, losses[kept, i], pairs, logarithmic=costs[i])
            for i, column in enumerate(counts)
        ]
        self.best = losses.min(axis=0)
        worst = losses.max(axis=0)
        self.span = np.where(worst > self.best, worst - self.best, 1.0)
        self.corner = worst + REFERENCE_MARGIN * self.span
        self.losses = losses
        if waiting is not None and len(waiting):
            self._believe(waiting)

    def gains(self, rows: IntArray, rng: np.random.Generator) -> FloatArray:
        """[C] the expected gain in hypervolume of each candidate [C, S], up to one factor for all."""
        features, logs = self._described(rows)
        slopes = self._slopes(rows, features, logs)
        pairs = pairs_of(features, slopes, *self.described)
        values = np.empty((DRAWS, len(rows), len(self.counts)))
        for i, (column, process) in enumerate(zip(self.counts, self.processes, strict=True)):
            if process is None:
                values[:, :, i] = np.exp(logs[:, column])
            else:
                values[:, :, i] = process.draw(features, slopes, rng.standard_normal((DRAWS, len(rows))), pairs)
        directions = np.abs(rng.standard_normal((DIRECTIONS, len(self.counts))))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        power = len(self.counts)
        reached = self._lengths(self.losses, directions).max(axis=0) ** power  # [L]
        gains = np.zeros(len(rows))
        for drawn in values:
            gains += np.maximum(self._lengths(drawn, directions) ** power - reached, 0.0).mean(axis=1)
        return gains / DRAWS

    def _believe(self, rows: IntArray) -> None:
        """Takes the trials at `rows` [K, S] to have come out as they are expected to."""
        features, logs = self._described(rows)
        slopes = self._slopes(rows, features, logs)
        expected = np.empty((len(rows), len(self.counts)))
        for i, (column, process) in enumerate(zip(self.counts, self.processes, strict=True)):
            if process is None:
                expected[:, i] = np.exp(logs[:, column])
            else:
                expected[:, i] = process.expect(features, slopes)
                self.processes[i] = process.believing(features, slopes)
        self.losses = np.concatenate([self.losses, expected])
        known = self.described
        self.described = np.concatenate([known[0], features]), np.concatenate([known[1], slopes])

    def _lengths(self, losses: FloatArray, directions: FloatArray) -> FloatArray:
        """[points, L]: how far along each direction from the reference point each of the losses [points, M] reaches."""
        ahead = np.maximum((self.corner - losses) / self.span, 0.0)
        lengths = np.full((len(losses), len(directions)), np.inf)
        for i in range(ahead.shape[1]):
            np.minimum(lengths, ahead[:, i, None] / np.maximum(directions[:, i], 1e-12), out=lengths)
        return lengths

    def _described(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """([N, D] features, [N, 2] logarithms of params and FLOPs)."""
        logs = np.log(np.stack(self.tables.count(rows), axis=1).astype(np.float64))
        return describe_rows(self.tables, rows), logs

    def _slopes(self, rows: IntArray, features: FloatArray, logs: FloatArray) -> FloatArray:
        return describe_slopes(self.tables, rows, features, (logs - self.centre) / self.spread)


def propose(
    draws: Draws,
    rng: np.random.Generator,
    rows: IntArray,
    losses: FloatArray,
    *,
    counts: Sequence[int | None],
    costs: Sequence[bool],
    waiting: IntArray | None = None,
) -> dict[str, Any] | None:
    """The new, feasible architecture of the largest expected gain among many drawn ones; None where none is new.

    The trials so far are given as to `Surrogate`.
    """
    front = rows[pareto_front(losses, ["minimize"] * losses.shape[1])]
    drawn = np.concatenate([draws.rows(rng, CANDIDATES), draws.neighbours(rng, front, NEIGHBOURS)])
    candidates = rng.permutation(np.unique(drawn, axis=0))  # equal gains in no order
    with one_blas_thread():  # the matrices are small: threads that wait for each other on a busy machine take minutes
        surrogate = Surrogate(draws.tables, rows, losses, counts=counts, costs=costs, waiting=waiting)
        gains = surrogate.gains(candidates, rng)
    for best in np.argsort(-gains, kind="stable"):
        options = draws.tables.choice(candidates[best])
        if draws.is_new(options):
            return options
    return None


def describe_rows(tables: SpaceTables, rows: IntArray) -> FloatArray:
    """[N, D] the searched parameters of architectures [N, S], each from 0 to 1 in its order, categories one by one."""
    columns = []
    for i, stage in enumerate(tables.stages):
        places = np.unravel_index(rows[:, i], stage.shape)
        for parameter, place in zip(stage.parameters, places, strict=True):
            labels = [parameter.label(option) for option in parameter.options]
            if len(labels) < 2:
                continue
            if all(isinstance(label, (int, float)) for label in labels):
                rank = np.argsort(np.argsort(np.array(labels, dtype=float))) / (len(labels) - 1)
                columns.append(rank[place])
            else:
                columns += [(place == k) * 0.5**0.5 for k in range(len(labels))]  # two options lie 1 apart
    return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 1))


def describe_slopes(tables: SpaceTables, rows: IntArray, features: FloatArray, sizes: FloatArray) -> FloatArray:
    """[N, K] what value and option may each add of their own, for a linear kernel; half of its weight for either.

    One half are 1, the standardised logarithms of the counts [N, 2] and the features; the other is a mark for each
    option of a parameter that has few, so that one option between two others may be the best after a few trials.
    """
    lines = np.column_stack([np.ones(len(rows)), sizes, 2 * features - 1])
    marks = []
    for i, stage in enumerate(tables.stages):
        places = np.unravel_index(rows[:, i], stage.shape)
        for parameter, place in zip(stage.parameters, places, strict=True):
            if 1 < len(parameter.options) <= MOST_MARKED:
                marks.append(place[:, None] == np.arange(len(parameter.options)))
    if not marks:
        return lines
    marked = np.concatenate(marks, axis=1).astype(np.float64)
    width = lines.shape[1] + marked.shape[1]
    return np.column_stack(
        [lines * (width / 2 / lines.shape[1]) ** 0.5, marked * (width / 2 / len(marks)) ** 0.5],
    )


def pairs_of(features: FloatArray, slopes: FloatArray, others: FloatArray, other_slopes: FloatArray) -> Pairs:
    """[N] architectures beside [K] others, from the features [., D] and slopes [., L] of both."""
    squares = (features**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * features @ others.T
    return Pairs(np.sqrt(5 * np.maximum(squares, 0.0)), slopes @ other_slopes.T, slopes.shape[1])


def fit_process(
    features: FloatArray, slopes: FloatArray, values: FloatArray, pairs: Pairs | None = None, *, logarithmic: bool
) -> Process:
    """The most likely process of the grid for `values` [N] at architectures of these features and slopes.

    `pairs` are the architectures beside themselves, where somebody has them.
    """
    pairs = pairs or pairs_of(features, slopes, features, slopes)
    logarithmic = logarithmic and bool((values > 0).all())
    values = np.log(values) if logarithmic else values
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    target = (values - mean) / deviation
    unit = float(np.sqrt(features.shape[1] / 6))  # of two numbers drawn uniformly from 0 to 1
    count = len(target)
    best, chosen = np.inf, None
    for scale in SCALES:
        for linear in LINEAR_SHARES:
            kernel = pairs.kernel(scale * unit, linear)
            # The factor of a matrix bordered by the values has in its last row what solves for them.
            bordered = np.zeros((len(NOISES), count + 1, count + 1))
            bordered[:, :count, :count] = kernel
            bordered[:, :count, :count] += np.multiply.outer(NOISES, np.eye(count))
            bordered[:, count, :count] = bordered[:, :count, count] = target
            bordered[:, count, count] = 2 * (target @ target + 1) / np.array(NOISES)
            factors = np.linalg.cholesky(bordered)
            variances = (factors[:, count, :count] ** 2).mean(axis=1)
            volumes = 2 * np.log(np.diagonal(factors, axis1=1, axis2=2)[:, :count]).sum(axis=1)
            surprises = count * np.log(np.maximum(variances, 1e-12)) + volumes
            least = int(surprises.argmin())
            if surprises[least] < best:
                best = float(surprises[least])
                chosen = (scale * unit, linear, NOISES[least], kernel, float(variances[least]))
    assert chosen is not None  # noqa: S101  # a finite kernel has a finite likelihood
    scale, linear, noise, kernel, variance = chosen
    return Process(
        features=features,
        slopes=slopes,
        scale=scale,
        linear=linear,
        noise=noise,
        inverse=np.asarray(np.linalg.inv(kernel + noise * np.eye(count)), dtype=np.float64),
        values=target,
        variance=variance,
        mean=mean,
        deviation=deviation,
        logarithmic=logarithmic,
    )
