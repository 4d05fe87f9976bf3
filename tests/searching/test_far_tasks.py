"""What a task on another machine answers, as it would there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modscale.errors import InputError, WorkerFault
from modscale.machine import describe_versions
from modscale.searching import far_tasks
from modscale.searching.far_tasks import Place
from modscale.searching.steps import Timing
from modscale.searching.worker import DataSummary
from modscale.settings import LatencySettings, ProxySettings

HERE = Place(
    source="synthetic",
    proxy=ProxySettings(),
    latency=LatencySettings(),
    seed=0,
    cores=1,
    summary=DataSummary(
        source="synthetic", name="", classes=2, channels=3, train_images=1, val_images=1, resolution=8, fingerprint="",
        leaked=0, device="cpu",
    ),
    versions=tuple(describe_versions().items()),
)  # fmt: skip


def test_a_worker_with_other_packages_does_nothing() -> None:
    """Of the same code too. It is the run's end and no trial's."""
    other = replace(HERE, versions=(("modscale", "0.0"),))
    answers = [
        far_tasks.work(other, "take_pace", ()),
        far_tasks.check_devices(other),
        far_tasks.time_contents(other, Timing(models=(), told=()), [], {}),
    ]
    for answer in answers:
        assert type(answer.error) is InputError
        with pytest.raises(InputError, match=r"^--workers: a worker has modscale \S+, and the search has 0\.0$"):
            raise answer.error


def test_what_nobody_foresaw_is_an_answer_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(place: Place) -> Any:
        raise KeyError("a\nb")

    monkeypatch.setattr(far_tasks, "_tasks", broken)
    answer = far_tasks.work(HERE, "train", ())
    assert (type(answer.error), str(answer.error)) == (WorkerFault, "train: KeyError: 'a\\nb'")
