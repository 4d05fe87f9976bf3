"""Reading YAML that nobody vouches for: safe loading, and mappings whose every value is asked for by rule.

Numbers are those of YAML 1.2: `1e-4` and `14e6`, which PyYAML alone reads as text, and `010` is ten and `1:30` a text,
where PyYAML alone reads eight and ninety. Duplicate keys are refused, since the first value would be dropped without
a word.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import math
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from modscale.errors import InputError, naming_file, shorten

MAX_BYTES = 1_000_000
"""A spec or a space is a page of text; a larger file is a mistake."""

NOWHERE: Mapping[str, str] = MappingProxyType({})
"""For `Section`: no key that belongs elsewhere."""

MAX_NESTING = 40
"""Deepest nesting of lists and mappings."""

Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_COUNT = re.compile(r"([-+]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?)\s?([kKmMgGbBtT]?)")
_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
"""Decimal, as the field has them; B is a billion, as G is."""


class _Loader(Base):  # type: ignore[misc]  # the base is PyYAML's C loader where there is one
    """PyYAML's safe loader with YAML 1.2 numbers and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem="merge keys (<<) are not taken", problem_mark=key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {shorten(key)} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, quoting what `_Loader` would take for a number, and without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_INTEGER, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_NUMBERS = (  # YAML 1.2's core schema, and underscores between digits
    (_INTEGER, re.compile(r"^(?:[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    (
        _FLOAT,
        re.compile(
            r"^[-+]?(?:(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
        ),
        "-+.0123456789",
    ),
)
for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INTEGER, _FLOAT)]
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }
    for _tag, _pattern, _first in _NUMBERS:
        _kind.add_implicit_resolver(_tag, _pattern, list(_first))


def _construct_integer(loader: Any, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


_Loader.add_constructor(_INTEGER, _construct_integer)


def read_yaml(file: str | Path) -> object:
    """The document in `file`, plain Python values only.

    Raises:
        InputError: no such file, not a plain file, not readable, not Unicode, not YAML, or larger than a page of text.
    """
    if file == "":  # which pathlib takes for the current folder
        raise InputError("must be the path of a file", value=file)
    path = Path(file)
    with naming_file(file):
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe or a device might never end
                raise InputError("must be a plain file")
            if status.st_size > MAX_BYTES:
                raise InputError(f"must be a YAML text of at most {MAX_BYTES} bytes", value=status.st_size)
            return parse_yaml(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise InputError(f"cannot be read: {reason}") from error


def parse_yaml(text: bytes | str) -> object:
    """The document in `text`. Raises InputError with the line where it stops being YAML."""
    try:
        _check_nesting(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise InputError(f"not valid YAML: {reason or error}", place=_line_of(error.problem_mark)) from error
    except yaml.YAMLError as error:
        _check_encoding(text)
        raise InputError(f"not valid YAML: {error}") from error
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # PyYAML's constructors check nothing: `!!bool maybe` is a KeyError, `2001-99-99` a ValueError.
        raise InputError(f"not valid YAML: a value does not fit its type ({error})") from error


def dump_yaml(value: object, *, flow: bool | None = None, width: int = 110) -> str:
    """`value` as YAML that `parse_yaml` reads back equal: `flow` on one line, by default only the innermost parts."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, width=width)


def _check_encoding(text: bytes | str) -> None:
    """Says where a text that YAML cannot read is no UTF-8; of UTF-16 with its mark it takes what there is."""
    if isinstance(text, bytes) and not text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text.decode()
        except UnicodeDecodeError as error:
            line = text.count(b"\n", 0, error.start) + 1
            raise InputError("must be text in UTF-8", place=f"line {line}", value=text[error.start :][:4]) from error


def _check_nesting(text: bytes | str) -> None:
    """Refuses a depth that would overflow the stack of PyYAML's C composer and end the process.

    libyaml reads ahead, and its newer versions refuse deep nesting themselves before they have said where it begins;
    what they refuse is read once more by PyYAML's own parser, which does not, so that the rule told is always ours.
    """
    try:
        _count_nesting(text, _Loader)
    except yaml.YAMLError:
        with contextlib.suppress(yaml.YAMLError):
            _count_nesting(text, yaml.SafeLoader)
        raise


def _count_nesting(text: bytes | str, loader: Any) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            rule = f"lists and mappings must be nested at most {MAX_NESTING} deep"
            raise InputError(rule, place=_line_of(event.start_mark))


def _line_of(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def key_places(sections: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Of every key of `sections` (name to keys), in words, where it belongs: `it is a key of proxy and latency`."""
    places: dict[str, list[str]] = {}
    for name, keys in sections.items():
        for key in keys:
            places.setdefault(key, []).append(name)
    return {key: f"it is a key of {' and '.join(', '.join(names).rsplit(', ', 1))}" for key, names in places.items()}


class Section:
    """A mapping under validation: every getter names its place, its rule and the value that broke it."""

    def __init__(
        self,
        value: object,
        allowed: Iterable[str],
        *,
        place: str = "",
        what: str = "",
        elsewhere: Mapping[str, str] = NOWHERE,
    ) -> None:
        """`what` the mapping holds, and for keys that are not allowed here where they belong, see `key_places`."""
        self.place = place
        self.allowed = tuple(allowed)
        if not isinstance(value, Mapping):
            raise InputError(f"must be a mapping{f' ({what})' if what else ''}", place=place, value=value)
        for key in value:
            if key not in self.allowed:
                at = self.at(key_text(key))
                raise InputError(_unknown(key, self.allowed, elsewhere.get(at, elsewhere.get(key, ""))), place=at)
        self.values: Mapping[str, object] = value

    def at(self, key: str) -> str:
        """The place of `key`, as in `stages[2].depth`."""
        return f"{self.place}.{key}" if self.place else key

    def has(self, key: str) -> bool:
        return key in self.values

    def raw(self, key: str, default: object = None) -> object:
        return self.values.get(key, default)

    def integer(self, key: str, default: int | None, *, low: int = 1, high: int = 2**31) -> int:
        """A whole number in [low, high]; without a default the key is required."""
        if key not in self.values and default is not None:
            return default
        return check_integer(self._required(key), self.at(key), low=low, high=high)

    def number(
        self,
        key: str,
        default: float | None,
        *,
        low: float = -math.inf,
        high: float = math.inf,
        above: float | None = None,
        below: float | None = None,
    ) -> float:
        """A finite number in [low, high], or strictly inside (above, below) where those are given."""
        if key not in self.values and default is not None:
            return default
        value = self._required(key)
        return check_number(value, self.at(key), low=low, high=high, above=above, below=below)

    def choice(self, key: str, default: str | None, options: Sequence[str]) -> str:
        if key not in self.values and default is not None:
            return default
        return check_choice(self._required(key), self.at(key), options)

    def text(self, key: str, default: str) -> str:
        return check_text(self.values.get(key, default), self.at(key))

    def sequence(self, key: str, *, most: int) -> Sequence[object]:
        """A required list of 1 to `most` items."""
        value = self._required(key)
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= most:
            raise InputError(f"must be a list of 1 to {most} items", place=self.at(key), value=value)
        return value

    def _required(self, key: str) -> object:
        if key not in self.values:
            raise InputError("is required", place=self.at(key))
        return self.values[key]


def check_integer(value: object, place: str, *, low: int = 1, high: int = 2**31) -> int:
    """`value` as a whole number in [low, high]; `14.0e+6` counts as whole, `true` does not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError("must be a whole number", place=place, value=value)
    if value < low:
        raise InputError(f"must be {low} or more", place=place, value=value)
    if value > high:
        raise InputError(f"must be {high} or less", place=place, value=value)
    return value


def check_number(
    value: object,
    place: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """`value` as a finite float within the bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError("must be a number", place=place, value=value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError("must be a finite number", place=place, value=value)
    if above is not None and number <= above:
        raise InputError(f"must be more than {above:g}", place=place, value=value)
    if below is not None and number >= below:
        raise InputError(f"must be less than {below:g}", place=place, value=value)
    if number < low:
        raise InputError(f"must be {low:g} or more", place=place, value=value)
    if number > high:
        raise InputError(f"must be {high:g} or less", place=place, value=value)
    return number


def read_count(text: str | float) -> float:
    """A number as a person types it, plain, in powers of ten, or with a suffix: `6M`, `1.4G`, `14e6`, `600k`, `2B`.

    Raises:
        InputError: it is none.
    """
    match = _COUNT.fullmatch(str(text).strip())
    number = float(match[1].replace("_", "")) * _SUFFIXES[match[2].lower()] if match else math.nan
    if not math.isfinite(number):
        raise InputError("must be a number, as in 6000000, 6e6, 6M, 1.4G or 600k", value=text)
    return float(f"{number:.15g}")  # 1.4 billion and not a hair more


def check_flag(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise InputError("must be true or false", place=place, value=value)
    return value


def check_text(value: object, place: str) -> str:
    """`value` as a line of text that may be shown."""
    if not isinstance(value, str) or not value.strip() or len(value) > 200 or not value.isprintable():
        raise InputError("must be a line of text of 1 to 200 characters", place=place, value=value)
    return value


def check_choice(value: object, place: str, options: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in options:
        raise InputError(f"must be one of {', '.join(options)}", place=place, value=value)
    return value


def key_text(key: object) -> str:
    """A key as a place names it: as it stands where that is short and printable."""
    return key if isinstance(key, str) and len(key) <= 60 and key.isprintable() else shorten(key)


def _unknown(key: object, allowed: Sequence[str], belongs: str) -> str:
    """The message for a key that is not allowed, with its nearest match and what is said of where it belongs."""
    near = difflib.get_close_matches(key_text(key), allowed, n=1, cutoff=0.75 if belongs else 0.5)
    guess = f"did you mean {near[0]}? " if near else ""
    guess += f"{belongs}; " if belongs else ""
    return f"unknown key; {guess}allowed: {', '.join(allowed)}"
