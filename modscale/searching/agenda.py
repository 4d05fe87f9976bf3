"""What an engine with several workers has to do: the tasks as they take their steps, the work that waits for a worker,
the models that wait to be timed.

An engine takes from here what it can begin, and settles what has come of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modscale.errors import TrialFailed
from modscale.searching.engine import Task
from modscale.searching.steps import Request, Timing, Work

MOST_TRIES = 2
"""How often work is begun before its candidate has failed, where workers are lost over it."""
MOST_WITH_NODES = 4
"""The same where the last of them was lost with its whole machine, which seldom is the candidate's doing."""


@dataclass(kw_only=True, slots=True, eq=False)
class Piece:
    """Work that waits for a worker, or is being done."""

    work: Work
    """What is to be done."""
    tasks: list[Task]
    """Who waits for the answer: several where it is shared, none where it is done in advance."""
    tries: int = 0
    """How often it was begun."""

    @property
    def first(self) -> int:
        """Which task it was that came first of those that wait for it."""
        return min((task.rank for task in self.tasks), default=0)

    @property
    def size(self) -> float:
        """That of the largest task."""
        return max((task.size for task in self.tasks), default=0.0)

    def rank(self, *, by_size: bool) -> tuple[bool, bool, float, int]:
        """What is smaller is begun first: what all need, then what leads to a timing, then what came first.

        `by_size` what is largest comes before what came first.
        """
        return (not self.work.is_shared, self.work.stage != "export", -self.size if by_size else 0.0, self.first)


@dataclass(kw_only=True, slots=True, eq=False)
class Session:
    """Models that are timed in turns, for one task or several."""

    requests: list[tuple[Task, Timing]]
    """Who asked, and for what."""
    tries: int = 0
    """How often it was begun."""

    def together(self) -> Timing:
        """All that is to be timed."""
        return Timing(
            models=tuple(model for _, timing in self.requests for model in timing.models),
            told=tuple(one for _, timing in self.requests for one in timing.told),
            until_percent=self.requests[0][1].until_percent,
            beside=self.requests[0][1].beside,
        )

    def announce(self, stage: str) -> None:
        """Tells each task's observer."""
        for task, _ in self.requests:
            announce(task, stage)


class Agenda:
    """What is to be done for tasks that were submitted, and for all of them `in_advance`."""

    def __init__(self, in_advance: Sequence[Work] = ()) -> None:
        self.pieces = [Piece(work=work, tasks=[]) for work in in_advance]
        """What waits for a worker."""
        self.begun: list[Piece] = []
        """What is being done."""
        self.timings: list[Session] = []
        """What waits to be timed, one a request, or one that must be alone."""
        self.shared: dict[Work, Any] = {}
        """Answers that all tasks share."""
        self.done: list[Task] = []
        """Tasks that are finished, and were not taken yet."""
        self.came = 0
        """Tasks so far."""
        self.is_ending = False
        """Whether no more will come, so that whoever has the largest work left keeps all waiting."""

    def submit(self, task: Task) -> None:
        """Has a new task take its first step."""
        task.rank, self.came = self.came, self.came + 1
        self._advance(task)

    def take_done(self) -> list[Task]:
        """The tasks that were finished since the last time."""
        done, self.done = self.done, []
        return done

    def begin_piece(self) -> Piece:
        """The work that is to be done next; there must be some."""
        piece = min(self.pieces, key=lambda one: one.rank(by_size=self.is_ending))
        self.pieces.remove(piece)
        self.begun.append(piece)
        piece.tries += 1
        for task in piece.tasks:
            announce(task, piece.work.stage)
        return piece

    def settle_piece(self, piece: Piece, answer: Any, failure: TrialFailed | None, seconds: float) -> None:
        """Hands an answer, or why there is none, to whoever waits for it; it took so long."""
        self.begun.remove(piece)
        if piece.work.is_shared and failure is None:
            self.shared[piece.work] = answer
        for task in piece.tasks:
            task.seconds += seconds / len(piece.tasks)
            task.announce("")
            self._advance(task, answer, failure)

    def lose_piece(self, piece: Piece, failure: TrialFailed, seconds: float, *, with_node: bool = False) -> None:
        """Its worker is lost, or its whole machine: it waits again, or has failed where this was the last try."""
        if piece.tries < _most_tries(with_node=with_node):
            self.begun.remove(piece)
            self.pieces.append(piece)
        else:
            self.settle_piece(piece, None, TrialFailed(f"{failure} (tried {piece.tries} times)"), seconds)

    def begin_session(self) -> Session:
        """All that can be timed in turns now; something must wait for it."""
        plain = [one for one in self.timings if not one.tries and one.together().until_percent is None]
        taken = plain or self.timings[:1]
        self.timings = [one for one in self.timings if one not in taken]
        session = Session(requests=[request for one in taken for request in one.requests], tries=taken[0].tries + 1)
        session.announce("latency")
        return session

    def settle_session(self, session: Session, answers: Sequence[Any], seconds: float) -> None:
        """Hands the latencies, one a model, to whoever asked for them; it took so long."""
        left = list(answers)
        for task, timing in session.requests:
            task.seconds += seconds / len(session.requests)
            task.announce("")
            self._advance(task, [left.pop(0) for _ in timing.models])

    def fail_session(
        self,
        session: Session,
        failure: TrialFailed,
        seconds: float,
        *,
        is_lost: bool = False,
        with_node: bool = False,
    ) -> None:
        """One of several models cannot be timed, which is found out by timing each alone; or all of one task's.

        `is_lost` says that it was not the models' fault, as far as is known, but that a worker was lost, or
        `with_node` its whole machine: it is tried again.
        """
        for task, timing in session.requests:
            task.seconds += seconds / len(session.requests)
            if len(session.requests) > 1 or (is_lost and session.tries < _most_tries(with_node=with_node)):
                self.timings.append(Session(requests=[(task, timing)], tries=session.tries if is_lost else 1))
            else:
                task.announce("")
                self._advance(task, failure=failure)

    def _advance(self, task: Task, answer: Any = None, failure: TrialFailed | None = None) -> None:
        """Has a task take its next step."""
        try:
            request = task.steps.send(answer) if failure is None else task.steps.throw(failure)
        except StopIteration as end:
            task.outcome = end.value
            self.done.append(task)
        except TrialFailed as error:
            task.outcome = error
            self.done.append(task)
        else:
            self._take(task, request)

    def _take(self, task: Task, request: Request) -> None:
        """Puts a request where it waits."""
        if isinstance(request, Timing):
            self.timings.append(Session(requests=[(task, request)]))
        elif not request.is_shared:
            self.pieces.append(Piece(work=request, tasks=[task]))
        elif request in self.shared:
            self._advance(task, self.shared[request])
        else:
            same = [piece for piece in (*self.pieces, *self.begun) if piece.work == request]
            if same:
                same[0].tasks.append(task)
            else:
                self.pieces.append(Piece(work=request, tasks=[task]))


def announce(task: Task, stage: str) -> None:
    """Tells a task's observer what is being done to it, and before that, once, that it has begun."""
    if not task.has_begun:
        task.has_begun = True
        task.began()
    task.announce(stage)


def _most_tries(*, with_node: bool) -> int:
    return MOST_WITH_NODES if with_node else MOST_TRIES
