"""The run's folder: what it records, whom it refuses, and that nothing is written half."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from modscale.errors import RunError
from modscale.runs import conditions
from modscale.runs.experiment import Experiment, parse_experiment
from modscale.runs.folder import (
    RUN_FILE,
    check_folder,
    check_machine,
    locked_run,
    read_run,
    read_run_experiment,
    read_run_trials,
    update_run,
    write_run,
)
from modscale.runs.trials import Trial, append_trial
from modscale.spaces.space import Bounds, Space
from modscale.specs.counts import count_model
from tests import fake_runs

DOCUMENT = {
    "name": "toy",
    "stages": [{"dim": [16, 24], "depth": {"low": 1, "high": 3}, "mlp_ratios": [[1, 6]], "kernel_size": [3, [3, 5]]}],
    "constraints": {"params": {"max": 1e6}, "widths": "nondecreasing"},
    "bands": {"tiny": {"params": {"max": 10_000}}},
}


DATA = {"classes": 7, "channels": 1}


def toy(**changes: object) -> Experiment:
    """A small space that leaves its classes and channels to the data."""
    return parse_experiment({**DOCUMENT, **changes})


def write_toy(folder: Path, **changes: object) -> Experiment:
    """A run of `toy`, as a search records it; returns the experiment as the run has it."""
    experiment = toy(**changes)
    write_run(folder, experiment.fitted(DATA), "toy.yaml", DATA, from_data=experiment.space.from_data)
    return experiment.fitted(DATA)


def test_a_run_reads_back_the_space_it_was_made_with(tmp_path: Path) -> None:
    """run.yaml is plain YAML and holds the whole resolved space, machine and versions."""
    write_run(tmp_path, toy().fitted(DATA), "spaces/toy.yaml", {"fingerprint": "abc"}, from_data=["num_classes"])
    assert read_run_experiment(tmp_path) == toy().fitted(DATA)
    plain = yaml.safe_load((tmp_path / RUN_FILE).read_text())
    assert plain["data"] == {"fingerprint": "abc"}
    assert plain["versions"]["python"] == sys.version.split()[0]
    assert plain["machine"]["cores"] >= 1
    assert plain["space"]["search"]["seed"] == plain["seed"]


def test_a_folder_of_another_space_is_refused_with_the_part_that_differs(tmp_path: Path) -> None:
    """What was measured, and how candidates are drawn, stays as it is between two starts of a run."""
    assert check_folder(tmp_path, toy()) is None
    (tmp_path / ".run.yaml.k8x2").write_text("half")  # as a search leaves it that is killed while it writes
    assert check_folder(tmp_path, toy()) is None
    begun = write_toy(tmp_path)
    assert check_folder(tmp_path, toy()) == begun
    more = replace(begun, search=replace(begun.search, trials=99))
    assert check_folder(tmp_path, more) == more
    assert update_run(tmp_path, more) == ["search.trials"]
    assert read_run(tmp_path)["trials"] == 99
    with pytest.raises(
        RunError, match=r"another space: its constraints\.params is {'max': 1000000.0}, and not set here"
    ):
        check_folder(tmp_path, toy(constraints={}))
    with pytest.raises(RunError, match=r"its search\.seed is 0, and 5 here; give another --out"):
        check_folder(tmp_path, toy(search={"seed": 5}))
    with pytest.raises(RunError, match=r"made with other threads: its proxy\.threads is not set, and 3 here"):
        check_folder(tmp_path, toy(proxy={"threads": 3}))
    stages = [{**DOCUMENT["stages"][0], "dim": [16, 32]}]
    with pytest.raises(RunError, match=r"its stages\[0\]\.dim\[1\] is 24, and 32 here"):
        check_folder(tmp_path, toy(stages=stages))
    with pytest.raises(RunError, match=r"its objectives\.latency_ms is 'minimize', and not set here"):
        check_folder(tmp_path, toy(objectives={"accuracy": "maximize", "params": "minimize"}))
    with pytest.raises(RunError, match=r"its search\.references\[0\] is 'xxs', and 'xs' here"):
        check_folder(tmp_path, toy(search={"references": ["xs", "xxs", "s", "s_conv"]}))


def test_what_measures_nothing_may_change(tmp_path: Path) -> None:
    """Bands, name, trials and further references are taken over and recorded, whatever else run.yaml holds stays."""
    begun = write_toy(tmp_path, search={"references": ["xs"]})
    other = {"bands": {"a": {}, "tiny": {"params": {"max": 5}}}, "search": {"trials": 3, "references": ["xs", "s"]}}
    objectives = {"latency_ms": "minimize", "accuracy": "maximize"}
    space = check_folder(tmp_path, toy(name="new", objectives=objectives, **other))
    assert space is not None
    assert list(space.bands) == ["a", "tiny"]
    assert list(space.objectives) == ["accuracy", "latency_ms"]  # the order is the study's
    before = read_run(tmp_path)
    assert set(update_run(tmp_path, space)) == {"bands", "name", "search.trials", "search.references"}
    after = read_run(tmp_path)
    assert {key for key in after if after[key] != before[key]} == {"space", "trials"}
    assert read_run_experiment(tmp_path) == space
    assert update_run(tmp_path, space) == []
    without = check_folder(tmp_path, toy(bands={}, search=other["search"]))
    assert without is not None
    assert update_run(tmp_path, without) == ["bands", "name"]
    assert read_run_experiment(tmp_path) == replace(begun, bands={}, search=space.search)


def test_the_order_of_bands_is_shown_too(tmp_path: Path) -> None:
    """A report lists them as the file does, so another order is another report."""
    bands: dict[str, dict[str, object]] = {"a": {}, "b": {}}
    write_toy(tmp_path, bands=bands)
    space = check_folder(tmp_path, toy(bands=dict(reversed(bands.items()))))
    assert space is not None
    assert update_run(tmp_path, space) == ["bands"]
    assert list(read_run_experiment(tmp_path).bands) == ["b", "a"]


def test_a_run_keeps_the_head_it_was_counted_with(tmp_path: Path) -> None:
    """Stated or taken from the data, what counts is the number itself: 7 classes, 1 channel."""
    begun = write_toy(tmp_path)
    assert read_run(tmp_path)["space"]["base"]["num_classes"] == 7
    assert check_folder(tmp_path, toy()) == begun
    assert check_folder(tmp_path, toy(base={"num_classes": 7})) == begun
    with pytest.raises(RunError, match=r"its base\.num_classes is 7, and 1000 here"):
        check_folder(tmp_path, toy(base={"num_classes": 1000}))
    write_toy(tmp_path, base={"num_classes": 1000})
    with pytest.raises(RunError, match=r"its base\.num_classes is 1000, and 7 here"):
        check_folder(tmp_path, toy())


def test_a_run_of_an_earlier_version_goes_on_as_it_began(tmp_path: Path) -> None:
    """Its networks have the defaults that its space did not state, whatever its data have."""
    write_toy(tmp_path, base={"num_classes": 1000, "in_chans": 3})
    document = read_run(tmp_path)
    del document["from_data"], document["data"]["channels"]
    (tmp_path / RUN_FILE).write_text(yaml.safe_dump(document))
    begun = check_folder(tmp_path, toy())
    assert begun is not None
    space = begun.space
    assert (space.base.num_classes, space.base.in_chans, space.from_data) == (1000, 3, ())
    assert update_run(tmp_path, begun, ["a note"]) == ["notes"]
    assert read_run(tmp_path)["data"] == {"classes": 7, "notes": ["a note"]}


def test_a_run_from_before_thin_proxies_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """At full width, with what its run.yaml says; and the thin proxy of today is another one."""
    write_toy(tmp_path)
    document = read_run(tmp_path)
    document["space"]["proxy"] = {"resolution": 32, "epochs": 3, "batch_size": 64}
    (tmp_path / RUN_FILE).write_text(yaml.safe_dump(document))
    proxy = read_run_experiment(tmp_path).proxy
    assert (proxy.method, proxy.width_factor, proxy.replace_batch_norm, proxy.epochs) == ("train", 1.0, False, 3)
    with pytest.raises(RunError, match=r"belongs to another space: its proxy\.method is 'train', and 'thin' here"):
        check_folder(tmp_path, toy())


def test_a_run_is_not_continued_on_another_machine(tmp_path: Path) -> None:
    """Latencies of two processors have no common front; so of GPUs, where the run used one."""
    for device, latency, part, held in (
        ("cpu", {}, "cpu", True),
        ("cpu", {}, "gpu", False),
        ("cuda (a GPU)", {}, "gpu", True),
        ("cpu", {"provider": "cuda"}, "gpu", True),
    ):
        write_run(tmp_path, toy(latency=latency), "toy.yaml", {"device": device})
        assert check_machine(tmp_path) == []
        document = read_run(tmp_path)
        document["machine"] = {**document["machine"], "gpu": "One", part: "Another 9000"}
        here = {**document["machine"], part: "This one"}
        (tmp_path / RUN_FILE).write_text(yaml.safe_dump(document))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conditions, "describe_machine", lambda here=here: here)
            if held:
                with pytest.raises(RunError, match=f"another machine: its {part} is 'Another 9000', and 'This one'"):
                    check_machine(tmp_path)
            else:
                assert check_machine(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no space"),
        (b"- 1", "it has no space"),
        (b"space: {name: x}", "space.stages: is required"),
        (b"space: {stages: [{dim: -1, depth: 1}]}", r"space.stages\[0\].dim: must be 1 or more, got -1"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_a_broken_run_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Whatever stands in run.yaml, the error names the file and the place."""
    (tmp_path / RUN_FILE).write_bytes(content)
    with pytest.raises(RunError, match=message) as caught:
        read_run_experiment(tmp_path)
    assert RUN_FILE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    """A missing folder, a file and a folder of other things each have their sentence."""
    with pytest.raises(RunError, match="no such run folder"):
        read_run(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="must be a folder"):
        check_folder(tmp_path / "file", toy())
    with pytest.raises(RunError, match=r"has file and no run\.yaml"):
        check_folder(tmp_path, toy())
    with pytest.raises(RunError, match="is no run's folder"):
        read_run(tmp_path)


def test_a_second_search_is_kept_out_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    """The lock is the operating system's: it goes with its process."""
    script = (
        "import sys, os; from pathlib import Path; from modscale.runs.folder import locked_run\n"
        "with locked_run(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read(); os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(RunError, match="another search is running"), locked_run(tmp_path):
        pass
    process.stdin.close()
    process.wait(timeout=20)
    process.stdout.close()
    with locked_run(tmp_path):
        pass


def write_trials(folder: Path, change: Callable[[Trial], Trial]) -> Space:
    """Three trials of a fake run, the second of them changed; its counts are those of the changed spec."""
    limits = {"params": {"max": 2e7}, "widths": "nondecreasing"}
    experiment = parse_experiment(fake_runs.SPACE | {"constraints": limits})
    trials = fake_runs.fake_trials(experiment, 3)
    trials[1] = change(trials[1])
    count = count_model(trials[1].spec)
    counts = {"params": count.params, "flops": count.flops}
    trials[1] = replace(trials[1], results={**trials[1].results, **counts})
    for trial in trials:
        append_trial(folder / "trials.jsonl", trial)
    return experiment.space


def wider(trial: Trial, dim: int, stage: int = 1) -> Trial:
    stages = list(trial.spec.stages)
    stages[stage] = replace(stages[stage], dim=dim)
    return replace(trial, spec=replace(trial.spec, stages=tuple(stages)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda t: wider(t, 50),
            r"trial 1, spec.stages\[1\].dim: must be \d+, as its choice and the space have it, got 50$",
        ),
        (
            lambda t: replace(t, choice={**t.choice, "stages[0].depth": 9}),
            r"trial 1, choice.stages\[0\].depth: must be one of the space's options, got 9$",
        ),
        (
            lambda t: replace(t, choice={k: v for k, v in t.choice.items() if k != "stages[0].depth"}),
            r"trial 1, choice.stages\[0\].depth: is required",
        ),
        (
            lambda t: replace(t, choice={**t.choice, "more": 1}),
            "trial 1, choice: the space has no choice of this name, got 'more'",
        ),
        (
            lambda t: replace(t, spec=replace(t.spec, resolution=96)),
            "trial 1, spec.resolution: must be 64, as its choice and the space have it, got 96$",
        ),
        (lambda t: t, None),
    ],
)
def test_a_trial_is_the_network_of_its_choice(
    tmp_path: Path, change: Callable[[Trial], Trial], told: str | None
) -> None:
    """What was changed by hand, and what the space does not hold, is named with both values."""
    space = write_trials(tmp_path, change)
    if told is None:
        assert len(read_run_trials(tmp_path, space)) == 3
        return
    with pytest.raises(RunError, match=r"trials.jsonl: " + told):
        read_run_trials(tmp_path, space)


def test_a_trial_keeps_the_constraints(tmp_path: Path) -> None:
    """One that breaks them was never drawn by this search."""
    space = write_trials(tmp_path, lambda trial: trial)
    with pytest.raises(RunError, match="trial 0, spec: breaks a constraint of the space"):
        read_run_trials(tmp_path, replace(space, constraints=replace(space.constraints, params=Bounds(max=10))))


@pytest.mark.parametrize("name", [".lock", "trials.jsonl", "references.jsonl"])
def test_a_run_writes_into_its_own_folder_alone(tmp_path: Path, name: str) -> None:
    """A link is not written through, and the file that it points to stays as it is."""
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"{name}: is a link"), locked_run(tmp_path / "run"):
        pass
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_start_sweeps_what_a_kill_left_half_written(tmp_path: Path) -> None:
    """Only what a run writes whole, and only under the names that half written files have."""
    halves = [".run.yaml.abcd1234", ".study.db.a_b_c_d_", ".report.html.00000000"]
    others = [".mine.abcd1234", ".run.yaml.swp", "run.yaml.abcd1234", ".lock"]
    for name in halves + others:
        (tmp_path / name).write_text("x")
    with locked_run(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
