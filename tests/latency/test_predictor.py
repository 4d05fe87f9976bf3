"""The predictor on machines whose pieces take known times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modscale.errors import InputError
from modscale.latency.predictor import Observation, Predictor
from modscale.specs.pieces import network_pieces
from modscale.specs.spec import ModelSpec, StageSpec


def networks(number: int, seed: int, dims=(16, 24, 32)) -> list[ModelSpec]:
    """Random networks of two stages."""
    rng = np.random.default_rng(seed)

    def stage(attention: int) -> StageSpec:
        return StageSpec(
            dim=int(rng.choice(dims)),
            depth=int(rng.integers(1, 5)),
            mlp_ratios=(1, int(rng.choice((4, 6)))),
            attention_depth=attention,
        )

    return [ModelSpec(resolution=64, stages=(stage(0), stage(int(rng.integers(0, 3))))) for _ in range(number)]


class Machine:
    """Every piece takes a time of its own, drawn once; a network takes their sum and 0.3 ms."""

    def __init__(self, spread: float, noise: float) -> None:
        self.rng = np.random.default_rng(0)
        self.spread, self.noise = spread, noise
        self.times = {}

    def run(self, spec: ModelSpec) -> float:
        for piece in network_pieces(spec):
            own = float(np.exp(self.spread * self.rng.standard_normal()))
            maps = piece.side**2 * (piece.dim + piece.out + piece.hidden)
            self.times.setdefault(piece, own * (0.05 + piece.flops / 1e6 + maps / 1e5))
        exact = 0.3 + sum(self.times[piece] for piece in network_pieces(spec))
        return exact * (1 + self.noise * float(self.rng.standard_normal()))


def observe(machine: Machine, specs: list[ModelSpec]) -> list[Observation]:
    return [
        Observation(pieces=tuple(network_pieces(spec)), latency_ms=machine.run(spec), at_s=float(i))
        for i, spec in enumerate(specs)
    ]


def test_a_machine_of_exact_pieces_is_recovered():
    """Without noise, networks that were in no fit are predicted to a thousandth, whatever each piece takes."""
    machine = Machine(spread=0.3, noise=0.0)
    seen, new = observe(machine, networks(120, seed=1)), networks(60, seed=2)
    found = Predictor(seen).predict([network_pieces(spec) for spec in new])
    assert [one.unseen for one in found] == [0] * 60
    assert [one.latency_ms for one in found] == pytest.approx([machine.run(spec) for spec in new], rel=3e-3)


@pytest.mark.parametrize("level", [0.0125, 0.025])
def test_the_interval_holds_nine_of_ten_measurements(level):
    """With 1.5 % of noise, and the machine's level from session to session: 90 %, and hardly wider than it must be."""
    machine = Machine(spread=0.1, noise=0.015)
    seen, new = observe(machine, networks(120, seed=1)), networks(400, seed=2)
    found = Predictor(seen).predict([network_pieces(spec) for spec in new])
    intervals = [one.ci90_ms if level < 0.02 else one.on_another_day() for one in found]
    sessions = np.repeat(np.exp(level * np.random.default_rng(5).standard_normal(80)), 5)
    inside = [
        low <= factor * machine.run(spec) <= high
        for (low, high), factor, spec in zip(intervals, sessions, new, strict=True)
    ]
    assert 0.84 <= np.mean(inside) <= 0.96
    widths = [(high - low) / 2 / one.latency_ms for (low, high), one in zip(intervals, found, strict=True)]
    least = 1.645 * np.hypot(0.015, level)
    assert 0.8 * least < np.median(widths) < 1.8 * least


def test_a_disturbed_measurement_is_left_out():
    """A few measurements of twice the time are found, left out, and change nothing of note."""
    machine = Machine(spread=0.1, noise=0.005)
    seen = observe(machine, networks(120, seed=1))
    wrong = (10, 50, 90)
    spoilt = [replace(one, latency_ms=one.latency_ms * (2 if i in wrong else 1)) for i, one in enumerate(seen)]
    predictor = Predictor(spoilt)
    assert set(np.flatnonzero(~predictor.kept)) == set(wrong)
    new = networks(30, seed=2)
    found = predictor.predict([network_pieces(spec) for spec in new])
    assert [one.latency_ms for one in found] == pytest.approx([machine.run(spec) for spec in new], rel=0.04)


def test_a_piece_never_seen_widens_the_interval():
    """Width 28 lies between those that were timed: it is predicted, with more doubt than they have."""
    machine = Machine(spread=0.1, noise=0.005)
    predictor = Predictor(observe(machine, networks(120, seed=1)))
    seen, unseen = (
        ModelSpec(resolution=64, stages=(StageSpec(dim=dim, depth=4, mlp_ratios=(1, 4)), StageSpec(dim=32, depth=1)))
        for dim in (24, 28)
    )
    known, new = predictor.predict([network_pieces(seen), network_pieces(unseen)])
    assert (known.unseen, new.unseen > 0) == (0, True)
    width = [(one.ci90_ms[1] - one.ci90_ms[0]) / one.latency_ms for one in (known, new)]
    assert width[1] > 1.5 * width[0]
    assert known.latency_ms < new.latency_ms < 1.5 * known.latency_ms


def test_a_kind_of_piece_never_seen_is_refused():
    """Nothing is said of mbconv by a calibration of modulation blocks."""
    predictor = Predictor(observe(Machine(spread=0.1, noise=0.01), networks(40, seed=1)))
    other = ModelSpec(resolution=64, stages=(StageSpec(dim=16, depth=1, block="mbconv"),))
    with pytest.raises(InputError, match=r"no piece like one.*mbconv 16x16 16"):
        predictor.predict([network_pieces(other)])


def test_the_deviations_of_a_fit_give_it_again():
    """What a file keeps of a fit is enough for the same predictions, with nothing searched for."""
    seen = observe(Machine(spread=0.1, noise=0.01), networks(60, seed=1))
    first = Predictor(seen)
    again = Predictor(
        [one for one, is_kept in zip(seen, first.kept, strict=True) if is_kept], deviations=first.deviations
    )
    new = [network_pieces(spec) for spec in networks(5, seed=3)]
    assert again.predict(new) == first.predict(new)
    with pytest.raises(InputError, match="must have 8 networks or more"):
        Predictor(seen[:7])
