"""benchmarks/workers_simulation.py against closed forms of queues, each with one thing in the way."""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load() -> ModuleType:
    """The benchmark, as a module."""
    file = Path(__file__).parents[1] / "benchmarks" / "workers_simulation.py"
    spec = importlib.util.spec_from_file_location("workers_simulation", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["workers_simulation"] = module
    spec.loader.exec_module(module)
    return module


simulation = load()


def constant(seconds: float):  # type: ignore[no-untyped-def]
    return lambda rng: seconds


def exponential(rng: random.Random) -> float:
    return rng.expovariate(1.0)


def test_nothing_in_the_way_keeps_every_worker_busy() -> None:
    found = simulation.simulate(simulation.Scenario(workers=7, trials=700, window=100, train=constant(10.0)))
    assert found.seconds == pytest.approx(1000.0)
    assert (found.whole, found.steady, found.lost, found.failed) == (pytest.approx(1), pytest.approx(1), 0, 0)


@pytest.mark.parametrize(("ask_s", "tell_s"), [(0.5, 0.0), (0.3, 0.4), (0.01, 0.01)])
def test_the_driver_caps_the_rate_at_one_over_what_a_trial_costs_it(ask_s: float, tell_s: float) -> None:
    """Utilisation is min(1, T / (N (ask + tell))) for N workers and trainings of T."""
    scenario = simulation.Scenario(
        workers=50, trials=5000, window=1000, train=constant(20.0), ask_s=ask_s, tell_s=tell_s
    )
    expected = min(1.0, 20.0 / (50 * (ask_s + tell_s)))
    assert simulation.simulate(scenario).steady == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("timed", [1.0, 0.25])
def test_timing_devices_cap_the_rate(devices: int, timed: float) -> None:
    """Utilisation is min(1, T D / (N p t)): 8 s a timing cap one device at 450 trials an hour."""
    scenario = simulation.Scenario(
        workers=40, trials=20_000, window=200, train=constant(60.0), timed=timed, devices=devices
    )
    found = simulation.simulate(scenario)
    expected = min(1.0, 60.0 * devices / (40 * timed * 8.0))
    assert found.steady == pytest.approx(expected, rel=0.03)
    if timed == 1.0 and devices == 1:
        assert 20_000 / found.seconds * 3600 == pytest.approx(450, rel=0.01)


def test_a_window_of_two_and_exponential_trainings() -> None:
    """Two trainings run for 1/2 on average. If the older ends first, the next begins; else one waits, for 1 on average,
    and both are done: 3/2 trials in 1/2 + 1/2, so that two workers are busy for 3/4 of the time."""
    scenario = simulation.Scenario(workers=2, trials=60_000, window=2, train=exponential)
    assert simulation.simulate(scenario).steady == pytest.approx(0.75, abs=0.01)


def test_a_window_of_one_is_one_after_the_other() -> None:
    found = simulation.simulate(
        simulation.Scenario(workers=5, trials=200, window=1, train=constant(3.0), ask_s=0.5, tell_s=0.5)
    )
    assert found.seconds == pytest.approx(200 * 4.0)
    assert found.steady == pytest.approx(3 / 4 / 5)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.5])
def test_what_deaths_cost(share: float) -> None:
    """With trainings of x mean lives, the share of time that is not lost is x / (e^x - 1)."""
    scenario = simulation.Scenario(
        workers=20, trials=20_000, window=10_000, train=constant(100.0), life_s=100.0 / share, away_s=10.0
    )
    found = simulation.simulate(scenario)
    assert found.steady == pytest.approx(share / math.expm1(share), rel=0.02)
    assert found.whole + found.lost == pytest.approx(1, abs=0.01)
    assert found.failed / 20_000 == pytest.approx((1 - math.exp(-share)) ** 2, rel=0.1, abs=0.002)


@pytest.mark.parametrize(("share", "times"), [(0.05, 5.0), (0.02, 20.0)])
def test_what_copies_cost(share: float, times: float) -> None:
    """A straggler is late after 2 trainings' time, and ends with its copy after 3, all for nothing: 1 / (1 + 3 p).

    But for copies that are stragglers too, of which there are p of p.
    """
    found = simulation.simulate(
        simulation.Scenario(
            workers=20, trials=20_000, window=20_000, train=constant(10.0), late=2.0,
            machine=simulation.stragglers(share, times),
        )
    )  # fmt: skip
    assert found.steady == pytest.approx(1 / (1 + 3 * share), rel=0.01 + times * share**2)
    assert found.whole + found.lost == pytest.approx(1, abs=0.01)
