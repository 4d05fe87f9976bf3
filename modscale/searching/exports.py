"""Exported files of networks that may be timed once more at the end: those of the front as it stands, and of trainings.

They are kept where the search itself runs, as long as that lasts; what is not there is exported again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from modscale.files import scratch_folder
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

MOST_KEPT = 16
"""Files at a time, of some 20 to 60 MB each: a temporary folder may lie in memory."""


class Exports:
    """Files by their networks, in a folder that is gone at the end; a context manager."""

    def __init__(self) -> None:
        self.most = MOST_KEPT
        """Files at a time."""
        self._never = set[tuple[Any, ...]]()
        self._files: dict[tuple[Any, ...], Path] = {}
        self._stack = ExitStack()
        self._made = 0

    def __enter__(self) -> Exports:
        self._folder = self._stack.enter_context(scratch_folder())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files = {}
        self._stack.close()

    def leave_out(self, specs: Iterable[ModelSpec]) -> None:
        """These are never kept: they are measured for comparison alone."""
        self._never |= set(map(network_key, specs))

    def keep(self, spec: ModelSpec, file: Path) -> None:
        """Takes a file over, if there is one on this machine, and room."""
        key = network_key(spec)
        if key in self._never or key in self._files or len(self._files) >= self.most or not file.is_file():
            return
        self._made += 1
        self._files[key] = file.rename(self._folder / f"{self._made}.onnx")

    def find(self, spec: ModelSpec) -> Path | None:
        """The file of a network, if it is kept."""
        return self._files.get(network_key(spec))

    def drop(self, specs: Iterable[ModelSpec]) -> None:
        """Removes the files of these networks."""
        for spec in specs:
            if file := self._files.pop(network_key(spec), None):
                file.unlink(missing_ok=True)
