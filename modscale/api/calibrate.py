"""A whole calibration: networks of a space, put together from its pieces, timed, and kept in a file.

Every process times another network once: what a process happens to get of memory, and what else the machine does, is
averaged over the networks that have a piece in common.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np

from modscale.errors import InputError
from modscale.files import scratch_folder, write_whole
from modscale.interrupts import check_stop
from modscale.latency.calibration import (
    Calibration,
    Conditions,
    Timed,
    device_conditions,
    observations,
    write_calibration,
)
from modscale.latency.device import Device
from modscale.latency.plan import plan_exports, plan_networks
from modscale.latency.predictor import FEWEST, Deviations
from modscale.latency.steady import TimeFile, take_steadily
from modscale.latency.summary import is_disturbed
from modscale.processes import Child
from modscale.runs.experiment import Experiment
from modscale.searching.draws import Draws
from modscale.settings import LatencySettings
from modscale.spaces.space import Space
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.pieces import Piece, piece_keys
from modscale.specs.spec import ModelSpec

DRAWN = 3000
"""Networks of the space that are drawn, to find its pieces and to choose from."""
LIMIT_S = 285.0
"""Seconds that a calibration takes, its exports among them."""
EXPORT_SHARE = 0.4
"""Of that, what the exports may take; what is not exported by then is predicted from its neighbours."""
NETWORKS = 240
"""Networks timed at most."""
PROCESS_S = 0.35
"""Seconds that the timed runs of one process are to take."""
ENOUGH = 2 * FEWEST
"""Networks timed while the machine was steady for which the others are left out."""
WARMUP = 3
"""Runs before the first timed one of a process."""
RUNS = (8, 60)
"""Timed runs of one process, at the least and at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """What times files, and what is known of it."""

    time_file: TimeFile
    """Times one file."""
    conditions: Callable[[], Conditions]
    """Those of what it has timed."""


class Composer(Protocol):
    """What puts networks together, see `deploy.pieces.Composer`."""

    def add(self, spec: ModelSpec) -> None:
        """Exports a network, whose pieces are there from then on."""

    def write(self, spec: ModelSpec, file: Path) -> None:
        """Puts a network together."""


def calibrate(
    experiment: Experiment,
    clock: Clock,
    file: Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    on_timed: Callable[[int, int], None] = lambda done, total: None,
    limit_s: float = LIMIT_S,
    most: int = NETWORKS,
    composer: Composer | None = None,
) -> dict[str, Any]:
    """Calibrates a space and writes `file`; returns the keys of the contract, and how well it fits.

    `composer` is one in a process of its own where none is given. `on_timed(done, total)` hears of every few networks.

    Raises:
        InputError: `file` cannot be written, the space has nothing feasible, or too few networks were timed.
        MismatchError: an export failed.
        TrialFailed: a network could not be timed.
    """
    _check_place(file)
    with ExitStack() as stack:
        if composer is None:
            composer = _Asked(stack.enter_context(Child("modscale.deploy.pieces", "Composer", name="the export")))
        folder = stack.enter_context(scratch_folder())
        return _calibrate(experiment, clock, file, composer, folder, say, on_timed, limit_s, most)


def _check_place(file: Path) -> None:
    """Raises InputError now where a file could not be written there in five minutes; what lies there stays."""
    if file.is_dir():
        raise InputError("must be a file, and is a folder", file=file)
    probe = file.with_name(f".{file.name}.probe")
    try:
        write_whole(probe, "")
    except InputError as error:
        error.file = str(file)
        raise
    probe.unlink(missing_ok=True)


class _Asked:
    """A composer in another process."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def add(self, spec: ModelSpec) -> None:
        self.child.ask("add", spec)

    def write(self, spec: ModelSpec, file: Path) -> None:
        self.child.ask("write", spec, file)


def _calibrate(
    experiment: Experiment,
    clock: Clock,
    file: Path,
    composer: Composer,
    folder: Path,
    say: Callable[[str], None],
    on_timed: Callable[[int, int], None],
    limit_s: float,
    most: int,
) -> dict[str, Any]:
    start = time.monotonic()
    drawn = draw_networks(experiment.space, DRAWN, seed=0)
    pieces: set[tuple[Piece, bool]] = set()
    for spec in plan_exports(drawn):
        if pieces and time.monotonic() - start > EXPORT_SHARE * limit_s:
            break
        check_stop()
        composer.add(spec)
        pieces.update(piece_keys(spec))
    chosen = list(islice(plan_networks(drawn, pieces), most))
    say(f"{len(pieces)} pieces exported in {time.monotonic() - start:.0f} s; timing networks put together of them")
    flops = [count_model(spec).flops for spec in chosen]
    reference, model = folder / "reference.onnx", folder / "model.onnx"
    composer.write(min(chosen, key=lambda spec: count_model(spec).flops), reference)
    speed: list[float] = []

    def time_file(path: Path, runs: int) -> tuple[tuple[int, ...], bool]:
        times, disturbed = clock.time_file(path, runs)
        if path == reference:
            speed.append(median(times) / min(flops) / 1e9)  # seconds a FLOP
        return times, disturbed

    def prepare(index: int) -> Path:
        composer.write(chosen[index], model)
        return model

    takes = take_steadily(
        len(chosen),
        prepare,
        time_file,
        reference,
        runs=lambda index: int(min(max(PROCESS_S / (median(speed) * flops[index]), RUNS[0]), RUNS[1])),
        flops=lambda index: flops[index],
        limit_s=limit_s - (time.monotonic() - start),
        on_take=lambda done, left: on_timed(done, done + left),
    )
    kept, noisy = takes.steady, len(takes.steady) < ENOUGH
    if noisy:
        say("note: the machine's speed changed all the while; the predictions are as wide as that makes them")
        kept = (*takes.steady, *takes.others)
    timed = [
        Timed(spec=chosen[take.index], times_ns=(take.times_ns,), at_s=take.at_s)
        for take in sorted(kept, key=lambda take: take.at_s)
    ]
    if len(timed) < FEWEST:
        raise InputError(
            f"only {len(timed)} networks were timed in {limit_s:.0f} s, and {FEWEST} are the fewest", file=file
        )
    deviations, taken = _fit(timed)
    timed = [replace(one, left_out=not is_taken) for one, is_taken in zip(timed, taken, strict=True)]
    calibration = Calibration(
        space=experiment.space.name, conditions=clock.conditions(), networks=tuple(timed), deviations=deviations
    )
    seconds = time.monotonic() - start
    write_calibration(file, calibration, seconds=seconds)
    predictor = calibration.predictor()
    errors = np.abs(predictor.residuals)
    return {
        "calibration": str(file),
        "pieces": len(predictor.pieces),
        "seconds": seconds,
        "processor": calibration.conditions.processor,
        "networks": len(timed),
        "left_out": sum(one.left_out for one in timed),
        "noisy": noisy,
        "error_percent": float(100 * errors.mean()),
        "error_percent_p95": float(100 * np.quantile(errors, 0.95)),
        "ci90_percent": float(100 * predictor.stretch * np.median(predictor.scales)),
        "conditions": asdict(calibration.conditions),
    }


def draw_networks(space: Space, number: int, *, seed: int) -> list[ModelSpec]:
    """Different feasible networks of a space, drawn uniformly. Raises InputError where nothing is feasible."""
    tables = build_tables(space)
    rows = Draws(space, tables, steps=1, seed=seed).rows(np.random.default_rng(seed), number)
    return list(dict.fromkeys(tables.spec(row, name=space.name) for row in rows))


def _fit(timed: Sequence[Timed]) -> tuple[Deviations, list[bool]]:
    """What a fit finds, in a process in which NumPy has one thread: several wait for each other on a busy machine."""
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with Child("modscale.latency.predictor", name="the fit", environment=alone) as child:
        found: tuple[Deviations, list[bool]] = child.ask("answer_fit", observations(timed))
    return found


def device_clock(settings: LatencySettings) -> Clock:
    """What times on the device of the settings, as `modscale latency` does. Raises as `Device.check`."""
    device = Device(replace(settings, warmup=WARMUP))
    device.check()

    def time_file(file: Path, runs: int) -> tuple[tuple[int, ...], bool]:
        timings = device.time(file, runs=runs, shape=None)
        return timings.times_ns, is_disturbed(timings, device)

    return Clock(time_file=time_file, conditions=lambda: device_conditions(device))
