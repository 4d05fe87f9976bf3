"""Calls that may never return, made in a thread of their own, so that whoever asks waits for so long and no longer.

A cluster whose machines are gone does not always say so: calls to it then return after minutes, or never. No thread can
be ended from outside; one that is stuck is left behind, and does not keep the process from ending.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from modscale.interrupts import check_stop
from modscale.processes import TICK_S

LEAVING_S = 10.0
"""Seconds that a process with a stuck thread has to end, once it does."""


class NoAnswer(Exception):  # whoever asked says what that means
    """A call has not returned in the time that it was given."""


class Bounded:
    """Makes calls, one after the other, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._calls: queue.SimpleQueue[Any] | None = None
        self._returns: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(
        self, limit_s: float, function: Callable[..., Any], *arguments: Any, is_last: bool = False, **named: Any
    ) -> Any:
        """What the function returns. Raises what it raises, NoAnswer after `limit_s`, and KeyboardInterrupt.

        What `is_last` is done although a stop was asked for before.
        """
        if self._calls is None:
            self._calls, self._returns = queue.SimpleQueue(), queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._calls, self._returns), name=self.name, daemon=True).start()
        self._calls.put((function, arguments, named))
        left_s = limit_s
        try:
            while True:
                if not is_last:
                    check_stop()
                try:
                    is_fine, value = self._returns.get(timeout=min(TICK_S, left_s))
                    break
                except queue.Empty:
                    left_s -= min(TICK_S, left_s)  # by no clock: a process that was stopped meanwhile had no time
                    if left_s <= 0:
                        _leave_in_time()
                        raise NoAnswer(f"no answer within {limit_s:g} s") from None
        except BaseException:
            self._calls = None  # what it may still return is nobody's answer
            raise
        if not is_fine:
            raise value
        return value


def _serve(calls: queue.SimpleQueue[Any], returns: queue.SimpleQueue[Any]) -> None:
    while True:
        function, arguments, named = calls.get()
        try:
            returns.put((True, function(*arguments, **named)))
        except BaseException as error:  # noqa: BLE001  # it is raised where it was asked for
            returns.put((False, error))
        del function, arguments, named


def _leave_in_time() -> None:
    """Has the process end even if the library that is stuck would have it wait at its end, by its own last steps."""
    atexit.unregister(_limit_last_steps)
    atexit.register(_limit_last_steps)  # the last to be registered is the first to be called


def _limit_last_steps() -> None:
    timer = threading.Timer(LEAVING_S, os._exit, (2,))
    timer.daemon = True
    timer.start()
