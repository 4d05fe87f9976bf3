"""Commands that are fed on standard input and answer on standard output, once: here, or at the other end of `ssh`.

What holds for the children of `processes.py` holds for them as far as it can at a distance: stops are their parent's to
handle, a time limit is kept, and the parent's end closes their pipes. One may be started some time before it is fed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

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
    with Program(command, name=name, environment=environment) as program:
        return program.feed(content, limit_s)


class Program:
    """A command that runs and waits to be fed; a context manager that ends it.

    Raises TargetError where there is no such command.
    """

    def __init__(self, command: Sequence[str], *, name: str, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._output, self._log = bytearray(), b""
        try:
            with deaf_to_stops():
                self._process = subprocess.Popen(
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

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends it, if it still runs."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.__exit__(None, None, None)  # closes the pipes, and waits

    def hear(self, mark: bytes, limit_s: float) -> None:
        """Reads its standard output until `mark` stands there, or no more comes. Raises TargetError as `feed` does."""
        self._talk(b"", time.monotonic() + limit_s, limit_s, until=mark)

    def feed(self, content: bytes, limit_s: float) -> Ended:
        """Writes `content` to its standard input and closes that, and reads until it has ended.

        Raises:
            TargetError: it takes longer than `limit_s` or says more than `MAX_OUTPUT` bytes.
        """
        deadline = time.monotonic() + limit_s
        self._talk(content, deadline, limit_s)
        try:
            code = self._process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"{self.name} took longer than {limit_s:g} s") from error
        return Ended(output=bytes(self._output), log=self._log.decode("utf-8", "replace"), code=code)

    def _talk(self, content: bytes, deadline: float, limit_s: float, until: bytes = b"") -> None:
        """Reads what it says until it has closed its outputs, and feeds it meanwhile; or only until a mark."""
        process, rest = self._process, memoryview(content)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: PT018, S101
        os.set_blocking(process.stdin.fileno(), False)
        with selectors.DefaultSelector() as selector:
            if not until:
                selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while selector.get_map() and not (until and until in self._output):
                if (left_s := deadline - time.monotonic()) <= 0:
                    raise TargetError(f"{self.name} took longer than {limit_s:g} s")
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
                        self._output += part
                        if len(self._output) > MAX_OUTPUT:
                            raise TargetError(f"{self.name} wrote more than {MAX_OUTPUT >> 20} MiB to standard output")
                    else:
                        self._log = (self._log + part)[-LOG_BYTES:]
                check_stop()
