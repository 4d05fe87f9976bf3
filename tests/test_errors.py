"""Messages: one line with the file, the place in it, the rule and the value."""

from __future__ import annotations

import pickle

import pytest

from modscale.errors import (
    AllTrialsFailed,
    CheckpointError,
    DataError,
    InputError,
    MismatchError,
    ModscaleError,
    ProviderError,
    RunError,
    TooLargeError,
    TrialFailed,
    naming_file,
    shorten,
)


def test_a_message_names_file_place_rule_and_value():
    """All four parts stand in one line, in that order."""
    error = InputError("must be 1 or more", file="my.yaml", place="stages[2].depth", value=0)
    assert str(error) == "my.yaml: stages[2].depth: must be 1 or more, got 0"


def test_parts_that_are_missing_leave_no_trace():
    """Without a file, a place or a value only the rule is said; the value None is a value."""
    assert str(InputError("is required")) == "is required"
    assert str(InputError("must be a mapping", value=None)) == "must be a mapping, got None"


def test_a_message_is_one_line():
    """Line breaks in a file's name or in a library's own message do not break the line."""
    assert str(InputError("cannot\n be  read", file="a\nb.yaml")) == "a b.yaml: cannot be read"


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        [[["y" * 99] * 99] * 99] * 99,
        {i: {i: "z" * 50} for i in range(99)},
        16**5000,
        -(16**9000),
        {1.5, "a"},
    ],
    ids=["text", "nested lists", "mapping", "huge number", "huge negative number", "set"],
)
def test_a_value_of_any_size_is_shortened(value):
    """However long the value, what is shown of it is short."""
    assert 0 < len(shorten(value)) <= 120


def test_a_list_that_holds_itself_is_shown():
    """YAML can describe a list within itself."""
    endless: list[object] = []
    endless.append(endless)
    assert shorten(endless) == "[[[[...]]]]"


def test_control_characters_are_escaped():
    """A value cannot recolour the terminal."""
    assert shorten("\x1b[31m") == r"'\x1b[31m'"


def test_naming_file_adds_the_file_once():
    """The innermost file wins; other errors pass untouched."""
    with (
        pytest.raises(InputError, match=r"^inner\.yaml: is required$"),
        naming_file("outer.yaml"),
        naming_file("inner.yaml"),
    ):
        raise InputError("is required")
    with pytest.raises(KeyError), naming_file("outer.yaml"):
        raise KeyError("x")


def test_exit_codes():
    """What the user can mend ends with 2, faults of ours with 1."""
    mended = (InputError, DataError, CheckpointError, RunError, ProviderError, TooLargeError, TrialFailed)
    assert {kind("x").exit_code for kind in mended} == {2}
    assert {kind("x").exit_code for kind in (ModscaleError, MismatchError, AllTrialsFailed)} == {1}


@pytest.mark.parametrize("error", [InputError("must be 1"), DataError("must be 1", file="a", place="b", value=None)])
def test_an_error_travels_to_another_process_as_it_is(error: InputError) -> None:
    """Without a value it has none afterwards; None is a value."""
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301  # our own bytes
    assert ("got None" in str(error)) == (error.file == "a")
