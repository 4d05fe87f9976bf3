"""A device that times nothing: each of its rounds is one that was seen of a rehearsed network, put to another's size.

The protocol itself is played through on it (`latency/protocol.py`), by a clock that each round moves on by what it
would take. So whatever the protocol asks for, further rounds, patience, models in turns, is reckoned as it is done.

What a network takes: a power of `FLOPs + CALL x blocks` that passes through the rehearsed ones, and beyond them; a
latency rises with the size for ever. In units of the reference latencies of 52 networks of `mobile.yaml` had a standard
deviation of 9 % about that, most of it a matter of where their FLOPs are: a search finds out where they cost least.
So each stage has a weight of its own, which differs from search to search by `UNLIKE`. What a network is off by beyond
that is `SCATTER` for good, and `AGAIN` from one measurement to another.

The noise of a round is more the moment's than the network's: eight networks of a tenth to a third of a millisecond in
turns were off by 15 to 31 % for twenty seconds, and by 4 to 9 % for ten later ones (`benchmarks/dry_run.md`). So rounds
that follow each other are those that did so in the rehearsal, from some moment of it on, and networks in turns have the
same moments.

Worked by hand: networks of 100 and 400 MFLOPs (without calls) take 5 and 10 ms, the power is 0.5: one of 1600 takes 20.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median

import numpy as np

from modscale.deploy.timing_worker import FIRST_RUNS, MOST_RUNS, Timings, groups_of
from modscale.errors import TrialFailed
from modscale.latency.device import Device
from modscale.latency.probed import find_probe, in_probes
from modscale.latency.protocol import REFERENCE
from modscale.latency.raw import Measurement
from modscale.latency.summary import Round, first_rounds, level_ms
from modscale.specs.counts import count_model, sum_by
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

CALL = 1_000_000
"""FLOPs that count for as much as a block does by being there."""
UNLIKE = 0.3
"""Standard deviation, in logarithms, of what a FLOP of one stage costs beside one of another."""
SCATTER = 0.015
"""The same of what a network takes about what its stages tell."""
AGAIN = 0.02
"""The same of what it takes in another measurement."""
POWERS = (0.3, 2.0)
"""Between which the power lies, whatever two networks say."""
RUN = 5
"""Rounds of a model that follow each other as they were seen; then another moment is drawn."""
SESSIONS = -1
"""Under which measurements are counted, beside the rounds of networks."""


@dataclass(kw_only=True, slots=True)
class Clock:
    """Time that passes only where somebody says so."""

    now_s: float = 0.0
    """What it shows."""
    waited_s: float = 0.0
    """Of that what was measured again until the patience was over: on a slower machine it is no longer."""

    def now(self) -> float:
        return self.now_s

    def move(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A round of a rehearsed network."""

    taken: Round
    off: float
    """By what factor its runs are to be multiplied to be those of a network of 1 ms."""


@dataclass(kw_only=True)
class _Session:
    """What was taken since the last stop."""

    rounds_s: dict[Path, list[float]] = field(default_factory=dict)
    """By model."""
    references_s: float = 0.0

    def turn(self) -> int:
        """Of the reference, which comes before the models."""
        return max(map(len, self.rounds_s.values()), default=0)


class ImaginedDevice(Device):
    """Times as the rehearsed networks were timed."""

    def __init__(
        self, seen: Measurement, specs: Sequence[ModelSpec], clock: Clock, exported: Sequence[ModelSpec], *, seed: int
    ) -> None:
        """`seen` has the rounds of `specs`; a file says which of the `exported` it holds, others are middling ones."""
        super().__init__(replace(seen.device.settings, precision="fp32"), seen.device.facts)
        self.clock, self.exported, self.seed = clock, exported, seed
        self.references = seen.references
        self.usual = specs[len(specs) // 2]
        sizes = [math.log(self._size(spec)) for spec in specs]
        usual_ms = [_usual_ms(rounds, seen) for rounds in seen.rounds]
        levels = [math.log(ms) for ms in usual_ms]
        self.centre = fmean(sizes), fmean(levels)
        rise = sizes[-1] - sizes[0]
        self.power = min(max((levels[-1] - levels[0]) / rise, POWERS[0]), POWERS[1]) if rise > 0 else 1.0
        each = [_put_to_one(rounds, ms) for rounds, ms in zip(seen.rounds, usual_ms, strict=True)]
        self.moments = [[rounds[i] for rounds in each if i < len(rounds)] for i in range(max(map(len, each)))]
        self.flops = [count_model(spec).flops for spec in specs]
        self.starts_s = [
            fmean(max(0.0, one.seconds - self._runs_s(one.timings)) for one in each) for each in seen.rounds
        ]
        self.drawn: Counter[int] = Counter()
        self.session = _Session()

    def now(self) -> float:
        return self.clock.now()

    def check(self) -> None:
        """It answers."""

    def start(self, count: int) -> None:
        """Its rounds have their share of the start in them."""

    def stop(self) -> None:
        """A measurement is over: what of it was patience is told to the clock."""
        session, self.session = self.session, _Session()
        self.drawn[SESSIONS] += 1
        count, rounds = first_rounds(self.settings), sum(map(len, session.rounds_s.values()))
        share_s = session.references_s / max(1, rounds)
        for each_s in session.rounds_s.values():
            again_s = sum(one + share_s for one in each_s[count:])
            if again_s + each_s[-1] + share_s > self.settings.patience_s:
                self.clock.waited_s += again_s

    def time(
        self, onnx_file: Path, *, runs: int, shape: tuple[int, ...] | None = None, is_probed: bool | None = None
    ) -> Timings:
        """A round as those that were seen. Raises TrialFailed for the reference where there was none."""
        if onnx_file == REFERENCE.file:
            if not self.references:
                raise TrialFailed("no reference was timed")
            place = self._moment(self.session.turn()) * len(self.references) // len(self.moments)
            one = self.references[place]
            self.session.references_s += one.seconds
            self.clock.move(one.seconds)
            return one.timings
        spec = self.exported[int(onnx_file.read_text())] if onnx_file.is_file() else self.usual
        key = zlib.crc32(repr(network_key(spec)).encode())
        rng = self._rng(key)
        moment = self.moments[self._moment(len(self.session.rounds_s.get(onnx_file, ())))]
        seen = moment[rng.integers(len(moment))]
        again = AGAIN * float(np.random.default_rng([self.seed, key, 0, self.drawn[SESSIONS]]).standard_normal())
        factor = math.exp(again) * self.latency_ms(spec) * seen.off
        run_s = factor * fmean(seen.taken.timings.times_ns) / 1e9
        runs = max(runs, min(math.ceil(self.least_s / run_s), MOST_RUNS))
        timings = _stretched(seen.taken.timings, factor, runs)
        start_s = float(np.interp(count_model(spec).flops, self.flops, self.starts_s))
        seconds = start_s + self._runs_s(timings)
        self.session.rounds_s.setdefault(onnx_file, []).append(seconds)
        self.clock.move(seconds)
        return timings

    def latency_ms(self, spec: ModelSpec) -> float:
        """What a network takes."""
        size, level = self.centre
        key = zlib.crc32(repr(network_key(spec)).encode())
        scatter = SCATTER * float(np.random.default_rng([self.seed, key]).standard_normal())
        return math.exp(level + self.power * (math.log(self._size(spec)) - size) + scatter)

    def _size(self, spec: ModelSpec) -> float:
        """FLOPs and calls, those of each stage by what they cost."""
        weights = np.exp(UNLIKE * np.random.default_rng([self.seed]).standard_normal(len(spec.stages)))
        found = float(count_model(spec).flops)
        flops = sum_by(count_model(spec).parts, "part")
        for i, (stage, weight) in enumerate(zip(spec.stages, weights, strict=True)):
            found += (weight - 1) * flops[f"stages[{i}]"][1]
            found += weight * CALL * (stage.depth + stage.attention_depth)
        return found

    def _moment(self, turn: int) -> int:
        """The place of a moment of the rehearsal, for a turn of this measurement."""
        start = np.random.default_rng([self.seed, 1, self.drawn[SESSIONS], turn // RUN]).integers(len(self.moments))
        return int(start + turn % RUN) % len(self.moments)

    def _rng(self, key: int) -> np.random.Generator:
        """For the next round of a network: the same, however many rounds others have."""
        self.drawn[key] += 1
        return np.random.default_rng([self.seed, key, self.drawn[key]])

    def _runs_s(self, timings: Timings) -> float:
        """All runs of a round, those that are not timed too."""
        times_ns = timings.times_ns
        return (max(FIRST_RUNS, self.settings.warmup) + len(times_ns)) * fmean(times_ns) / 1e9


def _usual_ms(rounds: Sequence[Round], seen: Measurement) -> float:
    """What a network takes by its rounds: by those that count, where a probe tells which of them were slow."""
    timings = [one.timings for one in itertools.chain(*seen.rounds)]
    probe = find_probe(timings, seen.device.threads, [one.timings for one in seen.references])
    return median(one.median_ms for one in rounds) if probe is None else level_ms(rounds, probe)


def _put_to_one(rounds: Sequence[Round], usual_ms: float) -> list[_Seen]:
    """The rounds of a network that usually takes so long, each with the factor that puts it to 1 ms.

    They lie about their own median more closely than others will, as n - 1 to n.
    """
    ratios = [in_probes(one.timings) if one.timings.probes_ns else one.median_ms for one in rounds]
    middle, wider = median(ratios), math.sqrt(len(rounds) / max(1, len(rounds) - 1))
    return [
        _Seen(taken=one, off=(ratio / middle) ** (wider - 1) / usual_ms)
        for one, ratio in zip(rounds, ratios, strict=True)
    ]


def _stretched(timings: Timings, factor: float, runs: int) -> Timings:
    """So many runs that take so many times as long as these, beside the probes that were there at that time."""
    seen = timings.times_ns
    times_ns = tuple(round(factor * ns) for ns in _spread(seen, runs))
    longer = sum(times_ns) / sum(seen)
    return replace(
        timings,
        times_ns=times_ns,
        probes_ns=_spread(timings.probes_ns, len(groups_of(times_ns)) + 1),
        preemptions=round(timings.preemptions * runs / len(seen)) if timings.preemptions > 0 else timings.preemptions,
        cpu_ns=round(timings.cpu_ns * longer) if timings.cpu_ns > 0 else timings.cpu_ns,
        main_cpu_ns=round(timings.main_cpu_ns * longer) if timings.main_cpu_ns > 0 else timings.main_cpu_ns,
    )


def _spread(seen: Sequence[int], number: int) -> tuple[int, ...]:
    """So many of what was seen in a round, in its order; none where nothing was."""
    return tuple(seen[i * len(seen) // number] for i in range(number)) if seen else ()
