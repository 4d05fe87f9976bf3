"""Raw timings: every figure can be computed again from the file, and a broken file is one line."""

from __future__ import annotations

import json

import pytest
from tiny_onnx import write_tiny

from modscale.cli.main import main
from modscale.errors import RunError
from modscale.latency.protocol import measure_files
from modscale.latency.raw import check_raw, keep_in, known_devices, read_measurements
from modscale.settings import LatencySettings

SETTINGS = LatencySettings(threads=1, warmup=1, runs=10, patience_s=0)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A measurement of two models, with the reference, and what was found of it."""
    folder = tmp_path_factory.mktemp("raw")
    files = [write_tiny(folder / f"{name}.onnx") for name in "ab"]
    found = measure_files(files, SETTINGS, keep=keep_in(folder / "t.jsonl", [{"name": "a"}, {"name": "b"}]))
    return folder / "t.jsonl", found


def test_the_figures_are_computed_again_from_the_file(kept):
    """All of them, to the last digit; every run is there, the reference's too."""
    file, found = kept
    (measurement,) = read_measurements(file)
    assert measurement.latencies() == found
    assert [model["name"] for model in measurement.models] == ["a", "b"]
    assert len(measurement.references) == 6
    assert sum(len(one.timings.times_ns) for one in measurement.rounds[0]) == 10


def test_a_file_of_raw_timings_is_a_model(kept, capsys):
    """`modscale latency FILE.jsonl` measures nothing and says the same; beside another MODEL it is refused."""
    file, found = kept
    assert main(["latency", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["median_ms"] for row in document["models"]] == [one.median_ms for one in found]
    assert document["reference"]["ms"] == found[0].reference_ms
    assert document["too_noisy"] == any(one.wide for one in found)
    assert main(["latency", str(file), "xxs"]) == 2
    assert "raw timings are computed again by themselves, without, got 'xxs'" in capsys.readouterr().err


def test_measurements_follow_each_other_and_one_that_was_cut_off_is_passed_over(kept, tmp_path):
    """A killed measurement leaves what it had; the next one is added."""
    lines = kept[0].read_text().splitlines(keepends=True)
    file = tmp_path / "t.jsonl"
    file.write_text("".join(lines[:2]) + "".join(lines) + lines[0] + lines[1][:40])
    assert [len(one.models) for one in read_measurements(file)] == [2]
    check_raw(file)


def test_what_a_device_was_is_known_again(kept, tmp_path):
    """So that a search which goes on is told of another processor; the first line of each device counts."""
    begin = json.loads(kept[0].read_text().splitlines()[0])
    lines = []
    for device, processor in (("", "a"), ("pi", "b"), ("pi", "c")):
        changed = {**begin["begin"], "facts": {**begin["begin"]["facts"], "processor": processor}, "device": device}
        lines.append(json.dumps({"begin": changed}))
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    assert {name: facts["processor"] for name, facts in known_devices(tmp_path / "t.jsonl").items()} == {
        "": "a", "pi": "b"
    }  # fmt: skip
    assert known_devices(tmp_path / "none.jsonl") == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "line 1: no measurement has begun before this line: begin is missing"),
        (lambda lines: [], "has no measurement"),
        (lambda lines: [lines[0], lines[1].replace('"order": 0', '"order": -1')], "line 2, order: must be 0 or more"),
        (lambda lines: [lines[0], lines[2].replace('"model": 0', '"model": 2')], "line 2, model: must be 1 or less"),
        (
            lambda lines: [lines[0], '{"model": 0, "order": 1, "times_ns": [5]}'],
            "times_ns: must be a list of two times",
        ),
        (lambda lines: ['{"begin": {"models": [1], "facts": {}}}'], "line 1, begin.models: must be a list of models"),
        (lambda lines: ['{"begin": {"models": [], "facts": {}}}'], "line 1, begin.facts.processor: is required"),
        (lambda lines: ['{"hours": 3}'], "no measurement has begun before this line"),
    ],
)
def test_a_broken_file_is_one_line(kept, tmp_path, change, message):
    """The file, the line and the rule; and nothing is added to a file that is something else."""
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(change(kept[0].read_text().splitlines())) + "\n")
    with pytest.raises(RunError) as caught:
        read_measurements(file)
    assert message in str(caught.value)
    if file.read_text().strip():
        with pytest.raises(RunError):
            check_raw(file)
