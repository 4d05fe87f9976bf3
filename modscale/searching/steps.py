"""What is measured of one candidate as steps: it asks for something, is given the answer, and asks for the next.

A measure says what it needs and not where that is done: an engine (`engine.py`) answers, one candidate's request at a
time, or many side by side. A worked example, in which a network is exported and then trained:

    def measure(spec):
        yield Work(stage="export", function="export", arguments=(spec, file))
        return (yield Work(stage="training", function="train", arguments=(spec,)))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from modscale.errors import TrialFailed

if TYPE_CHECKING:  # it knows how a device is reached
    from modscale.latency.protocol import OnnxModel

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Something for one of the processes that hold torch (`worker.py`); its answer is what the function returns."""

    stage: str
    """What the candidate has come to, as observers hear it: export, anchor, training."""
    function: str
    """Of `worker.Tasks`."""
    arguments: tuple[Any, ...] = ()
    """What it is given."""
    is_shared: bool = False
    """Whether all candidates ask for the same, so that once is enough for all of a search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Models to be timed on every device, in turns, while nothing else runs there; its answer is a latency each."""

    models: tuple[Path | OnnxModel, ...]
    """Files, or models that are none of ours."""
    told: tuple[Mapping[str, Any], ...]
    """What is kept of each with its timings: `name` and more."""
    until_percent: float | None = None
    """Half-width of the interval, as a percentage of the median, to which it is timed; None as the settings say.

    Such a request is a session of its own, whose models are timed up to that only where they are not told apart; others
    may be taken together.
    """
    beside: tuple[Mapping[str, float], ...] = ()
    """Results of others, measured before, from which these are to be told apart as well."""


Request = Work | Timing
Steps = Generator[Request, Any, Found]
"""Asks for what stands in it, one after the other, and returns what came of it. Raises TrialFailed."""


def take_steps(steps: Steps[Found], answer: Callable[[Request], Any]) -> Found:
    """What comes of the steps where each request is answered as it comes. Raises what they raise."""
    try:
        request = next(steps)
        while True:
            try:
                found = answer(request)
            except TrialFailed as failure:
                request = steps.throw(failure)
            else:
                request = steps.send(found)
    except StopIteration as end:
        result: Found = end.value
        return result
    finally:
        steps.close()
