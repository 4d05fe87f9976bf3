"""Engines: where the candidates of a search are evaluated. The search asks, tells and writes; an engine only evaluates.

A task goes in with the steps of its evaluation, and comes out finished, in whatever order. The engine in line is the
default: one task after the other, in the order in which they came. `pool.py` has several processes on this machine,
`ray_engine.py` many machines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol

from modscale.errors import TrialFailed
from modscale.searching.steps import Request, Steps, take_steps

Announce = Callable[[str], None]
"""Hears what is being done to a candidate."""
Answer = Callable[[Request, Announce], Any]
"""Does what a request asks for, and tells of its stages. Raises TrialFailed."""


@dataclass(kw_only=True, slots=True, eq=False)
class Task:
    """One evaluation, on its way through an engine."""

    key: Hashable
    """By which whoever gave it knows it again."""
    label: str
    """By which observers know it."""
    steps: Steps[Any]
    """What is to be done."""
    began: Callable[[], None] = lambda: None
    """Called once, as the first of it is done."""
    announce: Announce = lambda stage: None
    """Hears of its stages."""
    has_begun: bool = False
    """Whether that was."""
    seconds: float = 0.0
    """Wall time for which something was done to it so far."""
    size: float = 0.0
    """By which its work takes longer than that of others: FLOPs, of a network."""
    rank: int = 0
    """Which one it was that came to the engine."""
    outcome: Any = None
    """What came of it, once it is finished; a TrialFailed where it failed."""


class Engine(Protocol):
    """Evaluates tasks; a context manager that ends what it started."""

    @property
    def capacity(self) -> int:
        """How many tasks it wants to have at a time."""

    def submit(self, task: Task) -> None:
        """Takes a task over."""

    def end(self) -> None:
        """Nobody is asked for more than it has: what takes longest comes first now, lest it be alone at the end."""

    def wait(self) -> list[Task]:
        """The tasks that were finished since the last time, once there are some; there must be some to wait for.

        Raises:
            InputError: the data or a device is not what it was, or the workers are gone.
            KeyboardInterrupt: a stop was asked for.
        """

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def run_all(engine: Engine, steps: Sequence[Steps[Any]]) -> list[Any]:
    """What comes of each of the steps, by an engine that has nothing else. Raises the first TrialFailed."""
    tasks = [Task(key=i, label="", steps=one) for i, one in enumerate(steps)]
    waiting, under_way = deque(tasks), 0
    while waiting or under_way:
        while waiting and under_way < engine.capacity:
            engine.submit(waiting.popleft())
            under_way += 1
        under_way -= len(engine.wait())
    for task in tasks:
        if isinstance(task.outcome, TrialFailed):
            raise task.outcome
    return [task.outcome for task in tasks]


def refuse(request: Request, announce: Announce) -> Any:
    """Answers nothing: for evaluations that ask for nothing."""
    raise AssertionError(f"nobody answers {request}")


class Inline:
    """One task after the other, each finished before the next begins."""

    capacity = 1

    def __init__(self, answer: Answer = refuse, now: Callable[[], float] = perf_counter) -> None:
        """`now` is the clock by which it goes, seconds."""
        self.answer, self.now = answer, now
        self.tasks: deque[Task] = deque()

    def __enter__(self) -> Inline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self.tasks:
            task.steps.close()

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def end(self) -> None: ...

    def wait(self) -> list[Task]:
        task = self.tasks.popleft()
        task.began()
        start = self.now()
        try:
            task.outcome = take_steps(task.steps, lambda request: self.answer(request, task.announce))
        except TrialFailed as failure:
            task.outcome = failure
        task.seconds = self.now() - start
        return [task]
