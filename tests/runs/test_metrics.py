"""The table of metrics: one more metric is one row and one measure, and a candidate can be ended after any measure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_runs import SPACE, read_json, write_run

from modscale.analysis.results import load_run
from modscale.cli.progress import describe_trial
from modscale.document import check_number
from modscale.report.build import build_report
from modscale.report.figures import draw_front
from modscale.report.front_chart import plot_axes
from modscale.runs.experiment import parse_experiment
from modscale.runs.metrics import LATENCY, METRICS, Metric, Results, doubts_text, metric_text, metrics_among
from modscale.runs.trials import Rung, Trial
from modscale.searching.loop import Outcome, run_search
from modscale.searching.measures import MEASURES, Evaluator, Measure, Subject
from modscale.searching.steps import Steps
from modscale.searching.study import SearchStudy
from modscale.spaces.tables import build_tables
from modscale.specs.spec import ModelSpec

ENERGY = Metric(
    name="energy_mj",
    direction="minimize",
    noun="energy",
    unit="mJ",
    limit="an energy of {}",
    axis="energy an image, mJ",
    rule=partial(check_number, above=0),
    details={"energy_error_mj": partial(check_number, low=0)},
    text=lambda value, exact: f"{value:.3g} mJ",
    short=lambda results: f"{results['energy_mj']:.3g}",
    full=lambda results: f"{results['energy_mj']:.3g} ± {results['energy_error_mj']:.1g} mJ",
    brief=lambda results: f"{results['energy_mj']:.3g} mJ",
    standard_error=lambda results: results.get("energy_error_mj", 0.0),
    half_width=lambda results: 1.96 * results.get("energy_error_mj", 0.0),
)


def weigh(subject: Subject) -> Steps[Results]:
    """A made-up measure: energy follows the width of the first stage."""
    return {"energy_mj": subject.spec.stages[0].dim / 10, "energy_error_mj": 0.01}
    yield


def score(subject: Subject) -> Steps[Results]:
    """A made-up training: depth pays."""
    return {"accuracy": 0.1 + 0.05 * sum(stage.depth for stage in subject.spec.stages) / 4, "val_images": 100}
    yield


MADE_UP = (
    MEASURES[0],
    Measure(name="energy", needs="nothing", take=weigh),
    Measure(name="score", needs="nothing", take=score),
)


class Silent:
    def started(self, label: str, spec: ModelSpec) -> None: ...

    def stage(self, name: str, label: str = "") -> None: ...

    def finished(self, label: str, trial: Any) -> None: ...


def search(folder: Path, document: dict[str, Any], **options: Any) -> Outcome:
    """A search of made-up measures, and a run's folder around it."""
    experiment = parse_experiment(document)
    write_run(folder, [], [], space=document)
    return run_search(
        SearchStudy(experiment, build_tables(experiment.space), seed=0),
        Evaluator(experiment, "synthetic", measures=MADE_UP).steps,
        Silent(),
        limit=12,
        trials_file=folder / "trials.jsonl",
        references=[],
        references_file=folder / "references.jsonl",
        **options,
    )


@pytest.fixture
def with_energy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A space that is searched for a metric that modscale does not have."""
    monkeypatch.setitem(METRICS, ENERGY.name, ENERGY)
    objectives = {"accuracy": "maximize", "energy_mj": "minimize"}
    return SPACE | {"objectives": objectives, "bands": {"frugal": {"energy_mj": {"max": 3.3}}}}


def test_a_new_metric_is_one_row_and_one_measure(tmp_path: Path, with_energy: dict[str, Any]) -> None:
    """It is optimised, written, read back, limited by bands, drawn and reported, with nothing else changed."""
    outcome = search(tmp_path, with_energy)
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [line["energy_mj"] for line in lines] == [line["spec"]["stages"][0]["dim"] / 10 for line in lines]
    assert {line["energy_error_mj"] for line in lines} == {0.01}
    run = load_run(tmp_path)
    assert run.trials == outcome.trials

    files = build_report(load_run(tmp_path), draws=10)
    front = read_json(files["front"])
    assert list(front["reference_point"]) == ["accuracy", "energy_mj"]
    best = {}  # by brute force: the best accuracy at each energy, and none at less energy that is as good
    for line in lines:
        best[line["energy_mj"]] = max(best.get(line["energy_mj"], 0.0), line["accuracy"])
    expected = {e: a for e, a in best.items() if all(a > other for less, other in best.items() if less < e)}
    members = [line for line in lines if line["number"] in front["front"]]
    assert {line["energy_mj"]: line["accuracy"] for line in members} == expected
    frugal = [line for line in members if line["energy_mj"] <= 3.3]
    assert front["bands"]["frugal"] == max(frugal, key=lambda line: line["accuracy"])["number"]

    markdown, html = files["markdown"].read_text(), files["html"].read_text()
    row = next(line for line in lines if line["number"] == front["front"][0])
    for text in (markdown, html):
        assert "at most 3.3 mJ" in text
        assert f"{row['energy_mj']:.3g} ± 0.01 mJ" in text
    assert "| accuracy | params | FLOPs | energy |" in markdown
    assert f"{row['energy_mj']:.3g} mJ" in describe_trial("trial", run.trials[row["number"]])
    assert plot_axes(list(run.experiment.objectives)) == ("energy_mj", "accuracy")
    assert draw_front(run.front, [], run.experiment.objectives, title="t").png.startswith(b"\x89PNG")


def test_old_lines_are_read_beside_a_new_metric(tmp_path: Path, with_energy: dict[str, Any]) -> None:
    """A run of a version that did not know the metric has no value for it, and is otherwise as it was."""
    outcome = search(tmp_path, with_energy)
    file = tmp_path / "trials.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: v for k, v in line.items() if "_mj" not in k}) + "\n" for line in lines))
    old = load_run(tmp_path).trials
    assert [trial.value("energy_mj") for trial in old] == [None] * len(lines)
    assert [trial["accuracy"] for trial in old] == [trial["accuracy"] for trial in outcome.trials]


def test_a_candidate_can_be_ended_after_any_measure(tmp_path: Path, with_energy: dict[str, Any]) -> None:
    """What was measured by then stands in its line with the reason, and no later measure is taken."""

    def judge(trials: Sequence[Trial], results: Results, rungs: Sequence[Rung]) -> str | None:
        if results.get("energy_mj", 0) > 3 and "accuracy" not in results:
            return f"{metric_text('energy_mj', results['energy_mj'])} is too much"
        return None

    trials = search(tmp_path, with_energy, judge=judge).trials
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert 0 < len(stopped) < len(trials)
    for trial in trials:
        assert (trial.state == "stopped") == (trial["energy_mj"] > 3)
        assert (trial.value("accuracy") is None) == (trial.state == "stopped")
    assert stopped[0].reason == f"{stopped[0]['energy_mj']:.3g} mJ is too much"
    markdown = build_report(load_run(tmp_path))["markdown"].read_text()
    assert "## Trials stopped early" in markdown
    assert stopped[0].reason in markdown
    assert not set(read_json(tmp_path / "front.json")["front"]) & {trial.number for trial in stopped}


def test_the_measures_of_a_search_run_cheapest_first() -> None:
    """Counting needs nothing, timing a quiet device, training a slot; what is dear comes last."""
    assert [(measure.name, measure.needs) for measure in MEASURES] == [
        ("counts", "nothing"),
        ("latency", "quiet device"),
        ("training", "training slot"),
    ]


WIDE, BUSY = {"latency_wide": True}, {"latency_busy": True}


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        ([], ""),
        ([{}, {"latency_wide": False, "latency_busy": False}], ""),
        (
            [{}, WIDE, {}],
            "The latency of 1 of 3 networks is in doubt: 1 with an interval that stayed wider than asked.",
        ),
        (
            [WIDE | BUSY, BUSY, {}, WIDE, BUSY],
            "The latency of 4 of 5 networks is in doubt: 2 with an interval that stayed wider than asked,"
            " 3 taken while the machine was busy and other processes had the cores.",
        ),
    ],
)
def test_doubts_in_words(measured: list[Results], text: str) -> None:
    """Of how many networks, and what is wrong with how many of them."""
    assert doubts_text(LATENCY, measured) == text


def test_a_latency_in_doubt_is_marked_wherever_it_is_written() -> None:
    """A word where there is room, a sign in a narrow column and in a line; none where nothing speaks against it."""
    sure = {"latency_ms": 30.27, "latency_ci95_ms": 4.2, "latency_wide": False}
    assert [write(sure) for write in (LATENCY.full, LATENCY.short, LATENCY.brief)] == [
        "30.27 ± 4.20 ms", "30.3 ± 4.2", "30.27 ± 4.20 ms",
    ]  # fmt: skip
    assert [write(sure | WIDE) for write in (LATENCY.full, LATENCY.short, LATENCY.brief)] == [
        "30.27 ± 4.20 ms (wide)", "30.3 ± 4.2 ?", "30.27 ± 4.20? ms",
    ]  # fmt: skip
    assert LATENCY.full(sure | WIDE | BUSY) == "30.27 ± 4.20 ms (wide, busy)"


def test_the_latency_on_a_device_is_written_as_the_one_here() -> None:
    """With its own keys and the device's name; it stands behind the first one in every table."""
    phone = METRICS["latency_phone_ms"]
    measured = {"latency_phone_ms": 30.27, "latency_phone_ci95_ms": 4.2, "latency_phone_wide": True, "latency_ms": 9.0}
    assert phone.brief(measured) == "30.27 ± 4.20? ms on phone"
    assert phone.full(measured) == "30.27 ± 4.20 ms (wide)"
    assert (phone.heading, phone.limit.format("9 ms")) == ("latency on phone ms", "a latency on phone of 9 ms")
    assert phone.standard_error(measured) == pytest.approx(4.2 / 1.959964)
    assert (LATENCY.half_width(measured), phone.half_width(measured)) == (0.0, 4.2)
    keys = [*measured, "params", "latency_a_ms"]
    assert [m.name for m in metrics_among(keys)] == ["latency_ms", "latency_phone_ms", "latency_a_ms", "params"]
    for name in ("latency_ci95_ms", "latency_phone_ci95_ms", "latency_standard_error_ms", "latency_wide", "energy_mj"):
        assert name not in {m.name for m in metrics_among([name])}
        with pytest.raises(KeyError):
            METRICS[name]


def test_zeros_that_count_are_written() -> None:
    """A latency has three digits and its interval two, so that a column of them can be compared."""
    short = METRICS["latency_ms"].short
    assert short({"latency_ms": 12.004, "latency_ci95_ms": 0.3}) == "12.0 ± 0.30"
    assert short({"latency_ms": 0.08, "latency_ci95_ms": 0.0022}) == "0.0800 ± 0.0022"
    assert short({"latency_ms": 123.4, "latency_ci95_ms": 11.2}) == "123 ± 11"
    assert METRICS["latency_ms"].brief({"latency_ms": 0.1764, "latency_ci95_ms": 0.0028}) == "0.176 ± 0.003 ms"
