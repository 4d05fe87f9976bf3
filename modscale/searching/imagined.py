"""A bench on which nothing is done: it says how long that would take, and what might come of it.

An engine on it (`engine.py`, `pool.py`) goes through a whole search with the loop, the study, the judge and the rules
of the timing as they are, in seconds: a clock is moved on by what each thing would take (`costs.py`,
`imagined_device.py`). A network has the accuracy that its size tells; what a short training adds to that moves the
networks of a space together, and hardly apart (`benchmarks/dry_run.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modscale.errors import TrialFailed
from modscale.processes import Child
from modscale.runs.experiment import Experiment
from modscale.runs.metrics import Results
from modscale.runs.trials import Rung
from modscale.searching.bench import Bench
from modscale.searching.costs import Costs
from modscale.searching.imagined_device import Clock, ImaginedDevice
from modscale.searching.pool import Pool
from modscale.searching.rehearsal import Rehearsal
from modscale.searching.worker import DataSummary, Judge, Trained
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec
from modscale.training.estimate import ANCHOR, estimate_accuracy


class ImaginedBench(Bench):
    """Where networks are imagined to be measured."""

    def __init__(
        self,
        experiment: Experiment,
        rehearsal: Rehearsal,
        summary: DataSummary,
        *,
        workers: int = 1,
        seed: int = 0,
        timings: Path | None = None,
    ) -> None:
        """`seed` is that of the noise; every imagined round is kept in `timings`, where that is given."""
        super().__init__(summary.source, experiment.proxy, experiment.latency, seed=experiment.search.seed)
        self.experiment, self.summary, self.timings = experiment, summary, timings
        self.costs, self.clock = Costs(rehearsal), Clock()
        self.exported: list[ModelSpec] = []
        """In an exported file stands which of these it is, wherever it is kept."""
        specs = [one.spec for one in rehearsal.networks]
        self.devices = {
            name: ImaginedDevice(session, specs, self.clock, self.exported, seed=seed)
            for name, session in zip(self.devices, rehearsal.sessions, strict=True)
        }
        self.anchor_s = 0.0
        """What the training of the anchor took, once it was."""
        self.trained: list[tuple[ModelSpec, float, int]] = []
        """What was trained, what share of it, and how often it was scored."""
        self.worker = ImaginedWorker(self)
        self.loading = [ImaginedWorker(self, rehearsal.workers_start_s) for _ in range(workers - 1)]

    def now(self) -> float:
        return self.clock.now()

    def start(self) -> Child:
        return ImaginedWorker(self)

    def ask(self, task: str, *arguments: Any) -> Any:
        answer, seconds = self.imagine(task, *arguments)
        self.clock.move(seconds)
        if isinstance(answer, TrialFailed):
            raise answer
        return answer

    def imagine(self, task: str, *arguments: Any) -> tuple[Any, float]:
        """What a worker would answer, or a TrialFailed, and how long that would take it."""
        tasks: dict[str, Callable[..., tuple[Any, float]]] = {
            "export": self._export, "train_anchor": self._train_anchor, "train": self._train,
        }  # fmt: skip
        return tasks[task](*arguments)

    def _export(self, spec: ModelSpec, file: Path) -> tuple[float, float]:
        file.write_text(str(len(self.exported)))
        self.exported.append(spec)
        return 0.0, self.costs.export_s(spec)

    def _train_anchor(self, seed: int, shares: tuple[float, ...]) -> tuple[bytes, float]:
        self.anchor_s = self.costs.anchor_s(self.proxy.epochs, scorings=len(shares))
        return b"", self.anchor_s

    def _train(
        self,
        spec: ModelSpec,
        seed: int,
        shares: tuple[float, ...],
        anchor: bytes,
        judge: Judge | None,
        known: Mapping[str, float],
    ) -> tuple[Any, float]:
        results = self._learnt(spec)
        score = results["accuracy" if self.proxy.task == "classification" else "miou"]
        answer: Any = Trained(results=results)
        reached: list[Rung] = []
        for share in shares if judge is not None else ():
            reached.append(Rung(share=share, value=score, seconds=0.0))
            answer = Trained(results=results, rungs=tuple(reached))
            try:
                stopped = None if share == 1 or judge is None else judge(known, reached)
            except TrialFailed as failure:
                answer = failure
                break
            if stopped is not None:
                answer = Trained(rungs=tuple(reached), stopped=stopped)
                break
        share, scorings = (reached[-1].share, len(reached)) if reached else (1.0, len(shares))
        if self.proxy.task == "classification" and spec.stages == published(ANCHOR).stages:
            return answer, 0.0  # it was trained as the anchor
        self.trained.append((spec, share, scorings))
        return answer, self.costs.training_s(spec, self.proxy.epochs, share=share, scorings=scorings)

    def _learnt(self, spec: ModelSpec) -> Results:
        """What the proxy would say of a network, with as many digits."""
        estimate = estimate_accuracy(spec, method="thin", evidence=0.0)
        if self.proxy.task != "classification":
            found = {"miou": estimate.accuracy, "miou_standard_error": estimate.standard_error}
            return found | {"pixel_accuracy": estimate.accuracy, "val_images": self.summary.val_images}
        found = {"accuracy": estimate.accuracy, "accuracy_standard_error": estimate.standard_error}
        beside = {"trained_accuracy": estimate.accuracy / 3, "val_loss": 4 / 3, "anchor_loss": 4 / 3}
        return found | beside | {"val_images": self.summary.val_images}


class ImaginedWorker(Child):
    """A process that is none: it knows what it would answer, and after how many seconds."""

    def __init__(self, bench: ImaginedBench, loading_s: float = 0.0) -> None:
        """It is loading the data for so long."""
        self.bench, self.is_running = bench, True
        self.found: Any = bench.summary
        self.length_s = loading_s

    def begin(self, task: str, *arguments: Any) -> None:
        if task == "load":
            self.found, self.length_s = self.bench.summary, 0.0
        else:
            self.found, self.length_s = self.bench.imagine(task, *arguments)

    def finish(self) -> Any:
        if isinstance(self.found, TrialFailed):
            raise self.found
        return self.found

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def kill(self) -> None: ...

    def stop(self) -> None: ...


class ImaginedPool(Pool):
    """The pool, with workers that are imagined."""

    def __init__(self, *arguments: Any, clock: Clock, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.clock = clock

    def now(self) -> float:
        return self.clock.now()

    def _listen(self) -> None:
        """Goes on to the moment at which the next worker has something to say."""
        at_work: Sequence[Any] = [worker for worker in self.workers if not worker.is_idle()]
        worker = min(at_work, key=lambda one: one.began_s + one.child.length_s)
        self.clock.move(max(0.0, worker.began_s + worker.child.length_s - self._clock()))
        self._hear(worker)
