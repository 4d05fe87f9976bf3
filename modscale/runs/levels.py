"""How fast this machine was while earlier runs were made: what the reference network took beside their timings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median
from typing import Any

from modscale.errors import ModscaleError
from modscale.lines import read_lines
from modscale.runs.folder import TIMINGS_FILE

MOST_RUNS = 12
"""Runs that are looked at, the latest."""
MOST_BYTES = 64 << 20
"""Of the timings of a run that is looked at."""


def levels_beside(folder: Path, facts: Mapping[str, Any], provider: str) -> dict[str, float]:
    """By the name of a run in the folder that holds `folder`, itself too, the mean of its reference's rounds, ms.

    Of this machine alone, and of timings in the same way: with the processor and the threads of `facts`
    (`timing_worker.describe`), and the provider.
    """
    files = []
    with suppress(OSError):
        for file in folder.absolute().parent.glob(f"*/{TIMINGS_FILE}"):
            with suppress(OSError):
                if (size := file.stat()).st_size <= MOST_BYTES:
                    files.append((size.st_mtime, file))
    found = {}
    for _, file in sorted(files, reverse=True)[:MOST_RUNS]:
        with suppress(ModscaleError):
            if levels_ms := list(_levels(file, facts, provider)):
                found[file.parent.name] = fmean(levels_ms)
    return found


def _levels(file: Path, facts: Mapping[str, Any], provider: str) -> Iterator[float]:
    """The median of each round of the reference on this machine, ms; what has another form is passed over."""
    is_here = False
    for _, line in read_lines(file):
        if not isinstance(line, Mapping):
            continue
        begin, times = line.get("begin"), line.get("times_ns")
        if isinstance(begin, Mapping):
            its, settings = begin.get("facts"), begin.get("latency")
            is_here = isinstance(its, Mapping) and isinstance(settings, Mapping) and "device" not in begin
            if isinstance(its, Mapping) and isinstance(settings, Mapping):
                is_here &= all(its.get(key) == facts.get(key) for key in ("processor", "threads"))
                is_here &= (settings.get("provider"), settings.get("target")) == (provider, None)
        elif is_here and line.get("model", 0) is None and isinstance(times, list) and times:
            with suppress(TypeError):
                yield median(times) / 1e6
