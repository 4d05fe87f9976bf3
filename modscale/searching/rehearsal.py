"""A search rehearsed on a few networks, so that it can be told beforehand what it takes (`imagined.py`).

A small and a large candidate are exported and timed as the search would do it, in the same processes, and trained for
some steps of what it would train; of the proxy's anchor the training alone. Where several workers are asked for, all
train at once, as they will. The rounds of timing lie before, between and after these trainings: whether this machine is
fast or slow, quiet or not, lasts for some seconds, in which all of its rounds would say the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np

from modscale.files import scratch_folder
from modscale.latency.device import Device
from modscale.latency.protocol import measure_files
from modscale.latency.raw import Measurement, keep_in, read_measurements
from modscale.latency.summary import first_rounds
from modscale.processes import Child
from modscale.runs.metrics import Results
from modscale.searching.bench import Bench, failing
from modscale.searching.draws import SpaceExhausted
from modscale.searching.measures import latency_results, told_of
from modscale.searching.study import Candidate, SearchStudy
from modscale.settings import LatencySettings
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec
from modscale.training.pace import Pace

REHEARSED = 2
"""Networks that are rehearsed: those in the middle of each half of the drawn ones, by FLOPs."""
DRAWN = 24
"""Networks that are drawn, to see how large the search's are."""
MOST_AT_ONCE = 8
"""Workers that are started to see how they train beside each other."""
SPREAD_S = 2.0
"""Seconds of timing between two trainings, at least."""
MORE_S = 3.0
"""Seconds for which each network is timed beyond its first rounds, at most."""
LEAST_S = 1e-6
"""The same on further devices: not at all, in rounds as long as the search's."""
LEAST_PERCENT = 1e-6
"""An interval that no network reaches, unless nothing differs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsed:
    """A network of which some was done."""

    spec: ModelSpec
    flops: int
    results: Results
    """Its latency on each device, by the keys of `metrics.result_rules`."""
    export_s: float
    """To write it to a file and check that against torch."""
    pace: Pace
    """Of its training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What was seen of a few networks."""

    networks: tuple[Rehearsed, ...]
    """By their FLOPs."""
    sessions: tuple[Measurement, ...]
    """Their timing, one for each device; in each the networks in that order, with the settings of the search."""
    anchor: Rehearsed | None
    """What the scores of all are put to, of which only the pace was taken; None where there is none."""
    reference_ms: float | None
    """What the reference took, the mean over its rounds: the speed of the machine meanwhile."""
    workers_start_s: float
    """Until further workers were ready; 0 where there is one."""

    def timing_s(self, place: int) -> float:
        """What the first rounds of the network at a place take, alone, on all devices."""
        found = 0.0
        for session in self.sessions:
            count = first_rounds(session.device.settings)
            found += sum(one.seconds for one in (*session.rounds[place][:count], *session.references[: count + 1]))
        return found


def draw_candidates(study: SearchStudy, trials: int, startup: int) -> list[Candidate]:
    """The candidates with which a search of an empty study begins, and further ones drawn in the same way.

    At least `DRAWN`, unless the space has fewer. The study is of no use for a search afterwards.
    """
    drawn: list[Candidate] = []
    while len(drawn) < min(trials, startup) and (candidate := study.ask()) is not None:
        drawn.append(candidate)
    while drawn and len(drawn) < DRAWN:
        number = len(drawn)
        try:
            options = study.draws.spread(np.random.default_rng([study.draws.seed, number]), number)
        except SpaceExhausted:
            break
        spec = study.space.spec(options, name=f"{study.space.name}-{number}")
        labels = {parameter.name: parameter.label(options[parameter.name]) for parameter in study.space.searched}
        study.draws.take(spec)
        drawn.append(Candidate(number=number, choice=labels, spec=spec))
    return drawn


def choose_networks(drawn: Sequence[ModelSpec]) -> list[ModelSpec]:
    """A small and a large one, so that their mean is near that of all."""
    by_size = sorted(drawn, key=lambda spec: count_model(spec).flops)
    places = dict.fromkeys((2 * i + 1) * len(by_size) // (2 * REHEARSED) for i in range(REHEARSED))
    return [by_size[place] for place in places]


def rehearse(
    bench: Bench,
    specs: Sequence[ModelSpec],
    *,
    anchor: ModelSpec | None,
    workers: int = 1,
    timings: Path,
    say: Callable[[str], None] = lambda text: None,
) -> Rehearsal:
    """Exports the networks, times them in turns, and takes the pace of their trainings between these turns.

    The pace is that of so many `workers` which train at once, on a bench that has as many, or `MOST_AT_ONCE`. Every
    round of timing is kept in `timings`.

    Raises:
        InputError: a worker cannot begin.
        TrialFailed: as a trial does.
    """
    specs = sorted(specs, key=lambda spec: count_model(spec).flops)
    start_s = _await_others(bench)
    with scratch_folder() as folder:
        files: list[Path] = []
        exports: list[float] = []
        for spec in specs:
            say(f"rehearsing {spec.name}: export")
            files.append(folder / f"{len(files)}.onnx")
            began = time.monotonic()
            bench.ask("export", spec, files[-1])
            exports.append(time.monotonic() - began)
        trainings = _Trainings(
            deque([*specs, *([] if anchor is None else [anchor])]), partial(_pace, bench, workers=workers), say
        )
        say(f"rehearsing {', '.join(spec.name for spec in specs)}: timing")
        told = [told_of(spec) for spec in specs]
        results: list[dict[str, float]] = [{} for _ in specs]
        for i, (name, device) in enumerate(bench.devices.items()):
            short = Device(shortened(device.settings, LEAST_S if i else MORE_S), device.facts)
            trainings.last_s = time.monotonic()
            found = measure_files(
                files, short.settings, device=short, keep=keep_in(timings, told, device=name),
                between=trainings.take_turn,
            )  # fmt: skip
            for known, latency in zip(results, found, strict=True):
                known |= latency_results(name, latency)
        trainings.take_rest()
    sessions = [
        replace(session, device=Device(device.settings, session.device.facts))
        for session, device in zip(read_measurements(timings), bench.devices.values(), strict=True)
    ]
    references, paces = sessions[0].references, trainings.paces
    networks = [
        Rehearsed(spec=spec, flops=count_model(spec).flops, results=known, export_s=export_s, pace=pace)
        for spec, known, export_s, pace in zip(specs, results, exports, paces, strict=False)
    ]
    return Rehearsal(
        networks=tuple(networks),
        sessions=tuple(sessions),
        anchor=None
        if anchor is None
        else Rehearsed(spec=anchor, flops=count_model(anchor).flops, results={}, export_s=0.0, pace=paces[-1]),
        reference_ms=fmean(one.median_ms for one in references) if references else None,
        workers_start_s=start_s,
    )


def shortened(settings: LatencySettings, more_s: float) -> LatencySettings:
    """The protocol with so much more than its first rounds, whatever they say: what its patience takes is reckoned."""
    return replace(settings, patience_s=more_s, until_percent=LEAST_PERCENT)


def _await_others(bench: Bench) -> float:
    """Waits until the bench's further workers have loaded the data; how long that took from now."""
    began = time.monotonic()
    for child in bench.loading:
        with failing("a worker"):
            bench.check(child.finish())
    return time.monotonic() - began if bench.loading else 0.0


def _pace(bench: Bench, spec: ModelSpec, *, workers: int) -> Pace:
    """The pace of a training beside those of the others; where not all were started, each is slowed down for them."""
    others: Sequence[Child] = bench.loading
    for child in others:
        child.begin("take_pace", spec, bench.seed)
    found = [bench.ask("take_pace", spec, bench.seed)]
    for child in others:
        with failing("take_pace"):
            found.append(child.finish())
    mean = replace(
        found[0],
        start_s=fmean(one.start_s for one in found),
        step_s=fmean(one.step_s for one in found),
        score_image_s=fmean(one.score_image_s for one in found),
    )
    return mean.times(max(1.0, workers / MOST_AT_ONCE))


@dataclass(slots=True)
class _Trainings:
    """The trainings whose pace is to be taken, one after `SPREAD_S` of timing."""

    left: deque[ModelSpec]
    take: Callable[[ModelSpec], Pace]
    say: Callable[[str], None]
    paces: list[Pace] = field(default_factory=list)
    last_s: float = 0.0
    """When timing went on."""

    def take_turn(self) -> None:
        """Takes the next pace, where it is time."""
        if self.left and time.monotonic() - self.last_s >= SPREAD_S:
            self._take()
            self.last_s = time.monotonic()

    def take_rest(self) -> None:
        """Takes all that are left."""
        while self.left:
            self._take()

    def _take(self) -> None:
        spec = self.left.popleft()
        self.say(f"rehearsing {spec.name}: some steps of its training")
        self.paces.append(self.take(spec))
