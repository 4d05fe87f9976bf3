"""A command that is killed in the middle, with no chance to end well."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def kill_after(command: Sequence[str], file: Path, *, lines: int, within_s: float) -> bytes:
    """Starts a command, sends it SIGKILL once the file has so many lines, and returns what the file holds then."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + within_s
        while not (file.exists() and file.read_bytes().count(b"\n") >= lines) and time.monotonic() < deadline:
            assert first.poll() is None
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
    return file.read_bytes()
