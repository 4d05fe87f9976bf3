"""The Optuna study: which candidate to try next, and what of a trial Optuna's own tools are shown.

Only this module knows Optuna. The study that the sampler sees lies in memory, and is made again from the finished
trials at every start; `mirror.py` keeps a copy in a file for the tools, which no search reads. Every trial the study
holds is an architecture that meets the space's constraints and that no earlier trial had: the sampler is asked again
until it proposes one, so nothing infeasible or repeated is ever trained or stored. Each trial's draw is seeded by the
search's seed and the trial's number alone, so a search that was killed and resumed asks for the same candidates as one
that was not, the interrupted one first.
"""

from __future__ import annotations

import json
import math
import sqlite3
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from modscale.arrays import IntArray
from modscale.errors import RunError
from modscale.pareto import losses_of
from modscale.runs.experiment import Experiment
from modscale.runs.machine_speed import add_first, at_levels
from modscale.runs.metrics import METRICS, result_rules
from modscale.runs.trials import Trial, rungs_to_list
from modscale.searching.draws import Draws, SpaceExhausted
from modscale.searching.surrogate import propose
from modscale.spaces.space import Parameter, Space
from modscale.spaces.tables import SpaceTables
from modscale.specs.counts import COUNT_METRICS
from modscale.specs.spec import ModelSpec, spec_to_dict

STUDY_NAME = "modscale"
METRIC_NAMES = "study:metric_names"
"""Under which Optuna keeps the names of a study's objectives in a storage."""
TPE_ATTEMPTS = 64
"""Draws from the sampler before a candidate is drawn uniformly from the feasible ones."""
MAX_MISSING = 1000
"""Numbers that the finished trials may lack: lines can be lost, but a number typed by hand must not take for ever."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An architecture to be tried."""

    number: int
    """The trial's number, from 0."""
    choice: Mapping[str, Any]
    """Searched parameter to the label of its option."""
    spec: ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTrial:
    """A finished trial as Optuna's tables hold it."""

    number: int
    """From 0, without gaps."""
    state: str
    """`COMPLETE` or `FAIL`; a number whose trial is lost has failed."""
    seconds: float
    """Wall time of its evaluation."""
    values: tuple[float, ...]
    """Of the objectives, in their order; empty unless complete."""
    params: tuple[tuple[str, float, str], ...]
    """Name, Optuna's number for the option, and the distribution as JSON, of each searched parameter."""
    attributes: tuple[tuple[str, str], ...]
    """Name and JSON text of each of the trial's own attributes."""


class SearchStudy:
    """The study of one run: hands out candidates, takes finished trials."""

    def __init__(
        self,
        experiment: Experiment,
        tables: SpaceTables,
        *,
        seed: int,
        allows: Callable[[ModelSpec], bool] = lambda spec: True,
        known: Sequence[Trial] = (),
        first: Sequence[Trial] = (),
    ) -> None:
        """`allows` says which networks may be tried beside the constraints of the space.

        `known` are complete trials of other runs, with choices of this space: learnt from, never tried again, and none
        of this study's own. Of `first` the networks are the first candidates, as far as they are allowed and new.
        """
        self.space = experiment.space
        self.objectives = experiment.objectives
        steps = experiment.search.startup_trials
        self.draws = Draws(experiment.space, tables, steps=steps, seed=seed, allows=allows)
        self.levels: dict[str, float] = {}  # of the reference beside latencies, see `_values`
        for trial in known:  # the first reference of theirs sets the level: own trials are told at it too
            self.draws.take(trial.spec)
            add_first(self.levels, trial.results)
        self.sampler = _FeasibleSampler(experiment, self.draws, known, first)
        self.sampler.known_values = [_values(self.objectives, trial, self.levels) for trial in known]
        self.distributions = self.sampler.distributions
        self.study = optuna.create_study(
            directions=directions_of(self.objectives),
            sampler=self.sampler,
        )

    def replay(self, finished: Sequence[Trial], *, count: int = 0) -> None:
        """Tells an empty study of the trials on file, at least of the numbers below `count`.

        A number that is lost among them is never given out again.

        Raises:
            RunError: a trial does not fit the space, or its number leaves too many out.
        """
        for _, trial in _by_number(finished, count):
            add_first(self.levels, {} if trial is None else trial.results)
            self.study.add_trial(create_trial(state=TrialState.FAIL) if trial is None else self._checked(trial))
            if trial is not None:
                self.draws.take(trial.spec)

    def resume(self, trial: Trial | None) -> None:
        """The next candidate is the one of a trial on file, and under way until it is told; None: its trial is lost.

        Raises:
            RunError: it does not fit the space.
        """
        if trial is None:
            self.study.add_trial(create_trial(state=TrialState.FAIL))
            return
        known = self._checked(trial)
        self.study.add_trial(
            create_trial(state=TrialState.RUNNING, params=known.params, distributions=known.distributions)
        )
        self.draws.take(trial.spec)

    def ask(self) -> Candidate | None:
        """The next candidate, by the trials that were told; None when all that is feasible has been tried.

        The others that were asked for count as under way.
        """
        if not self.distributions and self.draws.taken:
            return None  # Optuna asks no sampler where there is nothing to choose
        trial = self.study.ask()
        try:
            for name, distribution in self.distributions.items():
                trial._suggest(name, distribution)  # what `ask` itself calls for fixed distributions
        except SpaceExhausted:
            return None
        options = {p.name: p.option(trial.params[p.name]) for p in self.space.searched}
        spec = self.space.spec(options, name=f"{self.space.name}-{trial.number}")
        self.draws.take(spec)
        return Candidate(number=trial.number, choice=dict(trial.params), spec=spec)

    def tell(self, trial: Trial) -> None:
        """Closes a trial with its values, or as failed.

        To Optuna a stopped trial has failed too: it has no values to learn from, and TPE refuses pruned ones where
        there are several objectives. Its network is never proposed again.
        """
        add_first(self.levels, trial.results)
        if trial.state == "complete":
            self.study.tell(trial.number, _values(self.objectives, trial, self.levels))
        else:
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _checked(self, trial: Trial) -> FrozenTrial:
        """As Optuna has it; RunError where the trial, which may have been edited by hand, does not fit the space."""
        complete = trial.state == "complete"
        try:
            frozen = create_trial(
                state=TrialState.COMPLETE if complete else TrialState.FAIL,
                values=_values(self.objectives, trial, self.levels) if complete else None,
                params=dict(trial.choice),
                distributions=self.distributions,
            )
            frozen._validate()
        except (ValueError, TypeError, KeyError) as error:
            rule = f"does not fit the space's parameters or objectives ({str(error).splitlines()[0][:120]})"
            raise RunError(rule, place=f"trial {trial.number}") from error
        return frozen


def stored_trials(
    experiment: Experiment, finished: Sequence[Trial], known: dict[int, tuple[Trial | None, StoredTrial]] | None = None
) -> list[StoredTrial]:
    """The finished trials of a run as Optuna's tables hold them, a number after the other.

    `known` keeps what was made of a trial, by number, for the next call.
    """
    distributions = {parameter.name: _distribution(parameter) for parameter in experiment.space.searched}
    texts = {name: distribution_to_json(distribution) for name, distribution in distributions.items()}
    stored = {} if known is None else known
    trials, levels = _by_number(finished), dict[str, float]()
    for number, trial in trials:
        add_first(levels, {} if trial is None else trial.results)
        if number in stored and stored[number][0] is trial:
            continue
        complete = trial is not None and trial.state == "complete"
        params = () if trial is None else sorted(trial.choice.items())
        stored[number] = (
            trial,
            StoredTrial(
                number=number,
                state="COMPLETE" if complete else "FAIL",
                seconds=0.0 if trial is None else trial.seconds,
                values=tuple(_values(experiment.objectives, trial, levels)) if trial is not None and complete else (),
                params=tuple((name, float(distributions[name].to_internal_repr(o)), texts[name]) for name, o in params),
                attributes=() if trial is None else tuple(_attributes(trial)),
            ),
        )
    return [stored[number][1] for number, _ in trials]


def frozen_trial(stored: StoredTrial) -> FrozenTrial:
    """A stored trial as Optuna's storages take it; it ends now."""
    distributions = {name: json_to_distribution(text) for name, _, text in stored.params}
    ended = datetime.now()  # Optuna's times are local and have no zone
    trial = create_trial(
        state=TrialState[stored.state],
        values=list(stored.values) or None,
        params={name: distributions[name].to_external_repr(value) for name, value, _ in stored.params},
        distributions=distributions,
        user_attrs={name: json.loads(text) for name, text in stored.attributes},
    )
    trial.datetime_start = ended - timedelta(seconds=min(stored.seconds, 86_400.0))
    trial.datetime_complete = ended
    return trial


def directions_of(objectives: Mapping[str, str]) -> list[StudyDirection]:
    """Of metrics to directions, as Optuna has them."""
    return [StudyDirection[direction.upper()] for direction in objectives.values()]


@cache
def empty_study(objectives: tuple[tuple[str, str], ...]) -> bytes:
    """A SQLite database as Optuna makes it for a study of these metrics, each named, that has no trials yet."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: database})
    try:
        study = storage.create_new_study(directions_of(dict(objectives)), STUDY_NAME)
        storage.set_study_system_attr(study, METRIC_NAMES, [metric for metric, _ in objectives])
        storage.remove_session()
        return database.serialize()
    finally:
        storage.engine.dispose()
        database.close()


class _FeasibleSampler(optuna.samplers.BaseSampler):
    """Optuna's sampler, asked again until it proposes a feasible network that was not tried before.

    The first `startup_trials` are spread over the feasible sizes, see `Draws.spread`, but for those in whose place
    others are known, or are tried first.
    """

    def __init__(self, experiment: Experiment, draws: Draws, known: Sequence[Trial], first: Sequence[Trial]) -> None:
        self.space = experiment.space
        self.settings = experiment.search
        self.draws = draws
        self.distributions = {parameter.name: _distribution(parameter) for parameter in self.space.searched}
        self.objectives = experiment.objectives
        self.proposals = {"tpe": self._by_tpe, "surrogate": self._by_surrogate}
        self.rows: dict[int, IntArray] = {}
        self.known = known
        self.known_values: list[list[float]] = []
        self.known_rows = [draws.tables.row(self._options(trial.choice)) for trial in known]
        self.first = [options for trial in first if draws.is_new(options := self._options(trial.choice))]

    def _options(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        return {parameter.name: parameter.option(choice[parameter.name]) for parameter in self.space.searched}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        rng = np.random.default_rng([self.draws.seed, trial.number])
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.number < len(self.first) and self.draws.is_new(self.first[trial.number]):
            options = self.first[trial.number]
        elif trial.number + len(self.known) < self.settings.startup_trials:
            options = self.draws.spread(rng, trial.number)
        elif len(complete) + len(self.known) >= 2 and search_space and self.settings.sampler in self.proposals:
            propose = self.proposals[self.settings.sampler]
            options = propose(rng, study, trial, search_space) or self.draws.uniform(rng)
        else:
            options = self.draws.uniform(rng)
        return {p.name: p.label(options[p.name]) for p in self.space.searched}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise KeyError(param_name)  # every parameter is drawn together with the others

    def _by_surrogate(
        self, rng: np.random.Generator, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The feasible, new architecture that is expected to add most to the hypervolume (`surrogate.py`)."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        running = [other for other in running if other.number != trial.number]
        for known in (*complete, *running):
            if known.number not in self.rows:
                self.rows[known.number] = self.draws.tables.row(self._options(known.params))
        return propose(
            self.draws,
            rng,
            np.array([*self.known_rows, *(self.rows[told.number] for told in complete)]),
            losses_of(
                [*self.known_values, *(told.values for told in complete)],
                list(self.objectives.values()),
            ),
            waiting=np.array([self.rows[other.number] for other in running]),
            counts=[COUNT_METRICS.index(metric) if METRICS[metric].is_count else None for metric in self.objectives],
            costs=[direction == "minimize" for direction in self.objectives.values()],
        )

    def _by_tpe(
        self, rng: np.random.Generator, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any] | None:
        """A feasible, new architecture from multivariate, multi-objective TPE, if it finds one."""
        is_alone = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))) == 1
        tpe = optuna.samplers.TPESampler(
            n_startup_trials=0, multivariate=True, constant_liar=not is_alone, seed=int(rng.integers(2**31))
        )
        study = self._with_known(study)
        for _ in range(TPE_ATTEMPTS):
            params = tpe.sample_relative(study, trial, search_space)
            options = {p.name: nearest_option(p, params[p.name]) for p in self.space.searched}
            if self.draws.is_new(options) and self.draws.is_feasible(options):
                return options
        return None

    def _with_known(self, study: optuna.Study) -> optuna.Study:
        """The study, with what is known from other runs before its own trials: TPE learns from a study alone."""
        if not self.known:
            return study
        both = optuna.create_study(directions=directions_of(self.objectives))
        for trial, values in zip(self.known, self.known_values, strict=True):
            both.add_trial(create_trial(values=values, params=dict(trial.choice), distributions=self.distributions))
        both.add_trials(study.get_trials(deepcopy=False))
        return both


def parameter_importances(
    space: Space, trials: Sequence[Trial], metric: str, *, normalize: bool = True
) -> dict[str, float]:
    """How much each searched parameter matters for `metric`: Optuna's PED-ANOVA, normalised to a sum of 1 or raw.

    Only complete trials count; an empty dict where fewer than two, or where all values are equal.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    values = [float(trial[metric]) for trial in complete]
    if len(set(values)) < 2 or not space.searched:
        return {}
    study = optuna.create_study(direction=METRICS[metric].direction)
    distributions = {parameter.name: _distribution(parameter) for parameter in space.searched}
    for trial, value in zip(complete, values, strict=True):
        study.add_trial(create_trial(value=value, params=dict(trial.choice), distributions=distributions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        importances = optuna.importance.get_param_importances(study, normalize=normalize)
    return {name: 0.0 if math.isnan(value) else float(value) for name, value in importances.items()}


def _by_number(finished: Sequence[Trial], count: int = 0) -> list[tuple[int, Trial | None]]:
    """Every number up to the last, and below `count`, with its trial, or None for one that is lost.

    Optuna numbers without gaps, so the number of a lost one is kept free.
    """
    done = {trial.number: trial for trial in finished}
    last = require_numbers(done)
    return [(number, done.get(number)) for number in range(max(last + 1, count))]


def require_numbers(finished: Collection[int]) -> int:
    """The last number of these, -1 where there is none; RunError where too many before it are missing."""
    last = max(finished, default=-1)
    if last >= len(finished) + MAX_MISSING:
        raise RunError(f"must not leave more than {MAX_MISSING} numbers out", place="number", value=last)
    return last


def _values(objectives: Iterable[str], trial: Trial, levels: Mapping[str, float]) -> list[float]:
    """What a study is told, each latency at the level of the reference beside the first trial that had one.

    That one stays the first, so what was told of a trial is told of it again after a kill.
    """
    results = at_levels(trial.results, levels)
    return [float(results[metric]) for metric in objectives]


def is_own_attribute(name: str) -> bool:
    """Whether it is a user attribute that a trial of ours may have in the study; a device's latency has any name."""
    return name in {"name", "spec", "reason", "rungs", *result_rules()} or name.startswith("latency_")


def _attributes(trial: Trial) -> list[tuple[str, str]]:
    """Its name, spec, results and rungs, and why it ended early, with their values as JSON."""
    shown = {**trial.results, "name": trial.spec.name, "spec": spec_to_dict(trial.spec)}
    shown |= {} if trial.reason is None else {"reason": trial.reason}
    shown |= {"rungs": rungs_to_list(trial.rungs)} if trial.rungs else {}
    return sorted((key, json.dumps(value)) for key, value in shown.items())


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Numbers as an ordered range that holds every option; anything else as a category."""
    labels = [parameter.label(option) for option in parameter.options]
    whole = [label for label in labels if isinstance(label, int)]
    numbers = [label for label in labels if isinstance(label, (int, float))]
    if len(whole) == len(labels):
        low = min(whole)
        return IntDistribution(low, max(whole), step=math.gcd(*(label - low for label in whole)) or 1)
    if len(numbers) == len(labels):
        return FloatDistribution(float(min(numbers)), float(max(numbers)))
    return CategoricalDistribution([str(label) for label in labels])


def nearest_option(parameter: Parameter, value: Any) -> Any:
    """The option nearest to a drawn number, or the one that a drawn category names."""
    if isinstance(value, str):
        return parameter.option(value)
    return min(parameter.options, key=lambda option: abs(parameter.label(option) - value))
