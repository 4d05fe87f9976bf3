"""Whether a machine was slow all the time that it was timed: by the best that its reference network ever took there.

Two threads of a virtual machine may work at two thirds of their speed for minutes, from the first round to the last. No
round is slower than another then, the interval is narrow, and the figure is half as large again as an hour before
(`benchmarks/latency.md`). Only what was seen earlier tells; so the best of the last `KEPT_S` is kept in the user's
cache, a line of JSON for each machine, provider, runtime and number of threads.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from modscale.deploy.timing_worker import cache_folders
from modscale.errors import InputError
from modscale.files import read_plain, write_whole
from modscale.latency.confidence import Z95
from modscale.latency.summary import Latency
from modscale.settings import UNLIKE, UNSTEADY

KEPT_S = 7 * 86_400.0
"""Seconds after which a best is no longer one: the machine may have become another."""
FILE = "speeds.json"
"""Name of the file, beside the models that are cached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSpeed:
    """The best that the reference took on a machine."""

    best_ms: float
    """`Latency.reference_quiet_ms` of that measurement."""
    at_s: float
    """When it was taken, seconds since the epoch."""

    def is_beaten_by(self, ms: float) -> bool:
        """Whether the machine was quicker than where it took `ms`, by more than it changes from round to round."""
        return ms > UNSTEADY * self.best_ms

    def unlike(self, ms: float) -> float:
        """Half of the 95 % interval, as a share, by which a network slows down otherwise than the reference does."""
        return Z95 * UNLIKE * log(ms / self.best_ms)

    def slow_text(self, ms: float) -> str:
        """That it was quicker, in a line."""
        when = time.strftime("%d %B at %H:%M", time.localtime(self.at_s))
        return (
            f"note: the machine was slow all the time: the reference took {ms:.3g} ms, and {self.best_ms:.3g} ms on"
            f" {when}; what compares with that day is in units of it (x ref.), to {100 * self.unlike(ms):.0f} %"
        )


def learn_speed(latency: Latency, *, now_s: float | None = None) -> KnownSpeed | None:
    """The best of the machine that `latency` was taken on, this measurement's among them; None without a reference.

    A cache that cannot be read or written knows of nothing.
    """
    if latency.reference_quiet_ms is None:
        return None
    now_s = time.time() if now_s is None else now_s
    own = KnownSpeed(best_ms=latency.reference_quiet_ms, at_s=now_s)
    files = [folder / FILE for folder in cache_folders()[:-1]]  # the last is where others may write too
    known = next(filter(None, map(_read, files)), {})
    kept = {name: one for name, one in known.items() if 0 <= now_s - one.at_s <= KEPT_S}
    best = min(kept.get(key := machine_key(latency), own), own, key=lambda one: one.best_ms)
    if best is own:
        rows = {name: {"best_ms": one.best_ms, "at_s": one.at_s} for name, one in {**kept, key: own}.items()}
        _write(files, json.dumps(rows, indent=1, sort_keys=True) + "\n")
    return best


def machine_key(latency: Latency) -> str:
    """Machine, provider, runtime and threads, by which a best is kept."""
    where = latency.target or f"{platform.node()} itself"
    parts = (where, latency.processor, latency.cores, latency.provider, latency.runtime, latency.graph_level)
    return ", ".join(map(str, (*parts, f"{latency.threads} threads")))


def _write(files: Sequence[Path], text: str) -> None:
    """Writes the first of these that can be written, if any."""
    for file in files:
        with contextlib.suppress(OSError, InputError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(file, text)
            return


def _read(file: Path) -> dict[str, KnownSpeed]:
    """The bests that stand in a file; what is none is passed over."""
    try:
        document: Any = json.loads(read_plain(file))
        rows = {str(name): (row["best_ms"], row["at_s"]) for name, row in document.items()}
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return {}
    return {
        name: KnownSpeed(best_ms=float(ms), at_s=float(at_s))
        for name, (ms, at_s) in rows.items()
        if isinstance(ms, (int, float)) and isinstance(at_s, (int, float)) and ms > 0
    }
