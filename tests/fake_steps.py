"""Evaluations that ask nobody for anything, for the engines and the loop."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from modscale.searching import rungs
from modscale.searching.steps import Steps


def as_steps(evaluate: Callable[..., Any]) -> Callable[..., Steps[Any]]:
    """What `evaluate` returns, as steps that ask for nothing."""

    def steps(*arguments: Any) -> Steps[Any]:
        return evaluate(*arguments)
        yield

    return steps


@dataclass(frozen=True)
class Listening:
    """A judge that writes down in a file what it was asked, in whichever process, and ends the candidate at a question.

    It is found by a child where `tests` is in its PYTHONPATH.
    """

    file: Path
    ends_at: int = 0
    """Which question, from 1; 0 ends none."""

    def __call__(self, results: Any, rungs: Sequence[Any]) -> str | None:
        with self.file.open("a") as stream:
            stream.write(json.dumps([sorted(results), [rung.share for rung in rungs]]) + "\n")
        return "enough" if len(self.heard()) == self.ends_at else None

    def heard(self) -> list[Any]:
        """The questions so far."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@dataclass
class Impatient:
    """The judge of some rungs, after three peers; it may kill the process that the trainings are for at a question."""

    judge: Any
    """As `loop.JudgeAmong`."""
    kills_at: int = 0
    """Which question to this process, from 1; 0 kills nobody."""

    asked: ClassVar[int] = 0

    def __call__(self, trials: Any, results: Any, reached: Any) -> Any:
        Impatient.asked += bool(reached)
        if self.kills_at and Impatient.asked == self.kills_at:
            os.kill(os.getppid(), signal.SIGKILL)
        with mock.patch.object(rungs, "MIN_PEERS", 3):
            return self.judge(trials, results, reached)


def die(results: Any, reached: Any) -> None:
    """A judge that kills the process it is asked in, if that is one that trains."""
    if reached:
        os.kill(os.getpid(), signal.SIGKILL)
