"""The bench on which networks are measured, and the one process that holds torch.

Torch lives in one worker process (`worker.py`) that loads the data once, exports and scores; ONNX Runtime is timed in
a fresh process of its own while the worker sleeps. The command itself never holds a thread pool, and a network that
takes all the memory takes the worker with it, not the command: the worker is started again for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

from modscale.errors import InputError, MismatchError, TooLargeError, TrialFailed, WorkerFault
from modscale.latency.device import Device
from modscale.latency.raw import known_devices
from modscale.processes import Child
from modscale.searching.steps import Work
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
        workers: int = 1,
        cores: int | None = None,
        debug: bool = False,
        note: Callable[[str], None] = lambda text: None,
        timings: Path | None = None,
    ) -> None:
        """`seed` draws the data, and is that of a search; a worker trains on so many `cores` at once at most.

        So many `workers` load the data side by side on entering, all but the first for somebody else, see `loading`.
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
        self.workers, self.cores = workers, cores
        self.debug = debug
        self.note = note
        self.timings = timings
        self.worker: Child | None = None
        self.loading: list[Child] = []
        """Further workers that were asked to `load` and have not answered yet."""
        self.shared: dict[Work, Any] = {}
        """What was answered to requests that all candidates share."""
        self.summary: DataSummary

    def __enter__(self) -> Bench:
        self.note(f"loading the data ({self.source})")
        try:
            self.worker = self._start(others=self.workers - 1)
        except BaseException:
            self._stop_loading()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_loading()
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def _stop_loading(self) -> None:
        loading, self.loading = self.loading, []
        for child in loading:
            child.stop()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that hold torch, as the system numbers them."""
        return tuple(child.pid for child in (self.worker, *self.loading) if child is not None and child.is_running)

    def now(self) -> float:
        """Seconds of the clock by which an engine on it goes."""
        return perf_counter()

    def answer(self, work: Work) -> Any:
        """As `ask`; what is shared is asked once."""
        if work.is_shared and work in self.shared:
            return self.shared[work]
        found = self.ask(work.function, *work.arguments)
        if work.is_shared:
            self.shared[work] = found
        return found

    def ask(self, task: str, *arguments: Any) -> Any:
        """The worker's answer. What ended it, or was not foreseen, is this candidate's reason to fail."""
        if self.worker is None or not self.worker.is_running:
            self.worker = self._start()
        with failing(task):
            return self.worker.ask(task, *arguments)

    def start(self) -> Child:
        """A worker that is still being made, and then is to be asked to `load`."""
        arguments = (self.source, self.proxy, self.seed, self.cores)
        name = "the worker process"
        return Child("modscale.searching.worker", "Tasks", arguments, name=name, debug=self.debug, waits=False)

    def check(self, summary: DataSummary) -> None:
        """As `check_same_summary`, beside the first worker's."""
        check_same_summary(summary, self.summary)

    def _start(self, others: int = 0) -> Child:
        """A worker with the data loaded: the same data, on the same device, as the one before it had.

        So many others begin to load them.
        """
        try:
            worker = self.start()
            try:
                for _ in range(others):
                    self.loading.append(self.start())
                worker.finish()
                self.loading = list(filter(_asked_to_load, self.loading))
                summary: DataSummary = worker.ask("load")
                if self.worker is not None:
                    self.check(summary)
            except BaseException:
                worker.stop()
                raise
        except TrialFailed as error:
            raise InputError(f"loading the data: {error}", file=self.source) from error
        self.summary = summary
        return worker


def _asked_to_load(child: Child) -> bool:
    """Asks a worker that is being made to load the data; False where it is lost, which whoever wants it sees to."""
    try:
        child.finish()
    except WorkerFault:
        child.stop()
        return False
    child.begin("load")
    return True


def check_same_summary(summary: DataSummary, expected: DataSummary) -> None:
    """Raises InputError where a worker has loaded other data, or trains on another device, than the first one."""
    if summary != expected:
        raise InputError("the data or the device changed during the search", file=expected.source)


@contextmanager
def failing(task: str) -> Iterator[None]:
    """What ends a worker in here, or was not foreseen, is the candidate's reason to fail."""
    try:
        yield
    except (MismatchError, TooLargeError, WorkerFault) as error:
        raise TrialFailed(f"{task}: {error}") from error
