"""The command line as a whole: its commands, and the one place that turns an exception into a line and an exit code.

0, 2 for what the user can mend, 1 for a fault of ours, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from modscale.cli.app import build_app, call_app
from modscale.cli.commands.calibrate import calibrate
from modscale.cli.commands.context import context
from modscale.cli.commands.count import count
from modscale.cli.commands.export import export
from modscale.cli.commands.fidelity import fidelity
from modscale.cli.commands.latency import latency
from modscale.cli.commands.models import models
from modscale.cli.commands.report import report
from modscale.cli.commands.scale import scale
from modscale.cli.commands.schema import schema
from modscale.cli.commands.search import search
from modscale.cli.commands.space import space
from modscale.cli.commands.train import train
from modscale.cli.commands.watch import watch
from modscale.cli.layout import ENCODING_ERRORS
from modscale.errors import ModscaleError, UsageError, one_line

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

MENDABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EROFS,
)  # fmt: skip
"""What the system says of a disk or a path that the user can mend, wherever it comes up; typed paths are looked at
first (`files.check_path`)."""

COMMANDS: dict[Callable[..., None], str] = {
    search: "modscale search spaces/mobile.yaml --data photos --trials 60",
    space: "modscale space spaces/mobile.yaml",
    count: "modscale count xxs --resolution 160 --check",
    latency: "modscale latency xxs s_conv --threads 2 --runs 400",
    calibrate: "modscale calibrate spaces/mobile.yaml --out mobile.json",
    report: "modscale report reports/mobile",
    watch: "modscale watch reports/mobile",
    train: "modscale train xs --data photos --hours 2 --out trained",
    export: "modscale export reports/mobile --pick xs --out backbone",
    context: "modscale context trained photos/val/cat/1.jpg --out seen",
    models: "modscale models --json",
    fidelity: "modscale fidelity --data photos --proxy train --seeds 3",
    schema: "modscale schema space",
    scale: "modscale scale xxs --params 9e6 --out bigger.yaml",
}
"""Each command and the example in its help, in the order of `modscale --help`."""

app = build_app(COMMANDS)


def run() -> None:
    """The entry point of the installed command, and of `python -m modscale`."""
    for number in range(3):  # a file opened later must not become the standard error that libraries write to
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.exit(main())


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    called = _as_called() if arguments is None else ["modscale"]
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    _mend_surroundings()
    try:
        code = call_app(app, arguments)
        if sys.stdout is not None:  # None where whoever called closed it
            sys.stdout.flush()
        if code == INTERRUPTED:  # typer's own answer to Ctrl-C inside a command
            return _interrupted(called, arguments)
        return code if isinstance(code, int) else 0
    except UsageError as error:
        _complain(str(error), command=error.command)
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted(called, arguments)
    except ModscaleError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        _let_go_of_output()
        return 0
    except SystemExit as end:  # typer's own, as for `modscale models | head -1`
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        _let_go_of_output()
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in MENDABLE:
            _complain(f"{error.filename or 'output or temporary files'}: {error.strerror}")
            return 2
        _complain(f"internal error: {type(error).__name__}: {error} (--debug shows where; please report it)")
        return 1


def _mend_surroundings() -> None:
    """Signs that a terminal lacks, or a path that is no Unicode, are written in others; a size of 0 is not believed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ENCODING_ERRORS)
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("0*[1-9][0-9]{0,5}", os.environ.get(name, "1")):  # rich would print nothing
            del os.environ[name]


def _interrupted(called: list[str], arguments: list[str]) -> int:
    """The exit code after Ctrl-C; what can go on is told by which command."""
    if arguments[:1] in (["search"], ["fidelity"], ["train"]):
        _complain(f"to go on: {shlex.join([*called, *arguments])}")
    return INTERRUPTED


def _as_called() -> list[str]:
    """The words by which this program was called, as they can be typed again."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py" and program.parent.name == "modscale":
        return [sys.executable, "-m", "modscale"]
    if program.name != "modscale" or shutil.which("modscale") == str(program):
        return ["modscale"]
    return [str(program)]


def _let_go_of_output() -> None:
    """What is still to be written goes nowhere, so that Python finds no broken pipe when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _complain(text: str, *, command: str = "modscale") -> None:
    """One line on standard error, whatever an argument, a file or a library put into it."""
    if sys.stderr is not None:  # closed by whoever called
        with contextlib.suppress(OSError):  # or a terminal that is gone
            sys.stderr.write(f"{command}: {one_line(text)}\n")
