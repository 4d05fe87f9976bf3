"""What a finished run says about its design space: which choices mattered, and where the good half lies.

Importance is Optuna's (PED-ANOVA, Watanabe et al. 2023: how far the options of the best tenth of the trials differ from
those of all), the shares of a metric summing to 1. Its uncertainty is a bootstrap over trials, and beside it stands
what chance alone gives: the same figure with the metric's values shuffled among the trials. The good half is the better
half of the trials by accuracy or mIoU, which favours large networks, and by distance to the front, which weighs all
objectives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modscale.analysis.front import objective_values
from modscale.pareto import Floats, losses_of, pareto_front
from modscale.runs.experiment import Experiment
from modscale.runs.metrics import LEARNT, METRICS, metrics_among
from modscale.runs.trials import Trial, complete_trials
from modscale.searching.study import parameter_importances
from modscale.spaces.space import Parameter, Space

MIN_TRIALS = 8
"""Complete trials below which nothing is read."""
WIDE_TRIALS = 50
"""Complete trials below which the text warns of wide intervals."""
DRAWS = 32
"""Bootstrap samples, and shuffles, behind each importance."""
MOST_DRAWN = 200
"""Trials in one such sample at most: a random subset of a larger run, whose intervals are then too wide."""
HALF_DRAWS = 400
"""Bootstrap samples behind each range."""
CELLS = 2e7
"""Values after which the ranges are drawn less often."""
COVERAGE = (5, 95)
"""Percentiles that bound every interval here: 90 %."""
ENDS = (0.1, 0.5, 0.9)
"""Quantiles of a half that are its low end, its median and its high end: its middle 80 %."""

Indices = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its 90 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """How much one parameter matters for one metric."""

    share: Interval
    """Its part of all parameters' importance, 0 to 1."""
    chance: float
    """In the same unit, what it stays below by chance: in 95 of 100 shufflings no parameter exceeds its figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Half:
    """Where one half of the trials lies along one parameter."""

    low: Interval | None = None
    """Lower end of its middle 80 %; None where the options are no numbers, as for the next two."""
    median: Interval | None = None
    high: Interval | None = None
    """Upper end of its middle 80 %."""
    shares: Mapping[str, Interval] | None = None
    """Option to the part of the half that has it, 0 to 1; None where the options are numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterReading:
    """What the run says about one searched parameter."""

    name: str
    """Its place in the space's file, as in `stages[2].depth`."""
    options: tuple[int | float | str, ...]
    """All its options, as labels."""
    importance: Mapping[str, Importance]
    """Metric to importance."""
    better: Mapping[str, Half]
    """Split (`accuracy`, `miou` or `front`) to its better half."""
    worse: Mapping[str, Half]
    """Split to its worse half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignReading:
    """What the run says about its space."""

    trials: int
    """Complete trials it was read from."""
    summary: str
    """Its result in a few sentences, or why there is none."""
    parameters: tuple[ParameterReading, ...] = ()
    """Most important first; empty where there is nothing to read."""


def read_design(experiment: Experiment, trials: Sequence[Trial], *, seed: int = 0, draws: int = DRAWS) -> DesignReading:
    """Reads the complete trials whose `choice` names an option of every searched parameter.

    The same trials and seed give the same reading.
    """
    space = experiment.space
    usable = [trial for trial in complete_trials(trials) if _has_choice(trial, space)]
    if not space.searched:
        return DesignReading(trials=len(usable), summary="The space has nothing to choose: every parameter is fixed.")
    if len(usable) < MIN_TRIALS:
        need = f"too few to read the design space ({MIN_TRIALS} are needed)"
        return DesignReading(trials=len(usable), summary=f"{len(usable)} complete trials are {need}.")
    rng = np.random.default_rng(seed)
    known = [key for trial in usable for key in trial.results]
    importances = {
        metric: _importances(space, usable, metric, rng, draws)
        for metric in (m.name for m in metrics_among(known) if not m.is_count)
        if all(trial.value(metric) is not None for trial in usable)
    }
    halves = {
        split: _halves(space, usable, score, rng) for split, score in _splits(experiment.objectives, usable).items()
    }
    parameters = [
        ParameterReading(
            name=parameter.name,
            options=tuple(parameter.label(option) for option in parameter.options),
            importance={metric: found[parameter.name] for metric, found in importances.items() if found},
            better={split: found[parameter.name][0] for split, found in halves.items()},
            worse={split: found[parameter.name][1] for split, found in halves.items()},
        )
        for parameter in space.searched
    ]
    parameters.sort(key=lambda p: -max((i.share.value for i in p.importance.values()), default=0.0))
    return DesignReading(
        trials=len(usable), summary=_summary(parameters, importances, len(usable)), parameters=tuple(parameters)
    )


def learnt_split(reading: DesignReading) -> str:
    """The split by what the training told, or that by distance to the front where there is none."""
    better = reading.parameters[0].better if reading.parameters else {}
    return next((metric.name for metric in LEARNT.values() if metric.name in better), "front")


def split_noun(split: str) -> str:
    """By what trials are split in halves, in words."""
    return "distance to the front" if split == "front" else METRICS[split].noun


def is_number(reading: ParameterReading) -> bool:
    """Whether its options are numbers, so that a range of them means something."""
    return all(isinstance(option, (int, float)) for option in reading.options)


def _has_choice(trial: Trial, space: Space) -> bool:
    return all(
        parameter.name in trial.choice
        and any(parameter.label(option) == trial.choice[parameter.name] for option in parameter.options)
        for parameter in space.searched
    )


def _importances(
    space: Space, trials: Sequence[Trial], metric: str, rng: np.random.Generator, draws: int
) -> dict[str, Importance]:
    """Parameter to importance; empty where the metric is the same everywhere."""
    found = parameter_importances(space, trials, metric, normalize=False)
    total = sum(found.values())
    if total <= 0:
        return {}
    names = list(found)
    size = min(len(trials), MOST_DRAWN)
    sampled, shuffled = np.zeros((draws, len(names))), np.zeros((draws, len(names)))
    for draw in range(draws):
        sample = [trials[i] for i in rng.integers(0, len(trials), size)]
        sampled[draw] = _raw(space, sample, metric, names)
        values, choices = rng.permutation(len(trials))[:size], rng.permutation(len(trials))[:size]
        pairs = zip(values, choices, strict=True)
        shuffled[draw] = _raw(space, [replace(trials[i], choice=trials[j].choice) for i, j in pairs], metric, names)
    sums = sampled.sum(axis=1, keepdims=True)
    shares = np.divide(sampled, sums, out=np.full_like(sampled, 1 / len(names)), where=sums > 0)
    low, high = np.percentile(shares, COVERAGE, axis=0)
    # Many parameters are compared at once, so each one's typical figure under chance is scaled until the largest
    # excess of a shuffling stays below it in 95 of 100.
    typical = np.maximum(shuffled.mean(axis=0), 1e-12)
    chances = typical * np.percentile((shuffled / typical).max(axis=1), 95) / total
    return {
        name: Importance(share=_interval(found[name] / total, low[k], high[k]), chance=float(chances[k]))
        for k, name in enumerate(names)
    }


def _raw(space: Space, trials: Sequence[Trial], metric: str, names: Sequence[str]) -> list[float]:
    """Importances before they are normalised, in the order of `names`."""
    found = parameter_importances(space, trials, metric, normalize=False)
    return [found.get(name, 0.0) for name in names]


def _splits(objectives: Mapping[str, str], trials: Sequence[Trial]) -> dict[str, Floats]:
    """What the trials are split in halves by, higher being better."""
    splits = {}
    for metric in LEARNT.values():
        values = [value for trial in trials if (value := trial.value(metric.name)) is not None]
        if len(values) == len(trials):
            splits[metric.name] = np.array(values)
    directions = list(objectives.values())
    sought = objective_values(trials, objectives)
    losses = losses_of(sought, directions)
    # Each objective in units of its range; a trial's distance is what it must gain everywhere to meet the front.
    span = np.ptp(losses, axis=0)
    losses = losses / np.where(span > 0, span, 1.0)
    front = losses[pareto_front(sought, directions)]
    distance = np.full(len(trials), np.inf)
    for point in front:
        distance = np.minimum(distance, (losses - point).max(axis=1))
    splits["front"] = -np.maximum(distance, 0.0)
    return splits


def _halves(
    space: Space, trials: Sequence[Trial], score: Floats, rng: np.random.Generator
) -> dict[str, tuple[Half, Half]]:
    """Parameter to its better and its worse half."""
    columns = [_option_indices(parameter, trials) for parameter in space.searched]
    table = np.stack(columns, axis=1)  # [trials, parameters]
    draws = int(min(HALF_DRAWS, max(50, CELLS / table.size)))
    ends, shares = [], []
    for rows in _samples(len(trials), draws, rng):
        # Equal scores are parted at random, so that file order decides nothing.
        order = rows[np.lexsort((rng.random(len(rows)), -score[rows]))]
        parts = (table[order[: (len(order) + 1) // 2]], table[order[(len(order) + 1) // 2 :]])
        ends.append([np.quantile(part, ENDS, axis=0, method="inverted_cdf") for part in parts])
        shares.append([[np.bincount(part[:, p], minlength=len(parameter.options)) / len(part)
                        for p, parameter in enumerate(space.searched)] for part in parts])  # fmt: skip
    return {
        parameter.name: (
            _half(parameter, np.array([e[0][:, p] for e in ends]), np.array([s[0][p] for s in shares])),
            _half(parameter, np.array([e[1][:, p] for e in ends]), np.array([s[1][p] for s in shares])),
        )
        for p, parameter in enumerate(space.searched)
    }


def _samples(count: int, draws: int, rng: np.random.Generator) -> Iterator[Indices]:
    """All trials first, for the estimate; then the bootstrap's samples."""
    yield np.arange(count)
    for _ in range(draws):
        yield rng.integers(0, count, count)


def _half(parameter: Parameter, ends: NDArray[np.intp], shares: Floats) -> Half:
    """From `ends` [1 + draws, 3] as ranks of options and `shares` [1 + draws, options], the estimates first."""
    labels = _sorted_labels(parameter)
    if any(isinstance(label, str) for label in labels):
        return Half(shares={str(label): _spread(shares[:, i]) for i, label in enumerate(labels)})
    values = np.array(labels, dtype=float)[ends]
    return Half(low=_spread(values[:, 0]), median=_spread(values[:, 1]), high=_spread(values[:, 2]))


def _spread(values: Floats) -> Interval:
    """The estimate, then its bootstrap values."""
    low, high = np.percentile(values[1:], COVERAGE, method="inverted_cdf")
    return _interval(values[0], low, high)


def _interval(value: float, low: float, high: float) -> Interval:
    """Widened to hold the estimate: a bootstrap of few draws may miss it."""
    return Interval(value=float(value), low=float(min(low, value)), high=float(max(high, value)))


def _option_indices(parameter: Parameter, trials: Sequence[Trial]) -> NDArray[np.intp]:
    """[trials]: the rank of each trial's option among the sorted options."""
    labels = _sorted_labels(parameter)
    return np.array([labels.index(trial.choice[parameter.name]) for trial in trials], dtype=np.intp)


def _sorted_labels(parameter: Parameter) -> list[int | float | str]:
    """Its options as labels: numbers in order, others as the file has them."""
    labels = [parameter.label(option) for option in parameter.options]
    if any(isinstance(label, str) for label in labels):
        return labels
    return sorted(labels, key=float)


def _summary(parameters: Sequence[ParameterReading], metrics: Mapping[str, object], trials: int) -> str:
    sentences = []
    for metric in metrics:
        ranked = sorted(
            (p for p in parameters if metric in p.importance), key=lambda p: -p.importance[metric].share.value
        )
        noun = METRICS[metric].noun
        if not ranked:
            sentences.append(f"All trials have the same {noun}.")
            continue
        clear = [p for p in ranked if p.importance[metric].share.value > p.importance[metric].chance]
        texts = [_share_text(p.name, p.importance[metric].share) for p in clear[:3]]
        none = f"For {noun} no parameter stands out from chance."
        sentences.append(f"For {noun} the choices that stand out from chance: {', '.join(texts)}." if texts else none)
    if trials < WIDE_TRIALS:
        sentences.append(f"With {trials} trials the intervals are wide: read them as hints.")
    return " ".join(sentences)


def _share_text(name: str, share: Interval) -> str:
    return f"{name} with {100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
