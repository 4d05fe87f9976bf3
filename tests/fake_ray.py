"""A stand-in for Ray that runs nothing: what becomes of its tasks is up to the test."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any


class RayError(Exception):
    """As `ray.exceptions.RayError`."""


class NodeDiedError(RayError):
    """As `ray.exceptions.NodeDiedError`."""


class RayTaskError(RayError):
    """As `ray.exceptions.RayTaskError`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::work()\n  and a traceback\n{cause}")
        self.cause = cause


class FakeRay(ModuleType):
    """The functions of Ray that modscale calls."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=RayError, NodeDiedError=NodeDiedError, RayTaskError=RayTaskError)
        self.cloudpickle = SimpleNamespace(dumps=lambda what: what, register_pickle_by_value=lambda module: None)
        self.there = list(nodes)
        """What each node has."""
        self.begun: list[tuple[int, Any, tuple[Any, ...]]] = []
        """Each task's reference, function and arguments, in order."""
        self.came: dict[int, Any] = {}
        """What came of a reference; an exception is raised."""
        self.cancelled: list[int] = []
        """References of tasks that were to end."""
        self.refused: list[Exception] = []
        """What the next connections are refused with."""
        self.connections = 0
        self._references = itertools.count()

    def init(self, **settings: Any) -> None:
        if self.refused:
            raise self.refused.pop(0)
        self.connections += 1

    def shutdown(self) -> None: ...

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self.there]

    def remote(self, *, max_retries: int) -> Any:
        return lambda function: SimpleNamespace(options=lambda **options: SimpleNamespace(
            remote=lambda *arguments: self._begin(function, arguments, options["num_returns"])
        ))  # fmt: skip

    def _begin(self, function: Any, arguments: tuple[Any, ...], count: int) -> Any:
        references = [next(self._references) for _ in range(count)]
        _code, _version, (asked, first), *contents = arguments  # of `far_entry.call`
        assert function.__name__ == "call"
        self.begun.append((references[0], asked, (*first, *contents)))
        return references if count > 1 else references[0]

    def wait(self, references: Sequence[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        ready = [one for one in references if one in self.came][:num_returns]
        return ready, [one for one in references if one not in ready]

    def get(self, reference: int) -> Any:
        if isinstance(came := self.came[reference], Exception):
            raise came
        return came

    def cancel(self, reference: int, *, force: bool) -> None:
        self.cancelled.append(reference)

    def put(self, content: bytes) -> int:
        return next(self._references)
