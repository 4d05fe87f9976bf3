"""The bench on which networks are measured, and the one process that holds torch.

Torch lives in one worker process (`worker.py`) that loads the data once, exports and scores; ONNX Runtime is timed in
a fresh process of its own while the worker sleeps. The command itself never holds a thread pool, and a network that
takes all the memory takes the worker with it, not the command: the worker is started again for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from modscale.errors import InputError, MismatchError, TooLargeError, TrialFailed, WorkerFault
from modscale.latency.device import Device
from modscale.latency.raw import known_devices
from modscale.processes import Child
from modscale.searching.worker import DataSummary
from modscale.settings import LatencySettings, ProxySettings


class Bench:
    """Measures networks on one data set; a context manager that owns the worker.

    Entering it raises InputError where the data set or the device cannot be used.
    """

    def __init__(
        self,
        source: str,
        proxy: ProxySettings,
        latency: LatencySettings,
        *,
        seed: int,
        rungs: Sequence[float] = (),
        debug: bool = False,
        note: Callable[[str], None] = lambda text: None,
        timings: Path | None = None,
    ) -> None:
        """`seed` draws the data, and is that of a search; at the `rungs` of a training a candidate may end.

        Every timed run is kept in `timings`; raises RunError where that is broken.
        """
        self.source = source
        self.proxy = proxy
        first, *others = latency.devices()
        settings = {"": first, **{each.target.name: each for each in others if each.target}}
        known = {} if timings is None else known_devices(timings)
        self.devices = {name: Device(each, known.get(name)) for name, each in settings.items()}
        """By the names of `latency.targets`; the first one is what `latency` itself is about, and has none."""
        self.seed = seed
        self.rungs = tuple(rungs)
        self.debug = debug
        self.note = note
        self.timings = timings
        self.worker: Child | None = None
        self.summary: DataSummary

    def __enter__(self) -> Bench:
        self.worker = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def ask(self, task: str, *arguments: Any) -> Any:
        """The worker's answer. What ended it, or was not foreseen, is this candidate's reason to fail."""
        if self.worker is None or not self.worker.is_running:
            self.worker = self._start()
        try:
            return self.worker.ask(task, *arguments)
        except (MismatchError, TooLargeError, WorkerFault) as error:
            raise TrialFailed(f"{task}: {error}") from error

    def _start(self) -> Child:
        """A worker with the data loaded: the same data, on the same device, as the one before it had."""
        arguments = (self.source, self.proxy, self.seed)
        try:
            worker = Child("modscale.searching.worker", "Tasks", arguments, name="the worker process", debug=self.debug)
            try:
                summary: DataSummary = worker.ask("load")
                if self.worker is not None and summary != self.summary:
                    raise InputError("the data or the device changed during the search", file=self.source)
            except BaseException:
                worker.stop()
                raise
        except TrialFailed as error:
            raise InputError(f"loading the data: {error}", file=self.source) from error
        self.summary = summary
        return worker
