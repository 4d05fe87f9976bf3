"""A search rehearsed on a few networks, so that it can be told beforehand what it takes.

Small, middling and large candidates are exported and timed as the search would do it, in the same processes, and
trained for some steps of what it would train. What any other network takes lies between theirs, by its FLOPs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modscale.files import scratch_folder
from modscale.latency.protocol import REFERENCE_EVERY
from modscale.latency.raw import Measurement
from modscale.latency.summary import first_rounds
from modscale.runs.metrics import Results
from modscale.searching.bench import Bench
from modscale.searching.draws import SpaceExhausted
from modscale.searching.measures import FINAL_PERCENT, time_models, told_of
from modscale.searching.steps import Timing
from modscale.searching.study import Candidate, SearchStudy
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec
from modscale.training.pace import Pace

REHEARSED = 3
"""Networks that are rehearsed: those in the middle of each third of the drawn ones, by FLOPs."""
DRAWN = 24
"""Networks that are drawn, to see how large the search's are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsed:
    """A network of which some was done."""

    spec: ModelSpec
    flops: int
    results: Results
    """Its latency on each device, by the keys of `metrics.result_rules`."""
    export_s: float
    """To write it to a file and check that against torch."""
    latency_s: float
    """To time it on all devices."""
    pace: Pace
    """Of its training."""


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
    """A small, a middling and a large one, so that their mean is near that of all."""
    by_size = sorted(drawn, key=lambda spec: count_model(spec).flops)
    places = dict.fromkeys((2 * i + 1) * len(by_size) // (2 * REHEARSED) for i in range(REHEARSED))
    return [by_size[place] for place in places]


def rehearse(bench: Bench, spec: ModelSpec) -> Rehearsed:
    """Exports and times a network as a trial does, its rounds kept by the bench, and takes the pace of its training.

    Raises:
        TrialFailed: as a trial does.
    """
    began = time.monotonic()
    with scratch_folder() as folder:
        file = folder / "model.onnx"
        bench.ask("export", spec, file)
        exported = time.monotonic()
        (results,) = time_models(bench, Timing(models=(file,), told=(told_of(spec),)))
        timed = time.monotonic()
    return Rehearsed(
        spec=spec,
        flops=count_model(spec).flops,
        results=results,
        export_s=exported - began,
        latency_s=timed - exported,
        pace=bench.ask("take_pace", spec, bench.seed),
    )


class Costs:
    """What networks take, by those that were rehearsed."""

    def __init__(self, rehearsed: Sequence[Rehearsed], measurements: Sequence[Measurement]) -> None:
        """`measurements` are all that were taken of the rehearsed networks."""
        self.rehearsed = sorted(rehearsed, key=lambda one: one.flops)
        self.measurements = measurements

    def timing_s(self, flops: int) -> float:
        """Export and timing of a network."""
        return self.between(flops, lambda one: one.export_s + one.latency_s)

    def training_s(self, flops: int, epochs: int, val_images: int | None = None) -> float:
        """Its training, with so many epochs and validation images."""
        return self.between(flops, lambda one: one.pace.seconds(epochs, val_images))

    def between(self, flops: int, value: Callable[[Rehearsed], float]) -> float:
        """What a network of so many FLOPs has for `value`: between what its neighbours have, the nearest's beyond."""
        return float(np.interp(flops, [one.flops for one in self.rehearsed], [value(one) for one in self.rehearsed]))

    def finals_s(self, networks: int) -> float:
        """Export of so many networks, and timing them in turns to `FINAL_PERCENT`, on every device.

        An interval narrows with the square root of the rounds; nothing is measured beyond the settings' patience.
        """
        exports = float(np.mean([one.export_s for one in self.rehearsed]))
        return networks * exports + sum(
            rounds * self._turn_s(one, networks) for one, rounds in self._final_rounds(networks)
        )

    def finals_bytes(self, networks: int, bytes_a_round: float) -> float:
        """What the timings of that take in their file."""
        return sum(
            rounds * bytes_a_round * (networks + math.ceil(networks / REFERENCE_EVERY))
            for _, rounds in self._final_rounds(networks)
        )

    def rounds(self) -> int:
        """Of all that was taken, those of the reference among them."""
        return sum(len(one.references) + sum(map(len, one.rounds)) for one in self.measurements)

    def _final_rounds(self, networks: int) -> list[tuple[Measurement, float]]:
        """Each measurement, with the rounds that its network would have at the end, being one of so many, weighted to
        one a device."""
        found = []
        for one in self.measurements:
            settings = one.device.settings
            (latency,) = one.latencies()
            first = first_rounds(settings)
            most = first + settings.patience_s // (self._turn_s(one, networks) / max(1, networks))
            needed = latency.rounds * (latency.reached_percent / min(FINAL_PERCENT, settings.until_percent)) ** 2
            found.append((one, min(max(needed, first), most) / len(self.rehearsed)))
        return found

    @staticmethod
    def _turn_s(one: Measurement, networks: int) -> float:
        """A round of so many such networks, with the reference's."""
        each_s = float(np.mean([taken.seconds for taken in one.rounds[0]]))
        reference_s = float(np.mean([taken.seconds for taken in one.references])) if one.references else 0.0
        return networks * each_s + math.ceil(networks / REFERENCE_EVERY) * reference_s
