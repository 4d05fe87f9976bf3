"""The loop: what is written, what survives a kill, what a failure leaves behind. The evaluator is a fake."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import remeasured
from fake_steps import as_steps

from modscale import interrupts
from modscale.cli.progress import describe_trial
from modscale.errors import AllTrialsFailed, RunError, TrialFailed
from modscale.rivals import Rival
from modscale.runs.experiment import parse_experiment
from modscale.runs.references import MeasuredRival
from modscale.runs.trials import Trial, read_trials
from modscale.searching.loop import Outcome, run_search
from modscale.searching.measures import Evaluation
from modscale.searching.study import SearchStudy
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

DOCUMENT = {
    "name": "fake",
    "base": {"resolution": 64, "num_classes": 10},
    "stages": [
        {"dim": [16, 24, 32], "depth": [1, 2, 3], "expansion": [2, 4]},
        {"dim": {"low": 32, "high": 64, "step": 8}, "depth": [1, 2], "attention_depth": [0, 1]},
    ],
    "constraints": {"params": {"max": 200_000}},
    "search": {"trials": 12, "startup_trials": 4},
}


class Watcher:
    """Remembers what it was told; stands for the progress bar."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def started(self, label: str, spec: ModelSpec | None) -> None:
        pass

    def stage(self, name: str, label: str = "") -> None:
        pass

    def finished(self, label: str, trial: object) -> None:
        self.labels.append(label)


def measure(spec: ModelSpec) -> Evaluation:
    """A deterministic stand-in: larger is slower and better."""
    count = count_model(spec)
    return Evaluation(
        results={
            "params": count.params,
            "flops": count.flops,
            "latency_ms": count.flops / 1e6,
            "latency_ci95_ms": 0.1,
            "latency_standard_error_ms": 0.04,
            "accuracy": min(1.0, count.params / 1e7),
            "val_images": 100,
        },
    )


def search(
    folder: Path, evaluate: Callable[..., Evaluation] = measure, *, limit: int = 12, seed: int = 0,
    document: dict[str, object] = DOCUMENT, watcher: Watcher | None = None, references: tuple[str | Rival, ...] = (),
    mirror: Callable[[Sequence[Trial]], None] = lambda trials: None,
    measure_rival: Callable[..., MeasuredRival] | None = None,
) -> Outcome:  # fmt: skip
    experiment = parse_experiment(document)
    study = SearchStudy(experiment, build_tables(experiment.space), seed=seed)
    return run_search(
        study,
        as_steps(evaluate),
        watcher or Watcher(),
        limit=limit,
        trials_file=folder / "trials.jsonl",
        references=[published(one) if isinstance(one, str) else one for one in references],
        references_file=folder / "references.jsonl",
        measure_rival=None if measure_rival is None else as_steps(measure_rival),
        mirror=mirror,
    )


def test_every_trial_is_feasible_and_no_network_is_tried_twice(tmp_path: Path) -> None:
    """Constraints are met before anything is evaluated, and the same network never comes again."""
    trials = search(tmp_path, limit=30).trials
    assert len({network_key(trial.spec) for trial in trials}) == 30
    assert all(count_model(trial.spec).params <= 200_000 for trial in trials)
    assert [trial.number for trial in trials] == list(range(30))


def test_the_file_holds_what_was_returned(tmp_path: Path) -> None:
    """trials.jsonl is the record: read back, it is the outcome."""
    outcome = search(tmp_path)
    assert tuple(read_trials(tmp_path / "trials.jsonl")) == outcome.trials


def test_the_same_seed_gives_the_same_candidates_and_another_seed_others(tmp_path: Path) -> None:
    """A search is a function of its space, its seed and what was measured."""
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        runs[name] = [trial.spec for trial in search(tmp_path / name, seed=seed).trials]
    assert runs["a"] == runs["b"]
    assert runs["a"] != runs["c"]


@pytest.mark.parametrize("dies_at", [1, 3, 6, 11])
def test_a_search_killed_at_any_trial_resumes_to_the_run_it_would_have_been(tmp_path: Path, dies_at: int) -> None:
    """No finished trial is lost, the interrupted candidate is tried again, and the total is kept."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = search(tmp_path / "whole")

    calls = 0

    def die(spec: ModelSpec) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KeyboardInterrupt
        return measure(spec)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed", die)
    assert len(read_trials(tmp_path / "killed" / "trials.jsonl")) == dies_at - 1
    resumed = search(tmp_path / "killed")
    assert [(t.number, t.spec, t.state) for t in resumed.trials] == [(t.number, t.spec, t.state) for t in whole.trials]


def test_a_kill_between_the_file_and_the_study_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that reached the file but not the study is told to the study on resuming."""

    def die(self: SearchStudy, trial: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SearchStudy, "tell", die)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path)
    assert len(read_trials(tmp_path / "trials.jsonl")) == 1
    trials = search(tmp_path).trials
    assert [trial.number for trial in trials] == list(range(12))


def test_the_mirror_hears_of_every_trial(tmp_path: Path) -> None:
    """At the start, also of what an earlier start finished, and once more after each trial."""
    seen: list[list[int]] = []
    search(tmp_path, limit=2)
    search(tmp_path, limit=4, mirror=lambda trials: seen.append([trial.number for trial in trials]))
    assert seen == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_a_stop_that_got_lost_ends_the_search_between_two_steps(tmp_path: Path) -> None:
    """What is finished is on disk; what failed for the stop is not written down as failed."""
    for failing, stands in ((False, 3), (True, 2)):
        folder = tmp_path / str(failing)
        folder.mkdir()

        def stop_third(spec: ModelSpec, failing: bool = failing) -> Evaluation:
            if spec.name == "fake-2":
                interrupts._heard.set()
                if failing:
                    raise TrialFailed("ended by SIGTERM")
            return measure(spec)

        with interrupts.hearing_stops(), pytest.raises(KeyboardInterrupt):
            search(folder, stop_third)
        assert len(read_trials(folder / "trials.jsonl")) == stands


def test_a_failed_trial_is_recorded_with_its_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    """One candidate that cannot be evaluated is a line in the file, not the end."""

    def fail_third(spec: ModelSpec) -> Evaluation:
        if spec.name == "fake-2":
            raise TrialFailed("out of memory")
        return measure(spec)

    trials = search(tmp_path, fail_third).trials
    assert [trial.state for trial in trials].count("complete") == 11
    assert (trials[2].state, trials[2].reason, trials[2].value("accuracy")) == ("failed", "out of memory", None)
    line = json.loads((tmp_path / "trials.jsonl").read_text().splitlines()[2])
    assert line["params"] == count_model(trials[2].spec).params


def test_a_search_in_which_everything_fails_says_so(tmp_path: Path) -> None:
    """All failed: the error carries the last reason, and the trials stay on file."""

    def fail(spec: ModelSpec) -> Evaluation:
        raise TrialFailed("no luck")

    with pytest.raises(AllTrialsFailed, match="all 12 trials failed; the last one: no luck"):
        search(tmp_path, fail)
    assert len(read_trials(tmp_path / "trials.jsonl")) == 12


def test_a_small_space_ends_when_it_is_exhausted(tmp_path: Path) -> None:
    """With fewer networks than trials the search stops; depth 1 makes the second ratio, so the expansion, idle."""
    document = {
        "stages": [{"dim": [16, 24], "depth": [1, 2], "expansion": [2, 4]}],
        "search": {"trials": 50, "startup_trials": 2},
    }
    outcome = search(tmp_path, document=document, limit=50)
    assert outcome.exhausted
    assert len(outcome.trials) == 2 * (1 + 2)
    again = search(tmp_path, document=document, limit=50)
    assert again.trials == outcome.trials


def test_a_space_without_a_choice_has_one_trial(tmp_path: Path) -> None:
    """A fixed architecture is a space of one."""
    outcome = search(tmp_path, document={"stages": [{"dim": 16, "depth": 1}]})
    assert len(outcome.trials) == 1
    assert outcome.exhausted


def test_references_are_spread_over_the_run_and_measured_once(tmp_path: Path) -> None:
    """The published networks come evenly among the trials, and not again when the run is resumed."""
    watcher = Watcher()
    search(tmp_path, limit=4, watcher=watcher, references=("xxs", "s"))
    assert watcher.labels == ["trial 0", "trial 1", "xxs", "trial 2", "s", "trial 3"]
    again = Watcher()
    outcome = search(tmp_path, limit=5, watcher=again, references=("xxs", "s"))
    assert again.labels == ["trial 4"]
    assert [trial.spec.name for trial in outcome.references.trials] == ["xxs", "s"]


def test_a_rival_without_a_spec_is_measured_once_among_the_others(tmp_path: Path) -> None:
    """In its place in the order; on disk as soon as it is measured; a run that was killed before goes on with it."""
    rival = Rival(name="Net", kind="onnx", source="net.onnx")

    def take(rival: Rival, number: int) -> MeasuredRival:
        return MeasuredRival(number=number, state="complete", rival=rival, results={"params": 5}, seconds=1.0)

    def die(*_: object) -> MeasuredRival:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, limit=4, references=("xxs", rival), measure_rival=die)
    watcher = Watcher()
    outcome = search(tmp_path, limit=4, watcher=watcher, references=("xxs", rival), measure_rival=take)
    assert watcher.labels == ["Net", "trial 2", "trial 3"] or watcher.labels == ["Net", "trial 3"]
    assert [one.rival for one in outcome.references.rivals] == [rival]
    again = Watcher()
    search(tmp_path, limit=4, watcher=again, references=("xxs", rival), measure_rival=die)
    assert again.labels == []


def test_a_reference_that_is_a_candidate_too_is_measured_once(tmp_path: Path) -> None:
    """Whichever comes first, the other takes over what was measured; it is not trained again."""
    stages = [{"dim": s.dim, "depth": s.depth, "expansion": 6, "attention_depth": s.attention_depth}
              for s in published("xxs").stages]  # fmt: skip
    one = [{**stages[0], "depth": [2, 3]}, *stages[1:]]  # two networks, xxs one of them
    seen: list[tuple[object, ...]] = []

    def count(spec: ModelSpec) -> Evaluation:
        seen.append(network_key(spec))
        return measure(spec)

    for folder, limit in ((tmp_path / "a", 2), (tmp_path / "b", 1)):  # the reference last, and in the middle
        folder.mkdir()
        seen.clear()
        for trials in {limit, 2}:
            outcome = search(folder, count, limit=trials, document={"stages": one}, references=("xxs",))
        assert len(seen) == len(set(seen)) == 2
        (reference,) = outcome.references.trials
        (twin,) = [t for t in outcome.trials if network_key(t.spec) == network_key(published("xxs"))]
        assert dict(reference.results) == dict(twin.results)
        assert (reference.spec.name, reference.number, dict(reference.choice)) == ("xxs", 0, {})


def test_a_reference_measured_before_is_not_measured_again(tmp_path: Path) -> None:
    """It is known by its number: what else of it a later version sets otherwise must not double its line."""
    search(tmp_path, limit=1, references=("xxs", "s"))
    file = tmp_path / "references.jsonl"
    file.write_text(file.read_text().replace('"drop_path_rate": 0.0', '"drop_path_rate": 0.1'))
    assert [trial.number for trial in search(tmp_path, limit=2, references=("xxs", "s")).references.trials] == [0, 1]


def test_trials_that_do_not_fit_the_space_are_one_line(tmp_path: Path) -> None:
    """trials.jsonl may have been edited by hand: the file and the trial are named."""
    search(tmp_path, limit=2)
    file = tmp_path / "trials.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for change in ({"accuracy": None}, {"choice": {}}, {"choice": {"stages[0].dim": "wide"}}):
        file.write_text("\n".join(json.dumps(line) for line in (lines[0], lines[1] | change)) + "\n")
        with pytest.raises(RunError, match=r"trials.jsonl: trial 1: does not fit the space's parameters or objectives"):
            search(tmp_path, limit=3)


def test_a_trial_is_told_with_what_is_known_of_it(tmp_path: Path) -> None:
    """The line of a trial, also of one whose file has no interval."""
    (trial,) = search(tmp_path, limit=1).trials
    assert " ± 0.10 ms" in describe_trial("trial 0", trial)
    assert "±" not in describe_trial("trial 0", remeasured(trial, latency_ci95_ms=None, val_images=None))


def test_a_doubt_stands_in_the_trials_file(tmp_path: Path) -> None:
    """What the evaluation says of its own latency is kept with it; a file of before has none."""

    def doubtful(spec: ModelSpec) -> Evaluation:
        evaluation = measure(spec)
        return replace(evaluation, results={**evaluation.results, "latency_busy": True, "latency_wide": False})

    search(tmp_path, doubtful, limit=2)
    file = tmp_path / "trials.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["latency_busy"], line["latency_wide"]) for line in lines] == [(True, False)] * 2
    file.write_text(file.read_text().replace('"latency_busy": true, ', "").replace('"latency_wide": false, ', ""))
    assert all("latency_busy" not in trial.results for trial in search(tmp_path, limit=2).trials)
