"""An engine of several processes on this machine, each of which exports and trains one candidate at a time.

**Nothing is timed while anything trains.** Models that are to be timed wait until a worker would otherwise have nothing
to do; then all workers stand still, wherever they are (`Child.pause`), all models that wait are timed in turns, and the
workers go on. So candidates are timed beside each other, which is fairer to them and takes less time, and no core waits
for a training to end. Only where every device is reached by a command the workers go on meanwhile.

A worker that is lost, killed for want of memory say, is replaced, and what it was doing is begun once more by another.
What loses two workers has failed. There are no threads here: one process listens to all workers and times.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from modscale.errors import InputError, TrialFailed, WorkerFault
from modscale.interrupts import check_stop
from modscale.processes import TICK_S, Child
from modscale.searching.agenda import Agenda, Piece
from modscale.searching.bench import failing
from modscale.searching.engine import Announce, Task
from modscale.searching.steps import Timing, Work

MOST_LOST = 3
"""Workers that may be lost, one after the other, before any has begun to work."""

TimeModels = Callable[[Timing, Announce], Sequence[Any]]
"""Times models in turns; gives the answer for each. Raises TrialFailed where one of them cannot be timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Staff:
    """Where the workers of a pool come from."""

    start: Callable[[], Child]
    """Makes a process without waiting for it."""
    first: tuple[str, ...] = ()
    """What it is asked before it works."""
    check: Callable[[Any], None] = lambda answer: None
    """Is given what it answered to the first of these. Raises InputError where such a worker is no use."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Worker:
    """A process of the pool."""

    child: Child
    to_answer: list[str]
    """What it is still to be asked before it works, after being made, which is the first it answers."""
    piece: Piece | None = None
    """What it works on."""
    began_s: float = 0.0
    """When it began with that, by the clock of the workers."""
    is_ready: bool = False
    """Whether it has answered all that comes before work."""

    def is_idle(self) -> bool:
        """Whether it could begin to work on something."""
        return self.is_ready and self.piece is None


class Pool:
    """Evaluates tasks by several workers; a context manager that ends them.

    The workers are made by the thread that enters, which must last as long as the pool.
    """

    def __init__(
        self,
        staff: Staff,
        time_models: TimeModels,
        *,
        workers: int,
        capacity: int,
        ready: Sequence[Child] = (),
        asked: Sequence[Child] = (),
        in_advance: Sequence[Work] = (),
        stands_still: bool = True,
    ) -> None:
        """For so many workers, and tasks at a time; `ready` are workers that have answered all that comes before work,
        `asked` such as were asked the first of it and have not answered.

        What is worked on `in_advance` is shared by all tasks. `stands_still` says whether no worker may work while
        `time_models` does.
        """
        self.staff, self.time_models = staff, time_models
        self.count, self.capacity, self.stands_still = workers, capacity, stands_still
        self.workers = [_Worker(child=child, to_answer=[], is_ready=True) for child in ready]
        self.workers += [_Worker(child=child, to_answer=list(staff.first[1:])) for child in asked]
        self.agenda = Agenda(in_advance)
        self.lost = 0
        """Workers lost one after the other before they were ready."""
        self.still_s = 0.0
        """Seconds for which the workers have stood still."""

    def __enter__(self) -> Pool:
        while len(self.workers) < self.count:
            self._hire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        workers, self.workers = self.workers, []
        for worker in workers:  # all of them at once, lest a second Ctrl-C come in between
            worker.child.kill()
        for worker in workers:
            worker.child.stop()

    def submit(self, task: Task) -> None:
        self.agenda.submit(task)
        self._dispatch()  # a worker begins with it while the next candidate is drawn

    def end(self) -> None:
        self.agenda.is_ending = True

    def wait(self) -> list[Task]:
        while not self.agenda.done:
            check_stop()
            self._dispatch()
            has_time = not self.agenda.pieces and any(worker.is_idle() for worker in self.workers)
            if self.agenda.timings and has_time:
                self._time()
            else:
                self._listen()
        return self.agenda.take_done()

    def _dispatch(self) -> None:
        """Gives every worker that has nothing to do the next piece of work."""
        for worker in self.workers:
            if self.agenda.pieces and worker.is_idle():
                worker.piece, worker.began_s = self.agenda.begin_piece(), self._clock()
                worker.child.begin(worker.piece.work.function, *worker.piece.work.arguments)

    def _listen(self) -> None:
        """Hears what the workers have to say, for `TICK_S` at most until one of them has something."""
        listening = {worker.child.answers: worker for worker in self.workers if not worker.is_idle()}
        with selectors.DefaultSelector() as selector:
            for handle in listening:
                selector.register(handle, selectors.EVENT_READ)
            ready = [listening[key.fd] for key, _ in selector.select(TICK_S)]
        for worker in ready:
            self._hear(worker)

    def _hear(self, worker: _Worker) -> None:
        """Takes the answer of a worker."""
        piece, seconds = worker.piece, self._clock() - worker.began_s
        try:
            with failing("" if piece is None else piece.work.function):
                answer = worker.child.finish()
        except TrialFailed as failure:
            if isinstance(failure.__cause__, WorkerFault):
                self._replace(worker, failure, seconds)
            elif piece is None:
                raise InputError(f"a worker cannot begin: {failure}") from failure
            else:
                worker.piece = None
                self.agenda.settle_piece(piece, None, failure, seconds)
            return
        if piece is not None:
            worker.piece = None
            self.agenda.settle_piece(piece, answer, None, seconds)
        else:
            self._prepare(worker, answer)

    def _prepare(self, worker: _Worker, answer: Any) -> None:
        """Asks a worker the next of what comes before work; `answer` is to the one before."""
        if len(self.staff.first) - len(worker.to_answer) == 1:
            self.staff.check(answer)
        if worker.to_answer:
            worker.child.begin(worker.to_answer.pop(0))
        else:
            worker.is_ready, self.lost = True, 0

    def _replace(self, worker: _Worker, failure: TrialFailed, seconds: float) -> None:
        """Puts another worker in the place of one that is lost; what it was doing is begun again, or has failed."""
        check_stop()  # what was stopped has not failed
        worker.child.stop()
        self.workers.remove(worker)
        if not worker.is_ready:
            self.lost += 1
            if self.lost >= MOST_LOST:
                raise InputError(f"no worker begins to work: {failure.__cause__}") from failure
        self._hire()
        if worker.piece is not None:
            self.agenda.lose_piece(worker.piece, failure, seconds)

    def _time(self) -> None:
        """Times what waits to be timed, all in turns, while the workers stand still."""
        session = self.agenda.begin_session()
        began = self.now()
        failure = None
        if self.stands_still:
            for worker in self.workers:
                worker.child.pause()
        try:
            answers = self.time_models(session.together(), session.announce)
        except TrialFailed as error:
            check_stop()  # what was stopped has not failed
            failure = error
        finally:
            if self.stands_still:
                for worker in self.workers:
                    worker.child.resume()
        spent = self.now() - began
        self.still_s += spent if self.stands_still else 0.0
        if failure is None:
            self.agenda.settle_session(session, answers, spent)
        else:
            self.agenda.fail_session(session, failure, spent)

    def _hire(self) -> None:
        self.workers.append(_Worker(child=self.staff.start(), to_answer=list(self.staff.first)))

    def now(self) -> float:
        """Seconds of the clock by which it goes."""
        return time.perf_counter()

    def _clock(self) -> float:
        """Seconds of a clock that stands still with the workers."""
        return self.now() - self.still_s
