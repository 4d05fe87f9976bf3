"""A plan of a search, as a user asks for it: what it says, what it counts, and that it touches nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import SPACE as FAKE
from tiny_training import write_data

from modscale.analysis.told_apart import tell_apart
from modscale.api.plan import OFF, Level, Plan
from modscale.cli.main import main
from modscale.cli.plan_table import show_plan, told_lines
from modscale.runs.experiment import parse_experiment

SPACE = """
name: small
base: {resolution: 32, num_classes: 10}
stages:
  - {dim: [8, 16, 24], depth: [1, 2], expansion: [2, 4]}
  - {dim: [24, 32], depth: [1, 2], attention_depth: [0, 1]}
bands: {any: {params: {max: 1.0e+6}}}
proxy: {resolution: 16, epochs: 1, threads: 1}
latency: {runs: 12, warmup: 1, threads: 1, patience_s: 0, reference: false}
search: {trials: 5, startup_trials: 3, references: []}
"""


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.slow
def test_a_plan_tells_what_is_left_of_a_search_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that the contract names, parts that add up, what the run lacks and no more; its folder stays as it is."""
    space, data, out = tmp_path / "space.yaml", write_data(tmp_path / "data.npz"), tmp_path / "run"
    space.write_text(SPACE)
    command = ["search", str(space), "--data", str(data), "--out", str(out), "--json"]
    assert main([*command, "--trials", "1"]) == 0
    before = files_of(out)
    capsys.readouterr()
    space.write_text(SPACE.replace("references: []", "references: [xxs, xs]"))
    assert main([*command, "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert files_of(out) == before
    assert told["seconds"] == pytest.approx(sum(told["parts_seconds"].values()))
    assert (told["trials"], told["references"]) == (4, 2)
    assert 1 <= told["finals"] <= 5
    assert told["parts_seconds"]["trials"] >= 4 * min(
        row["export_seconds"] + row["latency_seconds"] + row["training_seconds"] for row in told["networks"]
    )
    assert len(told["networks"]) == 2
    assert told["levels"] == []  # no reference was timed
    low, high = told["seconds_range"]
    assert low < told["seconds"] < high
    assert told["told_apart"] is None
    assert told["more"]["epochs"] == 2
    assert told["memory_bytes"] is None or told["memory_bytes"] > 200e6  # torch is loaded
    assert told["disk_bytes"] > 200e3  # the report alone
    space.write_text(space.read_text().replace("dim: [24, 32]", "dim: [24, 40]"))
    assert main([*command, "--dry-run"]) == 2
    assert "belongs to another space" in capsys.readouterr().err


def plan_of(**changes: Any) -> Plan:
    row = {"name": "a", "flops": 3e8, "export_seconds": 1.0, "latency_seconds": 6.0, "step_seconds": 0.03,
           "training_seconds": 9.0, "latency_ms": 5.0}  # fmt: skip
    told = tell_apart(FAKE_EXPERIMENT.proxy, "tiny-imagenet-20", 3000, ["xxs", "xs", "s", "s_conv"], accuracy=0.78)
    values: dict[str, Any] = {
        "parts_s": {"start": 4.0, "trials": 300.0, "anchor": 9.0, "references": 0.0, "finals": 60.0, "report": 3.0},
        "trials": 20, "references": 0, "finals": 5, "finals_range": (5, 5), "chance": (1.0, 1.0),
        "seconds_per_trial": 15.0, "reference_ms": 9.31,
        "workers": 1, "ended_early": 0, "slower": None, "levels": (Level(reference_ms=9.31, seconds=376.0, run=None),),
        "memory_bytes": 900_000_000, "disk_bytes": 1_200_000, "scratch_bytes": 2_300_000_000, "networks": (row,) * 3,
        "standard_error": 0.015, "told_apart": told, "more": {"val_images": 12000, "epochs": 4, "seconds": 900.0},
    }  # fmt: skip
    return Plan(**values | changes)


FAKE_EXPERIMENT = parse_experiment(FAKE)


def test_a_person_is_told_it_in_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    """The sum, the machine's speed, memory and disk; nothing that costs nothing."""
    show_plan(FAKE_EXPERIMENT, plan_of(), "fake")
    shown = capsys.readouterr().out
    assert "all                                                6 min" in shown
    assert "references" not in shown
    assert "9.3 ms" in shown
    assert "have 5 networks: the search" in " ".join(shown.split())
    assert "One more or less takes 12 s." in shown  # 60 s of 5 networks
    show_plan(FAKE_EXPERIMENT, plan_of(finals_range=(4, 7)), "fake")
    assert "have 5 networks, 4 to 7 by chance: the search" in " ".join(capsys.readouterr().out.split())
    assert "0.9 GB" in shown
    assert "1.2 MB in the run's folder, 2.3 GB for a while" in shown


def test_other_speeds_of_the_machine_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """What earlier runs met, and the range from the fastest to the slowest."""
    show_plan(FAKE_EXPERIMENT, plan_of(), "fake")
    assert "A slower machine takes longer in proportion." in capsys.readouterr().out
    levels = (
        Level(reference_ms=9.31, seconds=376.0, run=None),
        Level(reference_ms=14.0, seconds=550.0, run="mobile"),
    )
    plan = plan_of(levels=levels)
    assert plan.range_s == pytest.approx((376 * (1 - OFF), 550 * (1 + OFF)))
    lucky = plan_of(levels=levels, chance=(0.9, 1.2))
    assert lucky.range_s == pytest.approx((0.9 * 376 * (1 - OFF), 1.2 * 550 * (1 + OFF)))
    show_plan(FAKE_EXPERIMENT, plan, "fake")
    shown = capsys.readouterr().out
    assert "As slow as in the run mobile (14.0 ms) it would take 9 min." in shown
    assert "off: 5 min to 11 min." in " ".join(shown.split())


def test_what_several_workers_do_at_once_is_one_part(capsys: pytest.CaptureFixture[str]) -> None:
    """Trials and references together; and the trials that are ended early are told."""
    show_plan(FAKE_EXPERIMENT, plan_of(workers=3, ended_early=7), "fake")
    shown = capsys.readouterr().out
    assert "trials and references, 3 at a time" in shown
    assert "About 7 of the trials would end before their training is over" in shown


def test_it_is_planned_for_so_many_workers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as are asked for; a cluster is not planned for, and that is said."""
    asked: list[Any] = []

    def planned(*_: Any, workers: Any, **__: Any) -> Any:
        asked.append(workers)
        return FAKE_EXPERIMENT, plan_of()

    monkeypatch.setattr("modscale.api.plan.plan_search", planned)
    assert main(["search", "smoke", "--dry-run", "--workers", "2", "--json"]) == 0
    told = capsys.readouterr()
    assert "planned for one worker" not in told.err
    assert json.loads(told.out)["seconds"] == 376.0
    assert main(["search", "smoke", "--dry-run", "--workers", "ray://head"]) == 0
    assert "planned for one worker of this machine" in capsys.readouterr().err
    assert asked == [2, "ray://head:10001"]


def test_ties_are_named_and_what_would_part_them() -> None:
    """On photographs xxs and xs tie, and no number of images parts them: that is said, and what does."""
    told = "\n".join(told_lines(FAKE_EXPERIMENT, plan_of()))
    assert "xs and xxs (2.3 points) tie: right 94 times of 100" in told
    assert "s and xs (2.7 points) are told apart: right 97 times of 100" in told
    assert "would part none of the ties" in told
    assert "12,000 validation images and 4 epochs take 15 min" in told
    photographs = plan_of().told_apart
    assert photographs is not None
    noisy = replace(photographs, rest_points=2.0)
    told = "\n".join(told_lines(FAKE_EXPERIMENT, plan_of(told_apart=noisy)))
    assert "and would part s_conv and xs, xs and xxs at best" in told
    assert "right more than 99 times of 100" in told  # s and xxs


def test_what_is_not_known_is_said() -> None:
    """Without a record, and with masks."""
    (line,) = told_lines(FAKE_EXPERIMENT, plan_of(told_apart=None))
    assert "standard error of about 1.5 points" in line
    assert "modscale fidelity" in line
    dense = parse_experiment({**FAKE, "bands": {}, "proxy": {"task": "segmentation"}})
    (line,) = told_lines(dense, plan_of(told_apart=None))
    assert "is not known" in line
