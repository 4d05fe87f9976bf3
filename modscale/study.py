"""The Optuna study: which candidate to try next, and a record that Optuna's own tools can open.

Only this module knows Optuna. Every trial the study holds is an architecture that meets the space's constraints and
that no earlier trial had: the sampler is asked again until it proposes one, so nothing infeasible or repeated is ever
trained or stored. Each trial's draw is seeded by the search's seed and the trial's number alone, so a search that was
killed and resumed asks for the same candidates as one that was not.
"""

from __future__ import annotations

import math
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from modscale.arrays import FloatArray, IntArray
from modscale.errors import RunError
from modscale.space import Parameter, SearchSpace
from modscale.spec import ModelSpec, network_key
from modscale.tables import SpaceTables
from modscale.trials import Trial

STUDY_NAME = "modscale"
TPE_ATTEMPTS = 64
"""Draws from the sampler before a candidate is drawn uniformly from the feasible ones."""
MAX_MISSING = 1000
"""Numbers that the finished trials may lack: lines can be lost, but a number typed by hand must not take for ever."""
BATCH = 2048
"""Architectures drawn at a time."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An architecture to be tried."""

    number: int
    """The trial's number, from 0."""
    choice: Mapping[str, Any]
    """Searched parameter to the label of its option."""
    spec: ModelSpec


class SearchStudy:
    """The study of one run: hands out candidates, takes finished trials."""

    def __init__(self, space: SearchSpace, tables: SpaceTables, *, seed: int, file: Path | None) -> None:
        self.space = space
        self.file = file or ""
        self.metrics = list(space.objectives)
        self.sampler = _FeasibleSampler(space, tables, seed)
        self.distributions = self.sampler.distributions
        try:
            self.study = optuna.create_study(
                storage=None if file is None else _storage(file),
                study_name=STUDY_NAME,
                directions=[StudyDirection[direction.upper()] for direction in self.space.objectives.values()],
                sampler=self.sampler,
                load_if_exists=True,
            )
        except Exception as error:  # SQLAlchemy and Optuna each have their own tree
            reason = _database_reason(error)
            raise RunError(
                f"cannot be used as an Optuna study ({reason}); if it is removed, it is rebuilt from trials.jsonl",
                file=self.file,
            ) from error

    def reconcile(self, finished: Sequence[Trial]) -> list[Candidate]:
        """Makes the study agree with the finished trials on file; returns the candidates that were interrupted.

        Raises:
            RunError: the study cannot be read or written.
        """
        with self._written():
            return self._reconcile(finished)

    def _reconcile(self, finished: Sequence[Trial]) -> list[Candidate]:
        known = {trial.number: trial for trial in self.study.get_trials(deepcopy=False)}
        done = {trial.number: trial for trial in finished}
        interrupted = []
        last = max(done, default=-1)
        if last >= len(done) + MAX_MISSING:
            raise RunError(f"must not leave more than {MAX_MISSING} numbers out", place="number", value=last)
        for number in range(last + 1):
            trial, stored = done.get(number), known.get(number)
            if stored is None:  # Optuna numbers without gaps, so a number that is not on file is kept free
                self.study.add_trial(create_trial(state=TrialState.FAIL) if trial is None else self._checked(trial))
            elif trial is not None and stored.state == TrialState.RUNNING:
                self._checked(trial)
                self._tell(trial)
            if trial is not None:
                self.sampler.taken.add(network_key(trial.spec))
        for number, stored in sorted(known.items()):
            if number not in done and stored.state == TrialState.RUNNING:
                try:
                    interrupted.append(self._draw(optuna.trial.Trial(self.study, stored._trial_id)))
                except SpaceExhausted:  # it was looking for one when it was killed; `ask` will say the same
                    self.study.tell(number, state=TrialState.FAIL)
        return interrupted

    def ask(self) -> Candidate | None:
        """The next candidate; None when all that is feasible has been tried. Raises RunError, see `reconcile`."""
        if not self.distributions and self.sampler.taken:
            return None  # Optuna asks no sampler where there is nothing to choose
        with self._written():
            try:
                return self._draw(self.study.ask())
            except SpaceExhausted:
                for left in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    self.study.tell(left.number, state=TrialState.FAIL)
                return None

    def tell(self, trial: Trial) -> None:
        """Closes a trial with its values, or as failed. Raises RunError, see `reconcile`."""
        with self._written():
            self._tell(trial)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """A full disk, say, is the run folder's fault; what is finished lies in trials.jsonl already."""
        try:
            yield
        except optuna.exceptions.StorageInternalError as error:
            rule = f"cannot be read or written ({_database_reason(error)})"
            raise RunError(
                f"{rule}; no finished trial is lost, the same command goes on from there", file=self.file
            ) from error

    def _tell(self, trial: Trial) -> None:
        if trial.state == "complete":
            self.study.tell(trial.number, self._values(trial))
        else:
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _draw(self, trial: optuna.Trial) -> Candidate:
        """The candidate of a trial: what the study has of it already, and the rest from the sampler."""
        for name, distribution in self.distributions.items():
            trial._suggest(name, distribution)  # what `ask` itself calls for fixed distributions
        options = {p.name: p.option(trial.params[p.name]) for p in self.space.searched}
        spec = self.space.spec(options, name=f"{self.space.name}-{trial.number}")
        self.sampler.taken.add(network_key(spec))
        return Candidate(number=trial.number, choice=dict(trial.params), spec=spec)

    def _values(self, trial: Trial) -> list[float]:
        return [float(getattr(trial, metric)) for metric in self.metrics]

    def _checked(self, trial: Trial) -> FrozenTrial:
        """As `_frozen`; RunError where the trial, which may have been edited by hand, does not fit the space."""
        try:
            frozen = self._frozen(trial)
            frozen._validate()
        except (ValueError, TypeError, KeyError) as error:
            rule = f"does not fit the space's parameters or objectives ({str(error).splitlines()[0][:120]})"
            raise RunError(rule, place=f"trial {trial.number}") from error
        return frozen

    def _frozen(self, trial: Trial) -> FrozenTrial:
        complete = trial.state == "complete"
        return create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            values=self._values(trial) if complete else None,
            params=dict(trial.choice),
            distributions=self.distributions,
        )


class SpaceExhausted(Exception):  # a signal between the sampler and `ask`, never seen outside
    """No feasible architecture is left to try."""


class _FeasibleSampler(optuna.samplers.BaseSampler):
    """Optuna's sampler, asked again until it proposes a feasible network that was not tried before.

    The first `startup_trials` are spread over the feasible sizes: trial i is drawn uniformly from the feasible
    architectures in one of as many equal steps of log(params), between the least and the most of a first sample, in
    shuffled order. Uniform draws alone would leave the small networks out, since most architectures of a space are near
    its largest.
    """

    def __init__(self, space: SearchSpace, tables: SpaceTables, seed: int) -> None:
        self.space = space
        self.tables = tables
        self.seed = seed
        self.distributions = {parameter.name: _distribution(parameter) for parameter in space.searched}
        self.taken: set[Any] = set()
        self.edges: FloatArray | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        settings = self.space.search
        rng = np.random.default_rng([self.seed, trial.number])
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.number < settings.startup_trials:
            options = self._spread(rng, trial.number)
        elif settings.sampler == "tpe" and len(complete) >= 2 and search_space:
            options = self._propose(rng, study, trial, search_space) or self._uniform(rng)
        else:
            options = self._uniform(rng)
        return {p.name: p.label(options[p.name]) for p in self.space.searched}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise KeyError(param_name)  # every parameter is drawn together with the others

    def _propose(
        self, rng: np.random.Generator, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any] | None:
        """A feasible, new architecture from multivariate, multi-objective TPE, if it finds one."""
        tpe = optuna.samplers.TPESampler(
            n_startup_trials=0, multivariate=True, constant_liar=False, seed=int(rng.integers(2**31))
        )
        for _ in range(TPE_ATTEMPTS):
            params = tpe.sample_relative(study, trial, search_space)
            options = {p.name: _nearest(p, params[p.name]) for p in self.space.searched}
            if self._is_new(options) and self.tables.feasible(self.tables.row(options)[None])[0]:
                return options
        return None

    def _spread(self, rng: np.random.Generator, number: int) -> dict[str, Any]:
        """The architecture of a start-up trial: uniform within its step of log(params)."""
        steps = self.space.search.startup_trials
        if self.edges is None:  # the same steps for every trial, also after a restart
            first = self._log_params(self.tables.sample_feasible(np.random.default_rng([self.seed]), 4 * BATCH))
            self.edges = np.linspace(first.min(), first.max() + 1e-9, steps + 1)
        edges = self.edges
        step = np.random.default_rng([self.seed]).permutation(steps)[number % steps]
        drawn = self.tables.sample_feasible(rng, 4 * BATCH)
        size = np.clip(self._log_params(drawn), edges[0], edges[-1])  # what lies beyond belongs to the outermost steps
        distance = np.abs(size - (edges[step] + edges[step + 1]) / 2)
        inside = distance <= (edges[1] - edges[0]) / 2
        for row in [*np.flatnonzero(inside), *np.argsort(distance)[:BATCH]]:
            options = self.tables.choice(drawn[row])
            if self._is_new(options):
                return options
        return self._uniform(rng)

    def _log_params(self, rows: IntArray) -> FloatArray:
        return np.log(self.tables.count(rows)[0].astype(np.float64))

    def _uniform(self, rng: np.random.Generator) -> dict[str, Any]:
        """A feasible, new architecture drawn uniformly; what is left of a small space is searched through."""
        for rows in (self.tables.sample_feasible(rng, 1 + 8 * len(self.taken)), self.tables.iter_feasible()):
            for row in rows:
                options = self.tables.choice(row)
                if self._is_new(options):
                    return options
        raise SpaceExhausted

    def _is_new(self, options: Mapping[str, Any]) -> bool:
        return network_key(self.space.spec(options)) not in self.taken


def parameter_importances(
    space: SearchSpace, trials: Sequence[Trial], metric: str, *, normalize: bool = True
) -> dict[str, float]:
    """How much each searched parameter matters for `metric`: Optuna's PED-ANOVA, normalised to a sum of 1 or raw.

    Only complete trials count; an empty dict where fewer than two, or where all values are equal.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    values = [float(getattr(trial, metric)) for trial in complete]
    if len(set(values)) < 2 or not space.searched:
        return {}
    study = optuna.create_study(direction="minimize" if metric != "accuracy" else "maximize")
    distributions = {parameter.name: _distribution(parameter) for parameter in space.searched}
    for trial, value in zip(complete, values, strict=True):
        study.add_trial(create_trial(value=value, params=dict(trial.choice), distributions=distributions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        importances = optuna.importance.get_param_importances(study, normalize=normalize)
    return {name: 0.0 if math.isnan(value) else float(value) for name, value in importances.items()}


def _database_reason(error: BaseException) -> str:
    """The database's own words, in one line."""
    cause = error if getattr(error, "orig", None) else error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).splitlines()[0][:120]


def _storage(file: Path) -> optuna.storages.RDBStorage:
    """The study's file, opened by its path: in the text of an address `?`, `%` and braces would mean something."""
    return optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": partial(sqlite3.connect, file)})


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


def _nearest(parameter: Parameter, value: Any) -> Any:
    """The option nearest to a drawn number, or the one that a drawn category names."""
    if isinstance(value, str):
        return parameter.option(value)
    return min(parameter.options, key=lambda option: abs(parameter.label(option) - value))
