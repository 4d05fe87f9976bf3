"""A Ray cluster: each call of Ray, none of which is waited for longer than it may take.

Ray says of a cluster that is gone that it is, or it waits for it to come back, for minutes or for ever. So each call is
made by a thread of its own (`bounded.py`) and must be answered in time.

Only this module knows Ray, which is an extra and is imported by whoever asks for it alone.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import ray

from modscale import __version__
from modscale.errors import InputError, one_line
from modscale.interrupts import check_stop, keeping_handlers
from modscale.machine import code_fingerprint
from modscale.processes import TICK_S
from modscale.searching import far_entry
from modscale.searching.bounded import Bounded, NoAnswer

Found = TypeVar("Found")

CONNECT_S = 10.0
"""Seconds in which somebody must listen where a cluster is said to be."""
REFUSED_S = 60.0
"""Seconds for which a connection that is refused is asked for again: Ray still cleans up after another client, say."""
LEAST_TRIES = 3
"""Tries before it is given up, however long they took: a machine that stood still meanwhile had no time to answer."""
AGAIN_S = 3.0
"""Seconds between two of these tries."""
PATIENCE_S = 60.0
"""Seconds for nodes to join after the connection stands: Ray gives a node 30 to start."""
ANSWER_S = 60.0
"""Seconds within which Ray must answer whatever it is asked; connecting may take twice as long."""
LEAVE_S = 15.0
"""Seconds for taking leave of a cluster."""
TaskLost = ray.exceptions.RayError
"""What Ray raises of a task that was lost; of a cluster that is, too."""
NodeLost = ray.exceptions.NodeDiedError
"""What it raises of one that was lost with its node."""
LOST = (ConnectionError, NoAnswer, TaskLost)
"""What is raised where the connection is gone."""

_ask = Bounded("calls of Ray")
ray.cloudpickle.register_pickle_by_value(far_entry)  # for workers that do not have it


def connect(address: str, environment: Mapping[str, str]) -> None:
    """Makes this process part of a cluster, or its client; tasks have these environment variables.

    A connection that is refused is asked for again for a while. Raises InputError where there is none.
    """
    require_listener(address)
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if environment:
        settings["runtime_env"] = {"env_vars": dict(environment)}
    deadline, tries = time.monotonic() + REFUSED_S, 0
    while True:
        tries += 1
        try:
            with keeping_handlers():  # Ray's own would end the search with no report
                _ask(2 * ANSWER_S, ray.init, address=address, **settings)
            return
        except (*LOST, ValueError, RuntimeError, TimeoutError, ImportError) as error:
            leave()
            is_over = tries >= LEAST_TRIES and time.monotonic() > deadline
            if not isinstance(error, ConnectionError) or is_over:
                rule = f"no Ray cluster answers there: {reason(error)}"
                raise InputError(rule, place="--workers", value=address) from error
        except BaseException:
            leave()
            raise
        check_stop()
        time.sleep(AGAIN_S)


def leave() -> None:
    """Ends the connection, and with it whatever is under way, as far as that can be done in time.

    What is under way is not cancelled before: of many a task that ends in that very moment would take this process with
    it (a check of Ray's own fails, seen with 2.60).
    """
    with suppress(*LOST):
        _ask(LEAVE_S, ray.shutdown, is_last=True)


def nodes() -> list[dict[str, float]]:
    """What each node that is there has. Raises `LOST`, as all that follow do."""
    return [node["Resources"] for node in _ask(ANSWER_S, ray.nodes) if node["Alive"]]


def begin(
    function: Callable[..., Any], *arguments: Any, contents: Sequence[Any] = (), returns: int = 1, **options: Any
) -> Any:
    """Has a node call a function; a reference to what it returns, or `returns` of them to the parts of that.

    What references among the `contents` are to are its last arguments. It is called only where the code is that of this
    process (`far_entry.py`). A task that is lost is not begun again.
    """
    entry = ray.remote(max_retries=0)(far_entry.call)
    task = entry.options(name=function.__name__, num_returns=returns, **options)
    packed = ray.cloudpickle.dumps((function, arguments))
    return _ask(ANSWER_S, task.remote, code_fingerprint(), __version__, packed, *contents)


def wait(references: Sequence[Any], patience_s: float) -> list[Any]:
    """One of these of which Ray knows what came, within so many seconds; none if there is none."""
    ready, _ = _ask(ANSWER_S, ray.wait, list(references), num_returns=1, timeout=patience_s)
    return list(ready)


def get(reference: Any) -> Any:
    """What a reference is to. Raises TaskLost where its task was lost, too.

    Raises InputError where it could not begin, as the code there is another, say: a task of ours answers with whatever
    is raised in it (`far_tasks.py`).
    """
    try:
        return _ask(ANSWER_S, ray.get, reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, TaskLost):  # of another one, whose answer it was to be given
            raise
        if isinstance(cause, ImportError) and cause.name == far_entry.OTHER_CODE:
            raise InputError(one_line(str(cause)), place="--workers") from error
        lines = str(cause).strip().splitlines() or [""]
        why = f"{type(cause).__name__}: {one_line(lines[-1])[:300]}"
        raise InputError(f"a worker cannot do what it is asked: {why}", place="--workers") from error


def end(reference: Any) -> None:
    """Has a task end, of which nobody wants to know what comes of it."""
    with suppress(TaskLost):
        _ask(ANSWER_S, ray.cancel, reference, force=False)


def put(content: bytes) -> Any:
    """A reference to this, for tasks."""
    return _ask(ANSWER_S, ray.put, content)


def slots_of(found: Sequence[Mapping[str, float]], cores: int) -> int:
    """Trainings of so many cores that nodes have room for side by side."""
    return sum(int(node.get("CPU", 0) // cores) for node in found)


def count_slots(address: str, cores: int) -> int:
    """Trainings of so many cores that a cluster has room for side by side, as it is now.

    Raises InputError where there is no such cluster, or no room in it.
    """
    connect(address, {})
    try:
        slots = look_until(bool, lambda: slots_of(nodes(), cores), PATIENCE_S)
    except LOST as error:
        raise gone(address, error) from error
    finally:
        leave()
    if not slots:
        raise InputError(f"no node has {cores} CPUs for a training", place="--workers", value=address)
    return slots


def look_until(is_enough: Callable[[Found], bool], look: Callable[[], Found], patience_s: float) -> Found:
    """What a look gives, once that is enough or the patience is over; by no clock, as in `bounded.py`."""
    left_s = patience_s
    while not is_enough(found := look()) and left_s > 0:
        check_stop()
        time.sleep(TICK_S)
        left_s -= TICK_S
    return found


def gone(address: str, error: Exception) -> InputError:
    """That the cluster is, in a line."""
    rule = f"the Ray cluster answers no more; the same command goes on from here: {reason(error)}"
    return InputError(rule, place="--workers", value=address)


def reason(error: Exception) -> str:
    """The first line of an error, and the last where that leads to a traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    words = [lines[0], lines[-1]] if len(lines) > 1 and lines[0].endswith(":") else lines[:1]
    return one_line(" ".join(words))[:300]


def require_listener(address: str) -> None:
    """Raises InputError where nobody listens at `[ray://]HOST:PORT`: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # `auto`
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"no Ray cluster answers there: {said}", place="--workers", value=address) from error
