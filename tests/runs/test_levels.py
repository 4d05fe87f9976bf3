"""What earlier runs tell of the speed of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modscale.runs import levels
from modscale.runs.levels import levels_beside

FACTS = {"processor": "one", "threads": 2, "cores": 2}


def write_run(folder: Path, references_ms: Sequence[float], **begin: Any) -> None:
    """The timings of a run whose reference took so long, with a model of 99 ms between."""
    folder.mkdir()
    facts = FACTS | begin.pop("facts", {})
    latency = {"provider": "cpu", "target": None} | begin.pop("latency", {})
    lines: list[dict[str, Any]] = [{"begin": {"models": [{"name": "a"}], "latency": latency, "facts": facts, **begin}}]
    for ms in references_ms:
        ns = round(ms * 1e6)
        lines += [{"model": None, "times_ns": [ns, ns, 9 * ns]}, {"model": 0, "times_ns": [99_000_000] * 3}]
    (folder / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_runs_in_the_same_folder_tell_how_fast_the_machine_was(tmp_path: Path) -> None:
    """The mean over the rounds of the reference of each; the run's own folder counts, and need not be there."""
    write_run(tmp_path / "one", [9.0, 11.0])
    write_run(tmp_path / "two", [14.0])
    assert levels_beside(tmp_path / "new", FACTS, "cpu") == pytest.approx({"one": 10.0, "two": 14.0})
    assert levels_beside(tmp_path / "two", FACTS, "cpu") == pytest.approx({"one": 10.0, "two": 14.0})
    assert levels_beside(tmp_path / "nowhere" / "new", FACTS, "cpu") == {}


def test_what_was_timed_in_another_way_tells_nothing(tmp_path: Path) -> None:
    """Other processors, threads, providers and devices, and a file that is none of ours."""
    write_run(tmp_path / "processor", [9.0], facts={"processor": "other"})
    write_run(tmp_path / "threads", [9.0], facts={"threads": 1})
    write_run(tmp_path / "provider", [9.0], latency={"provider": "cuda"})
    write_run(tmp_path / "target", [9.0], latency={"target": {"command": ["ssh"]}})
    write_run(tmp_path / "device", [9.0], device="pi")
    write_run(tmp_path / "none", [])
    for name, text in (("broken", "{"), ("list", "[1, 2]\n"), ("words", '{"begin": 1}\n{"model": null}\nnever\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "timings.jsonl").write_text(text)
    assert levels_beside(tmp_path / "new", FACTS, "cpu") == {}
    write_run(tmp_path / "same", [9.0])
    assert levels_beside(tmp_path / "new", FACTS, "cpu") == {"same": 9.0}


def test_the_latest_runs_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are read in a moment."""
    monkeypatch.setattr(levels, "MOST_RUNS", 2)
    for age, name in enumerate(("new", "newer", "old")):
        write_run(tmp_path / name, [float(age + 1)])
        when = {"old": 1000, "new": 2000, "newer": 3000}[name]
        os.utime(tmp_path / name / "timings.jsonl", (when, when))
    assert levels_beside(tmp_path / "run", FACTS, "cpu") == {"new": 1.0, "newer": 2.0}
