"""Tables and paragraphs for a screen: names stay whole, and no line is wider than the screen where that can be."""

from __future__ import annotations

import pytest

from modscale.cli.layout import ENCODING_ERRORS, Column, for_encoding, lay_out_table, text_width, wrap

COLUMNS = (
    Column(heading="name", is_text=True),
    Column(heading="ms"),
    Column(heading="runs", spare=2),
    Column(heading="share", spare=1),
    Column(heading="parts", is_text=True, may_move=True),
)
ROWS = (
    ("a/very-long-name", "1.5", "400", "10%", "32x2 64x2 128x6"),
    ("b", "22.5", "50", "5%", "8x1"),
)


def test_a_table_without_a_width_has_one_line_a_row() -> None:
    """A pipe gets all columns, however wide."""
    assert lay_out_table("title", COLUMNS, ROWS) == [
        "title",
        "name                ms  runs  share  parts",
        "----------------------------------------------------",
        "a/very-long-name   1.5   400    10%  32x2 64x2 128x6",
        "b                 22.5    50     5%  8x1",
    ]


def test_a_narrow_table_moves_its_last_column_and_then_drops_the_sparest() -> None:
    """At 40 columns the parts stand below; at 30 the runs are gone as well, and the table says so."""
    at_40 = lay_out_table("title", COLUMNS, ROWS, width=40)
    assert at_40[1:5] == [
        "name                ms  runs  share",
        "-" * 35,
        "a/very-long-name   1.5   400    10%",
        "    32x2 64x2 128x6",
    ]
    at_30 = lay_out_table("title", COLUMNS, ROWS, width=30)
    assert at_30[1] == "name                ms  share"
    assert " ".join(at_30[-3:]).startswith("no room for: runs (")
    assert not any("runs" in line for line in at_30[:-3])


@pytest.mark.parametrize("width", [1, 5, 10, 16, 22, 30, 40, 52, 80])
def test_a_name_is_never_folded(width: int) -> None:
    """At any width every name and every remaining figure stands whole on one line."""
    lines = lay_out_table("title", COLUMNS, ROWS, width=width)
    for name, figure, *_ in ROWS:
        assert sum(line.split()[:2] == [name, figure] for line in lines) == 1
    if width >= 22:
        assert max(map(text_width, lines)) <= width


def test_a_footer_is_ruled_off() -> None:
    """The sum stands below a line of its own."""
    lines = lay_out_table("t", [Column(heading="n")], [("1",), ("2",), ("3",)], footer=True, rule="=")
    assert lines == ["t", "n", "=", "1", "2", "=", "3"]


def test_a_table_without_rows_has_its_headings() -> None:
    """A front with no trial, say."""
    assert lay_out_table("t", COLUMNS[:2], [], width=80) == ["t", "name  ms", "--------"]


def test_wide_signs_and_joined_accents_keep_the_columns_straight() -> None:
    """A terminal gives a Chinese sign two columns and a joining accent none."""
    assert [text_width(text) for text in ("abc", "\u6a21\u578b", "e\u0301", "\u00e9")] == [3, 4, 1, 1]
    lines = lay_out_table("t", COLUMNS[:2], [("\u6a21\u578b", "1"), ("e\u0301", "2"), ("name", "3")])
    assert {text_width(line) for line in lines[1:]} == {8}


def test_paragraphs_break_at_blanks_alone() -> None:
    """A path longer than the screen stays in one piece."""
    path = "/a/very-long/path-with-hyphens/to.yaml"
    assert wrap(f"written to {path} just now", 20, indent="  ") == ["written to", f"  {path}", "  just now"]
    assert wrap("x " * 100, None) == ["x " * 100]
    assert wrap("", 10) == [""]
    assert wrap("it took 11 s, or 0.1 ± 0.02 ms", 11) == ["it took", "11 s, or", "0.1 ± 0.02 ms"]
    assert wrap("half a MB of 2 kinds, 40 % of it", 18) == ["half a MB of 2", "kinds, 40 % of it"]


def test_signs_that_an_encoding_lacks_have_plain_ones() -> None:
    """What the tool itself prints reads well in ASCII; anything else is an escape."""
    assert for_encoding("1 ± 2, 32×2 ─ \u6a21", "ascii") == r"1 +- 2, 32x2 - \u6a21"
    assert for_encoding("1 ± 2, 32×2 ─ \u6a21", "latin-1") == r"1 ± 2, 32×2 - \u6a21"
    assert for_encoding("1 ± 2 \u6a21", "utf-8") == "1 ± 2 \u6a21"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", ENCODING_ERRORS)
