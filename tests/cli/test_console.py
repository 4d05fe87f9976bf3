"""The terminal: its width is taken, and one that is gone stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable


def names_in(lines: list[str]) -> set[str]:
    """The first word of each line."""
    return {line.split()[0] for line in lines if line.split()}


def test_a_terminal_of_80_columns_folds_no_name(on_a_terminal: Callable[..., str]) -> None:
    """The terminal's own width is taken, and a size of 0 in the environment is none."""
    for environment in ({}, {"COLUMNS": "0", "LINES": "0"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}):
        text = on_a_terminal(["models"], columns=80, **environment)
        lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in text.splitlines()]
        assert max(map(len, lines)) <= 80, environment
        assert {"xxs_conv", "s_conv/context-f-conv-g", "isotropic-12m/mbconv"} <= names_in(lines)
        assert "─" * 70 in text
    assert "where" in on_a_terminal(["models"], columns=120).splitlines()[1]
    assert "\x1b" not in on_a_terminal(["models"], columns=80, TERM="dumb")
    plain = on_a_terminal(["scale", "xxs", "--params", "9e6"], columns=80, PYTHONIOENCODING="ascii")
    assert plain.isascii()
    assert "40x3 80x3 152x9+2 304x3+3" in plain
    assert "-" * 60 in plain


def test_progress_that_nobody_reads_stops_nothing() -> None:
    """A search goes on when what reads its standard error has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from modscale.cli.console import say; say('one'); say('two'); print('goes on', flush=True)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, check=False)
    os.close(writer)
    assert done.stdout == b"goes on\n"
