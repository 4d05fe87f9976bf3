"""A full training: the loop that learns, scores, keeps the best, and can be killed at any moment.

It runs in a process of its own (`processes.py`), which `api/train.py` asks for a second of work at a time; under
`torchrun` in several of them, one a process of torchrun's, whose gradients torch averages.

What is needed to go on stands in one file, `state.pt`, written whole at the end of each epoch and every few minutes
in between. Nothing random is kept in it: what a step draws follows from its number (`classification.py`). So a killed
training goes on to the same weights, bit for bit on a CPU with the same threads; a process that trains alone there
learns from its batch in slices (`slices.py`).

Files are written in this order, so that whatever a kill leaves out is made up for: `best.safetensors`, `state.pt`,
`last.safetensors`; the epoch's line of `metrics.jsonl` by whoever asked, from the rows in the state.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modscale.errors import InputError, RunError, TrialFailed
from modscale.files import write_whole
from modscale.machine import available_cores
from modscale.models.checkpoint import save_weights
from modscale.models.transfer import take_over
from modscale.specs.spec import ModelSpec
from modscale.training.examination import Examination, examine
from modscale.training.job import BEST_FILE, LAST_FILE, STATE_FILE, Prepared, Progress, TrainJob, best_score
from modscale.training.loggers import Log, open_log
from modscale.training.place import take_place
from modscale.training.proxy import out_of_memory_as
from modscale.training.recipe import learning_rate_factor
from modscale.training.settings import DEFAULT_HOURS, PAPER_EPOCHS, TrainSettings, choose_batch, read_side, resolved
from modscale.training.slices import Slices
from modscale.training.start import parameter_groups, started
from modscale.training.tasks import TASKS
from modscale.training.teacher import load_teacher

TIMED_STEPS = 8
"""Steps by which the length of an epoch is told, after two that are not timed."""
TIMED_S = 20.0
"""Or so many seconds of them."""
OVERHEAD = 1.05
"""Of an epoch, for what is not timed: files, and the interpreter."""


class FullTraining:
    """One process's part of a training; `prepare`, then `advance` until it is over."""

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        self.place = take_place(job.settings.device)
        self.epoch = self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.saved_at = time.monotonic()
        self.batches: Iterator[Any] | None = None
        self.slices: Slices | None = None

    def prepare(self) -> Prepared:
        """Loads the data, fixes the settings and builds the network, or takes up where the folder's state stands.

        Raises:
            InputError: the data, the teacher, the weights to start from or the state cannot be used.
        """
        with out_of_memory_as(TrialFailed("out of memory in the training; lower batch_size or the resolution")):
            return self._prepare()

    def _prepare(self) -> Prepared:
        self.job = job = self.place.agreed(self.job)
        asked, place = job.settings, self.place
        torch.set_num_threads(asked.threads or available_cores())
        resolution = job.spec.resolution
        side = read_side(asked, resolution)
        self.task = task = TASKS[asked.task](
            job.source, asked, resolution=resolution, side=side, seed=job.seed, place=place
        )
        batch = choose_batch(asked, task.train_items, place.processes)

        def fixed(epochs: int) -> TrainSettings:
            return resolved(
                asked, epochs=epochs, batch=batch, train_images=task.train_items, channels=task.channels,
                resolution=resolution, is_fresh=job.start_from is None,
            )  # fmt: skip

        task.settings = fixed(asked.epochs or PAPER_EPOCHS)
        if job.teacher is not None:
            if asked.task != "classification":
                raise InputError("tells the classes of images, not of pixels", place="--teacher", value=job.teacher)
            task.teacher = load_teacher(
                job.teacher, class_names=task.class_names, channels=task.channels, device=place.device
            )
        notes = []
        if asked.epochs is None:
            hours = asked.hours or DEFAULT_HOURS
            epoch_s = self._time_epoch(task.fit(job.spec))
            task.settings = fixed(self.place.agreed(max(1, min(PAPER_EPOCHS, int(hours * 3600 / epoch_s)))))
            notes.append(
                f"an epoch takes about {epoch_s:.3g} s: {task.settings.epochs} epochs in {hours:g} h"
                + (", the paper's number" if task.settings.epochs == PAPER_EPOCHS else "")
            )
        self.settings = task.settings
        self.log: Log = open_log(self.settings.log if place.rank == 0 else "none", job.folder)
        taken = None
        self.steps = task.train_items // batch
        spec = task.fit(job.spec)
        network = started(spec, self.settings, job.seed)
        state = self._read_state() if job.goes_on else None
        if job.start_from is not None and state is None:
            taken = take_over(network, job.start_from).describe()
        self._set_up(network, spec)
        if state is not None:
            self._resume(state)
        return Prepared(
            rank=place.rank, processes=place.processes, spec=spec, settings=self.settings, data=task.describe(),
            class_names=task.class_names, preprocessing=task.preprocessing(), device=place.describe(),
            steps=self.steps, rows=tuple(self.rows), notes=tuple(notes), taken_over=taken,
            teacher=None if task.teacher is None else task.teacher.text,
        )  # fmt: skip

    def advance(self, seconds: float) -> Progress:
        """Trains for so long, or to the end of the epoch, which is scored and written down.

        Raises:
            TrialFailed: the loss is not finite, or memory ran out; what was written before stands.
            InputError: a file cannot be written.
        """
        if self.epoch == self.settings.epochs:
            return self._progress(None)
        start = time.monotonic()
        row = None
        with out_of_memory_as(TrialFailed("out of memory in the training; lower batch_size or the resolution")):
            while row is None:
                self._step()
                if self.step == self.steps:
                    self.seconds += time.monotonic() - start
                    row = self._finish_epoch()
                elif time.monotonic() - start >= seconds:
                    self.seconds += time.monotonic() - start
                    self._check_losses(self.losses[: self.step])
                    self._save_in_mid_epoch()
                    break
        return self._progress(row)

    def examine(self) -> Examination:
        """See `examination.examine`, of the best weights; for the process that writes."""
        return examine(self.task, self.task.fit(self.job.spec), self.job.folder / BEST_FILE)

    def _set_up(self, network: nn.Module, spec: ModelSpec) -> None:
        """The network, its average, its optimiser and its schedule, as they stand before the first step."""
        s, place = self.settings, self.place
        self.network = network.to(place.device)
        self.model: nn.Module = self.network
        if place.processes > 1:
            ids = [place.device.index or 0] if place.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.network, device_ids=ids)
        assert s.epochs and s.batch_size and s.warmup_epochs is not None  # noqa: S101, PT018  # resolved
        if self.slices is not None:
            self.slices.close()
        self.slices = Slices(
            self.network, spec, items=s.batch_size, threads=torch.get_num_threads(), is_whole=place.processes > 1
        )
        self.average = None
        if s.ema_decay:
            step = get_ema_multi_avg_fn(s.ema_decay)  # type: ignore[no-untyped-call]  # torch leaves it without types
            self.average = AveragedModel(self.network, multi_avg_fn=step, use_buffers=True)
        self.optimiser = torch.optim.AdamW(parameter_groups(self.network, s), fused=True)
        total, warmup = self.steps * s.epochs, min(1.0, s.warmup_epochs / s.epochs)
        self.factor: Callable[[int], float] = lambda step: learning_rate_factor(step, total, warmup)
        self.schedule = LambdaLR(self.optimiser, self.factor)
        self.losses = torch.zeros(self.steps, device=place.device)

    def _step(self) -> None:
        if self.batches is None:
            self.batches = self.task.batches(self.epoch, self.step)
            self.model.train()
        self.losses[self.step] = self._learn(next(self.batches))
        self.step += 1

    def _learn(self, batch: Any) -> Tensor:
        assert self.slices is not None  # noqa: S101  # set up
        loss = self.slices.learn(lambda rows: self._loss(self.task.rows_of(batch, rows)))
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss

    def _loss(self, batch: Any) -> Tensor:
        kind = self.place.device.type
        half = self.settings.precision == "bfloat16" or (self.settings.precision == "auto" and kind == "cuda")
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=half):
            outputs = self.model(batch.images)
        return self.task.loss(outputs, batch)

    def _finish_epoch(self) -> dict[str, Any]:
        """Scores the network and its average, and writes both down. Returns the line of the epoch."""
        start = time.monotonic()
        mean = self.place.total(self.losses.mean()) / self.place.processes
        self._check_losses(self.losses)
        score = self.task.score
        found = self._evaluated(self.network)
        averaged = None if self.average is None else self._evaluated(self.average.module)
        self.batches = None
        before = max((best_score(row) for row in self.rows), default=-1.0)
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "train_loss": mean.item(),
            score: found[score],
            "learning_rate": self._rate(),
            "seconds": 0.0,
            **{key: value for key, value in found.items() if key != score},
        }
        if averaged is not None:
            row |= {f"ema_{key}": value for key, value in averaged.items()}
        self.seconds += time.monotonic() - start
        row["seconds"] = round(self.seconds, 3)
        self.rows.append(row)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        if self.place.rank == 0:
            if best_score(row) > before:
                is_average = averaged is not None and averaged[score] > found[score]
                best = self.average.module if is_average and self.average is not None else self.network
                save_weights(best, self.job.folder / BEST_FILE)
            self._write_state()
            save_weights(self.network, self.job.folder / LAST_FILE)
            self.log(row)
        return row

    def _evaluated(self, network: nn.Module) -> dict[str, float]:
        try:
            return self.task.evaluate(network)
        except TrialFailed as error:
            raise TrialFailed(f"{error} after epoch {self.epoch + 1}; {self._what_stands()}") from error

    def _check_losses(self, losses: Tensor) -> None:
        """Raises TrialFailed with the step at which a loss was not finite."""
        finite = losses.isfinite()
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0]) + 1
            where = f"epoch {self.epoch + 1}, step {step} of {self.steps}"
            raise TrialFailed(f"training diverged: the loss is not finite in {where}; {self._what_stands()}")

    def _what_stands(self) -> str:
        """What a training that diverged has left, and what can be done."""
        remedy = "lower learning_rate, or set clip_norm, and give another --out"
        if not self.rows:
            return f"no epoch was finished before; {remedy}"
        stands = f"{BEST_FILE} and {LAST_FILE} of epoch {len(self.rows)} stand"
        return f"{stands}; {remedy} (--from {LAST_FILE} starts there)"

    def _save_in_mid_epoch(self) -> None:
        if time.monotonic() - self.saved_at >= 60 * self.settings.checkpoint_minutes and self.place.rank == 0:
            self._write_state()

    def _write_state(self) -> None:
        """All that is needed to go on, whole or not at all. Raises InputError where it cannot be written."""
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "rows": json.dumps(self.rows),
            "losses": self.losses,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_whole(self.job.folder / STATE_FILE, content.getvalue())
        self.saved_at = time.monotonic()

    def _read_state(self) -> dict[str, Any] | None:
        """What `state.pt` holds; None where a training has not come so far. Raises RunError."""
        file = self.job.folder / STATE_FILE
        if not file.exists():
            return None
        try:
            return dict(torch.load(file, map_location=self.place.device, weights_only=True))
        except Exception as error:
            raise RunError(
                f"is broken ({' '.join(str(error).split())[:100]}); remove it to begin again", file=file
            ) from error

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Takes up the state. Raises RunError where it is that of another training."""
        try:
            self.epoch, self.step = int(state["epoch"]), int(state["step"])
            self.seconds = float(state["seconds"])
            self.rows = json.loads(state["rows"])
            self.network.load_state_dict(state["network"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
            self.losses.copy_(state["losses"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            rule = f"does not belong to this training ({' '.join(str(error).split())[:100]}); remove it to begin again"
            raise RunError(rule, file=self.job.folder / STATE_FILE) from error
        if self.place.rank == 0 and self.rows and self.step == 0:  # a kill may have come before it
            save_weights(self.network, self.job.folder / LAST_FILE)

    def _time_epoch(self, spec: ModelSpec) -> float:
        """Seconds of an epoch, by a few steps and a part of the validation images; what they learn is thrown away."""
        self.settings = self.task.settings
        self.steps = self.task.train_items // (self.settings.batch_size or 1)
        self._set_up(started(spec, self.settings, self.job.seed), spec)
        self.model.train()
        took: list[float] = []
        began = time.monotonic()
        for batch in self.task.batches(0, 0):
            self._learn(batch)
            self.place.wait()
            took.append(time.monotonic() - began - sum(took))  # reading and augmenting are a part of a step
            if self.place.agreed(len(took) >= 2 + TIMED_STEPS or (len(took) > 2 and sum(took) > TIMED_S)):
                break
        images = self.task.val_items
        part = min(images, 2 * self.task.eval_batch)
        start = time.monotonic()
        self.task.evaluate(self.network, limit=part)
        self.place.wait()
        scoring_s = (time.monotonic() - start) / part * images * (1 if self.average is None else 2)
        return float(self.place.agreed((statistics.median(took[2:] or took) * self.steps + scoring_s) * OVERHEAD))

    def _rate(self) -> float:
        """Of the next step, for a parameter that learns at the whole rate."""
        return (self.settings.learning_rate or 0.0) * self.factor(self.schedule.last_epoch)

    def _progress(self, row: Mapping[str, Any] | None) -> Progress:
        return Progress(
            epoch=self.epoch,
            step=self.step,
            loss=self.losses[: self.step].mean().item() if self.step else None,
            rate=self._rate(),
            row=row,
            is_over=self.epoch == self.settings.epochs,
        )
