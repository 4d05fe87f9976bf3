"""The memory that a process and all that it started hold at once, looked at again and again while something runs.

Of each process what it alone holds counts (anonymous and shared memory, which no child of ours takes over from its
parent); what is mapped from files, libraries for the most part, counts once, as the process has it that maps most of
it. So neither is anything counted twice, nor does it matter who else on the machine has loaded the same libraries.
Linux tells this at the cost of some microseconds a look (`/proc/PID/status`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PROC = Path("/proc")
EVERY_S = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Bytes that some processes hold at one moment."""

    own: int = 0
    """Of this process, but for what is mapped from files."""
    workers: tuple[int, ...] = ()
    """The same of each worker."""
    others: int = 0
    """The same of all others that were started."""
    mapped: int = 0
    """From files, by the process that maps most."""

    @property
    def total(self) -> int:
        return self.own + sum(self.workers) + self.others + self.mapped


class MemoryWatch:
    """Looks at this process and all its children until it is left; a context manager."""

    def __init__(self, workers: Callable[[], Collection[int]] = tuple, proc: Path = PROC) -> None:
        """`workers` gives the processes that are workers, by their numbers."""
        self.workers = workers
        self.proc = proc
        self.looks: list[Held] = []
        """What was seen, nothing where the system does not tell."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        family = Family(self.proc)
        while (held := family.held(self.workers())) is not None:
            self.looks.append(held)
            if self._over.wait(EVERY_S):
                return

    def most(self) -> int | None:
        """Bytes that all held at once at the most; None where the system does not tell."""
        return max((look.total for look in self.looks), default=None)

    def most_with(self, workers: int) -> int | None:
        """The same of a search with so many workers in place of the one or few that were seen.

        All may be in the midst of their trainings while models are timed: then each counts with the most that any was
        seen to hold, but for one that waits, beside the most that was seen beside workers.
        """
        seen = self.most()
        busy = [look for look in self.looks if look.workers]
        if seen is None or workers < 2 or not busy:
            return seen
        beside = max(look.own + look.others + look.mapped for look in busy)
        one = max(max(look.workers) for look in busy)
        waiting = sorted(max(look.workers) for look in busy)[len(busy) // 2]
        without = max((look.total for look in self.looks if not look.workers), default=0)
        return max(without, beside + (workers - 1) * one + waiting)


class Family:
    """This process and all that it started, and what they hold."""

    def __init__(self, proc: Path = PROC) -> None:
        self.proc = proc
        self.parents: dict[int, int] = {}
        """Of every process of the machine that was seen; read once for each."""

    def held(self, workers: Collection[int] = ()) -> Held | None:
        """What they hold now, the `workers` among them apart; None where the system does not tell."""
        me = os.getpid()
        own = self._bytes_of(me)
        if own is None:
            return None
        mapped, at_work, others = own[1], [], 0
        for pid in self._descendants(me):
            if (found := self._bytes_of(pid)) is not None:
                if pid in workers:
                    at_work.append(found[0])
                else:
                    others += found[0]
                mapped = max(mapped, found[1])
        return Held(own=own[0], workers=tuple(at_work), others=others, mapped=mapped)

    def _bytes_of(self, pid: int) -> tuple[int, int] | None:
        """Bytes that a process alone holds, and those it maps from files; None where it is gone or nothing is told."""
        with suppress(OSError, KeyError, ValueError):
            text = (self.proc / str(pid) / "status").read_text(encoding="ascii", errors="replace")
            words = {line.partition(":")[0]: line.split() for line in text.splitlines() if line.startswith("Rss")}
            anonymous, files, shared = (int(words[key][1]) * 1024 for key in ("RssAnon", "RssFile", "RssShmem"))
            return anonymous + shared, files
        return None

    def _descendants(self, me: int) -> set[int]:
        alive = {int(entry.name) for entry in self.proc.iterdir() if entry.name.isdecimal()}
        known = {pid: parent for pid, parent in self.parents.items() if pid in alive}
        for pid in alive - known.keys():
            with suppress(OSError, ValueError, IndexError):
                text = (self.proc / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
                known[pid] = int(text.rpartition(") ")[2].split()[1])
        self.parents = known
        ours = {me}
        while more := {pid for pid, parent in known.items() if parent in ours} - ours:
            ours |= more
        return ours - {me}
