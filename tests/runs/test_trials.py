"""The file of finished trials: nothing lost by a kill, nothing wrong let in by hand."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import remeasured
from hypothesis import given, settings
from hypothesis import strategies as st

from modscale.errors import InputError, RunError
from modscale.runs.trials import Rung, Trial, append_trial, parse_trial, read_trials
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec, StageSpec, StemSpec, parse_spec

SPEC = ModelSpec(
    name='odd "name" | ü',
    resolution=96,
    num_classes=7,
    stem=StemSpec(kernel_size=4, stride=4),
    layer_scale=None,
    stages=(
        StageSpec(dim=24, depth=3, mlp_ratios=(1, 6, 4), kernel_size=(3, 5), context=("f", "g"), fusion="sum"),
        StageSpec(dim=48, depth=1, attention_depth=2, attention_mlp_ratio=2.5),
    ),
)
TRIAL = Trial(
    number=0,
    state="complete",
    spec=SPEC,
    results={
        "params": count_model(SPEC).params,
        "flops": count_model(SPEC).flops,
        "latency_ms": 10.2,
        "latency_ci95_ms": 0.125,
        "latency_wide": True,
        "latency_busy": False,
        "accuracy": 0.3015,
        "val_images": 1000,
    },
    seconds=12.5,
    choice={"stages[0].depth": 3, "stages[0].fusion": "sum", "stages[1].attention_mlp_ratio": 2.5},
)
FAILED = Trial(
    number=1,
    state="failed",
    reason="out of memory",
    spec=SPEC,
    results={"params": TRIAL["params"], "flops": TRIAL["flops"]},
    seconds=0.0,
)
SMALL = count_model(parse_spec({"stages": [{"dim": 8, "depth": 1}]}))


RUNG = {"share": 0.25, "value": -2.5, "seconds": 3.0}


def line(**changes: object) -> str:
    """A valid line of the contract's keys alone, with some changed."""
    document = {
        "number": 3, "state": "complete", "spec": {"stages": [{"dim": 8, "depth": 1}]}, "params": SMALL.params,
        "flops": SMALL.flops, "latency_ms": 1.5, "accuracy": 0.5, "seconds": 3,
    }  # fmt: skip
    return json.dumps(document | changes)


def test_the_latency_on_a_device_comes_back(tmp_path: Path) -> None:
    """With its interval and its doubts, by rules of its own: a broken one is named."""
    path = tmp_path / "trials.jsonl"
    path.write_text(line(latency_pi_ms=40.5, latency_pi_ci95_ms=0.5, latency_pi_busy=True, latency_pi_odd=1) + "\n")
    (trial,) = read_trials(path)
    assert trial["latency_pi_ms"] == 40.5
    assert (trial.value("latency_pi_ci95_ms"), trial.value("latency_pi_busy")) == (0.5, True)
    append_trial(tmp_path / "again.jsonl", trial)
    assert read_trials(tmp_path / "again.jsonl") == [trial]
    path.write_text(line(latency_pi_ms=-1) + "\n")
    with pytest.raises(RunError, match="line 1, latency_pi_ms: must be more than 0, got -1"):
        read_trials(path)


def test_reads_back_what_was_appended(tmp_path: Path) -> None:
    """A whole spec, a failure and a choice survive the file unchanged, in order."""
    path = tmp_path / "trials.jsonl"
    rungs = (Rung(share=0.25, value=-2.5, seconds=3.0), Rung(share=1.0, value=-1.0, seconds=9.5))
    stopped = replace(TRIAL, number=7, state="stopped", reason="too slow", rungs=rungs)
    trials = [TRIAL, FAILED, remeasured(stopped, accuracy=None)]
    for trial in trials:
        append_trial(path, trial)
    assert read_trials(path) == trials
    assert path.read_bytes().count(b"\n") == 3


def test_lines_have_the_contract_keys(tmp_path: Path) -> None:
    """Another program finds the contract's keys, a failure's reason and the whole spec."""
    path = tmp_path / "trials.jsonl"
    append_trial(path, TRIAL)
    append_trial(path, FAILED)
    first, second = (json.loads(text) for text in path.read_text().splitlines())
    assert {"number", "state", "spec", "params", "flops", "latency_ms", "accuracy", "seconds"} <= set(first)
    assert first["spec"]["stages"][0]["mlp_ratios"] == [1, 6, 4]
    assert first["spec"]["stem"] == {"kernel_size": 4, "stride": 4}
    assert (second["state"], second["reason"], second["accuracy"]) == ("failed", "out of memory", None)


def test_reads_the_contract_keys_alone(tmp_path: Path) -> None:
    """A file with no key but the contract's, or with keys of a later version, is read."""
    path = tmp_path / "trials.jsonl"
    path.write_text(line() + "\n\n" + line(number=4, energy_mj=3.2) + "\n")
    first, second = read_trials(path)
    assert (first.number, second.number, first.value("val_images"), dict(first.choice)) == (3, 4, None, {})


def test_no_file_is_no_trial(tmp_path: Path) -> None:
    """A run killed before its first trial has none."""
    assert read_trials(tmp_path / "trials.jsonl") == []


def test_a_line_cut_anywhere_costs_only_itself(tmp_path: Path) -> None:
    """However few bytes of the last line reached the disk, the lines before it stand and the next is not glued on."""
    path = tmp_path / "trials.jsonl"
    append_trial(path, TRIAL)
    whole = path.read_bytes()
    append_trial(path, FAILED)
    last = path.read_bytes()[len(whole) :]
    for cut in range(len(last) - 1):
        path.write_bytes(whole + last[:cut])
        assert read_trials(path) == [TRIAL]
        if cut % 40 == 0:
            append_trial(path, FAILED)
            assert read_trials(path) == [TRIAL, FAILED]


def test_a_whole_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    """A last line that lacks only its newline (an editor's doing) counts, and the next starts on its own line."""
    path = tmp_path / "trials.jsonl"
    path.write_text(line())
    append_trial(path, TRIAL)
    assert [trial.number for trial in read_trials(path)] == [3, 0]


def test_a_cut_line_longer_than_the_buffer_is_cut_away(tmp_path: Path) -> None:
    """The search for the last newline does not stop at one buffer."""
    path = tmp_path / "trials.jsonl"
    path.write_text(line() + "\n" + '{"reason": "' + "x" * 200_000)
    append_trial(path, TRIAL)
    assert [trial.number for trial in read_trials(path)] == [3, 0]


def test_kill_loses_no_finished_trial(tmp_path: Path) -> None:
    """A writer killed with SIGKILL in mid-run leaves every line it had reported as written."""
    path = tmp_path / "trials.jsonl"
    writer = (
        "import sys; from dataclasses import replace; from modscale.runs.trials import append_trial, read_trials\n"
        "trial = read_trials(sys.argv[1])[0]\n"
        "for n in range(1, 10**6):\n"
        "    append_trial(sys.argv[1], replace(trial, number=n)); print(n, flush=True)\n"
    )
    append_trial(path, TRIAL)
    with subprocess.Popen([sys.executable, "-c", writer, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(8):
            told = int(process.stdout.readline())
        process.kill()
    assert [trial.number for trial in read_trials(path)][: told + 1] == list(range(told + 1))


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way is one clear RunError, and the half line is gone."""
    path = tmp_path / "trials.jsonl"
    append_trial(path, TRIAL)

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"trials\.jsonl: cannot be written: No space left on device"):
        append_trial(path, FAILED)
    assert path.read_bytes().endswith(b"\n")
    assert read_trials(path) == [TRIAL]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_device_without_room_is_a_run_error(tmp_path: Path) -> None:
    """The system's own full device gives the same one line."""
    path = tmp_path / "trials.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(RunError, match="cannot be written"):
        append_trial(path, TRIAL)


def test_a_missing_folder_is_a_run_error(tmp_path: Path) -> None:
    """A folder that went away is named."""
    with pytest.raises(RunError, match="cannot be written: No such file or directory"):
        append_trial(tmp_path / "gone" / "trials.jsonl", TRIAL)
    with pytest.raises(RunError, match="cannot be read: Is a directory"):
        read_trials(tmp_path)


BROKEN = [
    ("{", "line 2: not a JSON object: Expecting property name"),
    ("[1]", r"line 2: must be a mapping \(a trial\), got \[1\]"),
    ("[" * 100_000, "line 2: (nested too deeply|not a JSON object)"),
    (line(accuracy=1.5), "line 2, accuracy: must be 1 or less, got 1.5"),
    (line(accuracy="0.5"), "line 2, accuracy: must be a number, got '0.5'"),
    (line(accuracy=float("nan")), "line 2: not a JSON object: NaN is not a number in JSON"),
    (line(latency_ms=0), "line 2, latency_ms: must be more than 0, got 0"),
    (line().replace("1.5", "1e999"), "line 2, latency_ms: must be a finite number, got inf"),
    (line(latency_ci95_ms=-1), "line 2, latency_ci95_ms: must be 0 or more, got -1"),
    (line(latency_wide="calm"), "line 2, latency_wide: must be true or false, got 'calm'"),
    (line(latency_busy=1), "line 2, latency_busy: must be true or false, got 1"),
    (line(params=True), "line 2, params: must be a whole number, got True"),
    (line(params=-1), "line 2, params: must be 0 or more, got -1"),
    (line(val_images=0), "line 2, val_images: must be 1 or more, got 0"),
    (line(state="done"), "line 2, state: must be one of complete, failed, stopped, got 'done'"),
    (line(state="failed"), "line 2, reason: is required where the state is failed"),
    (line(state="failed", reason=3), "line 2, reason: must be text, got 3"),
    (line(spec={}), "line 2, spec.stages: is required"),
    (line(spec={"stages": [{"dim": 8, "depth": 0}]}), r"line 2, spec.stages\[0\].depth: must be 1 or more, got 0"),
    (line(choice={"stages[0].dim": None}), r"line 2, choice.stages\[0\].dim: must be a number, got None"),
    (line(choice=[1]), r"line 2, choice: must be a mapping of parameter to option, got \[1\]"),
    (line(rungs={}), r"line 2, rungs: must be a list of what was reached at each rung, got \{\}"),
    (line(rungs=[3]), r"line 2, rungs\[0\]: must be a mapping \(a rung\), got 3"),
    (line(rungs=[RUNG | {"share": 0}]), r"line 2, rungs\[0\].share: must be more than 0, got 0"),
    (line(rungs=[RUNG | {"share": 1.5}]), r"line 2, rungs\[0\].share: must be 1 or less, got 1.5"),
    (line(rungs=[RUNG, RUNG]), r"line 2, rungs\[1\].share: must be more than that of the rung before it, got 0.25"),
    (line(rungs=[RUNG | {"seconds": -1}]), r"line 2, rungs\[0\].seconds: must be 0 or more, got -1"),
    (line(rungs=[{"share": 0.5, "seconds": 1}]), r"line 2, rungs\[0\].value: is required"),
    (line(number=9), "line 2, number: the number stands on line 1 already, got 9"),
    (line()[:-1] + ', "number": 5}', "line 2: not a JSON object: the key 'number' stands twice"),
    (line(params="x" * 10).replace('"xxxxxxxxxx"', "1" * 5000), "line 2: not a JSON object: Exceeds the limit"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_a_broken_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    """Every line but a cut-off last one must keep the rules; the error says file, line, rule and value."""
    path = tmp_path / "trials.jsonl"
    path.write_text(line(number=9) + "\n" + text + "\n")
    with pytest.raises(RunError, match=message) as caught:
        read_trials(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["number", "state", "spec", "params", "flops", "seconds"])
def test_a_missing_key_is_named(key: str) -> None:
    """A line without one of the required keys says which."""
    document = json.loads(line())
    del document[key]
    with pytest.raises(InputError, match=f"{key}: is required"):
        parse_trial(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from([*json.loads(line()), "choice", "reason", "val_images", "rungs"]), value=JSON)
def test_no_value_brings_a_traceback(key: str, value: object) -> None:
    """Whatever stands under a key, the line is a trial or an InputError."""
    with suppress(InputError):
        assert isinstance(parse_trial(json.loads(line()) | {key: value}), Trial)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"params": 15}, r"line 2, params: must be 10928, as trial 3's spec counts, got 15$"),
        ({"flops": SMALL.flops + 1}, r"line 2, flops: must be \d+, as trial 3's spec counts, got \d+$"),
        (
            {"spec": {"stages": [{"dim": 16, "depth": 1}]}},
            r"line 2, params: must be \d+, as trial 3's spec counts, got 10928$",
        ),
    ],
)
def test_counts_are_those_of_the_spec(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    """A number or a width that was changed by hand is told, with both values."""
    path = tmp_path / "trials.jsonl"
    path.write_text(line(number=1) + "\n" + line(**changes) + "\n")
    with pytest.raises(RunError, match=told):
        read_trials(path)


def test_nothing_is_written_through_a_link_or_read_from_a_pipe(tmp_path: Path) -> None:
    """The file elsewhere stays as it is; a pipe that nobody writes to is not waited for."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(line() + "\n")
    before = elsewhere.read_bytes()
    (tmp_path / "trials.jsonl").symlink_to(elsewhere)
    with pytest.raises(RunError, match="cannot be written"):
        append_trial(tmp_path / "trials.jsonl", TRIAL)
    assert elsewhere.read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="cannot be read: Is a pipe"):
        read_trials(tmp_path / "pipe")
