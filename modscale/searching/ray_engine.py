"""An engine of many machines by Ray: an export, a training and a timing are a task each, and land where there is room.

- **Tasks, not actors**: nothing of a search lives anywhere but in the process that searches. A task that is lost with
  its worker is begun once more, by us and not by Ray; what is lost twice has failed, with its reason. One that is lost
  with its machine is begun up to four times: that says less of the candidate. A training that takes far longer than
  others of its size is begun once more beside it (`copies.py`).
- Trainings and exports take `num_cpus` of any node. **Timings take `latency_device`**, a resource of nodes that have no
  CPUs for tasks, so that no training lands beside them: `ray start --num-cpus=0 --resources='{"latency_device": 1}'`.
  All of them must be of one processor, which each says of itself.
- An exported file goes from the node that made it to the one that times it, and not by way of the search. The data are
  loaded by each node from the same path, and must be the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from modscale.errors import InputError, TrialFailed, WorkerFault, one_line
from modscale.interrupts import check_stop
from modscale.lines import append_line
from modscale.processes import PASSIVE, TICK_S
from modscale.searching import far_tasks, ray_cluster
from modscale.searching.agenda import Agenda, Piece, Session
from modscale.searching.bench import Bench
from modscale.searching.bounded import NoAnswer
from modscale.searching.copies import Paces
from modscale.searching.engine import Task
from modscale.searching.far_tasks import Answer, FarTimings, Place
from modscale.searching.ray_cluster import LOST, PATIENCE_S, NodeLost, TaskLost
from modscale.searching.steps import Work
from modscale.searching.worker import Trained
from modscale.specs.spec import ModelSpec

DEVICE = "latency_device"
"""The resource of nodes that time."""
COUNT_S = 5.0
"""Seconds after which it is asked again what nodes there are, and how many trainings they have room for."""
GONE_S = 120.0
"""Seconds without a node that could do what is under way, after which the cluster counts as gone."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Running:
    """A task of Ray's that is under way."""

    of: Piece | Session
    """What it is for; a training may have two of them."""
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
        self.hopeless = 0
        """How often it was asked for, one time after the other, and there was no node for what is under way."""
        self.paces = Paces()

    def __enter__(self) -> RayEngine:
        ray_cluster.connect(self.address, {**PASSIVE, "OMP_NUM_THREADS": str(self.place.cores)})
        try:
            self.devices = self._find_nodes()
            checked = self._begin_timing(far_tasks.check_devices)
            while not ray_cluster.wait([checked], TICK_S):
                self._look(needs_training=False, needs_timing=True)
            self._know(self._opened(ray_cluster.get(checked)))
        except LOST as error:
            ray_cluster.leave()
            raise ray_cluster.gone(self.address, error) from error
        except WorkerFault as error:
            ray_cluster.leave()
            raise InputError(f"a device cannot be used: {error}", place="--workers", value=self.address) from error
        except BaseException:
            ray_cluster.leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running = {}
        ray_cluster.leave()

    @property
    def capacity(self) -> int:
        """None while finished ones wait to be taken: those that are drawn meanwhile may take a while."""
        return 0 if self.agenda.done else self.most

    def submit(self, task: Task) -> None:
        self.agenda.submit(task)
        self._turn(0)  # it may take a while until the next one is drawn, and nobody should wait for that

    def end(self) -> None:
        self.agenda.is_ending = True

    def wait(self) -> list[Task]:
        while not self.agenda.done:
            check_stop()
            self._turn(TICK_S)
        return self.agenda.take_done()

    def _turn(self, patience_s: float) -> None:
        """Hands Ray what there is room for, and hears what has ended, within so many seconds at least one."""
        try:
            timing = self._timing()
            trains = bool(self.agenda.pieces) or len(self.running) > timing
            self._look(needs_training=trains, needs_timing=bool(self.agenda.timings) or timing > 0)
            self._dispatch()
            if self.running:
                for reference in ray_cluster.wait(list(self.running), patience_s):
                    self._hear(reference)
        except LOST as error:
            check_stop()
            raise ray_cluster.gone(self.address, error) from error

    def _find_nodes(self) -> int:
        """How many timings may run side by side. Raises InputError where nothing may train, or be timed."""

        def trains(nodes: Sequence[Mapping[str, float]]) -> bool:
            return any(node.get("CPU", 0) >= self.place.cores for node in nodes)

        def times(nodes: Sequence[Mapping[str, float]]) -> int:
            return sum(int(node.get(DEVICE, 0)) for node in nodes)

        nodes = ray_cluster.look_until(lambda found: trains(found) and times(found) > 0, ray_cluster.nodes, PATIENCE_S)
        if not times(nodes):
            start = f"ray start --num-cpus=0 --resources='{{\"{DEVICE}\": 1}}' ..."
            raise InputError(f"no node times: start one by {start}", place="--workers", value=self.address)
        if not trains(nodes):
            rule = f"no node has {self.place.cores} CPUs for a training"
            raise InputError(rule, place="--workers", value=self.address)
        if any(node.get(DEVICE, 0) and node.get("CPU", 0) for node in nodes):
            rule = f"a node that times ({DEVICE}) has CPUs, and trainings would run beside it: give it --num-cpus=0"
            raise InputError(rule, place="--workers", value=self.address)
        return times(nodes)

    def _look(self, *, needs_training: bool, needs_timing: bool) -> None:
        """Counts, now and then, what there is room for. Raises NoAnswer where long there was nothing of what is needed.

        A client is told of nodes that are gone by nothing else: what it waits for is then waited for by Ray, too.
        """
        now = time.monotonic()
        if now < self.counted_s + COUNT_S:
            return
        nodes = ray_cluster.nodes()
        self.slots, self.counted_s = ray_cluster.slots_of(nodes, self.place.cores), now
        times = any(node.get(DEVICE, 0) for node in nodes)
        if (self.slots or not needs_training) and (times or not needs_timing):
            self.hopeless = 0
            return
        self.hopeless += 1
        if self.hopeless * COUNT_S >= GONE_S:
            raise NoAnswer(f"for {GONE_S:.0f} s no node has been there that {'times' if self.slots else 'trains'}")

    def _room(self) -> int:
        """Pieces of work that Ray may have: those that find room there, and a few that wait, lest a worker does.

        What is more waits here, where the oldest comes first: in the end the whole window waits for that.
        """
        return self.slots + max(1, self.slots // 10)

    def _dispatch(self) -> None:
        """Hands Ray the work that it has room for, and as many timings as there are devices."""
        self._copy()
        while self.agenda.pieces and len(self.running) - self._timing() < self._room():
            piece = self.agenda.begin_piece()
            if piece.work.function == "export":
                ended = self._export(*piece.work.arguments)
            else:
                ended = self._begin_work(far_tasks.work, piece.work.function, piece.work.arguments)
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
                    contents.append(ray_cluster.put(model.file.read_bytes()))
            facts = {name: device.facts for name, device in self.bench.devices.items()}
            asked = replace(timing, models=())
            ended = self._begin_timing(far_tasks.time_contents, asked, shapes, facts, contents=contents)
            self.running[ended] = _Running(of=session, began_s=time.perf_counter())

    def _copy(self) -> None:
        """Has trainings that are late begun once more, the oldest first: all that wait here wait for them, too."""
        now, spare = time.perf_counter(), self._room() - (len(self.running) - self._timing())
        if spare <= 0 or self.slots < 2:
            return
        trainers = Counter(one.of for one in self.running.values())
        late = [
            one.of
            for one in self.running.values()
            if isinstance(one.of, Piece) and one.of.work.function == "train" and trainers[one.of] == 1
            if self.paces.is_late(one.of.size, now - one.began_s)
        ]
        for piece in sorted(late, key=lambda one: one.first)[:spare]:
            ended = self._begin_work(far_tasks.work, piece.work.function, piece.work.arguments)
            self.running[ended] = _Running(of=piece, began_s=now)

    def _export(self, spec: ModelSpec, file: Path) -> Any:
        """Has a network exported to where a node keeps it; a reference to how that ended."""
        ended, content = self._begin_work(far_tasks.export, spec, returns=2)
        self.exported[file] = (spec, content)
        return ended

    def _begin_work(self, function: Callable[..., Any], *arguments: Any, returns: int = 1) -> Any:
        """Has it called on a node that trains; a reference to what it returns, or one to each of its parts."""
        return ray_cluster.begin(function, self.place, *arguments, returns=returns, num_cpus=self.place.cores)

    def _begin_timing(self, function: Callable[..., Any], *arguments: Any, contents: Sequence[Any] = ()) -> Any:
        """The same on a node that times; references to the contents of files come last."""
        return ray_cluster.begin(function, self.place, *arguments, contents=contents, num_cpus=0, resources={DEVICE: 1})

    def _timing(self) -> int:
        return sum(isinstance(one.of, Session) for one in self.running.values())

    def _hear(self, reference: Any) -> None:
        """Takes what came of a task; of a training and its copy, what came first."""
        one = self.running.pop(reference)
        seconds = time.perf_counter() - one.began_s
        others = [other for other, its in self.running.items() if its.of is one.of]
        try:
            value = self._opened(ray_cluster.get(reference))
        except (TaskLost, WorkerFault) as error:
            check_stop()  # what was stopped has not failed
            if not others:
                self._lose(one.of, error, seconds)
            return
        except TrialFailed as failure:
            if isinstance(one.of, Piece):
                self.agenda.settle_piece(one.of, None, failure, seconds)
            else:
                self.agenda.fail_session(one.of, failure, seconds)
        else:
            if isinstance(one.of, Piece):
                if isinstance(value, Trained) and value.stopped is None:
                    self.paces.learn(one.of.size, seconds)
                self.agenda.settle_piece(one.of, value, None, seconds)
            else:
                self._keep(one.of, value, seconds)
        for other in others:
            del self.running[other]
            ray_cluster.end(other)

    def _lose(self, of: Piece | Session, error: Exception, seconds: float) -> None:
        """A task was lost with its worker or its node; so may be files that were exported there."""
        failure = error if isinstance(error, WorkerFault) else _lost(error)
        with_node = isinstance(error, NodeLost)
        if isinstance(of, Piece):
            self.agenda.lose_piece(of, failure, seconds, with_node=with_node)
        else:
            for model in of.together().models:
                if isinstance(model, Path):
                    self._export(self.exported[model][0], model)
            self.agenda.fail_session(of, failure, seconds, is_lost=True, with_node=with_node)

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


def _lost(error: Exception) -> TrialFailed:
    """Why a task has no answer, in a line."""
    return TrialFailed(f"the worker was lost: {type(error).__name__}: {one_line(str(error))[:200]}")
