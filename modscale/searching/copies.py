"""Trainings that take far longer than their size foretells, of which a second copy is made.

Some machines are slow for a while: a disk, a neighbour, heat. What is trained there holds up the whole window in the
end. As in MapReduce (Dean & Ghemawat 2004, section 3.6) it is begun once more elsewhere, and whichever ends first
counts: both come to the same.
"""

from __future__ import annotations

from statistics import median

LATE = 2.0
"""Times what its size foretells after which a training is late: of 100 log-normal ones of a deviation of 0.3 one is."""
FEWEST = 8
"""Finished trainings by which the others are foretold."""


class Paces:
    """How long trainings take for their size."""

    def __init__(self) -> None:
        self._paces: list[float] = []

    def learn(self, size: float, seconds: float) -> None:
        """A training came to its end after so many seconds."""
        if size > 0:
            self._paces.append(seconds / size)

    def is_late(self, size: float, seconds: float) -> bool:
        """Whether one that is under way for so many seconds should have ended long ago.

        After eight that took 1 s for each unit of size, one of size 10 is late after 20 s.
        """
        return len(self._paces) >= FEWEST and size > 0 and seconds > LATE * size * median(self._paces)
