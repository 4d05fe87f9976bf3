"""Limits of what is measured: candidates that a calibration predicts beyond them are drawn again, others fail by them.

Both come before anything is trained. A prediction leaves a candidate out only where its whole 90 % interval lies
beyond a limit, with what the machine changes by since the calibration: the measurement decides the rest, at the level
of the machine's best so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modscale.errors import InputError, TrialFailed
from modscale.latency.predictor import Predictor
from modscale.runs.machine_speed import at_levels, reference_levels, trials_at
from modscale.runs.metrics import LATENCY, METRICS, Results, metric_text
from modscale.runs.trials import Rung, Trial
from modscale.searching.loop import JudgeAmong
from modscale.spaces.space import Bounds
from modscale.specs.pieces import network_pieces
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

MOST_REFUSED = 5000
"""Networks refused one after the other, after which nothing is taken to be within the limits."""


def make_screen(predictor: Predictor | None, limits: Mapping[str, Bounds]) -> Callable[[ModelSpec], bool]:
    """Says of a network whether its predicted latency may lie within the limits; of each, where nothing is predicted.

    What it gives raises InputError where a network cannot be predicted, or no more are found that may.
    """
    bounds = limits.get(LATENCY.name)
    if predictor is None or bounds is None:
        return lambda spec: True
    known: dict[tuple[Any, ...], bool] = {}
    refused = 0

    def allows(spec: ModelSpec) -> bool:
        nonlocal refused
        key = network_key(spec)
        if key in known:
            return known[key]
        (found,) = predictor.predict([network_pieces(spec)])
        low, high = found.on_another_day()
        allowed = (bounds.max is None or low <= bounds.max) and (bounds.min is None or high >= bounds.min)
        known[key] = allowed
        refused = 0 if allowed else refused + 1
        if refused >= MOST_REFUSED:
            rule = f"no network is predicted to be within this: the last {refused:,} that were drawn are not"
            raise InputError(rule, place=f"constraints.{LATENCY.name}")
        return allowed

    return allows


def comparing(judge: JudgeAmong | None) -> JudgeAmong | None:
    """The judge, who hears of latencies at the least level of the reference that is known (`runs/machine_speed.py`)."""
    return None if judge is None else partial(_judge_compared, judge)  # it is sent to the process that trains


def _judge_compared(judge: JudgeAmong, trials: Sequence[Trial], results: Results, rungs: Sequence[Rung]) -> str | None:
    levels = reference_levels([*(trial.results for trial in trials), results])
    return judge(trials_at(trials, levels), at_levels(results, levels), rungs)


def check_limits(limits: Mapping[str, Bounds], results: Results) -> None:
    """Raises TrialFailed where something that was measured lies beyond its limits."""
    for metric, bounds in limits.items():
        value = results.get(metric)
        if value is None or bounds.allow(value):
            continue
        is_over = bounds.max is not None and value > bounds.max
        limit = metric_text(metric, (bounds.max if is_over else bounds.min) or 0.0)
        word = "more" if is_over else "less"
        noun = METRICS[metric].noun
        raise TrialFailed(f"its {noun} of {metric_text(metric, value)} is {word} than the {limit} of the constraints")


def limiting(limits: Mapping[str, Bounds], judge: JudgeAmong | None) -> JudgeAmong | None:
    """The judge, who has a candidate fail by the limits first. What it gives raises TrialFailed then."""
    if not limits:
        return judge

    return partial(_judge_within, dict(limits), judge)  # it is sent to the process that trains


def _judge_within(
    limits: Mapping[str, Bounds],
    judge: JudgeAmong | None,
    trials: Sequence[Trial],
    results: Results,
    rungs: Sequence[Rung],
) -> str | None:
    check_limits(limits, results)
    return None if judge is None else judge(trials, results, rungs)
