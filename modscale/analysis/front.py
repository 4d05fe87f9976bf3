"""A run's front: which complete trials no other dominates, how sure that is, and what each band picks.

What is measured is noisy: an accuracy over n images has the binomial standard error sqrt(p (1 - p) / n), a mean latency
that of its processes; params and FLOPs are exact. The candidates share their validation images, which makes their
differences surer than these independent errors say, and a second training with another seed would differ too, which
makes them less sure. Both are left out: a run trains each candidate once, and so cannot tell how far seeds differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from modscale.errors import InputError
from modscale.pareto import (
    Flags,
    Floats,
    hypervolume,
    losses_of,
    pareto_front,
    reference_point,
    undominated_draws,
)
from modscale.runs.metrics import LEARNT, METRICS, learnt_of, metric_text
from modscale.runs.trials import Trial
from modscale.spaces.space import Bounds

DRAWS = 2000
"""Resamplings behind each `front_probability`."""
PAIRS = 5e8
"""Comparisons after which `front_probability` draws less often: with three or more objectives it compares all pairs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """What a band gets from the front."""

    trial: Trial | None
    """The most accurate front trial within the band's limits, of masks that with the highest mIoU, or None."""
    reason: str
    """Why this one, or why none."""
    ties: tuple[int, ...] = ()
    """Numbers of the trials within the limits that noise does not tell from the pick."""
    runner_up: Trial | None = None
    """The second best of the front trials within the limits; None where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """The complete trials of a run, sorted out."""

    members: tuple[Trial, ...]
    """Trials no other dominates, fastest first."""
    dominated: tuple[Trial, ...]
    """The others, fastest first."""
    reference: Mapping[str, float]
    """Objective to its coordinate of the reference point; empty without a complete trial."""
    hypervolume: float
    """Volume the front dominates up to the reference point, in the product of the objectives' units."""
    hypervolume_share: float
    """The same as a share of the box between the reference point and the best value of each objective."""
    probability: Mapping[int, float]
    """Trial number to the probability that it is on the front, given the noise."""
    ties: Mapping[int, tuple[int, ...]]
    """Front trial's number to the numbers of the trials tied with it; see `tied_with`."""
    picks: Mapping[str, Pick]
    """Band to its pick."""

    def bands_of(self, number: int) -> list[str]:
        """The bands that pick the trial of this number."""
        return [band for band, pick in self.picks.items() if pick.trial is not None and pick.trial.number == number]


def find_front(
    trials: Sequence[Trial], objectives: Mapping[str, str], bands: Mapping[str, Mapping[str, Bounds]]
) -> Front:
    """Sorts complete trials by `objectives` (metric to direction) and picks one for each band.

    Raises:
        InputError: a trial has no value for an objective.
    """
    directions = list(objectives.values())
    members, dominated = split_front(trials, objectives)
    values = objective_values(trials, objectives)
    reference: tuple[float, ...] = ()
    volume = share = 0.0
    if trials:
        reference = reference_point(values, directions)
        volume = hypervolume(values, reference, directions)
        losses = losses_of(values, directions)
        box = float(np.prod(losses_of(np.array(reference), directions)[0] - losses.min(axis=0)))
        share = volume / box if box > 0 else 0.0
    chances = front_probability(trials, objectives)
    return Front(
        members=members,
        dominated=dominated,
        reference=dict(zip(objectives, reference, strict=False)),
        hypervolume=volume,
        hypervolume_share=share,
        probability={trial.number: float(p) for trial, p in zip(trials, chances, strict=True)},
        ties={t.number: tuple(other.number for other in tied_with(t, trials, objectives)) for t in members},
        picks={band: pick_band(limits, members, dominated, objectives) for band, limits in bands.items()},
    )


def split_front(trials: Sequence[Trial], objectives: Mapping[str, str]) -> tuple[tuple[Trial, ...], tuple[Trial, ...]]:
    """The complete trials that none dominates, and the others, each fastest first.

    Raises:
        InputError: a trial has no value for an objective.
    """
    on_front = set(pareto_front(objective_values(trials, objectives), list(objectives.values())))
    members = _fastest_first(trial for i, trial in enumerate(trials) if i in on_front)
    return members, _fastest_first(trial for i, trial in enumerate(trials) if i not in on_front)


def objective_values(trials: Sequence[Trial], objectives: Mapping[str, str]) -> Floats:
    """[trials, objectives] as measured. Raises InputError where a trial lacks one."""
    values = np.empty((len(trials), len(objectives)))
    for row, trial in enumerate(trials):
        for column, metric in enumerate(objectives):
            value = trial.value(metric)
            if value is None:
                raise InputError(f"is complete and must have {metric}, an objective", place=f"trial {trial.number}")
            values[row, column] = value
    return values


def metric_error(trial: Trial, metric: str) -> float:
    """Standard error of one metric in its own unit; 0 where it is exact or its noise is not known."""
    return METRICS[metric].standard_error(trial.results)


def half_width(trial: Trial, metric: str) -> float:
    """Half-width of the 95 % interval of one metric in its own unit; 0 where it is exact or its noise is not known."""
    return METRICS[metric].half_width(trial.results)


def tied_with(trial: Trial, others: Sequence[Trial], objectives: Mapping[str, str]) -> list[Trial]:
    """The trials that might equal `trial` or beat it: in no objective are they clearly worse.

    A difference is clear where it exceeds the half-widths of both 95 % intervals, added in squares. A trial that is
    clearly more accurate is no tie either: that doubt about `trial` is what `front_probability` shows.
    """
    if not others:
        return []
    tied = np.array([other.number != trial.number for other in others])
    mine = losses_of(objective_values([trial], objectives), list(objectives.values()))
    theirs = losses_of(objective_values(others, objectives), list(objectives.values()))
    for column, metric in enumerate(objectives):
        worse = theirs[:, column] - mine[0, column]
        clear = np.hypot([half_width(other, metric) for other in others], half_width(trial, metric))
        tied &= (np.abs(worse) if objectives[metric] == "maximize" else worse) <= clear
    return [others[int(i)] for i in np.flatnonzero(tied)]


def pick_band(
    limits: Mapping[str, Bounds],
    members: Sequence[Trial],
    dominated: Sequence[Trial],
    objectives: Mapping[str, str],
) -> Pick:
    """The most accurate (best segmenting) front trial within `limits`; of equals the faster, then the smaller one."""
    fitting = [trial for trial in members if _meets(trial, limits)]
    if not fitting:
        return Pick(trial=None, reason=_why_none(limits, members, dominated))
    best, *others = sorted(fitting, key=_preference)
    asked = limits_text(limits)
    within = f" with {asked}" if asked else ""
    learnt = learnt_of(objectives) or learnt_of(best.results)
    which = "fastest" if learnt is None else learnt.superlative
    many = f"the {which} of {len(fitting)} front trials{within}"
    reason = many if len(fitting) > 1 else f"the only front trial{within}"
    ties = tied_with(best, [trial for trial in (*members, *dominated) if _meets(trial, limits)], objectives)
    return Pick(
        trial=best, reason=reason, ties=tuple(trial.number for trial in ties), runner_up=others[0] if others else None
    )


def front_probability(
    trials: Sequence[Trial], objectives: Mapping[str, str], *, seed: int = 0, draws: int = DRAWS
) -> Floats:
    """[trials]: the share of `draws` resamplings in which each trial is on the front.

    Each draw replaces every accuracy and latency by a normal one around it with its standard error. A trial that
    another beats by four standard errors of both in every objective counts as 0 without being drawn.
    """
    chances = np.zeros(len(trials))
    if not trials:
        return chances
    directions = list(objectives.values())
    losses = losses_of(objective_values(trials, objectives), directions)
    errors = np.array([[metric_error(trial, metric) for metric in objectives] for trial in trials])
    hopeful = np.flatnonzero(_could_be_on_front(losses, errors))
    losses, errors = losses[hopeful], errors[hopeful]
    cells = len(hopeful)
    if len(directions) > 2:
        cells = len(hopeful) ** 2
        draws = min(draws, max(100, int(PAIRS / cells / len(directions))))
    rng = np.random.default_rng(seed)
    chunk = max(1, int(4e6 / cells))
    hits = np.zeros(len(hopeful))
    for start in range(0, draws, chunk):
        noise = rng.standard_normal((min(chunk, draws - start), *losses.shape))
        hits += undominated_draws(losses + errors * noise).sum(axis=0)
    chances[hopeful] = hits / draws
    return chances


def _could_be_on_front(losses: Floats, errors: Floats) -> Flags:
    """[trials]: False where some trial is better in every objective even after four standard errors of both."""
    low, high = losses - 4 * errors, losses + 4 * errors
    possible = np.ones(len(losses), dtype=bool)
    for i in pareto_front(high, ["minimize"] * losses.shape[1]):
        possible &= ~((high[i] <= low).all(axis=1) & (high[i] < low).any(axis=1))
    return possible


def _meets(trial: Trial, limits: Mapping[str, Bounds]) -> bool:
    return all(_allows(bounds, trial.value(metric)) for metric, bounds in limits.items())


def _allows(bounds: Bounds, value: float | None) -> bool:
    return value is not None and bounds.allow(value)


def _why_none(limits: Mapping[str, Bounds], members: Sequence[Trial], dominated: Sequence[Trial]) -> str:
    """The first limit that no front trial meets and the nearest miss, or that they exclude each other."""
    if not members:
        return "no trial is complete"
    fits = sorted(trial.number for trial in dominated if _meets(trial, limits))
    also = f"; dominated trials within the limits: {', '.join(map(str, fits[:5]))}" if fits else ""
    for metric, bounds in limits.items():
        values = [value for trial in members if (value := trial.value(metric)) is not None]
        if not values:
            return f"no trial on the front has a measured {metric}{also}"
        if not any(bounds.allow(value) for value in values):
            nearest = min(values, key=lambda value: _distance(value, bounds))
            # Four digits may read the same on both sides of a limit.
            exact = any(metric_text(metric, nearest) == metric_text(metric, v) for v in (bounds.min, bounds.max) if v)
            asked = METRICS[metric].limit.format(_bounds_text(metric, bounds, exact=exact))
            return (
                f"no trial on the front has {asked}; the nearest has {metric_text(metric, nearest, exact=exact)}{also}"
            )
    return f"no trial on the front has all of: {limits_text(limits)}{also}"


def _distance(value: float, bounds: Bounds) -> float:
    """How far outside `bounds` it lies."""
    low = -inf if bounds.min is None else bounds.min
    high = inf if bounds.max is None else bounds.max
    return max(low - value, value - high, 0.0)


def limits_text(limits: Mapping[str, Bounds]) -> str:
    """As in `at most 5 M params, a latency of at most 10 ms`; empty where nothing is limited."""
    asked = {metric: _bounds_text(metric, bounds) for metric, bounds in limits.items()}
    return ", ".join(METRICS[metric].limit.format(text) for metric, text in asked.items() if text)


def _bounds_text(metric: str, bounds: Bounds, *, exact: bool = False) -> str:
    low = None if bounds.min is None else metric_text(metric, bounds.min, exact=exact)
    high = None if bounds.max is None else metric_text(metric, bounds.max, exact=exact)
    if low and high:
        return f"{low} to {high}"
    return f"at most {high}" if high else f"at least {low}" if low else ""


def _preference(trial: Trial) -> tuple[float, float, float, int]:
    """Sorts the better pick first."""
    return (-_learnt(trial), _or(trial.value("latency_ms"), inf), trial["params"], trial.number)


def _fastest_first(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """By latency, then what was learnt, best first."""
    return tuple(sorted(trials, key=_speed))


def _speed(trial: Trial) -> tuple[float, float, float, int]:
    """Sorts the faster trial first."""
    return (_or(trial.value("latency_ms"), inf), -_learnt(trial), trial["params"], trial.number)


def _learnt(trial: Trial) -> float:
    """What its training told of it."""
    return max((_or(trial.value(metric.name), -inf) for metric in LEARNT.values()), default=-inf)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
