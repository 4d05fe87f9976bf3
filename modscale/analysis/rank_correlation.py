"""How alike two orders are: Kendall's tau and Spearman's rho, their noise, and what chance would give.

Both are Daniels' coefficient ("The relation between measures of correlation in the universe of sample permutations",
Biometrika 1944), a sum over pairs of items, normed: `sum a b / sqrt(sum a^2 sum b^2)`. With the sign of a pair's
difference it is Kendall's tau-b, with the difference of its (mid-)ranks Spearman's rho. Summed over those pairs alone
whose items lie on two sides, it says whether one side is put before the other as it should be.

By hand: x = 1, 2, 3 and y = 1, 3, 2 have the pairs (1,2) and (1,3) in the same order and (2,3) in the other: tau is
(2 - 1) / 3. Their ranks differ by -1, -2, -1 and by -2, -1, 1: rho is (2 + 2 - 1) / 6 = 0.5.

Shapes: B draws, N items, S seeds. A score [N, S] has not-a-number behind the last seed of an item that has fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from modscale.arrays import FloatArray, IntArray

DRAWS = 2000
"""Resamples behind an interval."""
SHUFFLES = 10_000
"""Random orders behind a probability of chance."""
FEWEST = 8
"""Items below which there is no interval: so few, in order, are in order in every resample, which proves nothing."""
BLOCK = 60_000
"""Pairs of items looked at at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well a score puts items into their true order."""

    tau: float | None
    """Kendall's tau-b, -1 to 1; None where the score, or the truth, is the same for all."""
    rho: float | None
    """Spearman's rho, -1 to 1; None as tau."""
    tau_ci95: tuple[float, float] | None
    """95 % interval of tau, by resampling items and seeds; None for fewer than `FEWEST` items."""
    rho_ci95: tuple[float, float] | None
    """The same of rho."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Resamples:
    """Draws of items, and of each one's seeds, the same for every score that is compared on them."""

    items: IntArray
    """[B, N], the items of each draw."""
    seeds: FloatArray
    """[B, N, S], from 0 to 1: of each item of the whole, which of its seeds each draw has, in order."""


def kendall_tau(x: FloatArray, y: FloatArray, sides: IntArray | None = None) -> FloatArray:
    """Tau-b between x and y, both [B, N]; [B], not-a-number where all of x, or of y, is the same.

    With `sides`, [B, N], only pairs whose items lie on different sides count.
    """
    return _over_pairs(x, y, sides, np.sign)


def spearman_rho(x: FloatArray, y: FloatArray, sides: IntArray | None = None) -> FloatArray:
    """Rho between x and y, both [B, N], as `kendall_tau`."""
    return _over_pairs(mid_ranks(x), mid_ranks(y), sides, np.positive)


def mid_ranks(x: FloatArray) -> FloatArray:
    """The place of each value in its row of [B, N], from 0 in the middle up; equal values share the mean of theirs."""
    ranks = [
        np.subtract(x[rows, :, None] > x[rows, None, :], x[rows, :, None] < x[rows, None, :], dtype=np.int8).sum(2)
        for rows in _blocks(len(x), x.shape[1])
    ]
    return np.concatenate(ranks) / 2


def resample(items: int, seeds: int, sides: IntArray | None = None, *, draws: int = DRAWS, seed: int = 0) -> Resamples:
    """Draws with replacement: as many items as there are, of each side as many as it has, and each item's seeds."""
    rng = np.random.default_rng(seed)
    whole = np.zeros(items, dtype=np.int64) if sides is None else sides
    drawn = np.empty((draws, items), dtype=np.int64)
    for side in np.unique(whole):
        members = np.flatnonzero(whole == side)
        drawn[:, members] = members[rng.integers(len(members), size=(draws, len(members)))]
    return Resamples(items=drawn, seeds=rng.random((draws, items, seeds)))


def resampled_scores(scores: FloatArray, draws: Resamples) -> FloatArray:
    """The mean score, over its seeds, of each item of each draw, [B, N], from the scores [N, S].

    The seeds are drawn once an item, so that an item that is drawn twice is tied with itself, as its truth is.
    """
    counts = (~np.isnan(scores)).sum(1)
    uniform = draws.seeds[:, :, : scores.shape[1]]
    chosen = np.take_along_axis(scores[None], (uniform * counts[:, None]).astype(np.int64), axis=2)
    means = chosen.mean(2, where=np.arange(scores.shape[1]) < counts[:, None])
    return np.take_along_axis(means, draws.items, axis=1)


def agreement(
    scores: FloatArray, truth: FloatArray, draws: Resamples, sides: IntArray | None = None
) -> tuple[Agreement, FloatArray]:
    """How well the scores [N, S], higher is better, put the items into the order of their truth [N].

    Also the tau of each draw, [B], to be compared with another score's on the same draws.
    """
    means, known, side = np.nanmean(scores, 1)[None], truth[None], None if sides is None else sides[None]
    drawn, drawn_truth = resampled_scores(scores, draws), truth[draws.items]
    drawn_side = None if sides is None else sides[draws.items]
    taus, rhos = (measure(drawn, drawn_truth, drawn_side) for measure in (kendall_tau, spearman_rho))
    enough = len(truth) >= FEWEST
    found = Agreement(
        tau=_plain(kendall_tau(means, known, side)),
        rho=_plain(spearman_rho(means, known, side)),
        tau_ci95=interval(taus) if enough else None,
        rho_ci95=interval(rhos) if enough else None,
    )
    return found, taus


def chance(
    scores: FloatArray, truth: FloatArray, sides: IntArray | None = None, *, shuffles: int = SHUFFLES, seed: int = 0
) -> float | None:
    """Probability that items in random order have at least this tau, by shuffling the scores [N]; None without a tau.

    The order there is counts as one of the shuffles, so that it is never 0 (Phipson and Smyth 2010).
    """
    side = None if sides is None else sides[None]
    observed = _plain(kendall_tau(scores[None], truth[None], side))
    if observed is None:
        return None
    shuffled = np.random.default_rng(seed).permuted(np.repeat(scores[None], shuffles, axis=0), axis=1)
    taus = kendall_tau(
        shuffled,
        np.broadcast_to(truth, shuffled.shape),
        None if sides is None else np.broadcast_to(sides, shuffled.shape),
    )
    return (1 + int((taus >= observed - 1e-12).sum())) / (1 + shuffles)


def interval(values: FloatArray) -> tuple[float, float] | None:
    """The middle 95 % of the draws that have a value; None where fewer than half of them do."""
    found = values[~np.isnan(values)]
    if 2 * len(found) < len(values) or not len(found):
        return None
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def _plain(values: FloatArray) -> float | None:
    """The one coefficient as a plain number; None where there is none."""
    return None if np.isnan(values[0]) else float(values[0])


def _over_pairs(
    x: FloatArray, y: FloatArray, sides: IntArray | None, measure: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """Daniels' coefficient, with the measure of a pair that is taken of the difference of its items; [B]."""
    first, second = np.triu_indices(x.shape[1], 1)
    found = [np.empty(0)]
    for rows in _blocks(len(x), x.shape[1]):
        columns = [np.ascontiguousarray(values[rows].T) for values in (x, y)]  # whole rows are gathered faster
        a, b = (measure(column[first] - column[second]) for column in columns)
        if sides is not None:
            side = sides[rows].T
            a *= side[first] != side[second]
            b *= side[first] != side[second]
        norm = np.sqrt(np.einsum("pb,pb->b", a, a) * np.einsum("pb,pb->b", b, b))
        with np.errstate(invalid="ignore"):
            found.append(np.einsum("pb,pb->b", a, b) / norm)
    return np.concatenate(found)


def _blocks(rows: int, items: int) -> Iterator[slice]:
    """Slices of the rows, each of a size that memory holds."""
    step = max(1, BLOCK // max(1, items * items))
    yield from (slice(first, first + step) for first in range(0, rows, step))
