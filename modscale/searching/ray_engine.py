"""An engine of many machines by Ray: an export, a training and a timing are a task each, and land where there is room.

- **Tasks, not actors**: nothing of a search lives anywhere but in the process that searches. A task that is lost with
  its worker, or its machine, is begun once more, by us and not by Ray; what is lost twice has failed.
- Trainings and exports take `num_cpus` of any node. **Timings take `latency_device`**, a resource of nodes that have no
  CPUs for tasks, so that no training lands beside them: `ray start --num-cpus=0 --resources='{"latency_device": 1}'`.
  All of them must be of one processor, which each says of itself.
- An exported file goes from the node that made it to the one that times it, and not by way of the search. The data are
  loaded by each node from the same path, and must be the same.

Only this module knows Ray, which is an extra and is imported by whoever asks for it alone.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import ray

from modscale.errors import InputError, TrialFailed, one_line
from modscale.interrupts import check_stop, keeping_handlers
from modscale.lines import append_line
from modscale.processes import PASSIVE, TICK_S
from modscale.searching import far_tasks
from modscale.searching.agenda import Agenda, Piece, Session
from modscale.searching.bench import Bench
from modscale.searching.engine import Task
from modscale.searching.far_tasks import Answer, FarTimings, Place
from modscale.searching.steps import Work
from modscale.specs.spec import ModelSpec

DEVICE = "latency_device"
"""The resource of nodes that time."""
CONNECT_S = 10.0
"""Seconds in which somebody must listen where a cluster is said to be."""
PATIENCE_S = 30.0
"""Seconds for nodes to join after the connection stands."""
COUNT_S = 5.0
"""Seconds after which it is asked again how many trainings a cluster has room for."""
LOST = (ConnectionError, ray.exceptions.RayError)
"""What Ray raises where the connection is gone; of a task it tells so, too."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Running:
    """A task of Ray's that is under way."""

    of: Piece | Session
    """What it is for."""
    began_s: float


class RayEngine:
    """Evaluates tasks on a Ray cluster; a context manager that is connected to it.

    Raises InputError on entering where there is no such cluster, or no node that may train, or that may time.
    """

    def __init__(
        self,
        address: str,
        place: Place,
        bench: Bench,
        *,
        capacity: int,
        in_advance: tuple[Work, ...] = (),
    ) -> None:
        """`address` is one of Ray's; `bench` has what the devices were before, and where every run is kept."""
        self.address, self.place, self.bench = address, place, bench
        self.most = capacity
        self.agenda = Agenda(in_advance)
        self.running: dict[Any, _Running] = {}
        """By the reference to what tells how it ended."""
        self.exported: dict[Path, tuple[ModelSpec, Any]] = {}
        """The network of each exported file and a reference to its content, by the place where nobody puts it."""
        self.devices = 0
        """Timings that run side by side, one a device."""
        self.slots, self.counted_s = 0, float("-inf")
        """Trainings that run side by side, and when that was counted."""

    def __enter__(self) -> RayEngine:
        _connect(self.address, {**PASSIVE, "OMP_NUM_THREADS": str(self.place.cores)})
        try:
            self.devices = self._find_nodes()
            self.do, self.export, self.time, check = (
                ray.remote(max_retries=0)(function)
                for function in (far_tasks.work, far_tasks.export, far_tasks.time_contents, far_tasks.check_devices)
            )
            facts = self._opened(ray.get(check.options(num_cpus=0, resources={DEVICE: 1}).remote(self.place)))
            self._know(facts)
        except LOST as error:
            ray.shutdown()
            raise self._gone(error) from error
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ray ends what is under way with the connection. Were it cancelled before, a task that ends in that very moment
        # would take this process with it (a check of Ray's own fails, seen with 2.60).
        self.running = {}
        ray.shutdown()

    @property
    def capacity(self) -> int:
        """None while finished ones wait to be taken: those that are drawn meanwhile may take a while."""
        return 0 if self.agenda.done else self.most

    def submit(self, task: Task) -> None:
        self.agenda.submit(task)
        self._turn(0)  # it may take a while until the next one is drawn, and nobody should wait for that

    def wait(self) -> list[Task]:
        while not self.agenda.done:
            check_stop()
            self._turn(TICK_S)
        return self.agenda.take_done()

    def _turn(self, patience_s: float) -> None:
        """Hands Ray what there is room for, and hears what has ended, within so many seconds at least one."""
        try:
            self._dispatch()
            if self.running:
                ready, _ = ray.wait(list(self.running), num_returns=1, timeout=patience_s)
                for reference in ready:
                    self._hear(reference)
        except LOST as error:
            check_stop()
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> InputError:
        rule = f"the Ray cluster answers no more; the same command goes on from here: {_reason(error)}"
        return InputError(rule, place="--workers", value=self.address)

    def _find_nodes(self) -> int:
        """How many timings may run side by side. Raises InputError where nothing may train, or be timed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            devices = sum(int(node.get(DEVICE, 0)) for node in nodes)
            trains = any(node.get("CPU", 0) >= self.place.cores for node in nodes)
            if (trains and devices) or time.monotonic() > deadline:
                break
            check_stop()
            time.sleep(TICK_S)
        if not devices:
            start = f"ray start --num-cpus=0 --resources='{{\"{DEVICE}\": 1}}' ..."
            raise InputError(f"no node times: start one by {start}", place="--workers", value=self.address)
        if not trains:
            rule = f"no node has {self.place.cores} CPUs for a training"
            raise InputError(rule, place="--workers", value=self.address)
        if any(node.get(DEVICE, 0) and node.get("CPU", 0) for node in nodes):
            rule = f"a node that times ({DEVICE}) has CPUs, and trainings would run beside it: give it --num-cpus=0"
            raise InputError(rule, place="--workers", value=self.address)
        return devices

    def _room(self) -> int:
        """Pieces of work that Ray may have: those that find room there, and a few that wait, lest a worker does.

        What is more waits here, where the oldest comes first: in the end the whole window waits for that.
        """
        now = time.monotonic()
        if now >= self.counted_s + COUNT_S:
            self.slots, self.counted_s = _slots(self.place.cores), now
        return self.slots + max(1, self.slots // 10)

    def _dispatch(self) -> None:
        """Hands Ray the work that it has room for, and as many timings as there are devices."""
        while self.agenda.pieces and len(self.running) - self._timing() < self._room():
            piece = self.agenda.begin_piece()
            if piece.work.function == "export":
                ended = self._export(*piece.work.arguments)
            else:
                ended = self.do.options(num_cpus=self.place.cores).remote(
                    self.place, piece.work.function, piece.work.arguments
                )
            self.running[ended] = _Running(of=piece, began_s=time.perf_counter())
        while self.agenda.timings and self._timing() < self.devices:
            session = self.agenda.begin_session()
            timing = session.together()
            shapes: list[tuple[int, ...] | None] = []
            contents = []
            for model in timing.models:
                if isinstance(model, Path):
                    shapes.append(None)
                    contents.append(self.exported[model][1])
                else:
                    shapes.append(model.shape)
                    contents.append(ray.put(model.file.read_bytes()))
            facts = {name: device.facts for name, device in self.bench.devices.items()}
            ended = self.time.options(num_cpus=0, resources={DEVICE: 1}).remote(
                self.place, list(timing.told), shapes, timing.until_percent, facts, *contents
            )
            self.running[ended] = _Running(of=session, began_s=time.perf_counter())

    def _export(self, spec: ModelSpec, file: Path) -> Any:
        """Has a network exported to where a node keeps it; a reference to how that ended."""
        ended, content = self.export.options(num_cpus=self.place.cores, num_returns=2).remote(self.place, spec)
        self.exported[file] = (spec, content)
        return ended

    def _timing(self) -> int:
        return sum(isinstance(one.of, Session) for one in self.running.values())

    def _hear(self, reference: Any) -> None:
        """Takes what came of a task."""
        one = self.running.pop(reference)
        seconds = time.perf_counter() - one.began_s
        try:
            value = self._opened(ray.get(reference))
        except ray.exceptions.RayError as error:
            check_stop()  # what was stopped has not failed
            self._lose(one.of, _lost(error), seconds)
        except TrialFailed as failure:
            if isinstance(one.of, Piece):
                self.agenda.settle_piece(one.of, None, failure, seconds)
            else:
                self.agenda.fail_session(one.of, failure, seconds)
        else:
            if isinstance(one.of, Piece):
                self.agenda.settle_piece(one.of, value, None, seconds)
            else:
                self._keep(one.of, value, seconds)

    def _lose(self, of: Piece | Session, failure: TrialFailed, seconds: float) -> None:
        """A task was lost with its worker or its node; so may be files that were exported there."""
        if isinstance(of, Piece):
            self.agenda.lose_piece(of, failure, seconds)
        else:
            for model in of.together().models:
                if isinstance(model, Path):
                    self._export(self.exported[model][0], model)
            self.agenda.fail_session(of, failure, seconds, is_lost=True)

    def _keep(self, session: Session, timings: FarTimings, seconds: float) -> None:
        """Writes down every run, as timings of this machine are, and hands on the figures."""
        for note in timings.notes:
            self.bench.note(note)
        self._know(timings.facts)
        if self.bench.timings is not None:
            for line in timings.lines:
                append_line(self.bench.timings, line)
        for model in session.together().models:
            if isinstance(model, Path):
                self.exported.pop(model, None)
        self.agenda.settle_session(session, timings.results, seconds)

    def _know(self, facts: dict[str, dict[str, Any]]) -> None:
        """What the devices have said of themselves; raises TargetError where one is not what it was."""
        from modscale.latency.device import check_same

        for name, device in self.bench.devices.items():
            check_same(name or DEVICE, device.facts, facts[name])
            device.facts = {**facts[name], **device.facts}

    def _opened(self, answer: Answer) -> Any:
        """What a task returned. Raises what it raised."""
        if answer.error is not None:
            raise answer.error
        return answer.value


def count_slots(address: str, cores: int) -> int:
    """Trainings of so many cores that a cluster has room for side by side, as it is now.

    Raises InputError where there is no such cluster, or no room in it.
    """
    _connect(address, {})
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (slots := _slots(cores)) and time.monotonic() < deadline:
            check_stop()
            time.sleep(TICK_S)
    finally:
        ray.shutdown()
    if not slots:
        raise InputError(f"no node has {cores} CPUs for a training", place="--workers", value=address)
    return slots


def _slots(cores: int) -> int:
    return sum(int(node["Resources"].get("CPU", 0) // cores) for node in ray.nodes() if node["Alive"])


def _connect(address: str, environment: dict[str, str]) -> None:
    """Makes this process part of a cluster, or its client; tasks have these environment variables.

    Raises InputError where there is none.
    """
    require_listener(address)
    try:
        with keeping_handlers():  # Ray's own would end the search with no report
            ray.init(address=address, runtime_env={"env_vars": environment}, log_to_driver=False, logging_level="ERROR")
    except (*LOST, ValueError, RuntimeError, TimeoutError, ImportError) as error:
        rule = f"no Ray cluster answers there: {_reason(error)}"
        raise InputError(rule, place="--workers", value=address) from error
    except SystemExit as stop:  # by Ray's own, while it connects
        raise KeyboardInterrupt from stop


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0])[:200] if lines else type(error).__name__


def require_listener(address: str) -> None:
    """Raises InputError where nobody listens at `[ray://]HOST:PORT`: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # `auto`
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"no Ray cluster answers there: {reason}", place="--workers", value=address) from error


def _lost(error: Exception) -> TrialFailed:
    """Why a task has no answer, in a line."""
    text = " ".join(str(error).split())
    return TrialFailed(f"the worker was lost: {type(error).__name__}: {text[:200]}")
