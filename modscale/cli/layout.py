"""Text laid out for a screen of some width, or for none: tables, paragraphs, and signs that a terminal may lack.

A name is never folded. Where a table is too wide, the text of its last column moves below the rows, and then columns
are left out, which is said. Without a width (a pipe, a file) every row is one line, however long.
"""

from __future__ import annotations

import codecs
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GAP = "  "
PLAIN_SIGNS = {"±": "+-", "×": "x", "─": "-", "…": "...", "·": "|", "–": "-", "—": "-", "→": "->"}
"""What stands in for a sign where the terminal's encoding lacks it; any other sign becomes an escape."""
ENCODING_ERRORS = "modscale.plain_signs"
"""Name of that rule among Python's handlers of encoding errors."""


UNIT = re.compile(r"(?<=\d) (?=(?:±|%|(?:s|ms|min|h|px|[kMG]i?B|[MG]FLOPs)\b))|(?<=±) (?=\d)")
"""A blank at which no line is broken."""
JOINED = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table."""

    heading: str
    """What stands above it."""
    is_text: bool = False
    """Whether it is aligned to the left, as text is; figures are to the right."""
    spare: int = 0
    """0: always shown. Where there is no room, the column of the highest number is left out first."""
    may_move: bool = False
    """Whether its text may stand below the row, wrapped at blanks; for the last column."""


def lay_out_table(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    rule: str = "-",
    footer: bool = False,
) -> list[str]:
    """The lines of a table: its title, its headings, a line of `rule`, the rows, and what was left out.

    With `footer` another line of `rule` stands above the last row. Only names that are wider than the screen make a
    line wider than `width`.
    """
    shown, moved = list(range(len(columns))), False
    while width is not None and sum(_widths(columns, rows, shown)) + len(GAP) * (len(shown) - 1) > width:
        if columns[shown[-1]].may_move:
            moved = True
            shown.pop()
            continue
        spare = max(shown, key=lambda i: columns[i].spare)
        if columns[spare].spare == 0:
            break
        shown.remove(spare)
    widths = _widths(columns, rows, shown)
    ruled = rule * (sum(widths) + len(GAP) * (len(shown) - 1))
    lines = [*wrap(title, width), _join([columns[i].heading for i in shown], columns, shown, widths), ruled]
    for number, row in enumerate(rows):
        if footer and number == len(rows) - 1:
            lines.append(ruled)
        lines.append(_join([row[i] for i in shown], columns, shown, widths))
        if moved and row[-1]:
            lines += wrap(row[-1], width, indent="    ", first="    ")
    left_out = [columns[i].heading for i in range(len(columns) - moved) if i not in shown]
    if left_out:
        lines += wrap(f"no room for: {', '.join(left_out)} (a wider terminal, a pipe or --json has them)", width)
    return lines


def wrap(text: str, width: int | None, *, indent: str = "", first: str = "") -> list[str]:
    """`text` in lines of at most `width` columns, broken at blanks alone; one line without a width.

    No figure is parted from its unit, nor from its interval.
    """
    if width is None or text_width(first + text) <= width:
        return [first + text]
    lines = textwrap.wrap(
        UNIT.sub(JOINED, text),
        max(width, len(indent) + 1),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(JOINED, " ") for line in lines] or [first]


def text_width(text: str) -> int:
    """Columns that a terminal needs for `text`: two for a wide sign, none for an accent that joins the one before."""
    if text.isascii():
        return len(text)
    return sum(_sign_width(sign) for sign in text)


def for_encoding(text: str, encoding: str) -> str:
    """`text` in signs that `encoding` has."""
    return text.encode(encoding, ENCODING_ERRORS).decode(encoding)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> list[int]:
    return [max(map(text_width, (columns[i].heading, *(row[i] for row in rows)))) for i in shown]


def _join(cells: Sequence[str], columns: Sequence[Column], shown: Sequence[int], widths: Sequence[int]) -> str:
    def padded() -> Iterator[str]:
        for cell, i, width in zip(cells, shown, widths, strict=True):
            blanks = " " * (width - text_width(cell))
            yield cell + blanks if columns[i].is_text else blanks + cell

    return GAP.join(padded()).rstrip()


def _sign_width(sign: str) -> int:
    if unicodedata.category(sign) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def _plain_signs(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(
        PLAIN_SIGNS.get(sign, sign.encode("ascii", "backslashreplace").decode()) for sign in signs
    ), error.end


codecs.register_error(ENCODING_ERRORS, _plain_signs)
