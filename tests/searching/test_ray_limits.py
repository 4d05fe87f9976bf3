"""A Ray cluster that goes, or is slow: what the engine makes of it, by a stand-in for Ray."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fake_ray import FakeRay, NodeDiedError, RayError, RayTaskError

from modscale.errors import InputError, WorkerFault
from modscale.searching import bounded
from modscale.searching.bounded import Bounded, NoAnswer
from modscale.searching.copies import Paces
from modscale.searching.engine import Task
from modscale.searching.far_tasks import Answer
from modscale.searching.steps import Steps, Work
from modscale.searching.worker import Trained

TIMES, TRAINS = {"latency_device": 1.0}, {"CPU": 2.0}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    """A cluster with a node that times, and room for two trainings, in place of Ray."""
    import modscale.searching as package

    fake = FakeRay(TIMES, TRAINS)
    fake.came[0] = Answer(value={})  # of the devices, which are asked first
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", fake)
        for name in ("ray_cluster", "ray_engine"):
            patch.delitem(sys.modules, f"modscale.searching.{name}", raising=False)
            patch.delattr(package, name, raising=False)
        yield fake
        for name in ("ray_cluster", "ray_engine"):  # those that know the stand-in
            sys.modules.pop(f"modscale.searching.{name}", None)
            vars(package).pop(name, None)


def engine_of(ray: FakeRay) -> Any:
    from modscale.searching.ray_engine import RayEngine

    bench = SimpleNamespace(devices={}, timings=None, note=lambda text: None)
    return RayEngine("auto", SimpleNamespace(cores=1), bench, capacity=4)


def training(number: int, size: float = 1.0) -> Task:
    def steps() -> Steps[Any]:
        return (yield Work(stage="training", function="train", arguments=(number,)))

    return Task(key=number, label="", steps=steps(), size=size)


def trainings(ray: FakeRay) -> list[tuple[int, int]]:
    """The reference and the number of each training so far, in order."""
    return [(reference, arguments[-1][0]) for reference, _, arguments in ray.begun if "train" in arguments]


class Clock:
    """Seconds that pass when they are told to, for whoever looks at a clock in the engine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from modscale.searching import ray_engine

        self.now = 1000.0
        stand_in = SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.now, sleep=time.sleep)
        monkeypatch.setattr(ray_engine, "time", stand_in)


def test_a_late_training_has_a_copy_before_anything_else(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """After eight of a second for each unit of size: one of size 10 after 20 s. The quicker counts, the other ends.

    Ray has three trainings at a time, of which one waits for a slot.
    """
    clock = Clock(monkeypatch)
    with engine_of(ray) as engine:
        for number in range(8):
            engine.submit(training(number))
            clock.now += 1.0
            ray.came[trainings(ray)[-1][0]] = Answer(value=Trained(results={"accuracy": 0.5}))
            assert [task.key for task in engine.wait()] == [number]
        engine.submit(training(8, size=10.0))
        for number in (9, 10, 11):
            engine.submit(training(number, size=100.0))
        clock.now += 19.0
        engine._turn(0)
        assert [number for _, number in trainings(ray)[8:]] == [8, 9, 10]
        clock.now += 2.0
        engine._turn(0)
        (slow, _), (quick, _), _ = trainings(ray)[8:]  # there is no room
        ray.came[quick] = Answer(value=Trained())
        assert [task.key for task in engine.wait()] == [9]
        engine._turn(0)
        engine._turn(0)
        *_, (copy, copied) = trainings(ray)
        assert (copied, len(trainings(ray))) == (8, 12)
        ray.came[copy] = Answer(value=Trained(results={"accuracy": 0.25}))
        (task,) = engine.wait()
        assert (task.key, task.outcome.results) == (8, {"accuracy": 0.25})
        assert (ray.cancelled, slow in engine.running) == ([slow], False)
        engine._turn(0)
        assert [number for _, number in trainings(ray)[12:]] == [11]


def test_a_copy_that_is_lost_leaves_the_other(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a training that is lost while its copy is under way is not begun once more."""
    clock = Clock(monkeypatch)
    with engine_of(ray) as engine:
        for _ in range(8):
            engine.paces.learn(1.0, 1.0)
        engine.submit(training(0))
        clock.now += 3.0
        engine._turn(0)
        (first, _), (copy, _) = trainings(ray)
        ray.came[first] = RayError("its node is gone")
        engine._turn(0)
        engine._turn(0)
        assert (len(trainings(ray)), list(engine.running), ray.cancelled) == (2, [copy], [])
        ray.came[copy] = Answer(value=Trained())
        assert [task.key for task in engine.wait()] == [0]


@pytest.mark.parametrize(
    ("losses", "most", "reason"),
    [
        ([RayError("its process died")], 2, "the worker was lost: RayError: its process died (tried 2 times)"),
        (
            [NodeDiedError("its node is gone")],
            4,
            "the worker was lost: NodeDiedError: its node is gone (tried 4 times)",
        ),
        ([Answer(error=WorkerFault("train: KeyError: 7"))], 2, "train: KeyError: 7 (tried 2 times)"),
        ([NodeDiedError("gone"), RayError("died")], 2, "the worker was lost: RayError: died (tried 2 times)"),
    ],
)
def test_what_is_lost_is_begun_again(losses: list[Any], most: int, reason: str, ray: FakeRay) -> None:
    """Once where a worker was lost over it, and more often where its whole node was; then it has failed, and why."""
    with engine_of(ray) as engine:
        engine.submit(training(0))
        for i in range(most):
            assert (len(trainings(ray)), engine.agenda.done) == (i + 1, [])
            ray.came[trainings(ray)[-1][0]] = losses[i % len(losses)]
            engine._turn(0)
            engine._turn(0)
        (task,) = engine.wait()
    assert str(task.outcome) == reason


def test_a_worker_that_cannot_begin_ends_the_search_in_a_line(ray: FakeRay) -> None:
    """No candidate fails for that: our package is not there, say. What was lost before it is another's is lost."""
    with engine_of(ray) as engine:
        engine.submit(training(0))
        ray.came[trainings(ray)[-1][0]] = RayTaskError(NodeDiedError("with what it was to be given"))
        engine._turn(0)
        engine._turn(0)
        assert len(trainings(ray)) == 2
        ray.came[trainings(ray)[-1][0]] = RayTaskError(RuntimeError("it failed:\n  a traceback\nNo module named 'b'"))
        rule = r"^--workers: a worker cannot do what it is asked: RuntimeError: No module named 'b'$"
        with pytest.raises(InputError, match=rule):
            engine.wait()


def test_a_worker_of_other_code_ends_the_search_in_a_line(ray: FakeRay) -> None:
    ray.came[0] = RayTaskError(ImportError("a worker on a has other code", name="modscale"))
    with pytest.raises(InputError, match=r"^--workers: a worker on a has other code$"):
        engine_of(ray).__enter__()


def test_what_is_late_is_told_by_size() -> None:
    """Not before eight trainings have ended, and never where no size is known."""
    paces = Paces()
    for i in range(8):
        assert not paces.is_late(1.0, 1e9)
        paces.learn(i + 1.0, 3.0 * (i + 1))
    assert [paces.is_late(10.0, seconds) for seconds in (59.9, 60.1)] == [False, True]
    assert not paces.is_late(0.0, 1e9)


def test_a_cluster_that_answers_no_more_is_told_in_time(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that never returns: one line, and the process is not kept from its end."""
    from modscale.searching import ray_cluster

    monkeypatch.setattr(ray_cluster, "ANSWER_S", 0.2)
    left: list[Callable[[], None]] = []
    monkeypatch.setattr(bounded.atexit, "register", left.append)
    released = threading.Event()
    with engine_of(ray) as engine:
        engine.submit(training(0))
        monkeypatch.setattr(ray, "wait", lambda *arguments, **named: released.wait(60))
        with pytest.raises(InputError, match=r"--workers: the Ray cluster answers no more; .*: no answer within 0.2 s"):
            engine.wait()
    released.set()
    assert left == [bounded._limit_last_steps]


def test_a_cluster_without_nodes_is_told_in_time(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head answers, and waits for nodes that are gone; such as come back in time go on."""
    clock = Clock(monkeypatch)
    with engine_of(ray) as engine:
        engine.submit(training(0))
        for there, looks in (([TIMES], 20), ([TRAINS], 1), ([TIMES], 23)):  # the training goes on, and needs no timing
            ray.there = there
            for _ in range(looks):
                clock.now += 5.0
                engine._turn(0)
        clock.now += 5.0
        with pytest.raises(InputError, match=r"answers no more; .*: for 120 s no node has been there that trains"):
            engine._turn(0)


def test_a_client_that_is_refused_asks_again(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while: another one's trainings are still being ended, say. What more tries do not mend is told at once."""
    from modscale.searching import ray_cluster

    monkeypatch.setattr(ray_cluster, "AGAIN_S", 0.0)
    ray.refused = [ConnectionAbortedError("Starting Ray client server failed."), ConnectionError("no")]
    ray_cluster.connect("auto", {})
    assert (ray.connections, ray.refused) == (1, [])
    ray.refused = [RuntimeError("Version mismatch"), RuntimeError("and more")]
    with pytest.raises(InputError, match="no Ray cluster answers there: Version mismatch"):
        ray_cluster.connect("auto", {})
    assert len(ray.refused) == 1
    monkeypatch.setattr(ray_cluster, "REFUSED_S", -1.0)  # all stood still during the first try
    ray.refused = [ConnectionError(f"From the server:\n  a traceback\n{i}") for i in range(ray_cluster.LEAST_TRIES + 1)]
    with pytest.raises(InputError, match="no Ray cluster answers there: From the server: 2, got"):
        ray_cluster.connect("auto", {})
    assert len(ray.refused) == 1


def test_calls_have_a_thread_of_their_own_and_so_much_time() -> None:
    """What is raised there is raised here; after one that is stuck the next has a thread that is not."""
    ask, stuck = Bounded("calls"), threading.Event()
    assert ask(5.0, threading.get_ident) != threading.get_ident()
    assert ask(5.0, threading.get_ident) == ask(5.0, threading.get_ident)
    with pytest.raises(ZeroDivisionError):
        ask(5.0, divmod, 1, 0)
    with pytest.raises(NoAnswer, match=r"^no answer within 0.1 s$"):
        ask(0.1, stuck.wait)
    assert ask(5.0, divmod, 7, 2) == (3, 1)
    stuck.set()
    bounded.atexit.unregister(bounded._limit_last_steps)
