"""The terminal: answers on standard output, everything else on standard error, as lines, tables and bars.

Only this module knows rich, and takes no markup from any text: what is bold says so beside it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.text import Text

from modscale.cli.layout import Column, for_encoding, lay_out_table, wrap
from modscale.errors import printable

if TYPE_CHECKING:  # it takes its time, and a table needs none of it
    from rich.progress import Progress

UNKNOWN_WIDTH = 80
"""Columns of a terminal that does not tell."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError that is being handled, where rich would end the program with exit code 1."""
        raise


out = _Console(highlight=False, markup=False, emoji=False)
err = _Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """One message to the person, on standard error; a terminal that is gone stops nothing."""
    with suppress(OSError):
        print_lines(err, wrap(as_shown(err, text), screen_width(sys.stderr), indent="  "))


def note(text: str) -> None:
    """A sentence below a table, on standard output."""
    print_lines(out, wrap(as_shown(out, text), screen_width(sys.stdout)))


def screen_width(stream: TextIO | None) -> int | None:
    """Columns to lay text out for: COLUMNS where it is set, else the terminal's; None where there is no terminal."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with suppress(OSError, ValueError, AttributeError):  # closed, or no stream of the system's at all
        if stream is not None and stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns or UNKNOWN_WIDTH
    return None


def show_table(
    title: str, columns: Sequence[Column | str], rows: Sequence[Sequence[str]], *, footer: bool = False
) -> None:
    """Prints a table as wide as it needs, or as the terminal allows; a heading alone is that of a name."""
    whole = [Column(heading=column, is_text=True) if isinstance(column, str) else column for column in columns]
    lines = lay_out_table(
        as_shown(out, title),
        [replace(column, heading=as_shown(out, column.heading)) for column in whole],
        [[as_shown(out, cell) for cell in row] for row in rows],
        width=screen_width(sys.stdout),
        rule=as_shown(out, "─") if out.is_terminal else "-",
        footer=footer,
    )
    print_lines(out, lines[:2], style="bold")
    print_lines(out, [*lines[2:], ""])


def make_bar(*parts: str, width: int = 20, style: str = "none", per_second: int | None = None) -> Progress:
    """A bar on standard error, drawn where there is a terminal: a description, the bar, then these parts of a task.

    `done` is how many of how many, `percent` and `elapsed` what they say; any other is a text, a field of the task.
    It is drawn so often `per_second`, or without that only when it is told to.
    """
    from rich import progress

    class Elapsed(progress.ProgressColumn):
        """Goes on after the last one is done: a search times its front again. Rich's own stands still then."""

        def render(self, task: progress.Task) -> Text:
            passed = timedelta(seconds=int(task.elapsed or 0))
            return Text(str(passed), style="progress.elapsed")

    known = {"done": progress.MofNCompleteColumn, "percent": progress.TaskProgressColumn, "elapsed": Elapsed}
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, style=style),
        progress.BarColumn(width),
        *(
            known[part]() if part in known else progress.TextColumn(f"{{task.fields[{part}]}}", markup=False)
            for part in parts
        ),
        console=err,
        transient=True,
        disable=not err.is_terminal,
        auto_refresh=per_second is not None,
        refresh_per_second=per_second or 1,
    )


@contextmanager
def drawn(bar: Progress) -> Iterator[None]:
    """Shows a bar; a terminal that is gone by the end stops nothing."""
    bar.start()
    try:
        yield
    finally:
        with suppress(OSError):
            bar.stop()


@contextmanager
def live_view(console: Console) -> Iterator[Callable[[Sequence[str]], None]]:
    """Lines of a terminal that are drawn anew each time they are given; the last ones stay when it ends."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda lines: live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)


def as_shown(console: Console, text: str) -> str:
    """Text as this console can show it: nothing in it steers the terminal, and no sign is beyond its encoding."""
    return for_encoding(printable(text), console.encoding)


def print_lines(console: Console, lines: Iterable[str], *, style: str = "") -> None:
    """Whole lines, folded by nothing but the terminal itself."""
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)
