"""Files of one JSON object a line (`tests/runs/test_trials.py` has what a kill, a full disk and a link do to them)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modscale.errors import InputError, RunError
from modscale.lines import append_line, naming_line, read_lines


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    """Blank lines count and hold nothing; what was appended is what the json module reads."""
    file = tmp_path / "x.jsonl"
    assert list(read_lines(file)) == []
    append_line(file, {"a": [1, 2.5, None], "b": "é"})
    with file.open("ab") as stream:
        stream.write(b"\n \n")
    append_line(file, {"a": 2})
    assert list(read_lines(file)) == [(1, {"a": [1, 2.5, None], "b": "é"}), (4, {"a": 2})]
    assert [json.loads(line) for line in file.read_text().splitlines() if line.strip()] == [
        document for _, document in read_lines(file)
    ]


def test_a_cut_last_line_is_passed_over_and_cut_away(tmp_path: Path) -> None:
    """As a kill in mid-write leaves it."""
    file = tmp_path / "x.jsonl"
    append_line(file, {"a": 1})
    with file.open("ab") as stream:
        stream.write(b'{"a": 2')
    assert list(read_lines(file)) == [(1, {"a": 1})]
    append_line(file, {"a": 3})
    assert file.read_text() == '{"a": 1}\n{"a": 3}\n'


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    """With its number; so is a rule that a reader finds broken."""
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": 1}\n{"a": NaN}\n{"a": 2}\n')
    with pytest.raises(RunError, match=r"x\.jsonl: line 2: not a JSON object: NaN is not a number"):
        list(read_lines(file))
    with pytest.raises(RunError, match=r"x\.jsonl: line 3, a: must be 1, got 2$"), naming_line(file, 3):
        raise InputError("must be 1", place="a", value=2)
