"""Whoever watches a search from outside: what is said to them, and when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from modscale.analysis.time_left import Ahead
from modscale.runs.references import MeasuredRival
from modscale.runs.trials import Trial
from modscale.searching.loop import Observer
from modscale.specs.spec import ModelSpec


class Watcher(Protocol):
    """Who is told of a search as a whole: the terminal, or nobody."""

    def say(self, text: str) -> None:
        """A line of what is going on."""

    def searching(
        self, *, done: int, limit: int, references: int, pace_s: float | None, ahead: Ahead
    ) -> AbstractContextManager[Observer]:
        """The loop begins, with so many trials and references of so many finished; gives who watches it.

        `pace_s` is what each of those took, on the average; None where there is none. `ahead` is what is to be done.
        """


class Silence:
    """A watcher, and an observer of the loop, that keeps everything to itself."""

    def say(self, text: str) -> None: ...

    @contextmanager
    def searching(
        self, *, done: int, limit: int, references: int, pace_s: float | None, ahead: Ahead
    ) -> Iterator[Observer]:
        yield self

    def started(self, label: str, spec: ModelSpec | None) -> None: ...

    def stage(self, name: str, label: str = "") -> None: ...

    def finished(self, label: str, trial: Trial | MeasuredRival) -> None: ...
