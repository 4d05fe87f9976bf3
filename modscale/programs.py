"""Commands that are fed on standard input and answer on standard output, once: here, or at the other end of `ssh`.

What holds for the children of `processes.py` holds for them as far as it can at a distance: stops are their parent's to
handle, a time limit is kept, and the parent's end closes their pipes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modscale.errors import TargetError, one_line, shorten
from modscale.interrupts import check_stop, deaf_to_stops
from modscale.processes import LOG_BYTES, TICK_S, child_environment, child_place

MAX_OUTPUT = 64 << 20
"""Bytes of standard output that a program may give; more is no answer of ours."""
PIPE_BYTES = 1 << 16
"""Bytes written or read at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What became of a program."""

    output: bytes
    """All of its standard output."""
    log: str
    """The end of its standard error."""
    code: int
    """Its exit code; negative where a signal ended it."""

    @property
    def last_words(self) -> str:
        """The last line of what it said to standard error, or that it said nothing."""
        lines = [line for line in map(one_line, self.log.splitlines()) if line]
        return lines[-1][:300] if lines else "it said nothing"


def run_program(
    command: Sequence[str],
    content: bytes,
    *,
    name: str,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Runs `command`, writes `content` to its standard input and closes that, and reads until it has ended.

    Raises:
        TargetError: there is no such command, it takes longer than `limit_s` or says more than `MAX_OUTPUT` bytes.
    """
    try:
        with deaf_to_stops():
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=child_place(),
                env=child_environment(environment or {}),
            )
    except (OSError, ValueError) as error:
        raise TargetError(
            f"{name}: {shorten(command[0])} cannot be started: {getattr(error, 'strerror', None) or error}"
        ) from error
    with process:
        try:
            return _talk(process, content, name, time.monotonic() + limit_s, limit_s)
        finally:
            process.kill()


def _talk(process: subprocess.Popen[bytes], content: bytes, name: str, deadline: float, limit_s: float) -> Ended:
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: PT018, S101
    output, log, rest = bytearray(), b"", memoryview(content)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            if (left_s := deadline - time.monotonic()) <= 0:
                raise TargetError(f"{name} took longer than {limit_s:g} s")
            for key, _ in selector.select(min(TICK_S, left_s)):
                if key.fileobj is process.stdin:
                    try:
                        rest = rest[os.write(key.fd, rest[:PIPE_BYTES]) :]
                    except BlockingIOError:
                        continue
                    except OSError:  # it reads no more; why, is found out below
                        rest = memoryview(b"")
                    if not rest:
                        selector.unregister(process.stdin)
                        with contextlib.suppress(OSError):
                            process.stdin.close()
                elif not (part := os.read(key.fd, PIPE_BYTES)):
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    output += part
                    if len(output) > MAX_OUTPUT:
                        raise TargetError(f"{name} wrote more than {MAX_OUTPUT >> 20} MiB to standard output")
                else:
                    log = (log + part)[-LOG_BYTES:]
            check_stop()
    try:
        code = process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"{name} took longer than {limit_s:g} s") from error
    return Ended(output=bytes(output), log=log.decode("utf-8", "replace"), code=code)
