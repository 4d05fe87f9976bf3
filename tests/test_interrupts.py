"""Stops: heard wherever they fall, once; what is to be ignored stays ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from modscale.interrupts import STOPS, check_stop, deaf_to_stops, forget_stop, hearing_stops, keeping_handlers


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background has SIGINT ignored, nohup SIGHUP, and that is passed on."""
    before = {number: signal.getsignal(number) for number in STOPS}
    for number in STOPS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Thing:
    """Something that can be referred to weakly."""


def in_a_weak_callback() -> None:
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del thing
    assert reference() is None


def in_a_destructor() -> None:
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    Last()


def swallowed_by_other_code() -> None:
    with suppress(BaseException):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("lose", [in_a_weak_callback, in_a_destructor, swallowed_by_other_code])
def test_a_stop_that_python_drops_is_not_lost(lose: Callable[[], None], capfd: pytest.CaptureFixture[str]) -> None:
    """The exception is gone, without a traceback on the terminal; the mark is there until it is acted upon."""
    with hearing_stops():
        check_stop()
        lose()
        with pytest.raises(KeyboardInterrupt):
            check_stop()
        forget_stop()
        check_stop()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", STOPS)
def test_every_kind_of_stop_raises_the_same(number: int) -> None:
    """And the handlers that were there before are there afterwards."""
    before = [signal.getsignal(each) for each in STOPS]
    with hearing_stops(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert [signal.getsignal(each) for each in STOPS] == before
    check_stop()


def test_what_is_to_be_ignored_stays_ignored() -> None:
    """As nohup, or a shell that starts something in the background, asks for."""
    code = (
        "import os, signal; from modscale.interrupts import check_stop, hearing_stops\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with hearing_stops(): os.kill(os.getpid(), signal.SIGHUP); check_stop(); print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "went on\n"


def test_a_stop_that_comes_while_deaf_is_heard_on_leaving() -> None:
    """A process is started in peace; the stop is not lost for it."""
    seen = []
    with hearing_stops(), suppress(KeyboardInterrupt):
        with deaf_to_stops():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # other threads, of a library say, are not deaf
            seen.append("started")
        seen.append("not heard")
    assert seen == ["started"]


def test_what_a_library_has_a_stop_do_is_taken_back() -> None:
    """Ray's `init` has SIGTERM end the process at once, for one."""
    with hearing_stops():
        with keeping_handlers():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
