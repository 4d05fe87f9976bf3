"""What a search takes of earlier runs: by brute force over the space, line by line, and after a kill."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from fake_runs import fake_trials, remeasured, write_run
from optuna.trial import TrialState

from modscale import __version__
from modscale.analysis.results import Run, load_run
from modscale.api.warm_start import load_earlier_runs, plan_start
from modscale.errors import InputError, RunError
from modscale.machine import describe_machine, describe_versions
from modscale.report.earlier import earlier_notes
from modscale.runs.earlier import EarlierTrial, check_from, read_earlier, write_earlier
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.runs.trials import Trial
from modscale.searching.study import SearchStudy
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key

DATA = {
    "source": "synthetic", "name": "synthetic", "classes": 10, "train_images": 4000, "val_images": 1000,
    "resolution": 64, "fingerprint": "0" * 64, "leaked": 0, "device": "cpu",
}  # fmt: skip
WIDE: dict[str, Any] = {
    "name": "wide",
    "base": {"resolution": 64, "num_classes": 10},
    "stages": [
        {"dim": [16, 24, 32], "depth": [1, 2, 3], "kernel_size": [3, 5]},
        {"dim": [32, 48, 64], "depth": [1, 2], "attention_depth": [0, 1], "expansion": [2, 4]},
    ],
}
NARROW = copy.deepcopy(WIDE) | {"name": "narrow", "constraints": {"params": {"max": 180_000}}}
NARROW["stages"][0]["dim"] = {"low": 24, "high": 32, "step": 8}
NARROW["stages"][1] |= {"dim": [48, 64], "attention_mlp_ratio": [2, 4]}  # of no effect where there is no attention
TINY: dict[str, Any] = {
    "name": "tiny",
    "base": {"resolution": 64, "num_classes": 10},
    "stages": [{"dim": [16, 24, 32], "depth": [1, 2]}, {"dim": [32, 48], "depth": [1, 2], "attention_depth": [0, 1]}],
    "search": {"startup_trials": 3},
}


def run_of(folder: Path, document: dict[str, Any] = WIDE, count: int = 30, **changes: Any) -> Run:
    """A run as this machine makes one, of networks drawn at random; its fifth trial failed."""
    trials = fake_trials(parse_experiment(document), count)
    distinct = {network_key(trial.spec): trial for trial in reversed(trials)}
    trials = [replace(trial, number=i) for i, trial in enumerate(reversed(distinct.values()))]
    trials[4] = remeasured(
        replace(trials[4], state="failed", reason="no luck"), accuracy=None, latency_ms=None, latency_ci95_ms=None
    )
    here = {"machine": describe_machine(), "versions": describe_versions(), "modscale": __version__}
    write_run(folder, trials, [], space=document, **(here | changes))
    return load_run(folder)


def every_network(experiment: Experiment) -> set[Any]:
    """Brute force: all that the space makes and allows."""
    space = experiment.space
    found = set()
    for options in itertools.product(*(parameter.options for parameter in space.searched)):
        spec = space.spec({p.name: option for p, option in zip(space.searched, options, strict=True)})
        count = count_model(spec)
        if space.constraints.allow(spec, count.params, count.flops):
            found.add(network_key(spec))
    return found


def test_what_another_run_measured_in_the_same_way_is_known(tmp_path: Path) -> None:
    """All of its complete trials whose network the space makes, by a list of the whole space, with their figures."""
    run, experiment = run_of(tmp_path / "one"), parse_experiment(NARROW)
    taken, (origin,) = plan_start([run], experiment, DATA)
    inside = every_network(experiment)
    expected = [t for t in run.trials if t.state == "complete" and network_key(t.spec) in inside]
    assert 3 <= len(expected) < len(run.trials) - 3
    assert [one.trial.number for one in taken] == [trial.number for trial in expected]
    assert {one.use for one in taken} == {"known"}
    for one, trial in zip(taken, expected, strict=True):
        options = {p.name: p.option(one.trial.choice[p.name]) for p in experiment.space.searched}
        assert network_key(experiment.space.spec(options)) == network_key(trial.spec)
        assert one.trial.results == trial.results
    complete = sum(trial.state == "complete" for trial in run.trials)
    assert origin.left == {"not complete": 1, "not in this space": complete - len(expected)}
    assert (origin.trials, origin.known, origin.first) == (len(run.trials), len(expected), 0)


@pytest.mark.parametrize(
    ("space", "changes", "why"),
    [
        ({}, {"data": DATA | {"fingerprint": "1" * 64}}, "other data"),
        ({}, {"data": DATA | {"device": "cuda:0"}}, "trained on 'cuda:0', and on 'cpu' here"),
        ({"proxy": {"resolution": 32}}, {}, "its proxy.resolution is 32"),
        ({"latency": {"runs": 77}}, {}, "its latency.runs is 77"),
        ({}, {"machine": describe_machine() | {"cpu": "Imaginary 9000"}}, "its cpu is 'Imaginary 9000'"),
        ({}, {"versions": describe_versions() | {"onnxruntime": "1.0"}}, "its onnxruntime is '1.0'"),
        ({}, {"modscale": "0.0.1"}, "its modscale is '0.0.1'"),
    ],
)
def test_of_a_run_that_measured_otherwise_the_front_is_tried_first(
    tmp_path: Path, space: dict[str, Any], changes: dict[str, Any], why: str
) -> None:
    """Nothing is known of it, the line says what differs, and no figure of it is taken over."""
    run, experiment = run_of(tmp_path / "one", WIDE | space, 80, **changes), parse_experiment(NARROW)
    taken, (origin,) = plan_start([run], experiment, DATA)
    inside = every_network(experiment)
    expected = [trial.number for trial in run.front.members if network_key(trial.spec) in inside]
    assert expected
    assert [one.trial.number for one in taken] == expected
    assert {(one.use, *one.trial.results) for one in taken} == {("first", "params", "flops")}
    assert why in origin.sentence()
    assert f"tried first: {len(expected)} of its front" in origin.sentence()


def test_other_classes_and_another_resolution_are_those_of_the_space(tmp_path: Path) -> None:
    """A front of networks for other data is tried as the space makes them, counted anew."""
    run = run_of(tmp_path / "one", WIDE | {"base": {"resolution": 96, "num_classes": 5}})
    taken, _ = plan_start([run], parse_experiment(WIDE), DATA | {"fingerprint": "1" * 64})
    assert [one.trial.number for one in taken] == [trial.number for trial in run.front.members]
    for one in taken:
        assert (one.trial.spec.resolution, one.trial.spec.num_classes) == (64, 10)
        count = count_model(one.trial.spec)
        assert one.trial.results == {"params": count.params, "flops": count.flops}


def test_threads_of_the_training_move_nothing_and_what_two_runs_have_is_taken_once(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", WIDE | {"proxy": {"threads": 3}})
    two = run_of(tmp_path / "two")
    taken, origins = plan_start([one, two], parse_experiment(WIDE), DATA)
    assert [origin.known for origin in origins] == [len(one.trials) - 1, 0]
    assert origins[1].left == {"not complete": 1, "taken already": len(two.trials) - 1}
    assert len(taken) == len(one.trials) - 1


def test_what_lies_beyond_the_limits_or_lacks_an_objective_is_not_known(tmp_path: Path) -> None:
    run = run_of(tmp_path / "one")
    latencies = sorted(trial["latency_ms"] for trial in run.trials if trial.state == "complete")
    limited = parse_experiment(WIDE | {"constraints": {"latency_ms": {"max": latencies[9]}}})
    _, (origin,) = plan_start([run], limited, DATA)
    assert (origin.known, origin.left["beyond the limits of this one"]) == (10, len(latencies) - 10)
    missing = replace(limited, objectives={"accuracy": "maximize", "latency_pi_ms": "minimize"}, limits={})
    _, (origin,) = plan_start([run], missing, DATA)
    assert (origin.known, origin.left["without latency_pi_ms"]) == (0, len(latencies))


def tiny_trials(experiment: Experiment, count: int) -> list[Trial]:
    """Distinct networks of a small space, measured in no order."""
    distinct = {network_key(trial.spec): trial for trial in fake_trials(experiment, 10 * count)}
    return [replace(trial, number=i) for i, trial in enumerate([*distinct.values()][:count])]


def study_of(experiment: Experiment, **start: Any) -> SearchStudy:
    return SearchStudy(experiment, build_tables(experiment.space), seed=0, **start)


def ask_all(study: SearchStudy, finish: Callable[[Any], Trial], limit: int = 1000) -> list[Trial]:
    trials: list[Trial] = []
    while len(trials) < limit and (candidate := study.ask()) is not None:
        trials.append(finish(candidate))
        study.tell(trials[-1])
    return trials


def finished(candidate: Any) -> Trial:
    """Larger is better and slower, but for one width that is bad at both."""
    count = count_model(candidate.spec)
    bad = 2.0 if candidate.choice["stages[0].dim"] == 24 else 1.0
    results = {"params": count.params, "flops": count.flops}
    results |= {"accuracy": count.params / 1e6 / bad, "latency_ms": bad * count.flops / 1e6}
    return Trial(
        number=candidate.number, state="complete", spec=candidate.spec, results=results, seconds=1.0,
        choice=candidate.choice,
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "random"])
def test_a_known_network_is_never_tried_and_all_others_are(sampler: str) -> None:
    """Of a small space, what is left beside the known ones, each once; those of a front first, in its order."""
    experiment = parse_experiment(TINY | {"search": {"startup_trials": 3, "sampler": sampler}})
    every = every_network(experiment)
    trials = tiny_trials(experiment, 12)
    known, first = trials[:9], trials[7:]  # two of the front are known
    study = study_of(experiment, known=known, first=first)
    left = len(every) - 9
    found = ask_all(study, finished, limit=6 if sampler == "tpe" else 1000)  # which takes its time
    assert [trial.number for trial in found] == list(range(6 if sampler == "tpe" else left))
    assert [network_key(t.spec) for t in found[:3]] == [network_key(t.spec) for t in trials[9:]]
    assert {network_key(trial.spec) for trial in found} <= every - {network_key(trial.spec) for trial in known}
    assert len({network_key(trial.spec) for trial in found}) == len(found)


def test_a_search_learns_from_what_is_known() -> None:
    """One width is bad at both objectives: who knows that from another run proposes it less often than who does not."""
    document = WIDE | {"search": {"startup_trials": 4}}
    document["stages"] = [
        {"dim": [16, 24, 32], "depth": {"low": 1, "high": 8}},
        {"dim": [64, 96], "depth": {"low": 1, "high": 8}},
    ]
    experiment = parse_experiment(document)
    everybody = [
        finished(type("C", (), {"number": i, "spec": t.spec, "choice": t.choice}))
        for i, t in enumerate(fake_trials(experiment, 60))
    ]
    bad = {}
    for name, known in (("with", everybody), ("without", [])):
        trials = ask_all(study_of(experiment, known=known), finished, limit=12)
        bad[name] = sum(trial.choice["stages[0].dim"] == 24 for trial in trials)
    assert bad["with"] == 0 < bad["without"]


def test_own_trials_are_told_at_the_speed_at_which_the_known_were_measured() -> None:
    """On a machine that is twice as slow by the reference beside a trial, its latency counts half."""
    experiment = parse_experiment(TINY)
    known = [remeasured(trial, latency_reference_ms=10.0) for trial in tiny_trials(experiment, 4)]
    study = study_of(experiment, known=known)
    (trial,) = ask_all(study, lambda candidate: remeasured(finished(candidate), latency_reference_ms=20.0), limit=1)
    assert study.study.trials[0].values == pytest.approx([trial["accuracy"], trial["latency_ms"] / 2])


def test_tpe_is_given_what_is_known_before_the_trials_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their options and values, as Optuna holds trials."""
    experiment = parse_experiment(TINY | {"search": {"startup_trials": 3, "sampler": "tpe"}})
    known = tiny_trials(experiment, 6)
    study, seen = study_of(experiment, known=known), list[Any]()
    sample = optuna.samplers.TPESampler.sample_relative

    def look(sampler: Any, given: optuna.Study, *rest: Any) -> Any:
        seen.append([(trial.params, trial.values) for trial in given.get_trials(states=[TrialState.COMPLETE])])
        return sample(sampler, given, *rest)

    monkeypatch.setattr(optuna.samplers.TPESampler, "sample_relative", look)
    own = ask_all(study, finished, limit=3)
    everything = [(dict(t.choice), [t["accuracy"], t["latency_ms"]]) for t in (*known, *own)]
    assert seen[0] == everything[:6]
    assert seen[-1] == everything[:8]


def test_a_run_goes_on_as_it_began_whatever_becomes_of_the_others(tmp_path: Path) -> None:
    """At every number a study made again from the run's own files asks for the same candidate."""
    experiment = parse_experiment(TINY)
    own, other = tmp_path / "own", run_of(tmp_path / "other", TINY, 40)
    third = run_of(tmp_path / "third", TINY, 8, data=DATA | {"fingerprint": "1" * 64})
    write_run(own, [], [], space=TINY)
    write_earlier(own, *plan_start([third, replace(other, trials=other.trials[:6])], experiment, DATA))
    for file in (*other.folder.iterdir(), *third.folder.iterdir()):
        file.unlink()

    def begun() -> SearchStudy:
        start = read_earlier(own, experiment.space)
        return study_of(
            experiment,
            known=[one.trial for one in start if one.use == "known"],
            first=[one.trial for one in start if one.use == "first"],
        )

    study, trials = begun(), list[Trial]()
    assert {one.use for one in read_earlier(own, experiment.space)} == {"known", "first"}
    for _ in range(8):
        again = begun()
        again.replay(trials)
        candidate, other_candidate = study.ask(), again.ask()
        assert candidate is not None
        assert other_candidate is not None
        assert other_candidate.choice == candidate.choice
        trials.append(finished(candidate))
        study.tell(trials[-1])


def test_a_record_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    own, run, experiment = tmp_path / "own", run_of(tmp_path / "one"), parse_experiment(WIDE)
    write_run(own, [], [], space=WIDE)
    write_earlier(own, *plan_start([run], experiment, DATA))
    lines = (own / "earlier.jsonl").read_text().splitlines(keepends=True)
    count = len(lines)
    for change, rule in (
        (lines[:-1], f"has {count - 1} of the {count} networks"),
        ([lines[0].replace('"known"', '"mine"'), *lines[1:]], "line 1, use: must be one of known, first"),
        ([lines[0].replace('"params": ', '"params": 1'), *lines[1:]], "line 1, params: must be"),
        ([lines[0].replace('"stages[0].dim": ', '"stages[0].dim": 9'), *lines[1:]], "line 1, choice.stages"),
        ([], f"has 0 of the {count} networks"),
    ):
        (own / "earlier.jsonl").write_text("".join(change))
        with pytest.raises(RunError) as refused:
            read_earlier(own, experiment.space)
        assert rule in str(refused.value)
    (own / "run.yaml").write_text((own / "run.yaml").read_text().replace("known: 2", "known: many"))
    with pytest.raises(RunError, match=r"run.yaml: from\[0\].known"):
        read_earlier(own, experiment.space)


def test_a_run_is_held_to_the_runs_that_it_began_with(tmp_path: Path) -> None:
    """The same ones, in the same order, or none at all, which is as good; and never itself, or one twice."""
    own, one, two = tmp_path / "own", run_of(tmp_path / "one"), run_of(tmp_path / "two")
    write_run(own, [], [], space=WIDE)
    check_from(own, [one.folder], done=0)
    with pytest.raises(RunError, match="was begun without --from; give another --out"):
        check_from(own, [one.folder], done=1)
    write_earlier(own, *plan_start([one, two], parse_experiment(WIDE), DATA))
    check_from(own, [], done=3)
    check_from(own, [one.folder, tmp_path / "one" / ".." / "two"], done=3)
    with pytest.raises(RunError, match="was begun with --from"):
        check_from(own, [two.folder, one.folder], done=3)
    for folders in ([own], [one.folder, one.folder / "." / ""], [tmp_path / "nowhere"]):
        with pytest.raises(InputError):
            load_earlier_runs(folders, own)


def test_the_report_tells_what_was_known_and_what_is_still_ahead(tmp_path: Path) -> None:
    """By brute force over both: known networks that no trial of the run dominates, best first."""
    other, experiment = run_of(tmp_path / "other"), parse_experiment(WIDE)
    own = run_of(tmp_path / "own", count=12).folder
    taken, origins = plan_start([other], experiment, DATA)
    taken = [one for one in taken if one.trial.number % 2]
    write_earlier(own, taken, [replace(origins[0], known=len(taken))])
    run = load_run(own)
    pool = [(t["accuracy"], -t["latency_ms"]) for t in run.trials if t.state == "complete"]
    theirs = [(one.trial["accuracy"], -one.trial["latency_ms"], one.trial.number) for one in taken]
    everything = np.array([*pool, *(values[:2] for values in theirs)])
    ahead = [
        number
        for accuracy, speed, number in theirs
        if not ((everything >= (accuracy, speed)).all(axis=1) & (everything > (accuracy, speed)).any(axis=1)).any()
        and (accuracy, speed) not in pool
    ]
    first, second = earlier_notes(run)
    assert first.startswith(f"known beforehand, from {other.folder}: {len(taken)} of its ")
    told = [int(part.split()[0]) for part in second.split("trial ")[2:]]
    assert set(told) == set(ahead) if len(ahead) <= 8 else set(told) < set(ahead)


def test_known_latencies_are_told_in_terms_of_the_reports_machine(tmp_path: Path) -> None:
    """A network of 3 ms beside a reference of 2 is told as one of 1.5 ms, where the run's reference takes 1."""
    run = run_of(tmp_path / "run", count=12)
    known = next(trial for trial in run.trials if trial.state == "complete")
    known = replace(known, results={**known.results, "accuracy": 0.999, "latency_ms": 3.0, "latency_reference_ms": 2.0})
    earlier = EarlierTrial(run="other", use="known", trial=known)
    (note,) = earlier_notes(replace(run, earlier=(earlier,), levels={"latency_ms": 1.0}))
    assert "latency 1.50 " in note
    assert "3.00 as measured" in note
