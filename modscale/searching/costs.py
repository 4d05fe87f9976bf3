"""What networks would take, by those that were rehearsed: export, timing, training, the end of a search.

A timing is reckoned round by round as the protocol takes them (`latency/protocol.py`). Its first rounds are certain.
Whether more follow is played through: rounds are drawn from those that were seen, and where the protocol would go on
with them, it goes on to the rounds at which the interval would be as narrow as is asked (it narrows with the square
root of the rounds), or for as long as its patience lasts.

A training of n blocks takes n times what a block takes, which lies between those of the rehearsed by the network's
FLOPs: export and training of ten networks of `mobile.yaml` had a standard deviation of 7 % about blocks and FLOPs, of
11 % about blocks alone, of 15 % about FLOPs alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np

from modscale.latency.protocol import REFERENCE_EVERY
from modscale.latency.raw import Measurement
from modscale.latency.summary import Round, first_rounds, summarise
from modscale.searching.measures import FINAL_PERCENT
from modscale.searching.rehearsal import Rehearsal, Rehearsed
from modscale.settings import LatencySettings
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec

PLAYED = 12
"""Sessions that are played through for each rehearsed network."""
FREE_RUNS = 2
"""Runs of a model before its warm-up: one that asks for memory, one that tells how long the others will take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """Rounds that were drawn, and what the protocol would make of them."""

    reached_percent: float
    """Half-width of the interval after the first rounds."""
    is_disturbed: bool
    """Whether the machine was too busy, or too unsteady, for any of them to count."""


class Costs:
    """What networks take here, on a machine of the speed of the rehearsal or of another."""

    def __init__(self, rehearsal: Rehearsal, speed: float = 1.0) -> None:
        """`speed` is what all takes in terms of what it took: 1.5 on a machine that is slower by half."""
        self.rehearsal, self.speed = rehearsal, speed
        self.timings = [_SessionCosts(session, rehearsal.networks, speed) for session in rehearsal.sessions]

    def export_s(self, spec: ModelSpec) -> float:
        """To write a network to a file and check that against torch."""
        return self.speed * self._by_block(spec, self.rehearsal.networks, lambda one: one.export_s)

    def timing_s(self, specs: Sequence[ModelSpec]) -> float:
        """To time networks in turns, on every device."""
        flops = [count_model(spec).flops for spec in specs]
        return sum(timing.session_s(flops) for timing in self.timings)

    def training_s(
        self, spec: ModelSpec, epochs: int, val_images: int | None = None, *, share: float = 1.0, scorings: int = 1
    ) -> float:
        """A share of a network's training, with so many epochs and validation images, scored so often."""
        anchor = self.rehearsal.anchor
        seen = sorted((*self.rehearsal.networks, *(() if anchor is None else (anchor,))), key=lambda one: one.flops)
        return self.speed * self._by_block(
            spec, seen, lambda one: one.pace.seconds(epochs, val_images, share=share, scorings=scorings)
        )

    def anchor_s(self, epochs: int, val_images: int | None = None, *, scorings: int = 1) -> float:
        """The training of what all are compared with; 0 where there is none."""
        anchor = self.rehearsal.anchor
        return 0.0 if anchor is None else self.speed * anchor.pace.seconds(epochs, val_images, scorings=scorings)

    def finals_s(self, specs: Sequence[ModelSpec], networks: int, workers: int = 1) -> float:
        """Export of so many networks like these, and timing them in turns to `FINAL_PERCENT`, on every device."""
        if not networks:
            return 0.0
        exports = networks * fmean(self.export_s(spec) for spec in specs) / min(workers, networks)
        flops = [fmean(count_model(spec).flops for spec in specs)] * networks
        return exports + sum(timing.session_s(flops, FINAL_PERCENT) for timing in self.timings)

    def timings_bytes(self, candidates: Sequence[ModelSpec], finals: int) -> float:
        """What the timings of candidates, each alone, and of so many networks at the end take in their file."""
        flops = [count_model(spec).flops for spec in candidates]
        each = fmean(self._bytes(timing, [one]) for timing in self.timings for one in flops)
        found = each * len(self.timings) * len(candidates)
        if finals:
            found += sum(self._bytes(timing, [fmean(flops)] * finals, FINAL_PERCENT) for timing in self.timings)
        return found

    def _bytes(self, timing: _SessionCosts, flops: Sequence[float], until: float | None = None) -> float:
        rounds, references, runs = timing.taken(flops, until)
        return (rounds + references) * self.rehearsal.bytes_a_round + runs * self.rehearsal.bytes_a_run

    @staticmethod
    def _by_block(spec: ModelSpec, seen: Sequence[Rehearsed], value: Callable[[Rehearsed], float]) -> float:
        each = [value(one) / max(1, one.spec.num_blocks()) for one in seen]
        flops = count_model(spec).flops
        return max(1, spec.num_blocks()) * float(np.interp(flops, [one.flops for one in seen], each))

    def between(self, flops: int, value: Callable[[Rehearsed], float]) -> float:
        """What a network of so many FLOPs has for `value`: between what its neighbours have, the nearest's beyond."""
        seen = self.rehearsal.networks
        return float(np.interp(flops, [one.flops for one in seen], [value(one) for one in seen]))


class _SessionCosts:
    """The timings on one device."""

    def __init__(self, session: Measurement, networks: Sequence[Rehearsed], speed: float) -> None:
        self.session, self.speed = session, speed
        self.settings: LatencySettings = session.device.settings
        self.flops = [one.flops for one in networks]
        each_ms = [fmean(ns / 1e6 for one in rounds for ns in one.timings.times_ns) for rounds in session.rounds]
        self.run_s = [ms / 1e3 for ms in each_ms]
        self.start_s = [
            max(0.0, fmean(one.seconds - self._runs(len(one.timings.times_ns)) * run_s for one in rounds))
            for rounds, run_s in zip(session.rounds, self.run_s, strict=True)
        ]
        self.reference_s = speed * fmean(one.seconds for one in session.references) if session.references else 0.0
        self.first = first_rounds(self.settings)

    def session_s(self, flops: Sequence[float], until: float | None = None) -> float:
        """Networks in turns, until `until` percent or what the settings ask for."""
        rounds, references, _ = self.taken(flops, until)
        return rounds * fmean(map(self._round_s, flops)) + references * self.reference_s

    def taken(self, flops: Sequence[float], until: float | None = None) -> tuple[float, float, float]:
        """Rounds of all networks together, those of the reference, and the runs in both."""
        groups = math.ceil(len(flops) / REFERENCE_EVERY)
        share_s = self.reference_s * groups / len(flops)
        more = fmean(self._more_rounds(self._round_s(one) + share_s, until) for one in flops)
        rounds = self.first + more
        references = groups * rounds + 1 if self.session.references else 0.0
        runs = len(flops) * rounds * self.settings.runs / self.first + 10 * references
        return len(flops) * rounds, references, runs

    def _round_s(self, flops: float) -> float:
        """A round of a network with so many FLOPs."""
        start_s, run_s = (float(np.interp(flops, self.flops, values)) for values in (self.start_s, self.run_s))
        return self.speed * (start_s + self._runs(self.settings.runs / self.first) * run_s)

    def _runs(self, timed: float) -> float:
        """All runs of a round with so many timed ones."""
        return FREE_RUNS + self.settings.warmup + timed

    def _more_rounds(self, each_s: float, until: float | None) -> float:
        """Those beyond the first, on the average, where each takes so long."""
        most = self.settings.patience_s // each_s
        wanted = min(self.settings.until_percent, until or math.inf)
        found = []
        for doubt in self._doubts:
            if doubt.reached_percent > wanted:
                found.append(min(most, math.ceil(self.first * ((doubt.reached_percent / wanted) ** 2 - 1))))
            else:
                found.append(most if doubt.is_disturbed else 0.0)
        return fmean(found)

    @cached_property
    def _doubts(self) -> list[Doubt]:
        """What the protocol would make of first rounds drawn from those that were seen."""
        draw, found = random.Random(0), []  # noqa: S311  # the same plan from the same rehearsal
        for rounds in self.session.rounds:
            for _ in range(PLAYED):
                taken = _drawn(draw, rounds, self.first, 1)
                beside = _drawn(draw, self.session.references, self.first + 1, 0)
                seen = summarise(taken, beside, self.session.device)
                found.append(
                    Doubt(
                        reached_percent=seen.reached_percent,
                        is_disturbed=seen.busy or seen.rounds == seen.unsteady_rounds,
                    )
                )
        return found


def _drawn(draw: random.Random, rounds: Sequence[Round], count: int, first: int) -> list[Round]:
    """So many of these rounds, as if they had been taken at every second place from `first` on; none of none."""
    chosen = draw.choices(rounds, k=count) if rounds else []
    return [replace(one, order=first + 2 * i) for i, one in enumerate(chosen)]
