"""Writes `docs/commands.md`: the help of every command, and what the quick ones print, as they do today.

    python docs/make.py

A test holds the page to it. What takes minutes, or differs from machine to machine, is not shown.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from pathlib import Path

PAGE = Path(__file__).with_name("commands.md")
WIDTH = "80"
SHOWN = {
    "count": ["count xxs"],
    "space": ["space smoke"],
    "models": ["models"],
    "scale": ["scale xxs --params 6e6"],
    "schema": ["schema spec"],
}
"""By command, what is run for the page."""
MOST_LINES = 24
"""Lines of an output that are shown."""
HEAD = """# The commands

Each says of itself what follows with `-h`. With `--json` a command prints one JSON document on standard output and
nothing else there; progress goes to standard error. The exit code is 0, or 2 for what you can mend (told in one line:
file, place, rule, value), or 1 for a fault of ours, and 130 after Ctrl-C, which tells how to go on.

`modscale --install-completion` lets Tab complete commands, options, published networks and bands of a run in bash, zsh,
fish and PowerShell; a new shell knows it.

This page is written by `docs/make.py`, by running what it shows.
"""


def render() -> str:
    """The whole page."""
    from modscale.cli.main import COMMANDS

    parts = [HEAD]
    for command in COMMANDS:
        name = command.__name__
        parts.append(f"## {name}\n\n```text\n$ modscale {name} --help\n{output([name, '--help'])}```\n")
        for line in SHOWN.get(name, []):
            lines = output(shlex.split(line)).splitlines()
            shown = [*lines[:MOST_LINES], *["..."][: len(lines) > MOST_LINES]]
            parts.append(f"```text\n$ modscale {line}\n" + "\n".join(shown) + "\n```\n")
    return "\n".join(parts)


def output(arguments: list[str]) -> str:
    """What a command prints on standard output, without blanks at the ends of lines."""
    from modscale.cli.main import main

    before, stream = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(io.StringIO()):
            code = main(arguments)
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    if code:
        raise SystemExit(f"modscale {shlex.join(arguments)} ended with {code}")
    return "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
