"""How a run's hypervolume grew with its trials, beside random orders of the same trials.

A random order draws without replacement from what the run chose, the good trials of its end among them: a search that
learns has its best trials late, and may lie below it. What tells samplers apart is a replay on a table of known
networks (`benchmarks/search_replay.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modscale.analysis.front import objective_values
from modscale.arrays import IntArray
from modscale.pareto import Flags, Floats, losses_of
from modscale.runs.trials import Trial

POINTS = 64
"""Numbers of trials at which the hypervolume is worked out, at most."""
ORDERS = 200
"""Random orders of the trials."""
LEAST_ORDERS = 20
CELLS = 4e8
"""Trials x orders x points after which fewer orders are drawn: a few seconds."""
BAND = (0.05, 0.95)
"""Quantiles of the random orders between which nine in ten lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Hypervolumes as shares of the one that all complete trials have together, all at the same reference point."""

    objectives: tuple[str, ...]
    """The metrics whose hypervolume it is: the run's, of three and more the first two."""
    trials: tuple[int, ...]
    """Numbers of complete trials, rising, the last one all."""
    run: tuple[float, ...]
    """Of the run's first so many complete trials, in the order in which they were finished."""
    random_mean: tuple[float, ...]
    """Of so many in a random order: the mean over the orders."""
    random_low: tuple[float, ...]
    """Below it lie 5 % of the orders."""
    random_high: tuple[float, ...]
    """Above it lie 5 % of the orders."""
    orders: int
    """Random orders drawn."""


def find_growth(
    trials: Sequence[Trial], objectives: Mapping[str, str], reference: Mapping[str, float], *, seed: int = 0
) -> Growth | None:
    """The growth over complete trials in the order in which they were finished; `reference` is that of their front.

    None where there is nothing to grow: fewer than two trials, or a final hypervolume of 0.

    Raises:
        InputError: a trial has no value for an objective.
    """
    measured = dict(list(objectives.items())[:2])
    directions = list(measured.values())
    count = len(trials)
    if count < 2:
        return None
    losses = losses_of(objective_values(trials, measured), directions)
    corner = losses_of([[reference[metric] for metric in measured]], directions)[0]
    if len(measured) == 1:  # an area of height 1
        losses, corner = np.column_stack([losses, np.zeros(count)]), np.array([corner[0], 1.0])
    points = np.unique(np.linspace(1, count, min(count, POINTS)).round().astype(np.int64))
    (run,) = prefix_areas(np.arange(count)[None], losses, corner, points)
    if run[-1] <= 0:
        return None
    orders = int(min(ORDERS, max(LEAST_ORDERS, CELLS // (count * len(points)))))
    rng = np.random.default_rng(seed)
    areas = np.concatenate([prefix_areas(rng.permutation(count)[None], losses, corner, points) for _ in range(orders)])
    low, high = np.quantile(areas, BAND, axis=0)
    final = run[-1]
    return Growth(
        objectives=tuple(measured),
        trials=tuple(points.tolist()),
        run=tuple((run / final).tolist()),
        random_mean=tuple((areas.mean(axis=0) / final).tolist()),
        random_low=tuple((low / final).tolist()),
        random_high=tuple((high / final).tolist()),
        orders=orders,
    )


def prefix_areas(places: IntArray, losses: Floats, corner: Floats, points: IntArray) -> Floats:
    """[orders, points]: the area up to `corner` that the trials among the first so many of each order dominate.

    `places` [orders, trials] is each trial's place in an order, from 0; `losses` [trials, 2] lie at or below `corner`.
    Every subset's staircase has its steps at the same places, the trials' own first losses, and differs in its heights
    alone, so one running minimum gives the areas of all orders.
    """
    order = np.argsort(losses[:, 0], kind="stable")
    first, last = np.minimum(losses[order], corner).T
    widths = np.diff(first, append=corner[0])
    sorted_places = places[:, order]
    areas = np.empty((len(places), len(points)))
    for k, point in enumerate(points):
        inside: Flags = sorted_places < point
        best = np.minimum.accumulate(np.where(inside, last, corner[1]), axis=1)
        areas[:, k] = (corner[1] - best) @ widths
    return areas
