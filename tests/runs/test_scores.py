"""The lines of `fidelity.jsonl` and `latency.jsonl`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modscale.errors import InputError, RunError
from modscale.runs.scores import Scored, append_scored, parse_scored, read_scored
from modscale.specs.published import published
from modscale.specs.spec import spec_to_dict

ROW = Scored(
    name="xxs", spec=published("xxs"), seed=0, state="complete", score=0.25, standard_error=0.01,
    results={"accuracy": 0.25, "val_images": 1000}, seconds=12.5, cpu_seconds=20.0,
)  # fmt: skip
FAILED = replace(ROW, seed=1, state="failed", reason="diverged", score=None, standard_error=None, results={})
TIMED = Scored(
    name="xxs", spec=published("xxs"), seed=None, state="complete", seconds=9.0,
    results={"latency_ms": 10.5, "latency_wide": True},
)  # fmt: skip


def test_reads_back_what_was_appended(tmp_path: Path) -> None:
    """A score, a failure and a timing; keys of later versions are passed over."""
    file = tmp_path / "fidelity.jsonl"
    for row in (ROW, FAILED, TIMED):
        append_scored(file, row)
    assert read_scored(file) == [ROW, FAILED, TIMED]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["name"], line["seed"], line["score"]) for line in lines] == [
        ("xxs", 0, 0.25), ("xxs", 1, None), ("xxs", None, None)
    ]  # fmt: skip
    file.write_text(json.dumps(lines[0] | {"later": [1]}) + "\n")
    assert read_scored(file) == [ROW]


def test_a_network_is_known_by_its_spec_and_not_by_its_name() -> None:
    """Renamed it is the same one; by another seed, or another width, it is not."""
    assert ROW.key == replace(ROW, name="other", spec=replace(ROW.spec, name="other")).key
    assert len({ROW.key, FAILED.key, TIMED.key, replace(ROW, spec=published("xs")).key}) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "line 2, seed: must be 0 or more, got -1"),
        ({"seed": 0}, "line 2, spec: the same network and seed stand on line 1 already"),
        ({"score": None}, "line 2, score: is required where the state is complete"),
        ({"score": "high"}, "line 2, score: must be a number, got 'high'"),
        ({"state": "stopped"}, "line 2, state: must be one of complete, failed"),
        ({"state": "failed"}, "line 2, reason: is required where the state is failed"),
        ({"reason": 3}, "line 2, reason: must be text, got 3"),
        ({"standard_error": -1}, "line 2, standard_error: must be 0 or more"),
        ({"results": [1]}, "line 2, results: must be a mapping of names to numbers"),
        ({"results": {"loss": "low"}}, "line 2, results.loss: must be a number, got 'low'"),
        ({"seconds": None}, "line 2, seconds: must be a number, got None"),
        ({"spec": {"stages": []}}, "line 2, spec.stages: must be a list of 1"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """With the file, its number, the rule and the value."""
    file = tmp_path / "fidelity.jsonl"
    append_scored(file, ROW)
    with file.open("a") as stream:
        stream.write(json.dumps(json.loads(file.read_text()) | {"seed": 7} | changes) + "\n")
    with pytest.raises(RunError, match=message):
        read_scored(file)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(list(Scored.__dataclass_fields__)), value=JSON)
def test_no_value_brings_a_traceback(key: str, value: object) -> None:
    """Whatever stands under a key, the line is a measurement or an InputError."""
    line = {"name": "xxs", "spec": spec_to_dict(ROW.spec), "seed": 0, "state": "complete", "score": 1, "seconds": 1}
    with suppress(InputError):
        assert isinstance(parse_scored(line | {key: value}), Scored)
