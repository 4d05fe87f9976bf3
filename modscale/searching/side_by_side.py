"""How long several workers of this machine take for some candidates: what the pool does (`pool.py`), without doing it.

The agenda is the pool's own, so that what is begun next is what a search would begin; the clock is moved on by hand.
A worker that has nothing to do has what waits timed while all stand still. Trial n is begun once the trials 0 to n - W
are finished, as the loop has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modscale.searching.agenda import Agenda, Piece
from modscale.searching.engine import Task
from modscale.searching.steps import Steps, Timing, Work
from modscale.specs.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a network asks for."""

    spec: ModelSpec
    """It is timed as well."""
    export_s: float
    training_s: float
    """0: it is not trained."""


@dataclass(kw_only=True, slots=True)
class _Worker:
    free_s: float
    piece: Piece | None = None


def seconds_of(
    asked: Sequence[Asked],
    *,
    workers: int,
    window: int,
    anchor_s: float,
    timing_s: Callable[[Sequence[ModelSpec]], float],
    ready_s: float = 0.0,
    stands_still: bool = True,
) -> float:
    """Until the last of them is finished; `timing_s` gives what networks take in turns.

    All workers but one are ready after `ready_s`. Unless all `stands_still` while models are timed, trainings go on.
    """
    anchor = Work(stage="anchor", function="train_anchor", is_shared=True)
    agenda = Agenda((anchor,) if anchor_s else ())
    team = [_Worker(free_s=0.0 if i == 0 else ready_s) for i in range(workers)]
    now, begun, finished = 0.0, 0, set[int]()

    def steps(place: int) -> Steps[int]:
        yield Work(stage="export", function="export", arguments=(place,))
        yield Timing(models=(Path(),), told=({"place": place},))
        if anchor_s:
            yield anchor
        if asked[place].training_s:
            yield Work(stage="training", function="train", arguments=(place,))
        return place

    def length_s(piece: Piece) -> float:
        if piece.work.is_shared:
            return anchor_s
        one = asked[piece.work.arguments[0]]
        return one.export_s if piece.work.stage == "export" else one.training_s

    while True:
        finished |= {task.outcome for task in agenda.take_done()}
        if len(finished) == len(asked):
            return now
        settled = next((place for place in range(len(asked)) if place not in finished), len(asked))
        while begun < len(asked) and begun - settled < window:
            agenda.submit(Task(key=begun, label="", steps=steps(begun)))
            begun += 1
        for worker in team:
            if worker.piece is None and worker.free_s <= now and agenda.pieces:
                worker.piece = agenda.begin_piece()
                worker.free_s = now + length_s(worker.piece)
        if agenda.timings and not agenda.pieces and any(one.piece is None and one.free_s <= now for one in team):
            session = agenda.begin_session()
            spent = timing_s([asked[told["place"]].spec for told in session.together().told])
            if stands_still:
                for worker in team:
                    worker.free_s += spent if worker.free_s > now else 0.0
            now += spent
            agenda.settle_session(session, [0.0] * len(session.requests), spent)
            continue
        if agenda.done:
            continue
        ends = [worker.free_s for worker in team if worker.piece is not None or worker.free_s > now]
        now = max(now, min(ends))
        for worker in team:
            if worker.piece is not None and worker.free_s <= now:
                piece, worker.piece = worker.piece, None
                agenda.settle_piece(piece, None, None, 0.0)
