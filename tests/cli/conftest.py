"""What tests of the command line share: commands run for their JSON or on a terminal, a screen of some width."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modscale.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs a command with `--json`; gives its document."""

    def run(*arguments: str) -> dict[str, Any]:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Runs a function that prints on a screen of some width, or none; gives the lines it printed."""

    def look(show: Any, *arguments: Any, width: int | None) -> list[str]:
        monkeypatch.setenv("COLUMNS", "" if width is None else str(width))
        capsys.readouterr()
        show(*arguments)
        return capsys.readouterr().out.splitlines()

    return look


@pytest.fixture
def on_a_terminal() -> Callable[..., str]:
    """Runs a command on a terminal of some width; gives what it wrote there."""
    return run_on_a_terminal


def run_on_a_terminal(arguments: list[str], *, columns: int, **environment: str) -> str:
    """What a command writes to a terminal of this width."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "modscale", *arguments],
        stdin=follower, stdout=follower, stderr=follower, env={**inherited, "TERM": "xterm", **environment}, cwd=ROOT,
    ) as process:  # fmt: skip
        os.close(follower)
        text = b""
        while True:
            try:
                block = os.read(leader, 65536)
            except OSError:  # Linux says so when the last writer is gone
                break
            if not block:
                break
            text += block
    os.close(leader)
    assert process.returncode == 0
    return text.decode()
