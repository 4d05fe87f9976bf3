"""Ctrl-C and polite kills, none of which gets lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a destructor or the callback of a weak
reference it is printed and dropped, and the program goes on; so the handler also leaves a mark here, which a loop and
whoever waits for another process look at between their steps.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a program to stop: Ctrl-C, a polite kill, a terminal that is closed."""

_heard = threading.Event()


def check_stop() -> None:
    """Raises KeyboardInterrupt where a stop was heard since `hearing_stops` began or `forget_stop` was called."""
    if _heard.is_set():
        raise KeyboardInterrupt


def forget_stop() -> None:
    """What was heard has been acted upon; the next one counts again."""
    _heard.clear()


@contextmanager
def hearing_stops() -> Iterator[None]:
    """Any of `STOPS` raises KeyboardInterrupt in here, and `check_stop` does so again, unless it is to be ignored."""
    if threading.current_thread() is not threading.main_thread():  # Python hears signals in that one alone
        yield
        return
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in STOPS}
    changed = {number: handler for number, handler in before.items() if handler in defaults}
    hook = sys.unraisablehook
    forget_stop()
    for number in changed:
        signal.signal(number, _hear)
    sys.unraisablehook = lambda event: None if isinstance(event.exc_value, KeyboardInterrupt) else hook(event)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in changed.items():
            signal.signal(number, handler)
        forget_stop()


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Whatever a library in here has `STOPS` do, they do what they did before once it is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set by Python
                signal.signal(number, handler)


@contextmanager
def deaf_to_stops() -> Iterator[None]:
    """A process that is started in here is deaf to `STOPS` from its first instruction on: they are its parent's to
    handle, who hears of them on leaving."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hear(number: int, frame: FrameType | None) -> None:
    _heard.set()
    raise KeyboardInterrupt
