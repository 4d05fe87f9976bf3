"""Rounds with a probe in each: which count, what is told, and how sure it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modscale.deploy.timing_worker import Timings
from modscale.latency import protocol
from modscale.latency.device import Device
from modscale.latency.doubt import in_doubt
from modscale.latency.probed import find_probe
from modscale.latency.summary import Round, summarise
from modscale.settings import LatencySettings

FACTS = {"processor": "a CPU", "cores": 2, "threads": 2, "system": "Linux", "runtime": "1.2.3"}
DEVICE = Device(LatencySettings(threads=2, until_percent=1), FACTS)


def made(ms, probes_ms, *, order=0, step=1, runs=9) -> list[Round]:
    """Rounds of two threads that had their cores: what each run and each probe took."""
    return [
        Round(
            order=order + step * i,
            at_s=float(i),
            seconds=1.0,
            timings=Timings(
                times_ns=(round(1e6 * one),) * runs,
                preemptions=0,
                cpu_ns=2 * round(1e6 * one) * runs,
                main_cpu_ns=round(1e6 * one) * runs,
                probes_ns=(round(1e6 * probe),) * (runs + 1),
                probe_threads=2,
            ),
        )
        for i, (one, probe) in enumerate(zip(ms, probes_ms, strict=True))
    ]


def test_the_worked_example():
    """Rounds of 10, 10.5 and 16 ms beside probes of 1, 1.05 and 1.3 ms, and three more at 1.02: ten probes each."""
    rounds = made([10, 10.5, 16, 10.2, 10.2, 10.2], [1, 1.05, 1.3, 1.02, 1.02, 1.02])
    found = summarise(rounds, [], DEVICE)
    assert found.quiet_ms == pytest.approx(10.2)
    assert (found.rounds, found.unsteady_rounds, found.all_rounds) == (5, 1, 6)
    assert found.median_ms == pytest.approx(10.2)
    assert found.relative is None


def test_slow_processes_count_only_where_hardly_any_other_is_there():
    """By the probe alone: seven of ten rounds take 1.4 to 1.9 times as long, and the three others tell."""
    slow = [10 * factor for factor in (1.4, 1.5, 1.6, 1.7, 1.7, 1.8, 1.9)]
    rounds = made([*slow, 10.0, 10.1, 9.9], [1.3] * 7 + [1.0] * 3)
    found = summarise(rounds, [], DEVICE)
    assert (found.rounds, found.unsteady_rounds) == (10, 7)  # three of ten are no third
    assert found.quiet_ms == pytest.approx(10.0)
    found = summarise(rounds[1:], [], DEVICE)
    assert (found.rounds, found.median_ms) == (3, pytest.approx(10.0))


def test_a_model_that_met_slow_rounds_alone_is_told_by_the_reference():
    """Slow probes take 1.2 times as long; there the reference takes 6.5 in place of 5 of them, and the model 13.

    So 10 of 1 ms each; and networks differ by 0.3 (standard deviation) of the logarithm of 1.2 times 1.3 = 1.56.
    """
    rounds = made([15.6] * 5, [1.2] * 5)
    references = made([5, 5, 5, 7.8, 7.8], [1, 1, 1, 1.2, 1.2])
    found = summarise(rounds, references, DEVICE)
    share = 0.3 * np.log(1.56)
    assert (found.quiet_ms, found.relative) == (pytest.approx(10.0), pytest.approx(2.0))
    assert (found.rounds, found.unsteady_rounds, found.wide) == (5, 5, True)
    assert found.quiet_ci95_ms == pytest.approx(1.959964 * share * 10.0)
    assert found.relative_standard_error >= share * 2.0
    some = made([15.6] * 4 + [10.1], [1.2] * 4 + [1.0])
    assert summarise(some, references, DEVICE).quiet_ms == pytest.approx(10.1)  # a single round that is not slow tells


def test_a_machine_that_drifts_is_taken_out_and_the_interval_is_that_of_the_ratios():
    """Rounds of 12 ms and 1 % of noise on a machine that slows down by 12 % meanwhile; of 200 intervals 95 % hold."""
    rng = np.random.default_rng(0)
    inside, halves, plain = [], [], []
    for _ in range(200):
        machine = np.linspace(1.0, 1.12, 15)
        noise = rng.lognormal(0, 0.01, 15)
        found = summarise(made(12 * machine * noise, machine, runs=3), [], DEVICE)
        inside.append(abs(found.quiet_ms - 12 * 1.06) <= found.quiet_ci95_ms)
        halves.append(found.quiet_ci95_ms)
        plain.append(found.ci95_ms)
        assert found.reached_percent == pytest.approx(100 * found.quiet_ci95_ms / found.quiet_ms)
    assert 0.9 <= np.mean(inside) <= 1
    assert np.median(halves) < 0.015 * 12 < 0.03 * 12 < np.median(plain)


def test_the_reference_is_put_to_the_same_probe():
    """A reference of 5 ms that met a slower machine than the model of 10 ms did: twice it, all the same."""
    references = made([5.0, 5.5, 5.5, 8.0], [1.0, 1.1, 1.1, 1.3], order=0, step=2)
    rounds = made([10.0, 10.0, 10.0, 10.0], [1.0] * 4, order=1, step=2)
    found = summarise(rounds, references, DEVICE)
    assert found.relative == pytest.approx(2.0)
    assert found.quiet_ms == pytest.approx(found.relative * found.reference_quiet_ms)
    assert found.relative_ci95 == pytest.approx(0.0, abs=0.2)


def test_without_a_probe_on_the_models_threads_nothing_is_told_by_it():
    """One thread's probe does not tell how two threads work together; nor is a measurement mixed."""
    rounds = [one.timings for one in made([10.0] * 5, [1.0] * 5)]
    assert find_probe(rounds, 2) is not None
    one_thread = [replace(one, probe_threads=1) for one in rounds]
    assert find_probe(one_thread, 2) is None
    assert find_probe([*rounds[1:], one_thread[0]], 2) is None
    assert find_probe([], 2) is None


def test_a_tenth_more_of_the_probe_tells_that_short_runs_were_slow():
    """Twenty runs of 1 ms, five between two probes, or of 1.5 ms, four, by the best of their rounds; not so with runs
    of 5 ms.
    """
    probes = [1.0, 1.02, 1.09, 1.01, 1.12]
    short = [
        replace(one, timings=replace(one.timings, probes_ns=one.timings.probes_ns[: 5 + (one.timings.median_ms > 1)]))
        for one in made([1.0, 1.0, 1.5, 1.0, 1.5], probes, runs=20)
    ]
    found = summarise(short, [], DEVICE)
    assert (found.rounds, found.unsteady_rounds, found.median_ms) == (3, 2, pytest.approx(1.0))
    assert found.quiet_ms == pytest.approx(1.02, rel=0.01)
    quicker = made([10.0] * 5, [0.9] * 5)  # in turns with a model that leaves the probe more of its caches
    assert summarise(short, [], DEVICE, others=quicker).unsteady_rounds == 2
    assert summarise(made([5.0, 5.0, 7.5, 5.0, 7.5], probes, runs=20), [], DEVICE).unsteady_rounds == 0


def test_the_worked_example_of_doubt():
    """10.0 ± 0.3 and 10.6 ± 0.4 ms are told apart, 10.4 ± 0.4 is not; half of the spread of five is 1.078 of it."""
    spreads = [(10.0, 0.3), (10.6, 0.4), (20.0, 0.1)]
    seen = [made(ms + half / 1.0777 * np.linspace(-1, 1, 5), [1.0] * 5) for ms, half in spreads]
    for rounds, (ms, half) in zip(seen, spreads, strict=True):
        found = summarise(rounds, [], DEVICE)
        assert (found.quiet_ms, found.quiet_ci95_ms) == (pytest.approx(ms), pytest.approx(half, rel=0.001))
    assert in_doubt(seen, [], DEVICE) == [False, False, False]
    closer = [seen[0], made(10.4 + 0.4 / 1.0777 * np.linspace(-1, 1, 5), [1.0] * 5), seen[2]]
    assert in_doubt(closer, [], DEVICE) == [True, True, False]
    assert in_doubt(seen[:1], [], DEVICE) == [False]
    unprobed = [[replace(one, timings=replace(one.timings, probe_threads=0)) for one in rounds] for rounds in closer]
    assert in_doubt(unprobed, [], DEVICE) == [True, True, False]


def test_the_patience_is_for_those_in_doubt_where_that_is_asked_for(monkeypatch):
    """Rounds of a second that scatter by some percent: the two that overlap go on, the third does not."""
    clock, taken = [0.0], []

    def run(self, file, *, runs, shape):
        clock[0] += 1.0
        self.facts = FACTS
        taken.append(file.stem)
        ms = {"a": 10.0, "b": 10.1, "c": 15.0}[file.stem] * (0.97, 1.03, 1.0, 0.98, 1.02)[taken.count(file.stem) % 5]
        return made([ms], [1.0], runs=runs)[0].timings

    monkeypatch.setattr(Device, "start", lambda self, count: None)
    monkeypatch.setattr(Device, "time", run)
    monkeypatch.setattr(Device, "now", lambda self: clock[0])
    settings = LatencySettings(threads=2, until_percent=1, patience_s=3.0, reference=False)
    for only_in_doubt, rounds in ((False, [8, 8, 8]), (True, [8, 8, 5])):
        taken.clear()
        found = protocol.measure_files(["a", "b", "c"], settings, only_in_doubt=only_in_doubt)
        assert [one.all_rounds for one in found] == rounds
        assert all(one.wide for one in found)
