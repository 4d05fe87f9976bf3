"""What a task on another machine answers, as it would there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modscale.errors import InputError, WorkerFault
from modscale.machine import code_fingerprint, describe_versions
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


CODE = code_fingerprint()
OTHER = r"^--workers: a worker's modscale \(\S+\) is not the code of the search: all machines need the same"


@pytest.mark.parametrize(
    ("code", "place", "told"),
    [
        ("0" * 64, HERE, OTHER),
        ("0" * 64, None, OTHER),  # what other code makes of the place is not looked at
        (
            CODE,
            replace(HERE, versions=(("modscale", "0.0"),)),
            r"^--workers: a worker has modscale \S+, and the search has 0\.0$",
        ),
    ],
)
def test_a_worker_of_other_code_does_nothing(code: str, place: Any, told: str) -> None:
    """Of the same version too: a checkout that was moved on in mid-run, say. It is the run's end and no trial's."""
    answers = [
        far_tasks.work(code, place, "take_pace", ()),
        far_tasks.check_devices(code, place),
        far_tasks.time_contents(code, place, Timing(models=(), told=()), [], {}),
    ]
    for answer in answers:
        assert type(answer.error) is InputError
        with pytest.raises(InputError, match=told):
            raise answer.error


def test_what_nobody_foresaw_is_an_answer_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(place: Place) -> Any:
        raise KeyError("a\nb")

    monkeypatch.setattr(far_tasks, "_tasks", broken)
    answer = far_tasks.work(CODE, HERE, "train", ())
    assert (type(answer.error), str(answer.error)) == (WorkerFault, "train: KeyError: 'a\\nb'")


def test_code_is_told_apart_by_every_file_and_its_place(tmp_path: Path) -> None:
    def fingerprint(name: str, **files: str) -> str:
        for path, content in files.items():
            file = tmp_path / name / path.replace("_", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".py").write_text(content)
        return code_fingerprint(tmp_path / name)

    first = fingerprint("first", a="x = 1", b_c="y = 2")
    (tmp_path / "first" / "notes.txt").write_text("no code")
    assert fingerprint("second", a="x = 1", b_c="y = 2") == first
    others = [
        fingerprint("third", a="x = 2", b_c="y = 2"),
        fingerprint("fourth", a="x = 1", b_d="y = 2"),
        fingerprint("fifth", a="x = 1"),
        code_fingerprint(),
    ]
    assert len({first, *others}) == 5
