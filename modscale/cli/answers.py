"""The JSON documents of `modscale space` and `modscale scale --space`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from modscale.spaces.census import Census, Reach
from modscale.spaces.nearest import Match, Matches
from modscale.spaces.sampling import CONFIDENCE, exactly
from modscale.specs.counts import COUNT_METRICS
from modscale.specs.spec import spec_to_dict


def census_to_json(census: Census) -> dict[str, Any]:
    """The census as plain values; `feasible` is null where only its interval is known."""
    known: tuple[str, ...] = ("name", "size", "feasible", "feasible_interval", "distinct", "distinct_feasible")
    known += ("distinct_feasible_interval", "exact", "draws", "rule", "infeasible")
    reaches = {f"feasible_{metric}": (census.feasible_reach or {}).get(metric) for metric in COUNT_METRICS}
    return {
        **{key: list(value) if isinstance(value := getattr(census, key), tuple) else value for key in known},
        "feasible_share": None if census.feasible is None else census.feasible / census.size,
        "confidence": 1.0 if census.exact else CONFIDENCE,
        **{name: _plain(reach) if reach else None for name, reach in {**census.reach, **reaches}.items()},
        "removed": None if census.removed is None else {
            name: {**asdict(one), "alone_share": one.alone / census.size, "only_share": one.only / census.size}
            for name, one in census.removed.items()
        },
        "histograms": None if census.histograms is None else {
            metric: {name: list(column) for name, column in asdict(bars).items()}
            for metric, bars in census.histograms.items()
        },
    }  # fmt: skip


def _plain(reach: Reach) -> dict[str, Any]:
    specs = {"min_spec": spec_to_dict(reach.min_spec), "max_spec": spec_to_dict(reach.max_spec)}
    return {"min": reach.min, "max": reach.max, **specs}


def matches_to_json(matches: Matches) -> dict[str, Any]:
    """The matches as plain values, their specs whole; a count that is only an interval is null beside it."""

    def one(match: Match) -> dict[str, Any]:
        plain = {key: getattr(match, key) for key in ("params", "flops", "distance")}
        relative = {metric: plain[metric] / target - 1 for metric, target in matches.budgets.items()}
        return {**plain, "relative_error": relative, "spec": spec_to_dict(match.spec)}

    return {
        "space": matches.space,
        "budgets": dict(matches.budgets),
        "tolerance": matches.tolerance,
        "count": exactly(matches.count),
        "count_bounds": list(matches.count),
        "distinct": exactly(matches.distinct),
        "distinct_bounds": list(matches.distinct),
        "confidence": CONFIDENCE if matches.draws else 1.0,
        "draws": matches.draws,
        "complete": matches.complete,
        "best": [one(match) for match in matches.best],
        "nearest_miss": None if matches.nearest_miss is None else one(matches.nearest_miss),
    }
