"""A whole calibration: networks of a space, put together from its pieces, timed, and kept in a file.

Every process times another network once: what a process happens to get of memory, and what else the machine does, is
averaged over the networks that have a piece in common. None is timed again.
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
from modscale.latency.steady import Take, are_slow
from modscale.latency.summary import is_disturbed
from modscale.processes import Child
from modscale.providers import PROVIDERS
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
LIMIT_S = 280.0
"""Seconds that a calibration takes, its exports among them."""
EXPORT_SHARE = 0.4
"""Of that, what the exports may take; what is not exported by then is predicted from its neighbours."""
NETWORKS = 400
"""Networks timed at most."""
PROCESS_S = 0.25
"""Seconds that the timed runs of one process are to take."""
DISTURBED_SHARE = 0.5
"""Of the networks; where more were disturbed, these count too."""
WARMUP = 2
"""Runs before the first timed one of a process."""
RUNS = (8, 60)
"""Timed runs of one process, at the least and at most."""
TELL_EVERY = 4
"""Networks after which it is told how many there are."""

TimeFile = Callable[[Path, int], tuple[Take, bool]]
"""Takes an ONNX file and a number of runs; gives their times, and whether others had the cores meanwhile."""


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
    timed, disturbed = _time(
        chosen, clock, composer, folder / "model.onnx", limit_s - (time.monotonic() - start), on_timed
    )
    noisy = sum(disturbed) > DISTURBED_SHARE * len(timed)
    if noisy:
        say("note: others had the cores most of the time; the predictions are as wide as that makes them")
    else:
        timed = [replace(one, left_out=is_bad) for one, is_bad in zip(timed, disturbed, strict=True)]
    if timed and clock.conditions().threads > 1:  # scaled by the probe they would not be what they usually are
        slow = are_slow([one.takes[0] for one in timed])
        timed = [replace(one, left_out=one.left_out or bool(is_bad)) for one, is_bad in zip(timed, slow, strict=True)]
    fitted = [one for one in timed if not one.left_out]
    if len(fitted) < FEWEST:
        raise InputError(
            f"only {len(fitted)} networks were timed in {limit_s:.0f} s, and {FEWEST} are the fewest", file=file
        )
    deviations, taken = _fit(timed)
    marks = iter(taken)
    timed = [one if one.left_out else replace(one, left_out=not next(marks)) for one in timed]
    left_out = sum(one.left_out for one in timed)
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
        "networks": len(timed) - left_out,
        "left_out": left_out,
        "noisy": noisy,
        "error_percent": float(100 * errors.mean()),
        "error_percent_p95": float(100 * np.quantile(errors, 0.95)),
        "ci90_percent": 100 * predictor.usual_half_width,
        "conditions": asdict(calibration.conditions),
    }


def _time(
    chosen: Sequence[ModelSpec],
    clock: Clock,
    composer: Composer,
    file: Path,
    limit_s: float,
    on_timed: Callable[[int, int], None],
) -> tuple[list[Timed], list[bool]]:
    """Times the networks, each in a process, in order, until the time is up; and which others disturbed."""
    start = time.monotonic()
    timed: list[Timed] = []
    disturbed: list[bool] = []
    speed: list[float] = []  # seconds a FLOP
    for spec in chosen:
        at_s = time.monotonic() - start
        if at_s > limit_s:
            break
        check_stop()
        composer.write(spec, file)
        flops = count_model(spec).flops
        runs = int(min(max(PROCESS_S / (median(speed) * flops), RUNS[0]), RUNS[1])) if speed else RUNS[0]
        take, is_bad = clock.time_file(file, runs)
        speed.append(median(take.times_ns) / flops / 1e9)
        timed.append(Timed(spec=spec, takes=(take,), at_s=at_s))
        disturbed.append(is_bad)
        if len(timed) % TELL_EVERY == 0:
            on_timed(len(timed), len(chosen))
    return timed, disturbed


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
    """What times on the device of the settings, as `modscale latency` does. Raises as `Device.check`.

    Where the provider computes on cores, the probe tells how fast they are meanwhile.
    """
    device = Device(replace(settings, warmup=WARMUP))
    device.check()
    provider = PROVIDERS[settings.provider]
    is_probed = provider.takes_cores or bool(provider.threads_option)

    def time_file(file: Path, runs: int) -> tuple[Take, bool]:
        timings = device.time(file, runs=runs, shape=None, is_probed=is_probed)
        take = Take(times_ns=timings.times_ns, probes_ns=timings.probes_ns[1:])
        return take, is_disturbed(timings, device)

    return Clock(time_file=time_file, conditions=lambda: device_conditions(device))
