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
    one_line,
    printable,
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


HOSTILE_SIGNS = {
    "\x1b]0;pwned\x07": r"\x1b]0;pwned\x07",  # sets a terminal's title
    "a\nb\tc\r": r"a\nb\tc\r",
    "\x7f\x80\x9b2J": r"\x7f\x80\x9b2J",  # DEL, and C1's one-byte form of ESC [
    "user\u202egnp.exe\u2066": r"user\u202egnp.exe\u2066",  # reads as userexe.png
    "a\u2028b\u2029c": r"a\u2028b\u2029c",
    "a\u200bb\ufeffc\U000e0041": r"a\u200bb\ufeffc\U000e0041",
    "\udc80\ud800": r"\udc80\ud800",
}


@pytest.mark.parametrize("text", HOSTILE_SIGNS, ids=ascii)
def test_signs_that_steer_a_terminal_are_seen_and_not_obeyed(text: str) -> None:
    """Control characters, turned directions, line separators and half characters become visible escapes."""
    assert printable(text) == HOSTILE_SIGNS[text]
    assert printable(text).encode().isascii()


def test_writing_of_every_kind_stays() -> None:
    """Letters with accents of their own, other scripts, their joiners, odd blanks and emoji are no attack."""
    for text in (
        "e\u0301",
        "\u6a21\u578b",
        "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645",
        "5\u202fPM\u00a0x",
        "\U0001f469\u200d\U0001f52c",
    ):
        assert printable(text) == text


def test_no_part_of_a_message_reaches_the_terminal_raw() -> None:
    """File, place, rule and value are all somebody's text."""
    raw = "\x1b[31m\u202e\udcff"
    message = str(InputError(raw, file=raw, place=raw, value=raw))
    assert message.isprintable()
    assert message.count(r"\x1b[31m\u202e\udcff") == 4
    assert one_line(" a\r\n b\x1b ") == r"a b\x1b"


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
