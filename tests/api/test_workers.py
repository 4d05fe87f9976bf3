"""What `--workers` means, and what of a run follows from it."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from modscale.api import workers
from modscale.api.workers import make_engine, parse_workers, resolve
from modscale.errors import InputError
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.searching.measures import Evaluator

SPACE = parse_experiment({"stages": [{"dim": [16, 24], "depth": 1}]})


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cores", lambda: 8)


def resolved(experiment: Experiment, begun: Experiment | None, text: str) -> tuple[int | None, int | None]:
    """Window and threads of a training."""
    found = resolve(experiment, begun, parse_workers(text))
    return found.search.window, found.proxy.threads


def test_workers_are_a_number_or_a_cluster() -> None:
    """Ray's own port where none is given; `ray` is the cluster of this machine."""
    assert [parse_workers(text) for text in ("1", "16", "ray", "ray://head", "ray://10.0.0.1:6001")] == [
        1, 16, "auto", "ray://head:10001", "ray://10.0.0.1:6001",
    ]  # fmt: skip
    for text in ("ray:", "ray://", "ray://a b", "ray://h:123456", "http://head", "٣", "", "257"):
        with pytest.raises(InputError, match="--workers: must be a number of workers"):
            parse_workers(text)


def test_window_and_threads_follow_from_the_workers_unless_they_are_stated() -> None:
    """One worker has all cores and draws by everything; several share the cores, two candidates ahead for each."""
    assert [resolved(SPACE, None, text) for text in ("1", "2", "4", "16")] == [(1, 8), (4, 4), (8, 2), (32, 1)]
    stated = replace(SPACE, search=replace(SPACE.search, window=5), proxy=replace(SPACE.proxy, threads=3))
    assert [resolved(stated, None, text) for text in ("1", "4", "ray")] == [(5, 3)] * 3


@pytest.mark.parametrize(
    ("slots", "trials", "window"), [(2, 100, 10), (100, 2400, 500), (100, 2000, 500), (100, 200, 50), (100, 6, 4)]
)
def test_a_cluster_is_asked_how_many_it_trains(
    slots: int, trials: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five candidates ahead for each, a fourth of the trials at most; nobody is asked where that is known."""
    asked: list[tuple[str, int]] = []
    cluster = SimpleNamespace(count_slots=lambda address, cores: asked.append((address, cores)) or slots)
    engine = SimpleNamespace(ray_cluster=cluster)
    monkeypatch.setattr(workers, "import_ray_engine", lambda address: engine)
    experiment = replace(SPACE, search=replace(SPACE.search, trials=trials), proxy=replace(SPACE.proxy, threads=3))
    assert resolved(experiment, None, "ray://head") == (window, 3)
    begun = resolve(experiment, None, 2)
    assert resolved(experiment, begun, "ray") == (4, 3)
    assert asked == [("ray://head:10001", 3)]


def test_a_run_goes_on_with_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever workers it goes on with, and on however many cores; one of a version without a window had none ahead."""
    begun = resolve(SPACE, None, 2)
    monkeypatch.setattr(workers, "available_cores", lambda: 2)
    assert [resolved(SPACE, begun, text) for text in ("1", "4", "ray")] == [(4, 4)] * 3
    old = replace(begun, search=replace(begun.search, window=None))
    assert resolved(SPACE, old, "4") == (1, 4)


def test_without_ray_its_cluster_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("ray_engine", "ray_cluster"):
        monkeypatch.delitem(sys.modules, f"modscale.searching.{name}", raising=False)
    evaluator = Evaluator(SPACE, "synthetic")
    evaluator.bench.summary = SimpleNamespace()  # type: ignore[assignment]  # nobody looks at it
    with pytest.raises(InputError, match=r"--workers: needs Ray, .*: pip install 'modscale\[ray\]'"):
        make_engine(evaluator, "auto", 4)
