"""A whole search that is imagined: by the search's own code, and to sums that are worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import SPACE
from rehearsed import SUMMARY, XXS, S, rehearsal_of, session

from modscale.analysis.front import split_front
from modscale.api import imagined_search
from modscale.api.imagined_search import Imagined, Share, imagine_search, imagine_searches, rehearse_report
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.runs.finals import read_finals
from modscale.runs.references import read_references
from modscale.runs.trials import Trial, append_trial, read_trials
from modscale.searching.rehearsal import Rehearsal
from modscale.searching.worker import summary_to_dict

LATENCY = {"runs": 10, "threads": 1, "patience_s": 2.0}
DATA = summary_to_dict(SUMMARY) | {"source": "synthetic"}


def experiment_of(**keys: Any) -> Experiment:
    search = {"trials": 6, "references": [], "window": 1, **keys.pop("search", {})}
    return parse_experiment({**SPACE, "latency": {**LATENCY, **keys.pop("latency", {})}, **keys, "search": search})


def rehearsal_for(experiment: Experiment, **changes: Any) -> Rehearsal:
    """Of xxs and s as the space would make them: 2 and 6 ms, rounds of half a second that are 2 % apart."""
    base = experiment.space.base
    specs = tuple(replace(one, resolution=base.resolution, num_classes=base.num_classes) for one in (XXS, S))
    return rehearsal_of(session((0.5, 0.5), (2.0, 6.0), experiment.latency, 0.02), specs, **changes)


def imagined(experiment: Experiment, out: Path, *, folder: Path | None = None, **settings: Any) -> Imagined:
    values: dict[str, Any] = {"data": DATA, "space_file": "space.yaml", "workers": 1, "seed": 0}
    rehearsal = settings.pop("rehearsal", None) or rehearsal_for(experiment)
    return imagine_search(experiment, rehearsal, SUMMARY, folder or out.parent / "none", out, **values | settings)


def sessions_of(out: Path) -> list[list[dict[str, Any]]]:
    """The rounds of each measurement in a run's file."""
    found: list[list[dict[str, Any]]] = []
    for line in map(json.loads, (out / "timings.jsonl").read_text().splitlines()):
        if "begin" in line:
            found.append([])
        else:
            found[-1].append(line)
    return found


def test_the_parts_are_what_was_done(tmp_path: Path) -> None:
    """Trials, references and the end, each the seconds of its exports, rounds and trainings, and nothing besides."""
    experiment, out = experiment_of(search={"references": ["xxs", "s"]}), tmp_path / "run"
    anchor = rehearsal_for(experiment).networks[0]
    found = imagined(experiment, out, rehearsal=rehearsal_for(experiment, anchor=anchor))
    trials, references = read_trials(out / "trials.jsonl"), read_references(out / "references.jsonl").trials
    assert len(trials) == found.trials == 6
    assert [one.spec.name for one in references] == ["xxs", "s"]
    timed_s = [sum(one["seconds"] for one in rounds) for rounds in sessions_of(out)]
    assert len(timed_s) == 6 + 2 + 1 or len(timed_s) > 9  # a front that changes is timed once more
    assert found.parts["anchor"].seconds == pytest.approx(anchor.pace.seconds(2))
    assert sum(part.seconds for part in found.parts.values()) > sum(timed_s)
    assert found.parts["trials"].seconds + found.parts["anchor"].seconds == pytest.approx(
        sum(one.seconds for one in trials)
    )
    assert found.trial_s == pytest.approx(found.parts["trials"].seconds / 6)
    assert found.parts["references"].seconds == pytest.approx(sum(one.seconds for one in references))
    finals = read_finals(out)
    assert found.finals == len(finals)
    front, _ = split_front([replace(one, results={**one.results, **finals.get(one.number, {})}) for one in trials],
                           experiment.objectives)  # fmt: skip
    assert {one.number for one in front} <= finals.keys()
    assert 0 <= found.parts["finals"].waited_s < found.parts["finals"].seconds


def test_a_run_goes_on_where_it_stands(tmp_path: Path) -> None:
    """What is finished is neither measured nor counted, and its folder is left as it is."""
    experiment, first = experiment_of(search={"trials": 4}), tmp_path / "first"
    imagined(experiment, first)
    before = {file: file.read_bytes() for file in first.iterdir() if file.is_file()}
    longer = replace(experiment, search=replace(experiment.search, trials=6))
    found = imagined(longer, tmp_path / "second", folder=first)
    assert found.trials == 2
    assert read_trials(tmp_path / "second" / "trials.jsonl")[:4] == read_trials(first / "trials.jsonl")
    assert {file: file.read_bytes() for file in first.iterdir() if file.is_file()} == before
    over = imagined(experiment, tmp_path / "third", folder=first)
    assert (over.trials, over.finals, sum(part.seconds for part in over.parts.values())) == (0, 0, 0)


def test_a_long_search_is_imagined_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many trials as are imagined take about twice as long; the front grows like records, and no faster."""
    monkeypatch.setattr(imagined_search, "MOST", 6)
    experiment = experiment_of()
    short = imagined(experiment, tmp_path / "short")
    longer = imagined(replace(experiment, search=replace(experiment.search, trials=12)), tmp_path / "long")
    assert longer.parts["trials"].seconds == pytest.approx(2 * short.parts["trials"].seconds, rel=0.2)
    grown = longer.parts["finals"].seconds / short.parts["finals"].seconds
    assert grown == pytest.approx(3.103211 / 2.45, rel=1e-5)  # harmonic numbers of 12 and 6
    assert (longer.trials, longer.beyond) == (12, 2.0)
    assert len(read_trials(tmp_path / "long" / "trials.jsonl")) == 6


def test_the_report_is_rehearsed_at_the_size_it_will_have(tmp_path: Path) -> None:
    """Of the run that was imagined, whole; trials beyond those take as many bytes, and what stands is counted."""
    experiment, out, folder = experiment_of(search={"trials": 2}), tmp_path / "run", tmp_path / "stands"
    imagined(experiment, out)
    folder.mkdir()
    (folder / "timings.jsonl").write_text("x" * 1000)
    seconds, size = rehearse_report(experiment, out, folder, 3.0)
    assert (out / "report.html").is_file()
    assert (out / "study.db").is_file()
    assert seconds > 0
    grown = sum((out / name).stat().st_size for name in ("trials.jsonl", "timings.jsonl"))
    everything = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert size == everything + 2 * grown + 1000


def test_a_short_search_is_imagined_several_times(tmp_path: Path) -> None:
    """With another noise each time, so that fronts differ; the mean of their seconds is what is told."""
    experiment = experiment_of(search={"trials": 5})
    found = imagine_searches(
        experiment, rehearsal_for(experiment), SUMMARY, tmp_path / "none", tmp_path,
        data=DATA, space_file="space.yaml", workers=1,
    )  # fmt: skip
    assert len(found) == imagined_search.TIMES
    assert len({one.parts["trials"].seconds for one in found}) > 1
    assert found[0].specs[:4] == found[1].specs[:4]  # the first ones are drawn by the seed alone


def test_rungs_and_limits_end_whom_they_would_end(tmp_path: Path) -> None:
    """A limit of latency that some are beyond: they fail, untrained; all beyond it: nothing is timed at the end."""
    plain = imagined(experiment_of(), tmp_path / "plain")
    slowest = max(trial["latency_ms"] for trial in read_trials(tmp_path / "plain" / "trials.jsonl")[:4])
    limited = imagined(experiment_of(constraints={"latency_ms": {"max": 0.9 * slowest}}), tmp_path / "limited")
    assert plain.ended_early == 0
    assert 1 <= limited.ended_early < 6
    assert len(limited.trained) == 6 - limited.ended_early
    none = imagined(experiment_of(constraints={"latency_ms": {"max": 0.01}}), tmp_path / "all")
    assert (none.ended_early, none.finals, none.trained) == (6, 0, ())
    rungs = experiment_of(search={"trials": 20, "rungs": [0.5], "keep": 0.2, "sampler": "random"})
    found = imagined(rungs, tmp_path / "rungs")
    stopped = [trial for trial in read_trials(tmp_path / "rungs" / "trials.jsonl") if trial.state == "stopped"]
    assert len(stopped) == found.ended_early == sum(share == 0.5 for _, share, _ in found.trained) > 0


def test_two_workers_are_imagined_too(tmp_path: Path) -> None:
    """All trials, and less time than one takes for them; what they share out is one part."""
    experiment = experiment_of(search={"references": ["s"], "window": 4})
    one = imagined(experiment, tmp_path / "one")
    two = imagined(experiment, tmp_path / "two", workers=2)
    assert two.trials == 6
    assert two.parts["references"].seconds == two.parts["anchor"].seconds == 0
    together = one.parts["trials"].seconds + one.parts["references"].seconds
    assert together / 2 < two.parts["trials"].seconds < together


def test_a_slower_machine_has_no_less_patience() -> None:
    """Of ten seconds four are patience: at half the speed that is 16."""
    share = Share(seconds=10.0, waited_s=4.0)
    assert share.at(2.0) == 16.0
    assert (share + share).times(0.5) == share


def test_a_network_without_a_spec_is_taken_to_be_a_middling_one(tmp_path: Path) -> None:
    """It is timed, never trained."""
    experiment = experiment_of(search={"trials": 2, "references": [{"onnx": "no/such.onnx", "name": "Other"}]})
    found = imagined(experiment, tmp_path / "run")
    (rival,) = read_references(tmp_path / "run" / "references.jsonl").rivals
    assert rival.results["latency_ms"] > 0
    assert len(found.trained) == 2
    assert found.parts["references"].seconds > 0


def test_more_epochs_take_the_trainings_longer(tmp_path: Path) -> None:
    """Twice the epochs and four times the images: of each training the steps twice, the scorings four times."""
    experiment = experiment_of(search={"trials": 2})
    found, rehearsal = imagined(experiment, tmp_path / "run"), rehearsal_for(experiment)
    costs = imagined_search.Costs(rehearsal)
    more = sum(costs.training_s(spec, 4, 4000) - costs.training_s(spec, 2, 1000) for spec, _, _ in found.trained)
    assert found.more_s(costs, 4, 4000, 1) == pytest.approx(more)
    assert found.more_s(costs, 4, 4000, 2) == pytest.approx(more / 2)


def test_a_trial_on_file_may_be_anything_complete(tmp_path: Path) -> None:
    """Trials of another machine, without a reference beside their latency, are gone on from."""
    experiment, folder = experiment_of(search={"trials": 5}), tmp_path / "run"
    imagined(experiment, tmp_path / "made")
    folder.mkdir()
    for trial in read_trials(tmp_path / "made" / "trials.jsonl")[:3]:
        kept = {key: value for key, value in trial.results.items() if "reference" not in key and "relative" not in key}
        append_trial(folder / "trials.jsonl", Trial(**{**_fields(trial), "results": kept}))
    assert imagined(experiment, tmp_path / "on", folder=folder).trials == 2


def _fields(trial: Trial) -> dict[str, Any]:
    return {name: getattr(trial, name) for name in trial.__slots__}
