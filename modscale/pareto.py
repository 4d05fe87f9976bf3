"""Pareto front, hypervolume and reference point of a table of objective values [points, objectives].

Directions are `maximize` or `minimize`. Inside, every objective is turned into a loss, lower being better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

REFERENCE_MARGIN = 0.1
"""How far behind the worst value the reference point lies, in ranges of its objective."""
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def pareto_front(values: ArrayLike, directions: Sequence[str]) -> list[int]:
    """Indices of the rows that no other row dominates: none is as good everywhere and better somewhere.

    Rows that stand twice are all kept. `values` is [points, objectives].
    """
    losses = losses_of(values, directions)
    if not len(losses):
        return []
    points, inverse = np.unique(losses, axis=0, return_inverse=True)
    keep = _undominated(points)
    return [int(i) for i in np.flatnonzero(keep[inverse.reshape(-1)])]


def hypervolume(values: ArrayLike, reference: ArrayLike, directions: Sequence[str]) -> float:
    """Exact volume between `reference` and the rows that beat it, for any number of objectives.

    Slices along the last objective (the WFG idea, While et al. 2012): a point adds what it alone dominates among the
    points before it, and those, clipped to it, are a problem with one objective less.
    """
    losses = losses_of(values, directions)
    corner = losses_of(np.asarray(reference, dtype=float)[None], directions)[0]
    return _volume(losses[(losses < corner).all(axis=1)], corner)


def reference_point(values: ArrayLike, directions: Sequence[str]) -> tuple[float, ...]:
    """Each objective's worst value made worse by 10 % of its range, a maximised one not below 0.

    Where all values are equal the step is 10 % of the value itself, or 1 at the value 0. The rule depends on the
    trials: hypervolumes of two runs compare only at one reference point.
    """
    losses = losses_of(values, directions)
    worst = losses.max(axis=0)
    step = REFERENCE_MARGIN * (worst - losses.min(axis=0))
    step = np.where(step > 0, step, np.where(worst != 0, REFERENCE_MARGIN * np.abs(worst), 1.0))
    signs = signs_of(directions)
    point = (worst + step) * signs
    return tuple(float(v) for v in np.where(signs < 0, np.maximum(point, 0), point))


def losses_of(values: ArrayLike, directions: Sequence[str]) -> Floats:
    """[points, objectives] with every objective to be minimised. Raises ValueError where a value is not finite."""
    array = np.asarray(values, dtype=float).reshape(-1, len(directions))
    if not np.isfinite(array).all():
        raise ValueError("objective values must be finite")
    return array * signs_of(directions)


def signs_of(directions: Sequence[str]) -> Floats:
    """[objectives]: what turns a value into a loss and back."""
    return np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])


def undominated_draws(losses: Floats) -> Flags:
    """[draws, trials] from [draws, trials, objectives]: whether no other trial of the draw dominates this one."""
    draws, count, objectives = losses.shape
    if objectives > 2:
        as_good = np.ones((draws, count, count), dtype=bool)
        for k in range(objectives):
            as_good &= losses[:, :, None, k] <= losses[:, None, :, k]
        return np.asarray(~(as_good & ~as_good.swapaxes(1, 2)).any(axis=1))
    first, last = losses[:, :, 0], losses[:, :, 1] if objectives == 2 else np.zeros((draws, count))
    order = np.lexsort((last, first), axis=-1)
    first, last = np.take_along_axis(first, order, 1), np.take_along_axis(last, order, 1)
    changed = np.ones((draws, count), dtype=bool)
    changed[:, 1:] = (first[:, 1:] != first[:, :-1]) | (last[:, 1:] != last[:, :-1])
    group_start = np.maximum.accumulate(np.where(changed, np.arange(count), 0), axis=1)
    best_before = np.full((draws, count), np.inf)
    best_before[:, 1:] = np.minimum.accumulate(last, axis=1)[:, :-1]
    result = np.empty((draws, count), dtype=bool)
    np.put_along_axis(result, order, last < np.take_along_axis(best_before, group_start, 1), 1)
    return result


def _undominated(points: Floats) -> Flags:
    """[points] for unique rows in lexicographic order, where only an earlier row can dominate a later one."""
    if points.shape[1] == 1:
        return np.arange(len(points)) == 0
    if points.shape[1] == 2:
        best_before = np.minimum.accumulate(np.concatenate(([np.inf], points[:-1, 1])))
        return np.asarray(points[:, 1] < best_before)
    keep = np.zeros(len(points), dtype=bool)
    kept = np.empty_like(points)
    count = 0
    for i, point in enumerate(points):
        if not (kept[:count] <= point).all(axis=1).any():
            kept[count] = point
            keep[i] = True
            count += 1
    return keep


def _volume(points: Floats, corner: Floats) -> float:
    """Volume that `points` (losses below `corner`) dominate up to `corner`."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    if points.shape[1] == 2:
        points = points[np.argsort(points[:, 0], kind="stable")]
        widths = np.diff(points[:, 0], append=corner[0])
        return float(widths @ (corner[1] - np.minimum.accumulate(points[:, 1])))
    points = np.unique(points, axis=0)
    points = points[_undominated(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    flat, total = points[:, :-1], 0.0
    for i, point in enumerate(points):
        new = float(np.prod(corner[:-1] - flat[i])) - _volume(np.maximum(flat[:i], flat[i]), corner[:-1])
        total += new * float(corner[-1] - point[-1])
    return total
