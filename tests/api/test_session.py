"""The whole thing as a user runs it: a real search, killed in the middle, resumed, reported and exported."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
import yaml
from killed import kill_after
from postgres import needs_postgres, postgres

from modscale.api import finished, session
from modscale.api.finished import choose_spec
from modscale.cli.main import main
from modscale.latency import summary
from modscale.report.build import build_report
from modscale.runs.experiment import Experiment
from modscale.searching import storage
from modscale.searching.measures import Evaluation
from modscale.searching.steps import Request, Steps, Work
from modscale.searching.worker import DataSummary
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec, load_spec, parse_spec

SPACE = """
name: small
base: {resolution: 32, num_classes: 10}
stages:
  - {dim: [8, 16, 24], depth: [1, 2], expansion: [2, 4]}
  - {dim: [24, 32], depth: [1, 2], attention_depth: [0, 1]}
constraints: {params: {max: 60.0e+3}, widths: nondecreasing}
bands: {any: {params: {max: 1.0e+6}}, tiny: {params: {max: 20.0e+3}}, none: {params: {max: 1}}}
proxy: {resolution: 16, epochs: 1, threads: 1}
latency: {runs: 12, warmup: 1, threads: 1, patience_s: 0, reference: false}
search: {trials: 5, startup_trials: 3, references: [xxs], finals: false}
"""


INTERRUPTIBLE = """
import signal, sys
from modscale.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


def write_data(file: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", 96), ("val", 40)):
        labels = np.arange(count) % 4
        noise = rng.integers(0, 120, (count, 16, 16, 3))
        arrays[f"x_{split}"] = (noise + labels[:, None, None, None] * 40).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(file, **arrays)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was killed with SIGKILL after its first trials, and started again."""
    folder = tmp_path_factory.mktemp("session")
    (folder / "space.yaml").write_text(SPACE)
    write_data(folder / "data.npz")
    command = [
        sys.executable, "-m", "modscale", "search", str(folder / "space.yaml"),
        "--data", str(folder / "data.npz"), "--out", str(folder / "run"),
        "--storage", f"sqlite:///{folder / 'studies.db'}?password=hunter2",
    ]  # fmt: skip
    trials = folder / "run" / "trials.jsonl"
    before = kill_after(command, trials, lines=2, within_s=120)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    finished = before.count(b"\n")
    assert f"resuming {folder / 'run'}: {finished} of 5 trials finished" in done.stderr
    assert trials.read_bytes().startswith(before)
    return folder / "run"


def read_trials(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


def test_no_finished_trial_was_lost_and_the_total_was_kept(run: Path) -> None:
    """Five trials, numbered without a gap, all different, all complete, all within the constraints."""
    trials = read_trials(run)
    assert [trial["number"] for trial in trials] == list(range(5))
    assert {trial["state"] for trial in trials} == {"complete"}
    specs = [parse_spec(trial["spec"]) for trial in trials]
    assert len({network_key(spec) for spec in specs}) == 5
    for trial, spec in zip(trials, specs, strict=True):
        count = count_model(spec)
        assert (trial["params"], trial["flops"]) == (count.params, count.flops)
        assert count.params <= 60_000
        assert [stage.dim for stage in spec.stages] == sorted(stage.dim for stage in spec.stages)
        assert 0 <= trial["accuracy"] <= 1
        assert trial["latency_ms"] > 0


def test_the_storage_has_the_run_that_was_killed_and_resumed(run: Path) -> None:
    """One study under the name that run.yaml keeps, with each trial once; its URL there has no password."""
    kept = yaml.safe_load((run / "run.yaml").read_text())["storage"]
    assert kept["url"] == f"sqlite:///{run.parent / 'studies.db'}?password=***"
    assert "hunter2" not in (run / "run.yaml").read_text()
    storage = optuna.storages.RDBStorage(f"sqlite:///{run.parent / 'studies.db'}")
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    storage.engine.dispose()
    assert (name, study.user_attrs["space"], study.user_attrs["run"]) == (kept["study"], "small", str(run.resolve()))
    assert [trial.values for trial in study.trials] == [[t["accuracy"], t["latency_ms"]] for t in read_trials(run)]


def test_a_search_starts_from_what_an_earlier_one_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its trials are known and none is tried again; the report says so; given other runs it does not go on."""
    space, out = run.parent / "space.yaml", run.parent / "second"
    data = ["--data", str(run.parent / "data.npz")]
    command = ["search", str(space), *data, "--out", str(out), "--trials", "1"]
    assert main([*command, "--from", str(run)]) == 0
    line = f"known beforehand, from {run}: 5 of its 5 trials"
    assert line in " ".join(capsys.readouterr().err.split())
    before = {network_key(parse_spec(trial["spec"])) for trial in read_trials(run)}
    (trial,) = read_trials(out)
    assert network_key(parse_spec(trial["spec"])) not in before
    (origin,) = yaml.safe_load((out / "run.yaml").read_text())["from"]
    assert (origin["run"], origin["known"], origin["differs"]) == (str(run), 5, None)
    assert f"Note: {line}" in (out / "report.md").read_text()
    assert main([*command, "--from", str(run), str(run.parent / "third")]) == 2
    assert "was begun with --from" in capsys.readouterr().err
    assert main([*command[:2], str(run)]) == 2
    assert "runs to start from follow --from" in capsys.readouterr().err
    assert main(["search", str(space), *data, "--out", str(run), "--from", str(out)]) == 2
    assert "was begun without --from; give another --out" in capsys.readouterr().err


def test_a_storage_that_is_out_ends_no_search(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two lines, and exit code 0; what is no storage at all is one line, and exit code 2."""
    command = ["search", str(run.parent / "space.yaml"), "--data", str(run.parent / "data.npz"), "--out", str(run)]
    assert main([*command, "--storage", "sqlite:////nowhere/at/all.db"]) == 0
    notes = [line for line in capsys.readouterr().err.replace("\n  ", " ").splitlines() if "nowhere" in line]
    assert len(notes) == 2
    assert "unable to open database file" in notes[0]
    assert main([*command, "--storage", "postgresql://me:hunter2@host:port/db"]) == 2
    error = capsys.readouterr().err
    assert "--storage: must be a URL such as" in error
    assert "hunter2" not in error


@needs_postgres
def test_postgresql_is_stopped_and_started_in_mid_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials go on without it, which is told once, and the study there is whole at the end.

    Stopped once more before the end, it is told so, and the same command adds what is missing.
    """
    measure_nothing(monkeypatch)
    monkeypatch.setattr(storage, "RETRY_S", 0.2)
    monkeypatch.setattr(storage, "AGAIN_S", 0.05)
    (tmp_path / "space.yaml").write_text(SPACE)
    command = ["search", str(tmp_path / "space.yaml"), "--data", "d.npz", "--out", str(tmp_path / "run")]

    def finished() -> list[tuple[object, ...]]:
        keys = ("number", "spec", "accuracy", "latency_ms")
        return [tuple(trial[key] for key in keys) for trial in read_trials(tmp_path / "run")]

    def stored(url: str) -> list[tuple[object, ...]]:
        there = optuna.storages.RDBStorage(url.replace("{", "{{").replace("}", "}}"))
        (name,) = optuna.get_all_study_names(there)
        trials = optuna.load_study(study_name=name, storage=there).trials
        there.engine.dispose()
        return [(trial.number, trial.user_attrs["spec"], *trial.values) for trial in trials]

    def stop_once_there() -> None:
        """Not before the study is written to at all, which begins by loading what it is written with."""
        for _ in range(300):
            with contextlib.suppress(Exception):
                if stored(url):
                    break
            time.sleep(0.1)
        server.stop()

    failures: list[Exception] = []
    bring_up = storage.StorageMirror._bring_up

    def failing(self: storage.StorageMirror, trials: list[Any]) -> None:
        try:
            bring_up(self, trials)
        except Exception as error:
            failures.append(error)
            raise

    def wait_for_failures() -> None:
        """Two tries have failed: the first one alone is not told of."""
        deadline = time.monotonic() + 30
        while len(failures) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.2)

    monkeypatch.setattr(storage.StorageMirror, "_bring_up", failing)
    with postgres() as server:
        moments = {4: stop_once_there, 9: wait_for_failures, 10: server.start, 17: server.stop}
        count = itertools.count(1)

        class Switching(FakeEvaluator):
            def steps(self, spec: ModelSpec, judge: object = None) -> Steps[Evaluation]:
                moments.get(next(count), lambda: time.sleep(0.1))()
                return super().steps(spec, judge)

        monkeypatch.setattr(session, "Evaluator", Switching)
        url = server.url.replace("postgresql", "postgresql+psycopg")
        command += ["--storage", server.url, "--trials"]
        assert main([*command, "14"]) == 0
        told = " ".join(capsys.readouterr().err.split())  # as long as the port makes it, it is wrapped
        assert (told.count("is not up to date"), told.count("lacks some of the trials")) == (1, 0), told
        assert [number for number, *_ in finished()] == list(range(14))
        assert stored(url) == finished()
        assert main([*command, "20"]) == 0
        told = " ".join(capsys.readouterr().err.split())  # as long as the port makes it, it is wrapped
        assert (told.count("is not up to date"), told.count("lacks some of the trials")) == (1, 1), told
        server.start()
        assert stored(url) == finished()[: len(stored(url))]
        assert len(stored(url)) < len(finished()) == 20
        assert main([*command, "20"]) == 0
        assert stored(url) == finished()


def test_the_front_is_what_brute_force_finds(run: Path) -> None:
    """front.json against a double loop over trials.jsonl."""
    trials = read_trials(run)

    def dominates(a: dict[str, float], b: dict[str, float]) -> bool:
        no_worse = a["accuracy"] >= b["accuracy"] and a["latency_ms"] <= b["latency_ms"]
        return no_worse and (a["accuracy"] > b["accuracy"] or a["latency_ms"] < b["latency_ms"])

    front = {b["number"] for b in trials if not any(dominates(a, b) for a in trials)}
    document = json.loads((run / "front.json").read_text())
    assert set(document["front"]) == front
    allowed = [t for t in trials if t["number"] in front and t["params"] <= 20_000]
    best = max((t["accuracy"] for t in allowed), default=None)
    picked = document["bands"]["tiny"]
    assert (picked is None) == (best is None)
    if picked is not None:
        assert next(t["accuracy"] for t in trials if t["number"] == picked) == best
    assert document["bands"]["none"] is None


def test_the_reference_was_measured_the_same_way(run: Path) -> None:
    """xxs at the space's resolution and classes, with a latency and a proxy accuracy of its own."""
    (reference,) = [json.loads(line) for line in (run / "references.jsonl").read_text().splitlines()]
    assert reference["spec"]["name"] == "xxs"
    assert (reference["spec"]["resolution"], reference["spec"]["num_classes"]) == (32, 10)
    assert reference["latency_ms"] > 0
    assert reference["state"] == "complete"


def test_the_same_command_on_a_finished_run_changes_no_trial(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is trained again; the report is rebuilt and told as JSON."""
    before = (run / "trials.jsonl").read_bytes()
    data, space = run.parent / "data.npz", run.parent / "space.yaml"
    assert main(["search", str(space), "--data", str(data), "--out", str(run), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["trials"], summary["complete"]) == (5, 5)
    assert (run / "trials.jsonl").read_bytes() == before


def test_a_run_is_not_mixed_with_other_data_or_another_space(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line; nothing in the folder changes."""
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file() and file.name != "study.db"}
    write_data(tmp_path / "other.npz", seed=1)
    space = run.parent / "space.yaml"
    for more in ([], ["--trials", "6"]):  # a finished run, and one that would go on
        arguments = ["search", str(space), *more, "--out", str(run)]
        assert main([*arguments, "--data", str(tmp_path / "other.npz")]) == 2
        assert "belongs to other data: its fingerprint is" in capsys.readouterr().err
    (tmp_path / "other.yaml").write_text(SPACE.replace("24, 32", "24, 40"))
    assert main(["search", str(tmp_path / "other.yaml"), "--out", str(run)]) == 2
    assert "belongs to another space: its stages[1].dim[1] is 32, and 40 here" in capsys.readouterr().err
    assert before == {
        file.name: file.read_bytes() for file in run.iterdir() if file.is_file() and file.name != "study.db"
    }


def test_a_run_does_not_go_on_with_another_device(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracies of a GPU and of a CPU differ: they have no common ranking."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    document = yaml.safe_load((copy / "run.yaml").read_text())
    document["data"]["device"] = "cuda (NVIDIA H200)"
    (copy / "run.yaml").write_text(yaml.safe_dump(document))
    data, space = run.parent / "data.npz", run.parent / "space.yaml"
    assert main(["search", str(space), "--trials", "6", "--data", str(data), "--out", str(copy)]) == 2
    assert "its device is 'cuda (NVIDIA H200)', and 'cpu' here" in capsys.readouterr().err
    assert (copy / "trials.jsonl").read_bytes() == (run / "trials.jsonl").read_bytes()


def test_a_search_in_which_all_failed_says_so_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 with the reason, and a report, also when the same command has nothing left to do."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    lost = {"state": "failed", "reason": "out of memory", "accuracy": None, "latency_ms": None}
    lines = [json.dumps(trial | lost) for trial in read_trials(run)]
    (copy / "trials.jsonl").write_text("\n".join(lines) + "\n")
    data, space = run.parent / "data.npz", run.parent / "space.yaml"
    assert main(["search", str(space), "--data", str(data), "--out", str(copy)]) == 1
    assert "all 5 trials failed; the last one: out of memory" in capsys.readouterr().err
    assert "No trial is complete" in (copy / "report.md").read_text()


class FakeEvaluator:
    """Data of 4 classes and 1 channel, on which nothing is trained: accuracy and latency are those of the network.

    Where the networks of the front are timed again, each is half a millisecond slower; counts how often.
    """

    asked: ClassVar[list[int]] = []

    def __init__(self, experiment: Experiment, source: str, **options: object) -> None:
        del experiment, options
        self.bench = SimpleNamespace(now=time.perf_counter)
        self.summary = DataSummary(
            source=source, name="fake", classes=4, channels=1, train_images=9, val_images=100, resolution=16,
            fingerprint="0", leaked=0, device="cpu",
        )  # fmt: skip

    def __enter__(self) -> FakeEvaluator:
        return self

    def __exit__(self, *error: object) -> None:
        del error

    def steps(self, spec: ModelSpec, judge: object = None) -> Steps[Evaluation]:
        count = count_model(spec)
        return Evaluation(
            results={
                "params": count.params, "flops": count.flops, "latency_ms": count.flops / 1e6, "latency_ci95_ms": 0.01,
                "latency_standard_error_ms": 0.005, "accuracy": count.params / 1e8, "val_images": 100,
            },
        )  # fmt: skip
        yield

    def answer(self, request: Request, announce: object) -> object:
        """The one request that is not the fake's own: the front is timed again."""
        if isinstance(request, Work):
            return None
        self.asked.append(len(request.models))
        specs = [parse_spec(one["spec"]) for one in request.told]
        found = [count_model(spec).flops / 1e6 + 0.5 for spec in specs]
        return [{"latency_ms": ms, "latency_ci95_ms": 0.001, "latency_standard_error_ms": 0.0005} for ms in found]


def measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches with `FakeEvaluator`, and reports with few bootstrap samples."""
    monkeypatch.setattr(session, "Evaluator", FakeEvaluator)
    monkeypatch.setattr(finished, "build_report", partial(build_report, draws=10))


def heads(file: Path) -> set[tuple[int, int]]:
    """Classes and channels of the networks in a file of trials."""
    specs = [json.loads(line)["spec"] for line in file.read_text().splitlines()]
    return {(spec["num_classes"], spec["in_chans"]) for spec in specs}


def test_classes_and_channels_are_the_datas_unless_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials, references and picks have them; a space that states others is told at the start and in the run."""
    measure_nothing(monkeypatch)
    file, said = tmp_path / "space.yaml", "note: the space states num_classes 10 and in_chans 3, and the data have"
    for name, base, head in (("left", "", (4, 1)), ("stated", ", num_classes: 10, in_chans: 3", (10, 3))):
        folder = tmp_path / name
        file.write_text(SPACE.replace(", num_classes: 10", base))
        assert main(["search", str(file), "--data", "d.npz", "--out", str(folder)]) == 0
        assert (said in capsys.readouterr().err) is (name == "stated")
        assert heads(folder / "trials.jsonl") == heads(folder / "references.jsonl") == {head}
        picked = load_spec(folder / "models" / "any.yaml")
        assert (picked.num_classes, picked.in_chans) == head
        assert (said[6:] in (folder / "report.html").read_text()) is (name == "stated")
        assert ("notes: ['the space states" in (folder / "run.yaml").read_text()) is (name == "stated")
        assert main(["search", str(file), "--data", "d.npz", "--trials", "7", "--out", str(folder)]) == 0
        assert heads(folder / "trials.jsonl") == {head}
        assert len(read_trials(folder)) == 7


def test_the_front_is_timed_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until no other joins it; the report shows the later figures, and a run killed before that does it later."""
    measure_nothing(monkeypatch)
    FakeEvaluator.asked.clear()
    file, folder = tmp_path / "space.yaml", tmp_path / "run"
    file.write_text(SPACE.replace(", finals: false", ""))
    command = ["search", str(file), "--data", "d.npz", "--out", str(folder)]
    assert main(command) == 0
    front = json.loads((folder / "front.json").read_text())["front"]
    finals = {line["number"]: line for line in json.loads((folder / "finals.json").read_text())["finals"]}
    assert set(front) <= set(finals)
    first = {trial["number"]: trial for trial in read_trials(folder)}
    shown = finished.load_run(folder)
    for number, final in finals.items():
        assert final["latency_ms"] == pytest.approx(first[number]["latency_ms"] + 0.5)
        assert shown.trial(number)["latency_ms"] == final["latency_ms"]
    times = [final["latency_ms"] / first[number]["latency_ms"] for number, final in finals.items()]
    said = (folder / "report.md").read_text()
    assert "was taken at the end of the run" in said
    assert f"They came to {min(times):.2f} to {max(times):.2f} times their first figures" in said
    assert main(command) == 0
    assert FakeEvaluator.asked[-1] == len(finals)
    assert sorted(set(FakeEvaluator.asked)) == FakeEvaluator.asked
    sessions = len(FakeEvaluator.asked)
    (folder / "finals.json").unlink()  # as if killed before it was written
    assert main(command) == 0
    assert len(FakeEvaluator.asked) == 2 * sessions
    assert (folder / "finals.json").exists()
    (folder / "finals.json").write_text('{"finals": [{"number": 0, "latency_ms": -1}]}')
    assert main(["report", str(folder)]) == 2
    assert "finals.json: finals[0].latency_ms: must be more than 0" in capsys.readouterr().err


def test_kernels_without_numba_are_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file, whoever would train; no folder is left."""
    monkeypatch.setattr("modscale.settings.find_spec", lambda name: None)
    file = tmp_path / "space.yaml"
    file.write_text(SPACE.replace("proxy: {", "proxy: {kernels: numba, "))
    for command in (["search"], ["search", "--dry-run"], ["fidelity", "--proxy"]):
        given = [*command, str(file), "--data", str(tmp_path / "none")]
        assert main([*given, "--out", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "proxy.kernels: needs Numba, which is not installed: pip install 'modscale[numba]'" in said
        assert (str(file) in said) is (command != ["fidelity", "--proxy"])
        assert not (tmp_path / "run").exists()


def test_constraints_hold_for_the_networks_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is too large with a head of 1000 classes may fit with one of 4; what does not is refused with the data."""
    measure_nothing(monkeypatch)
    file = tmp_path / "space.yaml"
    left = SPACE.replace(", num_classes: 10", "").replace("60.0e+3", "20.0e+3")
    file.write_text(left)
    assert main(["search", str(file), "--data", "d.npz", "--out", str(tmp_path / "run")]) == 0
    counts = [trial["params"] for trial in read_trials(tmp_path / "run")]
    assert len(counts) == 5
    assert max(counts) <= 20_000
    capsys.readouterr()
    file.write_text(left.replace("20.0e+3", "2.0e+3"))
    assert main(["search", str(file), "--data", "d.npz", "--out", str(tmp_path / "none")]) == 2
    assert f"{file}: constraints.params" in capsys.readouterr().err
    assert not (tmp_path / "none" / "run.yaml").exists()


@pytest.mark.parametrize("more", [[], ["--trials", "6"]])
def test_new_bands_pick_anew_and_measure_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """Of a finished run, and of one that goes on: picks are of the new bands, no finished trial changes."""
    measure_nothing(monkeypatch)
    file, folder = tmp_path / "space.yaml", tmp_path / "run"
    file.write_text(SPACE)
    assert main(["search", str(file), "--data", "d.npz", "--out", str(folder)]) == 0
    before = (folder / "trials.jsonl").read_bytes()
    file.write_text(SPACE.replace("none: {params: {max: 1}}", "fast: {latency_ms: {max: 1.5}}"))
    capsys.readouterr()
    assert main(["search", str(file), "--data", "d.npz", "--out", str(folder), *more]) == 0
    assert "new bands: nothing is measured again for them" in capsys.readouterr().err
    assert (folder / "trials.jsonl").read_bytes().startswith(before)
    assert len(read_trials(folder)) == (6 if more else 5)
    front = json.loads((folder / "front.json").read_text())
    assert list(front["bands"]) == ["any", "tiny", "fast"]
    fast = front["bands"]["fast"]
    assert fast is not None
    assert read_trials(folder)[fast]["latency_ms"] <= 1.5
    assert main(["report", str(folder)]) == 0
    assert json.loads((folder / "front.json").read_text())["bands"]["fast"] == fast


def test_report_rebuilds_the_same_front_from_the_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`report` needs nothing but the folder."""
    before = (run / "front.json").read_bytes()
    (run / "front.json").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "front.json").read_bytes() == before
    assert "Pareto front" in capsys.readouterr().out
    assert (run / "report.html").read_text().startswith("<!")


def test_a_trial_is_exported_and_its_file_counts_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is exported is the trial's network: spec, ONNX and weights, checked against torch."""
    assert main(["export", str(run), "--trial", "3", "--out", str(tmp_path), "--json", "--no-latency"]) == 0
    document = json.loads(capsys.readouterr().out)
    trial = read_trials(run)[3]
    assert (document["params"], document["flops"]) == (trial["params"], trial["flops"])
    assert document["max_abs_error"] < 1e-3
    assert count_model(load_spec(document["spec"])).params == trial["params"]
    assert Path(document["onnx"]).stat().st_size > 0
    assert main(["export", str(run), "--pick", "none", "--out", str(tmp_path)]) == 2
    assert "no trial of the run fits this band" in capsys.readouterr().err
    assert main(["export", str(run), "--trial", "77", "--out", str(tmp_path)]) == 2
    assert main(["export", str(run), "--out", str(tmp_path)]) == 2


def test_a_pick_is_the_trial_that_front_json_names(run: Path) -> None:
    """`--pick BAND` and `--trial N` lead to the same spec, which models/BAND.yaml holds."""
    picked = json.loads((run / "front.json").read_text())["bands"]["any"]
    spec = choose_spec(str(run), pick="any")
    assert spec == choose_spec(str(run), trial=picked)
    assert network_key(load_spec(run / "models" / "any.yaml")) == network_key(spec)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_tells_what_stands_and_resumes(tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT, and what ends a job or closes a terminal: a report of what is finished, exit code 130, no traceback.

    The handler is set by hand, since a job started in the background inherits that SIGINT is ignored.
    """
    (tmp_path / "space.yaml").write_text(SPACE.replace("trials: 5", "trials: 40").replace("[xxs]", "[]"))
    write_data(tmp_path / "data.npz")
    command = [
        sys.executable, "-c", INTERRUPTIBLE, "search", str(tmp_path / "space.yaml"),
        "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    trials = tmp_path / "run" / "trials.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not (trials.exists() and trials.read_bytes().count(b"\n") >= 1) and time.monotonic() < deadline:
            time.sleep(0.05)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "of 40 trials finished" in errors
    assert (tmp_path / "run" / "report.html").exists()


def test_names_that_are_no_unicode_lose_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A space file, a data file and a folder with any bytes in their names: searched, and reported from the files."""
    monkeypatch.setattr(summary, "PROCESSES", 1)
    monkeypatch.setattr(finished, "build_report", partial(build_report, draws=10))
    space, folder, data = (tmp_path / f"\udcff{name}" for name in ("space.yaml", "run", "data.npz"))
    space.write_text(SPACE.replace("trials: 5", "trials: 1").replace("[xxs]", "[]"))
    write_data(data)
    assert main(["search", str(space), "--data", str(data), "--out", str(folder), "--json"]) == 0
    assert main(["report", str(folder)]) == 0
    assert len(read_trials(folder)) == 1


def test_a_front_that_is_broken_is_not_believed(run: Path, tmp_path: Path) -> None:
    """A pick follows from the trials: front.json may have been edited by hand, or be gone."""
    expected = json.loads((run / "front.json").read_text())["bands"]["any"]
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for content in ("[", '{"bands": {"any": 0}}', '{"bands": {"any": "q"}}', None):
        (copy / "front.json").unlink() if content is None else (copy / "front.json").write_text(content)
        assert choose_spec(str(copy), pick="any") == parse_spec(read_trials(copy)[expected]["spec"])


@pytest.mark.slow
def test_two_workers_find_what_one_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the same window: the same networks and trainings to the bit; another number of workers may go on with it."""
    (tmp_path / "space.yaml").write_text(SPACE.replace("threads: 1}\nlatency", "threads: 2}\nlatency"))
    write_data(tmp_path / "data.npz")
    known = []
    for name, first, then in (("one", ["--window", "4"], ["--workers", "2"]), ("two", ["--workers", "2"], [])):
        command = ["search", str(tmp_path / "space.yaml"), "--data", str(tmp_path / "data.npz")]
        command += ["--out", str(tmp_path / name)]
        assert main([*command, *first, "--trials", "4"]) == 0
        assert main([*command, *then]) == 0
        trials = sorted(read_trials(tmp_path / name), key=lambda trial: trial["number"])
        run = yaml.safe_load((tmp_path / name / "run.yaml").read_text())
        assert run["space"]["search"]["window"] == 4
        keys = ("number", "state", "spec", "accuracy", "val_loss", "anchor_loss")
        known.append([{key: trial[key] for key in keys} for trial in trials])
    assert known[0] == known[1]
    assert [trial["number"] for trial in known[0]] == list(range(5))
    assert main([*command, "--window", "3"]) == 2
    assert "its search.window is 4, and 3 here" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["0", "-1", "two", "1000", "2.5"])
def test_workers_that_are_none_are_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a line, before anything is done."""
    assert main(["search", "spaces/smoke.yaml", f"--workers={given}"]) == 2
    rule = f"--workers: must be a number of workers, 1 to 256, ray, or ray://HOST[:PORT], got '{given}'"
    assert rule in capsys.readouterr().err
