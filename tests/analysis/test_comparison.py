"""Which networks beat a front, worked out by hand; what is said of them, and how they are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_runs import SPACE, fake_references, fake_trials, write_run

from modscale.analysis.comparison import compare_references
from modscale.analysis.results import load_run
from modscale.report.build import build_report
from modscale.report.figures import draw_front
from modscale.report.references import beaten_sentence
from modscale.rivals import Rival
from modscale.runs.experiment import parse_experiment
from modscale.runs.references import MeasuredRival, append_rival, read_references
from modscale.runs.trials import Trial

OBJECTIVES = {"accuracy": "maximize", "latency_ms": "minimize"}
EXPERIMENT = parse_experiment(SPACE)


def member(number: int, accuracy: float, latency: float) -> Trial:
    trial = fake_trials(EXPERIMENT, 1)[0]
    results = {"accuracy": accuracy, "accuracy_standard_error": 0.01, "latency_ms": latency, "latency_ci95_ms": 0.1}
    return replace(trial, number=number, results={"params": trial["params"], "flops": trial["flops"], **results})


def rival(number: int, name: str, latency: float, **changes: Any) -> MeasuredRival:
    results = {"params": 3_500_000, "latency_ms": latency, "latency_ci95_ms": 0.1}
    measured = MeasuredRival(
        number=number,
        state="complete",
        rival=Rival(name=name, kind="onnx", source=f"{name}.onnx"),
        results=results,
        input=(1, 3, 224, 224),
        sha256="0" * 64,
        seconds=3.0,
    )
    return replace(measured, **changes)


def test_who_beats_the_front() -> None:
    """Front: 70 % in 2 ms, 76 % in 6 ms. One beats the second, one both, two neither; a lead may be in the noise."""
    members = [member(0, 0.70, 2.0), member(1, 0.76, 6.0)]
    rivals = [rival(0, "half", 5.0), rival(1, "all", 1.99), rival(2, "slow", 9.0), rival(3, "silent", 1.0)]
    stated = [replace(rivals[i].rival, accuracy=a) for i, a in enumerate((0.765, 0.7601, 0.755, None))]
    found = compare_references(members, [], rivals, OBJECTIVES, stated)
    assert [one.beats for one in found] == [(1,), (0, 1), (), ()]
    assert [one.clearly for one in found] == [(1,), (0, 1), (), ()]
    assert [one.beaten_by for one in found] == [(), (), (1,), ()]
    assert [one.is_whole for one in found] == [True, True, True, False]
    assert beaten_sentence(found, 2) == "all (accuracy as stated) beats the whole front."
    assert beaten_sentence([found[0], *found[2:]], 2) == (
        "Networks of others beat 1 of its 2 trials: 1 by half (accuracy as stated)."
    )
    assert beaten_sentence(found[2:], 2) == ""
    near = compare_references(
        members[:1], [], [rival(0, "near", 1.99)], OBJECTIVES, [replace(rivals[0].rival, accuracy=0.701)]
    )
    assert (near[0].beats, near[0].clearly) == ((0,), ())
    assert beaten_sentence(near, 1).endswith("beats the whole front, in part by less than the noise.")


def test_a_rival_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Beside the published ones; its line has no spec and no accuracy, and FLOPs that nobody counts are null."""
    file = tmp_path / "references.jsonl"
    measured = rival(4, "Net", 5.0, not_counted=("LSTM",))
    failed = rival(5, "broken", 5.0, state="failed", reason="no such file", results={}, input=(), sha256=None)
    for one in (measured, failed):
        append_rival(file, one)
    assert read_references(file).rivals == [measured, failed]
    line = file.read_text().splitlines()[0]
    assert '"spec": null, "rival": {"onnx": "Net.onnx", "name": "Net"}' in line
    assert all(f'"{key}": null' in line for key in ("flops", "accuracy"))


def test_a_report_shows_its_rivals(tmp_path: Path) -> None:
    """One with a stated accuracy, which may be put right in the space, one without, one that failed."""
    space = SPACE | {
        "search": {
            "references": ["xxs", "xs", "s", "s_conv", {"onnx": "Net.onnx", "accuracy": 0.9}, "quiet.onnx", "gone.onnx"]
        }
    }
    experiment = parse_experiment(space)
    folder = write_run(tmp_path / "run", fake_trials(experiment, 6), fake_references(experiment), space=space)
    for one in (
        rival(4, "Net", 0.5, results={"params": 10, "latency_ms": 0.5, "latency_ci95_ms": 0.01}, not_counted=("LSTM",)),
        rival(5, "quiet", 0.7),
        rival(6, "gone", 1.0, state="failed", reason="no such file", results={}, input=()),
    ):
        append_rival(folder / "references.jsonl", one)
    run = load_run(folder)
    build_report(run, draws=10)
    text = (folder / "report.md").read_text()
    assert "Net (accuracy as stated) beats the whole front" in text.split("\n## ")[0]
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|") and row.count("|") > 4}
    assert "| 90.0 % | as stated | 0.500" in rows["Net"]
    assert "not counted (LSTM)" in rows["Net"]
    assert "| none stated | 0.700" in rows["quiet"]
    assert "no such file" in rows["gone"]
    assert "## Networks for comparison" in text
    assert "it was not measured here" in text
    drawn = draw_front(run.front, run.compared, OBJECTIVES, title="t").svg
    marks = ("quiet", "rival, accuracy as stated", "rival, no accuracy stated")
    assert all(f">{mark}</text>" in drawn for mark in marks)
    assert ">gone</text>" not in drawn
