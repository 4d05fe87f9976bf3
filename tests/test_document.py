"""Reading YAML: what is taken, what is refused, and the line each refusal gives."""

from __future__ import annotations

import os

import pytest

from modscale.document import (
    MAX_BYTES,
    Section,
    check_integer,
    check_number,
    dump_yaml,
    parse_yaml,
    read_count,
    read_yaml,
)
from modscale.errors import InputError

HUGE = pytest.param(16**5000, id="huge")  # Python refuses to write it out, in a test's name too


def refusal(read, *arguments, **options) -> str:
    """The message with which `read` refuses."""
    with pytest.raises(InputError) as caught:
        read(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("14e6", 14e6), ("14.0e+6", 14e6), ("-2.E3", -2000.0), (".5e1", 5.0), ("1E+2", 100.0)],
)
def test_yaml_1_2_floats_are_numbers(text, value):
    """Exponents without a dot or a sign are numbers, as YAML 1.2 and everybody else has it."""
    got = parse_yaml(f"x: {text}")["x"]
    assert (type(got), got) == (float, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("-07", -7), ("+3", 3), ("0o17", 15), ("0xff", 255), ("14_000_000", 14_000_000), ("0", 0)],
)
def test_yaml_1_2_integers_are_numbers(text, value):
    """A leading zero is no octal, and underscores part digits."""
    got = parse_yaml(f"x: {text}")["x"]
    assert (type(got), got) == (int, value)


@pytest.mark.parametrize("text", ["1:30", "1:30.5", "0b11", "0o8", "_1"])
def test_numbers_of_yaml_1_1_alone_are_text(text):
    """Ninety must not come of 1:30 without a word."""
    assert parse_yaml(f"x: {text}")["x"] == text


@pytest.mark.parametrize("text", ["e5", "1e", "1e5x", "0x1e", "v1e-4"])
def test_what_only_looks_like_a_float_is_none(text):
    """Text with digits and an e in it stays text."""
    assert not isinstance(parse_yaml(f"x: {text}")["x"], float)


@pytest.mark.parametrize(
    "value", ["1e4", "14e6", "yes", "null", "010", "2001-01-01", "<<", "=", "a: b", "", "é", "1_0"]
)
def test_text_survives_a_round_trip(value):
    """Text that could be taken for something else is quoted when written."""
    for flow in (None, True):
        assert parse_yaml(dump_yaml({"name": value, value: [value]}, flow=flow)) == {"name": value, value: [value]}


def test_shared_lists_are_written_out():
    """Equal parts are written twice, not as anchors and aliases."""
    shared = [1, 2]
    assert dump_yaml({"a": shared, "b": shared}) == "a: [1, 2]\nb: [1, 2]\n"


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("a: 1\na: 2", "line 2, column 1", "the key 'a' stands twice"),
        ("a: {b: 1, c: 2, b: 3}", "line 1, column 17", "the key 'b' stands twice"),
        ("? [a]\n: 1", "line 1, column 3", "a key must be plain text"),
        ("a: [1, 2", "line 2, column 1", "did not find expected ',' or ']'"),
        ("a:\n\tb: 1", "line 2, column 1", "cannot start any token"),
        ("a: *b", "line 1, column 4", "found undefined alias"),
        ("a: 1\n---\nb: 1", "line 2, column 1", "expected a single document"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4", "could not determine a constructor"),
        ("a: &a {x: 1}\nb: {<<: *a}", "line 2, column 5", "merge keys (<<) are not taken"),
        ("&a {? *a : 1}", "line 1, column 1", "a key must be plain text"),
    ],
)
def test_what_is_no_yaml_names_the_line(text, place, reason):
    """A broken document is refused with the line and column where it breaks."""
    message = refusal(parse_yaml, text)
    assert message.startswith(f"{place}: not valid YAML: ")
    assert reason in message


@pytest.mark.parametrize(
    "text",
    [
        "a: !!bool maybe",
        'a: !!int ""',
        'a: !!float ""',
        "a: !!timestamp soon",
        "a: 2001-99-99",
        "a: !!int x",
        "a: !!int 1:30",
    ],
)
def test_a_value_that_does_not_fit_its_type(text):
    """PyYAML's constructors raise whatever comes; here it is a refusal."""
    assert refusal(parse_yaml, text).startswith("not valid YAML: a value does not fit its type")


@pytest.mark.parametrize("text", ["[" * 10**5, "- " * 10**5, "{a: " * 10**5, "[" * 41 + "]" * 41])
def test_deep_nesting_is_refused(text):
    """A depth that would overflow PyYAML's C stack, and end the process, is refused before it is built."""
    assert "must be nested at most 40 deep" in refusal(parse_yaml, text)


def test_nesting_below_the_limit_is_taken():
    """Forty levels are read."""
    assert parse_yaml("[" * 40 + "]" * 40) is not None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"a: \xff", "line 1: must be text in UTF-8, got b'\\xff'"),
        ("a: 1\nb: Größe\n".encode("latin-1"), "line 2: must be text in UTF-8, got b'\\xf6\\xdfe\\n'"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: must be text in UTF-8, got b'\\x89PNG'"),
        (b"\0\0\0\0", "not valid YAML: "),
    ],
)
def test_bytes_that_are_no_text(tmp_path, data, told):
    """A binary file is refused with its name, and one of another encoding with the line."""
    file = tmp_path / "x.yaml"
    file.write_bytes(data)
    message = refusal(read_yaml, file)
    assert message.startswith(f"{file}: {told}")
    assert "\n" not in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_understood(tmp_path, encoding):
    """Files saved by Windows editors are read."""
    file = tmp_path / "x.yaml"
    file.write_bytes("name: é".encode(encoding))
    assert read_yaml(file) == {"name": "é"}


def test_files_that_cannot_be_read(tmp_path):
    """A missing file, a folder, a loop of links, a pipe and a device are each one line, and none blocks."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        "missing.yaml": "cannot be read: No such file or directory",
        "": "must be a plain file",
        "loop": "cannot be read: Too many levels of symbolic links",
        "pipe": "must be a plain file",
    }
    for name, reason in reasons.items():
        assert refusal(read_yaml, tmp_path / name) == f"{tmp_path / name}: {reason}"
    assert refusal(read_yaml, "/dev/zero") == "/dev/zero: must be a plain file"
    assert "null byte" in refusal(read_yaml, "a\0b")


def test_a_file_of_more_than_a_page_is_refused(tmp_path):
    """A data file given by mistake is not read at all."""
    file = tmp_path / "big.yaml"
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    assert refusal(read_yaml, file) == f"{file}: must be a YAML text of at most 1000000 bytes, got 1000001"


def test_an_unknown_key_names_the_nearest_and_the_allowed():
    """A slip of the fingers is answered with the key that was probably meant."""
    message = refusal(Section, {"dept": 3}, ("dim", "depth"), place="stages[1]")
    assert message == "stages[1].dept: unknown key; did you mean depth? allowed: dim, depth"
    message = refusal(Section, {"zzz": 3}, ("dim", "depth"))
    assert message == "zzz: unknown key; allowed: dim, depth"


@pytest.mark.parametrize("key", [None, True, 3, 1.5, HUGE, "k" * 10**5, "\x1b[31m", "a\nb"])
def test_a_key_of_any_kind_is_named_in_one_short_line(key):
    """Keys that are numbers, endless or unprintable are named without harm."""
    message = refusal(Section, {key: 1}, ("dim",))
    assert message.endswith("unknown key; allowed: dim")
    assert len(message) < 200
    assert message.isprintable()


@pytest.mark.parametrize("value", [None, [], "text", 3, True, [{"dim": 1}]])
def test_a_section_is_a_mapping(value):
    """Anything else is refused with what it should have been."""
    message = refusal(Section, value, ("dim",), place="stages[0]", what="a stage")
    assert message == f"stages[0]: must be a mapping (a stage), got {value!r}"


@pytest.mark.parametrize(("value", "number"), [(3, 3), (3.0, 3), (14.0e6, 14_000_000)])
def test_whole_numbers(value, number):
    """A float without a fraction is a whole number."""
    got = check_integer(value, "x")
    assert (type(got), got) == (int, number)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (True, "must be a whole number, got True"),
        (2.5, "must be a whole number, got 2.5"),
        ("3", "must be a whole number, got '3'"),
        (None, "must be a whole number, got None"),
        ([3], "must be a whole number, got [3]"),
        (float("nan"), "must be a whole number, got nan"),
        (float("inf"), "must be a whole number, got inf"),
        (0, "must be 1 or more, got 0"),
        (-4, "must be 1 or more, got -4"),
        (11, "must be 10 or less, got 11"),
        pytest.param(16**5000, "must be 10 or less, got a whole number of 20001 bits", id="huge"),
    ],
)
def test_what_is_no_whole_number_in_range(value, rule):
    """Booleans, fractions, text and numbers out of range are refused with the rule."""
    assert refusal(check_integer, value, "stages[0].depth", low=1, high=10) == f"stages[0].depth: {rule}"


@pytest.mark.parametrize(
    ("value", "bounds", "rule"),
    [
        (float("nan"), {}, "must be a finite number, got nan"),
        (float("-inf"), {}, "must be a finite number, got -inf"),
        (10**400, {}, "must be a finite number, got 1000"),
        (False, {}, "must be a number, got False"),
        ("1", {}, "must be a number, got '1'"),
        (0, {"above": 0}, "must be more than 0, got 0"),
        (1.0, {"below": 1}, "must be less than 1, got 1.0"),
        (-0.5, {"low": 0}, "must be 0 or more, got -0.5"),
        (2, {"high": 1.5}, "must be 1.5 or less, got 2"),
    ],
)
def test_what_is_no_number_in_range(value, bounds, rule):
    """Each bound is refused in its own words."""
    assert refusal(check_number, value, "x", **bounds).startswith(f"x: {rule}")


def test_bounds_themselves():
    """Closed bounds hold their ends."""
    assert check_number(0, "x", low=0) == 0
    assert check_number(1, "x", high=1) == 1
    assert check_integer(1, "x", low=1, high=1) == 1


@pytest.mark.parametrize("value", ["", "  ", "x" * 201, "a\nb", "\x07", 3, None, ["a"], True])
def test_a_name_is_a_line_of_text(value):
    """Empty, endless, unprintable names and other types are refused."""
    section = Section({"name": value}, ("name",))
    assert refusal(section.text, "name", "model").startswith(
        "name: must be a line of text of 1 to 200 characters, got "
    )


def test_defaults_and_required_keys():
    """A key that is not there takes its default, or is required where there is none; a null is there."""
    section = Section({"a": None}, ("a", "b"))
    assert section.integer("b", 5) == 5
    assert refusal(section.integer, "b", None) == "b: is required"
    assert refusal(section.integer, "a", 5) == "a: must be a whole number, got None"


@pytest.mark.parametrize("value", [{}, [], "abc", None, 3, list(range(4))])
def test_a_list_has_items(value):
    """An empty mapping, an empty list and too long a list are no list of stages."""
    section = Section({"stages": value}, ("stages",))
    assert refusal(section.sequence, "stages", most=3) == f"stages: must be a list of 1 to 3 items, got {value!r}"


@pytest.mark.parametrize(
    ("text", "number"),
    [("6M", 6e6), ("1.4G", 1.4e9), ("14e6", 14e6), ("600k", 6e5), ("2B", 2e9), ("1_000", 1e3), (" 6 M ", 6e6),
     (".5m", 5e5), ("1T", 1e12), ("6", 6.0), ("-3M", -3e6), ("0.1k", 100.0)],
)  # fmt: skip
def test_a_count_is_read_as_a_person_types_it(text, number):
    """Decimal suffixes in either case, powers of ten, plain."""
    assert read_count(text) == number


@pytest.mark.parametrize(
    "text", ["", "M", "6X", "6MB", "6 Mi", "1e9999", "nan", "inf", "6,000,000", "1.2.3", "0x10", "٦"]
)
def test_what_is_no_count_is_refused(text):
    """Nothing is guessed."""
    with pytest.raises(InputError, match="must be a number, as in 6000000, 6e6, 6M"):
        read_count(text)
