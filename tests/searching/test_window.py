"""Trials under way: what is drawn by what, in whatever order they finish, and what a kill with many of them changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_steps import as_steps

from modscale.errors import TrialFailed
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Rung, Trial, read_trials
from modscale.searching.engine import Engine, Inline, Task
from modscale.searching.loop import Outcome, run_search
from modscale.searching.measures import Evaluation, go_on
from modscale.searching.rungs import make_judge
from modscale.searching.study import SearchStudy
from modscale.searching.worker import Judge
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec

DOCUMENT: dict[str, Any] = {
    "name": "fake",
    "base": {"resolution": 64, "num_classes": 10},
    "stages": [
        {"dim": [16, 24, 32], "depth": [1, 2, 3], "expansion": [2, 4]},
        {"dim": {"low": 32, "high": 64, "step": 8}, "depth": [1, 2], "attention_depth": [0, 1]},
    ],
    "search": {"trials": 44, "startup_trials": 4, "rungs": [0.5], "keep": 0.6},
}


class Nobody:
    def started(self, label: str, spec: ModelSpec | None) -> None: ...

    def stage(self, name: str, label: str = "") -> None: ...

    def finished(self, label: str, trial: object) -> None: ...


class Shuffled(Inline):
    """So many tasks at a time, that finish in an order drawn at random."""

    def __init__(self, capacity: int, seed: int, dies_at: int = 0) -> None:
        super().__init__()
        self.capacity, self.rng, self.dies_at = capacity, random.Random(seed), dies_at
        self.finished = 0

    def wait(self) -> list[Task]:
        self.finished += 1
        if self.finished == self.dies_at:
            raise KeyboardInterrupt
        self.tasks.rotate(self.rng.randrange(len(self.tasks)))
        return super().wait()


def measure(spec: ModelSpec, judge: Judge = go_on) -> Evaluation:
    """A stand-in: larger is slower and better, by halves; some cannot be measured, some end at the rung."""
    count = count_model(spec)
    if count.params % 13 == 0:
        raise TrialFailed("out of memory")
    results = {"params": count.params, "flops": count.flops, "latency_ms": count.flops / 1e6}
    accuracy = min(1.0, count.params / 1e7) + (count.flops % 97) / 1000
    reached = [Rung(share=0.5, value=accuracy / 2, seconds=0.0)]
    if (reason := judge(results, reached)) is not None:
        return Evaluation(results=results, stopped=reason, rungs=tuple(reached))
    reached.append(Rung(share=1.0, value=accuracy, seconds=0.0))
    return Evaluation(results={**results, "accuracy": accuracy}, rungs=tuple(reached))


def search(
    folder: Path, engine: Engine, *, window: int = 6, limit: int = 44, references: Sequence[ModelSpec] = (),
    evaluate: Callable[..., Any] = measure, sampler: str = "surrogate", **options: Any,
) -> Outcome:  # fmt: skip
    folder.mkdir(exist_ok=True)
    experiment = parse_experiment({**DOCUMENT, "search": {**DOCUMENT["search"], "sampler": sampler}})
    study = SearchStudy(experiment, build_tables(experiment.space), seed=0)
    return run_search(
        study, as_steps(evaluate), Nobody(), engine=engine, window=window, limit=limit,
        trials_file=folder / "trials.jsonl", references_file=folder / "references.jsonl", references=references,
        judge=make_judge(experiment.objectives, experiment.search), **options,
    )  # fmt: skip


def untimed(trials: Sequence[Trial]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


def test_the_trials_follow_from_the_window_and_not_from_who_was_quicker(tmp_path: Path) -> None:
    """One, two and four at a time, in any order, over 40 trials beyond the start: the same networks, the same fates."""
    expected = untimed(search(tmp_path / "one", Inline()).trials)
    assert [trial.number for trial in expected] == list(range(44))
    assert {trial.state for trial in expected} == {"complete", "failed", "stopped"}
    for capacity, seed in ((2, 0), (4, 1)):
        folder = tmp_path / str(capacity)
        assert untimed(search(folder, Shuffled(capacity, seed)).trials) == expected
        numbers = [trial.number for trial in read_trials(folder / "trials.jsonl")]
        assert numbers != sorted(numbers)  # written as they finish
        assert sorted(numbers) == list(range(44))
    assert untimed(search(tmp_path / "narrow", Inline(), window=1, limit=12).trials) != expected[:12]


def test_a_trial_is_drawn_by_those_before_its_window_alone(tmp_path: Path) -> None:
    """Trials 0 to n - W move trial n, and none of the W - 1 after them does."""

    def otherwise(number: int) -> Callable[..., Evaluation]:
        def changed(spec: ModelSpec, judge: Judge) -> Evaluation:
            if spec.name == f"fake-{number}":
                raise TrialFailed("otherwise")
            return measure(spec, judge)

        return changed

    expected = [trial.spec for trial in search(tmp_path / "e", Inline(), window=4, limit=18).trials]
    trials = search(tmp_path / "o", Inline(), window=4, limit=18, evaluate=otherwise(8)).trials
    differs = [trial.spec != spec for trial, spec in zip(trials, expected, strict=True)]
    assert not any(differs[:12])
    assert any(differs[12:])


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_other_samplers_heed_the_window_too(tmp_path: Path, sampler: str) -> None:
    """TPE takes what is under way for bad; random draws only leave it out."""
    expected = untimed(search(tmp_path / "one", Inline(), sampler=sampler, limit=16).trials)
    found = search(tmp_path / "four", Shuffled(4, 0), sampler=sampler, limit=16)
    assert untimed(found.trials) == expected


@pytest.mark.parametrize("dies_at", [1, 9, 20])
def test_a_driver_killed_with_four_under_way_resumes_to_the_run_it_would_have_been(
    tmp_path: Path, dies_at: int
) -> None:
    """What was finished out of turn stays, what was under way is drawn again as it was, by another number at a time."""
    expected = untimed(search(tmp_path / "whole", Inline(), limit=22).trials)
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        search(folder, Shuffled(4, dies_at, dies_at=dies_at), limit=22)
    left = read_trials(folder / "trials.jsonl") if (folder / "trials.jsonl").exists() else []
    assert len(left) == dies_at - 1
    again = search(folder, Shuffled(3, dies_at + 1), limit=22)
    assert untimed(again.trials) == expected
    assert read_trials(folder / "trials.jsonl")[: len(left)] == left


def test_a_line_that_is_lost_is_no_trial_under_way(tmp_path: Path) -> None:
    """A number that must have been finished for a later one to be drawn is never given out again; nearer ones are."""
    search(tmp_path, Inline(), window=4, limit=12)
    file = tmp_path / "trials.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:3] + lines[4:10] + lines[11:]) + "\n")  # without trials 3 and 10
    numbers = [trial.number for trial in search(tmp_path, Shuffled(4, 0), window=4, limit=14).trials]
    assert numbers == [0, 1, 2, *range(4, 15)]


def test_a_run_goes_on_with_more_trials(tmp_path: Path) -> None:
    """The first trials of a longer run are those of the shorter one."""
    expected = untimed(search(tmp_path / "long", Inline(), limit=18).trials)
    search(tmp_path / "short", Shuffled(4, 5), limit=11)
    assert untimed(search(tmp_path / "short", Shuffled(4, 6), limit=18).trials) == expected


def test_the_mirror_is_shown_whole_beginnings(tmp_path: Path) -> None:
    """Never a trial before an earlier one, however they finish; all of them at the end."""
    seen: list[list[int]] = []
    search(tmp_path, Shuffled(5, 3), limit=12, mirror=lambda trials: seen.append([trial.number for trial in trials]))
    assert all(numbers == list(range(len(numbers))) for numbers in seen)
    assert [len(numbers) for numbers in seen] == sorted({len(numbers) for numbers in seen})
    assert seen[-1] == list(range(12))


def test_a_network_under_way_is_not_measured_twice(tmp_path: Path) -> None:
    """A candidate that is a reference under way waits for what comes of it, and has it."""
    one = [
        {"dim": s.dim, "depth": [2, 3] if i == 0 else s.depth, "expansion": 6, "attention_depth": s.attention_depth}
        for i, s in enumerate(published("xxs").stages)
    ]  # two networks, xxs one of them
    experiment = parse_experiment({"stages": one})
    seen: list[ModelSpec] = []

    def count(spec: ModelSpec) -> Evaluation:
        seen.append(spec)
        counted = count_model(spec)
        return Evaluation(results={"params": counted.params, "flops": counted.flops, "latency_ms": 1, "accuracy": 0.5})

    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        seen.clear()
        outcome = run_search(
            SearchStudy(experiment, build_tables(experiment.space), seed=0), as_steps(count), Nobody(),
            engine=Shuffled(4, seed), window=4, limit=2, trials_file=folder / "trials.jsonl",
            references=[published("xxs")], references_file=folder / "references.jsonl",
        )  # fmt: skip
        assert len(seen) == len(outcome.trials) == 2
        assert len(outcome.references.trials) == 1
