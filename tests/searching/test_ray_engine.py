"""The engine of many machines, on Ray's own stand-ins for them on the loopback; left out where Ray is not installed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from modscale.api.workers import make_engine
from modscale.errors import InputError
from modscale.latency import summary
from modscale.latency.raw import read_measurements
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.searching.loop import Outcome, run_search
from modscale.searching.measures import Evaluator, time_again
from modscale.searching.study import SearchStudy
from modscale.spaces.tables import build_tables

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Ray's own are its own matter
]
DEVICE = {"latency_device": 1}


def tiny() -> Experiment:
    return parse_experiment({
        "name": "tiny",
        "base": {"resolution": 32, "num_classes": 10},
        "stages": [{"dim": [8, 16, 24], "depth": [1, 2]}, {"dim": [16, 24, 32], "depth": [1, 2]}],
        "proxy": {"resolution": 16, "epochs": 1, "threads": 1, "train_images": 100, "val_images": 40},
        "latency": {"runs": 10, "warmup": 1, "threads": 1, "patience_s": 0, "reference": False},
        "search": {"startup_trials": 2, "references": [], "sampler": "random"},  # which heeds no latency
    })  # fmt: skip


SPACE = """
name: tiny
base: {resolution: 32, num_classes: 10}
stages: [{dim: [8, 16, 24], depth: [1, 2]}, {dim: [16, 24, 32], depth: [1, 2]}]
objectives: {accuracy: maximize, params: minimize}
proxy: {resolution: 16, epochs: 1, threads: 1, train_images: 100, val_images: 40}
latency: {runs: 10, warmup: 1, threads: 1, patience_s: 0, reference: false}
search: {trials: 7, startup_trials: 3, references: [], finals: false}
"""
"""Searched by the surrogate, which goes by nothing that a busy machine would change."""
INTERRUPTIBLE = """
import signal, sys
from modscale.cli.main import main
from modscale.latency import summary
from modscale.searching import ray_engine
summary.PROCESSES = 2
ray_engine.COUNT_S, ray_engine.GONE_S = 1.0, 5.0
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


class Nobody:
    def __init__(self, finished: threading.Event | None = None) -> None:
        self.event = finished
        self.busy, self.most = set[str](), 0

    def started(self, label: str, spec: object) -> None: ...

    def stage(self, name: str, label: str = "") -> None:
        (self.busy.add if name in ("export", "training") else self.busy.discard)(label)
        self.most = max(self.most, len(self.busy))

    def finished(self, label: str, trial: object) -> None:
        if self.event is not None:
            self.event.set()


@pytest.fixture(autouse=True)
def settings_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is gone is missed soon; and gRPC leaves Ray's forks alone, or one server of a client in 44 aborts."""
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")


@contextmanager
def cluster_of(*nodes: dict[str, Any]) -> Iterator[Any]:
    """A cluster on this machine: the first is the head."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **nodes[0]})
    try:
        cluster.others = [cluster.add_node(**node) for node in nodes[1:]]
        yield cluster
    finally:
        cluster.shutdown()


def search(folder: Path, workers: Any, observer: Nobody, *, limit: int = 6) -> tuple[Outcome, list[Any]]:
    experiment = tiny()
    folder.mkdir()
    with (
        Evaluator(
            experiment, "synthetic", timings=folder / "timings.jsonl", checks_devices=isinstance(workers, int)
        ) as evaluator,
        make_engine(evaluator, workers, 4) as engine,
    ):
        study = SearchStudy(experiment, build_tables(experiment.space), seed=0)
        outcome = run_search(
            study, evaluator.steps, observer, engine=engine, window=4, limit=limit,
            trials_file=folder / "trials.jsonl", references=[], references_file=folder / "references.jsonl",
        )  # fmt: skip
        return outcome, list(time_again(engine, [trial.spec for trial in outcome.trials[:2]]))


def test_a_search_outlives_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two that train is lost in the middle: the trials are those of one process, and all runs are kept.

    Of the five candidates under way Ray has at most one more than there is room for; the others wait for it here.
    """
    monkeypatch.setattr(summary, "PROCESSES", 2)
    expected, _ = search(tmp_path / "here", 1, Nobody())
    begun = threading.Event()
    observer = Nobody(begun)
    with cluster_of({"num_cpus": 0, "resources": DEVICE}, {"num_cpus": 1}, {"num_cpus": 1}) as cluster:

        def lose() -> None:
            begun.wait(120)
            time.sleep(0.3)
            cluster.remove_node(cluster.others[0], allow_graceful=False)

        killer = threading.Thread(target=lose)
        killer.start()
        try:
            outcome, again = search(tmp_path / "there", cluster.address, observer)
        finally:
            begun.set()
            killer.join()
        assert what_is_left_ends_with_the_connection(cluster.address)
    assert observer.most <= 3
    scores = ("accuracy", "val_loss", "anchor_loss", "params", "flops")
    assert [(t.number, t.state, t.spec, [t[key] for key in scores]) for t in outcome.trials] == [
        (t.number, t.state, t.spec, [t[key] for key in scores]) for t in expected.trials
    ]
    timed = {model["name"] for one in read_measurements(tmp_path / "there" / "timings.jsonl") for model in one.models}
    assert timed == {trial.spec.name for trial in outcome.trials}
    assert all(one["latency_ms"] > 0 for one in (*again, *(trial.results for trial in outcome.trials)))


def test_a_client_of_a_cluster_elsewhere_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """The whole command by `ray://`, its machine no part of the cluster: the trials of one worker, and the report.

    The first start is stopped by Ctrl-C, the second killed, and the third refused by nobody: no finished trial is lost.
    What then goes on with more trials is told in time that nothing trains any more.
    """
    pytest.importorskip("grpc")
    (tmp_path / "tiny.yaml").write_text(SPACE)
    here, there = tmp_path / "here" / "trials.jsonl", tmp_path / "there" / "trials.jsonl"

    def command(file: Path, *more: str) -> list[str]:
        space = ["search", str(tmp_path / "tiny.yaml"), "--out", str(file.parent)]
        return [sys.executable, "-c", INTERRUPTIBLE, *space, *more]

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = command(there, "--workers", f"ray://127.0.0.1:{port}")
    head = {"num_cpus": 0, "resources": DEVICE, "ray_client_server_port": port}
    with (
        subprocess.Popen(command(here, "--window", "4"), stderr=subprocess.DEVNULL) as by_one,
        cluster_of(head, {"num_cpus": 1}, {"num_cpus": 1}) as cluster,
    ):
        code, told = stop_after(ours, there, 1, lambda process: process.send_signal(signal.SIGINT))
        assert (code, "Traceback" in told, "of 7 trials finished, reported in" in told) == (130, False, True), told
        assert "W is 4: so many candidates" in told  # of two that train, and a fourth of the trials, but at least this
        before, lines = there.read_bytes(), lines_of(there)
        assert stop_after(ours, there, lines + 1, subprocess.Popen.kill)[0] == -signal.SIGKILL
        done = subprocess.run(ours, check=False, capture_output=True, text=True, timeout=600)
        assert (done.returncode, by_one.wait(600)) == (0, 0), done.stderr
        assert there.read_bytes().startswith(before)
        assert [(trial["number"], trial["reason"]) for trial in trials_of(there)] == [(i, None) for i in range(7)]
        keys = ("number", "state", "spec", "params", "flops", "accuracy", "val_loss", "anchor_loss")
        known = [[[trial[key] for key in keys] for trial in trials_of(file)] for file in (here, there)]
        assert known[0] == known[1]
        assert all(trial["latency_ms"] > 0 for trial in trials_of(there))
        assert (there.parent / "report.html").exists()

        def lose(process: subprocess.Popen[str]) -> None:
            for node in cluster.others:
                cluster.remove_node(node, allow_graceful=False)

        code, told = stop_after([*ours, "--trials", "40"], there, 8, lose)
        assert (code, "Traceback" in told, "the Ray cluster answers no more" in told) == (2, False, True), told
        assert lines_of(there) >= 8


def what_is_left_ends_with_the_connection(address: str) -> bool:
    """As Ctrl-C has it, and long before it would by itself."""
    from modscale.searching import ray_cluster

    def endless() -> None:
        time.sleep(3600)

    ray_cluster.connect(address, {})
    try:
        ray_cluster.begin(endless, num_cpus=1)
        has_begun = comes_true(lambda: is_under_way("endless"))
    finally:
        ray_cluster.leave()
    return has_begun and comes_true(lambda: not is_under_way("endless"))


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does within some looks, by no clock."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_under_way(name: str) -> bool:
    """Whether a task of Ray's is, below this process: its process has its name then."""
    parents, names = dict[int, int](), dict[int, bytes]()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(place.name)] = (place / "cmdline").read_bytes()

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    return any(b"ray::" in line and name.encode() in line and is_ours(pid) for pid, line in names.items())


def trials_of(file: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, file.read_text().splitlines()), key=lambda trial: trial["number"])


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def stop_after(
    command: list[str], file: Path, lines: int, stop: Callable[[subprocess.Popen[str]], None]
) -> tuple[int, str]:
    """Starts a command and stops it once the file has so many lines: its exit code, and what it said."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 600
        while lines_of(file) < lines and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        stop(process)
        _, told = process.communicate(timeout=600)
    return process.returncode, told


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({"num_cpus": 1}, "no node times: start one by ray start --num-cpus=0"),
        ({"num_cpus": 1, "resources": DEVICE}, "a node that times (latency_device) has CPUs"),
        ({"num_cpus": 0, "resources": DEVICE}, "no node has 1 CPUs for a training"),
    ],
)
def test_a_cluster_on_which_nothing_can_be_measured_is_told_in_a_line(
    head: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modscale.searching import ray_engine

    monkeypatch.setattr(ray_engine, "PATIENCE_S", 0.0)
    with cluster_of(head) as cluster, pytest.raises(InputError) as caught:
        search(tmp_path / "run", cluster.address, Nobody())
    assert told in str(caught.value)


def test_a_worker_of_other_code_is_told_before_it_is_asked_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older modscale lies first on the workers' path: its functions take other things."""
    from modscale.searching import far_tasks, ray_cluster

    package = tmp_path / "modscale"
    (package / "searching").mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.1.0"')
    (package / "searching" / "__init__.py").touch()
    (package / "searching" / "far_tasks.py").write_text("def check_devices(place): ...")
    monkeypatch.chdir(tmp_path)  # which Ray has the workers look in first
    with cluster_of({"num_cpus": 1}) as cluster:
        ray_cluster.connect(cluster.address, {})
        try:
            with pytest.raises(InputError) as caught:
                ray_cluster.get(ray_cluster.begin(far_tasks.check_devices, "a place", num_cpus=1))
        finally:
            ray_cluster.leave()
    told = rf"--workers: a worker on \S+ has other code: modscale 0\.1\.0 in {package}; all machines need that of the"
    assert re.match(told, str(caught.value)), caught.value


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "ray://127.0.0.1:99999"])
def test_no_cluster_is_told_in_a_line(address: str) -> None:
    """At once, and not after the minutes that Ray tries."""
    from modscale.searching.ray_cluster import require_listener

    require_listener("auto")
    with pytest.raises(InputError, match="--workers: no Ray cluster answers there"):
        require_listener(address)
