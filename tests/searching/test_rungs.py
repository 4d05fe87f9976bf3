"""Early stopping: who goes on at a rung, against non-dominated sorting by its definition, and what a kill changes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_steps import Impatient, as_steps

from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Rung, Trial, read_trials
from modscale.searching import rungs
from modscale.searching.engine import Inline
from modscale.searching.loop import Outcome, run_search
from modscale.searching.measures import MEASURES, Evaluation, Evaluator, go_on
from modscale.searching.rungs import domination_ranks, judge_rung, make_judge
from modscale.searching.study import SearchStudy
from modscale.searching.worker import Judge
from modscale.settings import SearchSettings
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec, StageSpec

SPEC = ModelSpec(stages=(StageSpec(dim=8, depth=1),))
ROOT = Path(__file__).parents[2]


def at(value: float, share: float = 0.5) -> Rung:
    return Rung(share=share, value=value, seconds=1.0)


def trial(number: int, *reached: Rung, state: str = "complete", **results: float) -> Trial:
    return Trial(number=number, state=state, spec=SPEC, results=results, seconds=1.0, rungs=reached)


def fronts_by_definition(points: list[tuple[float, ...]]) -> list[int]:
    """Takes away those that no other left dominates, again and again."""
    ranks, left, front = [-1] * len(points), set(range(len(points))), 0
    while left:
        best = {
            i
            for i in left
            if not any(
                all(a <= b for a, b in zip(points[j], points[i], strict=True)) and points[j] != points[i] for j in left
            )
        }
        for i in best:
            ranks[i] = front
        left, front = left - best, front + 1
    return ranks


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_ranks_are_those_of_non_dominated_sorting(objectives: int) -> None:
    """Front by front, ties and duplicates included."""
    rng = np.random.default_rng(objectives)
    for _ in range(60):
        losses = rng.integers(0, rng.integers(2, 8), (rng.integers(1, 25), objectives)).astype(float)
        assert domination_ranks(losses).tolist() == fronts_by_definition([tuple(row) for row in losses.tolist()])


@pytest.mark.parametrize(
    "objectives",
    [
        {"accuracy": "maximize"},
        {"latency_ms": "minimize", "accuracy": "maximize"},
        {"accuracy": "maximize", "latency_ms": "minimize", "params": "minimize"},
    ],
)
@pytest.mark.parametrize("keep", [0.25, 0.5, 1.0])
def test_a_rung_stops_whom_the_definition_stops(objectives: dict[str, str], keep: float) -> None:
    """Random searches, decision by decision: stopped where at least the share to keep lies on better fronts."""
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(60):
        count = int(rng.integers(6, 20))
        table = rng.integers(0, 6, (count + 1, 3)).astype(float)
        everyone = [
            trial(i, at(0.1, 0.25), at(a), accuracy=0.99, latency_ms=b, params=c) for i, (a, b, c) in enumerate(table)
        ]
        last = everyone.pop()
        found = judge_rung(objectives, keep, everyone, last.results, last.rungs)
        columns = {"accuracy": -table[:, 0], "latency_ms": table[:, 1], "params": table[:, 2]}
        ranks = fronts_by_definition(list(zip(*(columns[name] for name in objectives), strict=True)))
        better = sum(rank < ranks[-1] for rank in ranks)
        assert (found is None) == (count < rungs.MIN_PEERS or better < keep * (count + 1))
        if found is not None:
            assert found.startswith(f"after 50% of its training, {better} of the {count} trials")
        verdicts.append(found is None)
    assert (len(set(verdicts)) == 2) == (keep < 1)


def test_the_example_of_the_docstring() -> None:
    """Eight trials with 0.1 to 0.8, accuracy alone, half kept."""
    trials = [trial(i, at((i + 1) / 10), accuracy=0.9) for i in range(8)]
    assert judge_rung({"accuracy": "maximize"}, 0.5, trials, {}, [at(0.35)]) is not None
    assert judge_rung({"accuracy": "maximize"}, 0.5, trials, {}, [at(0.45)]) is None


def test_only_who_reached_the_rung_counts_and_the_first_few_go_on() -> None:
    """Stopped ones count where they were, others that came less far, or lack an objective, do not."""
    objectives = {"accuracy": "maximize", "latency_ms": "minimize"}
    full = [trial(i, at(0.5, 0.25), at(0.6), latency_ms=1.0) for i in range(rungs.MIN_PEERS - 1)]
    others = [
        trial(20, at(0.9, 0.25), state="stopped", latency_ms=1.0),
        trial(21, latency_ms=1.0),
        trial(22, at(0.9)),
        trial(23, at(0.9, 0.7), latency_ms=1.0),
    ]
    worst = {"latency_ms": 9.0}
    assert judge_rung(objectives, 0.5, [*full, *others], worst, [at(0.1, 0.25), at(0.1)]) is None
    assert judge_rung(objectives, 0.5, [*full, *others], worst, [at(0.1, 0.25)]) is not None
    more = trial(24, at(0.2, 0.25), at(0.9), state="stopped", latency_ms=1.0)
    assert judge_rung(objectives, 0.5, [*full, *others, more], worst, [at(0.1, 0.25), at(0.1)]) is not None
    assert judge_rung(objectives, 0.5, [*full, *others, more], worst, []) is None


def test_whoever_nobody_dominates_goes_on_however_few_are_kept() -> None:
    """The slowest of all, but the best at the rung; and one of many equals."""
    objectives = {"accuracy": "maximize", "latency_ms": "minimize"}
    trials = [trial(i, at(i / 100), latency_ms=i) for i in range(1, 50)]
    assert judge_rung(objectives, 0.01, trials, {"latency_ms": 99.0}, [at(0.9)]) is None
    assert judge_rung(objectives, 0.01, [trials[0]] * 20, {"latency_ms": 1.0}, [at(0.01)]) is None


def test_without_rungs_or_accuracy_nobody_judges() -> None:
    """A training tells nothing of the other objectives."""
    with_rungs = SearchSettings(rungs=(0.5,))
    assert make_judge({"accuracy": "maximize"}, SearchSettings(rungs=())) is None
    assert make_judge({"params": "minimize"}, with_rungs) is None
    assert make_judge({"accuracy": "maximize"}, with_rungs) is not None


DOCUMENT: dict[str, Any] = {
    "name": "fake",
    "base": {"resolution": 32, "num_classes": 10},
    "stages": [
        {"dim": [8, 16, 24], "depth": [1, 2, 3], "expansion": [2, 4]},
        {"dim": {"low": 24, "high": 48, "step": 8}, "depth": [1, 2]},
    ],
    "objectives": {"accuracy": "maximize", "params": "minimize"},
    "proxy": {"resolution": 16, "epochs": 1, "train_images": 64, "val_images": 40, "threads": 1},
    "search": {"sampler": "random", "startup_trials": 4, "references": [], "rungs": [0.25, 0.5], "keep": 0.4},
}


BY_ACCURACY = DOCUMENT | {"objectives": {"accuracy": "maximize"}, "search": DOCUMENT["search"] | {"keep": 0.3}}
"""What a training really gives is close to what params alone would: with them as an objective none would be stopped."""


class Nobody:
    def started(self, label: str, spec: ModelSpec) -> None: ...

    def stage(self, name: str, label: str = "") -> None: ...

    def finished(self, label: str, trial: Trial) -> None: ...


def measure(spec: ModelSpec, judge: Judge = go_on) -> Evaluation:
    """A stand-in that pays no heed to size: accuracy at random, by the spec, and better from rung to rung."""
    rng = np.random.default_rng(count_model(spec).params)
    final = rng.uniform(0.2, 0.9)
    counted = count_model(spec)
    results: dict[str, float] = {"params": counted.params, "flops": counted.flops}
    reached: list[Rung] = []
    for share in (0.25, 0.5, 1.0):
        reached.append(at(final * share + rng.normal(0, 0.05), share))
        if share < 1 and (reason := judge(results, reached)) is not None:
            return Evaluation(results=results, stopped=reason, rungs=tuple(reached))
    return Evaluation(results=results | {"accuracy": final}, rungs=tuple(reached))


def search(folder: Path, evaluate: Callable[..., Any] | None = None, *, limit: int = 30, **options: Any) -> Outcome:
    folder.mkdir(exist_ok=True)
    experiment = parse_experiment(options.pop("document", DOCUMENT))
    judge = make_judge(experiment.objectives, experiment.search)
    return run_search(
        SearchStudy(experiment, build_tables(experiment.space), seed=0), evaluate or as_steps(measure), Nobody(),
        limit=limit,
        trials_file=folder / "trials.jsonl", references_file=folder / "references.jsonl",
        **({"references": [], "judge": judge} | options),
    )  # fmt: skip


def untimed(trials: Any) -> list[Any]:
    return [(t.number, t.spec, t.state, t.reason, [(r.share, r.value) for r in t.rungs]) for t in trials]


def test_a_search_stops_by_what_stands_in_its_file(tmp_path: Path) -> None:
    """Each verdict can be worked out from the lines before; a stopped trial has no accuracy, and no reference stops."""
    outcome = search(tmp_path, references=[published("s"), published("xs")])
    stopped = [trial for trial in outcome.trials if trial.state == "stopped"]
    assert 5 < len(stopped) < 25
    assert {len(trial.rungs) for trial in stopped} == {1, 2}
    objectives = DOCUMENT["objectives"]
    for i, one in enumerate(read_trials(tmp_path / "trials.jsonl")):
        for reached in range(1, len(one.rungs)):
            assert judge_rung(objectives, 0.4, outcome.trials[:i], one.results, one.rungs[:reached]) is None
        if one.state == "stopped":
            assert one.reason == judge_rung(objectives, 0.4, outcome.trials[:i], one.results, one.rungs)
            assert "accuracy" not in one.results
        else:
            assert one.rungs[-1].share == 1
    assert [reference.state for reference in outcome.references.trials] == ["complete"] * 2


@pytest.mark.parametrize("dies_at", [5, 24])
def test_verdicts_after_a_kill_are_those_without_it(tmp_path: Path, dies_at: int) -> None:
    """The same candidates, stopped at the same rungs for the same reasons."""
    whole = search(tmp_path / "whole")
    calls = 0

    def die(*arguments: Any) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KeyboardInterrupt
        return measure(*arguments)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed", as_steps(die))
    assert untimed(search(tmp_path / "killed").trials) == untimed(whole.trials)


def train(*folders: Path, kills_at: int = 0) -> list[Outcome]:
    """Searches that really train, and time nothing, one after the other; short ones that judge after three trials."""
    experiment = parse_experiment(BY_ACCURACY)
    judge = Impatient(make_judge(experiment.objectives, experiment.search), kills_at)
    with Evaluator(experiment, "synthetic", measures=(MEASURES[0], MEASURES[2])) as evaluator:
        return [
            search(folder, evaluator.steps, engine=Inline(evaluator.answer), judge=judge, limit=6, document=BY_ACCURACY)
            for folder in folders
        ]


@pytest.mark.slow
def test_a_search_killed_between_two_rungs_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while a training waits for its verdict: nothing finished is lost, and the trials are the same."""
    script = "import sys; from pathlib import Path; from tests.searching.test_rungs import train\n"
    script += "train(Path(sys.argv[1]), kills_at=6)"
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "killed")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(read_trials(tmp_path / "killed" / "trials.jsonl")) == 2
    killed, whole = train(tmp_path / "killed", tmp_path / "whole")
    assert untimed(killed.trials) == untimed(whole.trials)
    assert {trial.state for trial in whole.trials} == {"complete", "stopped"}
