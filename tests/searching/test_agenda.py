"""In which order an engine begins what is to be done."""

from __future__ import annotations

from typing import Any

from modscale.searching.agenda import Agenda
from modscale.searching.engine import Task
from modscale.searching.steps import Steps, Work


def task(key: int, size: float, stage: str = "training") -> Task:
    def steps() -> Steps[Any]:
        return (yield Work(stage=stage, function=stage, arguments=(key,)))

    return Task(key=key, label="", steps=steps(), size=size)


def test_what_takes_longest_comes_first_at_the_end() -> None:
    """Until then what came first; what leads to a timing before either, and what all need before anything."""
    agenda = Agenda([Work(stage="anchor", function="anchor", is_shared=True)])
    for key, size in enumerate((1.0, 2.0, 9.0, 5.0, 7.0)):
        agenda.submit(task(key, size))
    agenda.submit(task(5, 1.0, "export"))
    taken = [agenda.begin_piece().work for _ in range(3)]
    agenda.is_ending = True
    taken += [agenda.begin_piece().work for _ in range(4)]
    assert [(work.stage, *work.arguments) for work in taken] == [
        ("anchor",), ("export", 5), ("training", 0), ("training", 2), ("training", 4), ("training", 3), ("training", 1)
    ]  # fmt: skip
