"""What a person sees: every table in 80 columns and in a pipe, names whole, and nothing in a text obeyed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_runs import SPACE, fake_references, fake_trials, remeasured, write_run

from modscale.api import finished
from modscale.api.finished import report_run
from modscale.cli import tables
from modscale.cli.layout import text_width
from modscale.report.build import build_report
from modscale.runs.experiment import load_experiment, parse_experiment
from modscale.runs.trials import Rung
from modscale.scaling.scale import scale_model
from modscale.spaces.census import take_census
from modscale.spaces.nearest import within_budgets
from modscale.specs.published import list_models, models_to_json, published

ROOT = Path(__file__).parents[2]
FAKE = parse_experiment(SPACE)
HOSTILE = "\x1b]0;pwned\x07[red]:boom:\u202e$\\frac$"
SEEN = r"\x1b]0;pwned\x07[red]:boom:\u202e$\frac$"


@pytest.fixture(autouse=True)
def _quick_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown here are not the shares that take bootstrap samples."""
    monkeypatch.setattr(finished, "build_report", partial(build_report, draws=2))


def names_in(lines: list[str]) -> set[str]:
    """The first word of each line."""
    return {line.split()[0] for line in lines if line.split()}


@pytest.mark.parametrize("width", [None, 40, 80, 200])
def test_the_published_networks_have_whole_names(screen: Any, width: int | None) -> None:
    """All 31 names can be found by grep, on a terminal of any width and in a pipe."""
    rows = models_to_json(list_models())
    lines = screen(tables.show_models, rows, width=width)
    assert {row["name"] for row in rows} <= names_in(lines)
    assert max(map(text_width, lines)) <= (width or 200)
    where = {row["table"] for row in rows}
    assert all(any(table in line for line in lines) for table in where) == (width is None or width == 200)


def test_every_table_fits_80_columns(screen: Any, tmp_path: Path) -> None:
    """Census, latencies, front, scaled networks and matches, of the real mobile space and published names."""
    mobile = load_experiment(ROOT / "spaces" / "mobile.yaml").space
    folder = write_run(tmp_path / "run", fake_trials(FAKE, 30), fake_references(FAKE))
    run, summary = report_run(folder)
    summary["files"]["html"] = "reports/mobile/report.html"
    latencies = [
        {
            "name": row["name"], "provider": "cuda", "threads": 16, "runs": 4000, "mean_ms": 357.12, "ci95_ms": 117.5,
            "quiet_ms": 288.12, "quiet_ci95_ms": 100.5, "median_ms": 301.12,
            "p10_ms": 290.1, "p90_ms": 401.1, "relative": 31.123, "rounds": 25, "target": "pi",
            "runtime": "1.32.0", "processor": "AMD EPYC 9454P 48-Core Processor", "precision": "fp32",
            "graph_level": "basic", "reference_ms": 12.1, "reference_drift_percent": -1.23,
        }
        for row in models_to_json(list_models())
    ]  # fmt: skip
    scaled = scale_model(published("s_conv"), "params", 30e6)
    for show, *arguments in (
        (tables.show_census, take_census(parse_experiment(SPACE).space)),
        (tables.show_latency, latencies),
        (tables.show_report, summary, run.trials),
        (tables.show_scaled, scaled),
        (tables.show_matches, within_budgets(mobile, {"params": 9e6, "flops": 1e9}, 0.01, best=5)),
    ):
        lines = screen(show, *arguments, width=80)
        assert max(map(text_width, lines)) <= 80, show
        assert len(lines) > 3
    assert {row["name"] for row in latencies} <= names_in(screen(tables.show_latency, latencies, width=80))


def test_a_latency_in_doubt_is_marked_and_explained(screen: Any, tmp_path: Path) -> None:
    """In a table the figure has a question mark, and a line below says of how many."""
    row = {"name": "xs", "provider": "cpu", "threads": 2, "runs": 100, "mean_ms": 357, "ci95_ms": 217, "median_ms": 305}
    row |= {"quiet_ms": 301, "quiet_ci95_ms": 117}
    lines = screen(tables.show_latency, [row | {"wide": True, "busy": False}, row | {"wide": False}], width=None)
    assert [line.count("301.00 ± 117.00 ?") for line in lines if line.startswith("xs")] == [1, 0]
    asked = "The latency of 1 of 2 networks is in doubt: 1 with an interval that stayed wider than asked."
    assert lines[-1] == f"? {asked}"
    calm = fake_trials(FAKE, 6)
    busy = [remeasured(trial, latency_busy=True) for trial in calm]
    folder = write_run(tmp_path / "run", busy, fake_references(FAKE))
    run, summary = report_run(folder)
    text = "\n".join(screen(tables.show_report, summary, run.trials, width=None))
    assert "±: of accuracy its standard error, of a latency half of its 95 % interval." in text
    size = len(summary["front"])
    assert text.count(" ?") == size
    assert f"? The latency of {size} of {size} networks is in doubt" in text


def test_no_text_is_obeyed(screen: Any) -> None:
    """Escape sequences, rich's markup, emoji codes and turned directions in names are shown as they are."""
    spec = replace(published("xxs"), name=HOSTILE)
    scaled = replace(scale_model(published("xxs"), "params", 6e6), source=spec, reason=HOSTILE)
    files = {"spec": HOSTILE, "onnx": HOSTILE, "weights": HOSTILE, "loaded": None, "params": 1, "flops": 1}
    rows = [{"name": HOSTILE, "provider": "cpu", "threads": 1, "runs": 9, "mean_ms": 1, "ci95_ms": 1, "median_ms": 1}]
    rows[0] |= {"quiet_ms": 1, "quiet_ci95_ms": 1}
    census = replace(take_census(FAKE.space), name=HOSTILE, rule=HOSTILE)
    for show, arguments, times in (
        (tables.show_scaled, (scaled,), 3),
        (tables.show_export, (spec, files | {"max_abs_error": 1e-6}), 4),
        (tables.show_latency, (rows,), 1),
        (tables.show_census, (census,), 2),
    ):
        text = "\n".join(screen(show, *arguments, width=None))
        assert text.count(SEEN) == times
        assert not set("\x1b\x07\u202e") & set(text)


def test_what_comes_next_is_told(screen: Any) -> None:
    """How a pick, or a trial on the front where no band has one, is trained on the run's data, and exported."""
    summary = {"run": "my runs/a", "bands": {"xxs": None, "xs": 4}, "front": [4, 2]}
    assert screen(lambda: tables.show_next(summary, "my photos"), width=20) == [
        "next:   modscale train 'my runs/a' --pick xs --data 'my photos' --hours 2 --out xs-trained",
        "next:   modscale export 'my runs/a' --pick xs --out xs",
    ]
    _, line = screen(lambda: tables.show_next({**summary, "bands": {"xxs": None}}, "synthetic"), width=80)
    assert line == "next:   modscale export 'my runs/a' --trial 4 --out trial-4"
    assert screen(lambda: tables.show_next({**summary, "bands": {}, "front": []}, "synthetic"), width=80) == []


@pytest.mark.parametrize("width", [None, 80])
def test_an_interval_is_called_one(screen: Any, width: int | None) -> None:
    """Beyond exact counting, the census says that its numbers are intervals, and of how many draws."""
    census = replace(
        take_census(FAKE.space), feasible_interval=(1, 3), distinct_feasible_interval=(2, 2), rule="why", draws=9
    )
    text = " ".join(screen(tables.show_census, census, width=width))
    assert "feasible, 95 %" in text
    assert "1 to 3" in text
    vast = replace(census, size=10**43, feasible_interval=(123_456_789 * 10**24, 2 * 10**33))
    text = " ".join(screen(tables.show_census, vast, width=width))
    assert "1.235e+32 to 2e+33" in text
    assert ("1.23e-11 to 2.00e-10" in text) == (width is None or width > 100)  # beside a number of 44 digits
    assert ("no room for: share" in text) == (width == 80)
    assert "feasible networks, 95" not in text
    assert "why" in text


def test_a_sampled_census_fits_80_columns(screen: Any) -> None:
    """Intervals of twelve digits stand beside their shares; where there is no room the shares go, which is said."""
    interval = (260_396_145_108, 260_656_013_079)
    census = replace(
        take_census(FAKE.space), size=294_226_732_800, distinct=294_226_732_800, feasible_interval=interval,
        distinct_feasible_interval=interval,
    )  # fmt: skip
    lines = screen(tables.show_census, census, width=80)
    assert max(map(text_width, lines)) <= 80
    assert any("260,396,145,108 to 260,656,013,079" in line and "88.50% to 88.59%" in line for line in lines)
    narrow = screen(tables.show_census, census, width=60)
    assert "no room for: share" in " ".join(narrow)
    assert any("260,396,145,108 to 260,656,013,079" in line for line in narrow)


def test_trials_stopped_early_are_told_below_the_front(screen: Any, tmp_path: Path) -> None:
    """How many, and an estimate of what that spared."""
    rungs = (Rung(share=0.5, value=0.2, seconds=60.0), Rung(share=1.0, value=0.4, seconds=180.0))
    trials = [replace(trial, rungs=rungs) for trial in fake_trials(FAKE, 8)]
    trials[2] = remeasured(replace(trials[2], state="stopped", reason="beaten", rungs=rungs[:1]), accuracy=None)
    run, summary = report_run(write_run(tmp_path / "run", trials, []))
    lines = screen(tables.show_report, summary, run.trials, width=None)
    assert "1 of 8 trials were stopped early, which spared about 120 s of training (an estimate)" in lines
    run, summary = report_run(write_run(tmp_path / "other", trials[:2], []))
    assert "stopped early" not in "".join(screen(tables.show_report, summary, run.trials, width=None))
