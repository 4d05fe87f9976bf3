"""A device that times nothing: the protocol played through on it, against what is worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from rehearsed import XS, XXS, S, session, taken

from modscale.deploy.timing_worker import Timings
from modscale.latency.protocol import measure_files
from modscale.latency.summary import Round
from modscale.searching import imagined_device
from modscale.searching.imagined_device import CALL, Clock, ImaginedDevice, _stretched
from modscale.settings import LatencySettings
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec

SETTINGS = LatencySettings(runs=50, patience_s=4.0, threads=1, warmup=12)


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("xxs", "xs", "s")):
        Path(f"{name}.onnx").write_text(str(i))
    for name in ("UNLIKE", "SCATTER", "AGAIN"):
        monkeypatch.setattr(imagined_device, name, 0.0)
    monkeypatch.setattr(imagined_device, "POWERS", (0.0, 2.0))  # networks of all sizes may be alike


def device_of(*, ms: tuple[float, float] = (10.0, 10.0), spread: float = 0.0, **changes: object) -> ImaginedDevice:
    """Rounds of 0.5 s: 14 runs, and what is left for start and load; 0.36 s at 10 ms.

    With 10 timed runs, as a search takes them, that is 0.36 + 22 x 0.01 = 0.58 s.
    """
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return ImaginedDevice(session((0.5, 0.5), ms, settings, spread), (XXS, S), Clock(), (XXS, XS, S), seed=0)


def seconds_of(device: ImaginedDevice, files: list[str]) -> float:
    began = device.clock.now_s
    measure_files(files, device.settings, device=device)
    return device.clock.now_s - began


def test_a_steady_network_takes_its_first_rounds() -> None:
    """Five rounds of 0.58 s and six of the reference; in turns as many, with the reference before every third."""
    assert seconds_of(device_of(), ["xxs.onnx"]) == pytest.approx(5 * 0.58 + 6 * 0.25)
    assert seconds_of(device_of(), ["xxs.onnx", "s.onnx"]) == pytest.approx(10 * 0.58 + 6 * 0.25)
    four = ["xxs.onnx", "s.onnx", "xs.onnx", "other.onnx"]
    assert seconds_of(device_of(), four) == pytest.approx(20 * 0.58 + 11 * 0.25)
    alone = device_of(reference=False)
    assert seconds_of(alone, ["xxs.onnx"]) == pytest.approx(5 * 0.58)
    assert alone.clock.waited_s == 0.0


def test_short_runs_fill_a_tenth_of_a_second() -> None:
    """Of 0.25 ms 400, of 4 ms 25, of 0.05 ms no more than 600; as many as were asked for where no more may be."""
    for ms, runs in ((0.25, 400), (4.0, 25), (0.05, 600), (8.0, 20)):
        device = device_of(ms=(ms, ms))
        assert len(device.time(Path("xxs.onnx"), runs=20).times_ns) == runs
        assert device.clock.now_s == pytest.approx(0.5 + (runs - 2) * ms / 1e3)
        exact = device_of(ms=(ms, ms), patience_s=0.0)
        assert len(exact.time(Path("xxs.onnx"), runs=20).times_ns) == 20


def test_short_runs_keep_the_probes_beside_them() -> None:
    """A round whose later half was slow, put to twice the size: what lay beside a slow probe still does."""
    seen = Timings((10**6,) * 10 + (2 * 10**6,) * 10, 0, probes_ns=(20, 21, 22, 30, 31, 32, 33), probe_threads=1)
    assert seen.quick_ms == 1.0
    larger = _stretched(seen, 2.0, 30)
    assert larger.times_ns == (2 * 10**6,) * 15 + (4 * 10**6,) * 15
    assert (larger.quick_ms, larger.median_ms) == (2.0, 3.0)
    assert len(larger.probes_ns) == 5 + 8 + 1  # three of 2 ms and two of 4 ms between two of them
    plain = _stretched(Timings((10**6,) * 4, 0), 2.0, 2)
    assert (plain.times_ns, plain.probes_ns) == ((2 * 10**6,) * 2, ())


def test_a_network_usually_takes_what_it_does_in_rounds_that_count() -> None:
    """Runs of 10 ms, and of 15 beside a slow probe, which are three of five rounds of one and two of another."""

    def rounds(slow: int) -> tuple[Round, ...]:
        return tuple(
            replace(one, timings=replace(one.timings, probes_ns=(probe_ns,) * 3, probe_threads=1))
            for i in range(10)
            for probe_ns, ms in [(1_300_000, 15.0) if i % 5 < slow else (1_000_000, 10.0)]
            for one in [taken(i, 0.5, ms)]
        )

    settings = replace(SETTINGS, reference=False)
    seen = replace(session((0.5, 0.5), (10.0, 10.0), settings), rounds=(rounds(3), rounds(2)))
    device = ImaginedDevice(seen, (XXS, S), Clock(), (XXS, XS, S), seed=0)
    for _ in range(8):
        (found,) = measure_files([Path("xs.onnx")], settings, device=device)
        assert found.quiet_ms == pytest.approx(10.0, rel=0.05)


def test_a_latency_rises_with_the_size_for_ever() -> None:
    """A straight line of logarithms through both that were rehearsed; twice the size of s takes more than s."""
    device = device_of(ms=(5.0, 15.0))
    assert device.latency_ms(XXS) == pytest.approx(5.0)
    assert device.latency_ms(S) == pytest.approx(15.0)
    sizes = [count_model(spec).flops + CALL * spec.num_blocks() for spec in (XXS, XS, S)]
    power = math.log(3) / math.log(sizes[2] / sizes[0])
    assert device.latency_ms(XS) == pytest.approx(5.0 * (sizes[1] / sizes[0]) ** power)
    deep = replace(S, stages=(*S.stages[:-1], replace(S.stages[-1], depth=40)))
    assert device.latency_ms(deep) > 20.0
    (found,) = measure_files([Path("s.onnx")], device.settings, device=device)
    assert found.median_ms == pytest.approx(15.0, rel=1e-6)


def test_networks_differ_from_what_their_size_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by a factor of its own that stays what it is, another one with another seed."""
    monkeypatch.setattr(imagined_device, "SCATTER", 0.1)
    device = device_of(ms=(5.0, 15.0))
    assert device.latency_ms(XXS) == device.latency_ms(replace(XXS, name="again")) != pytest.approx(5.0, rel=1e-3)
    other = device_of(ms=(5.0, 15.0))
    other.seed = 1
    assert other.latency_ms(XXS) != device.latency_ms(XXS)


def test_a_stage_may_cost_more_than_its_size_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were rehearsed take what they took; of others two that differ in one stage alone rise by its cost."""
    monkeypatch.setattr(imagined_device, "UNLIKE", 1.0)
    device = device_of(ms=(5.0, 15.0))
    assert [device.latency_ms(spec) for spec in (XXS, S)] == pytest.approx([5.0, 15.0])
    weights = [device.latency_ms(_deeper(i)) / 5.0 - 1 for i in range(4)]
    flops = [count_model(_deeper(i)).flops - count_model(XXS).flops for i in range(4)]
    costs = [weight / (each + CALL) for weight, each in zip(weights, flops, strict=True)]
    assert max(costs) > 2 * min(costs) > 0
    monkeypatch.setattr(imagined_device, "CALL", 10**12)  # all that counts are calls
    calls = [device_of(ms=(5.0, 15.0)).latency_ms(_deeper(i)) for i in range(4)]
    assert max(calls) - 5.0 > 1.5 * (min(calls) - 5.0) > 0


def _deeper(place: int) -> ModelSpec:
    """xxs with one more block in a stage."""
    stages = list(XXS.stages)
    stages[place] = replace(stages[place], depth=stages[place].depth + 1)
    return replace(XXS, stages=tuple(stages))


def test_a_measurement_again_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a factor for each network, the same within a measurement, also where settings were changed for it."""
    monkeypatch.setattr(imagined_device, "AGAIN", 0.1)
    device = device_of()
    found = [
        measure_files([Path("xs.onnx")], SETTINGS, device=one)[0]
        for one in (device, device.with_settings(SETTINGS), device.with_settings(SETTINGS))
    ]
    assert len({one.median_ms for one in found}) == 3
    assert all(len(set(one.process_medians_ms)) == 1 for one in found)


def test_an_unsteady_one_is_measured_for_the_patience() -> None:
    """Runs that differ by half: five rounds of 0.58 + 0.25 s do not reach 10 %, four more come within 4 s.

    These four are told to the clock as what a slower machine would not lengthen.
    """
    wild = device_of(spread=0.9)
    assert seconds_of(wild, ["xxs.onnx"]) == pytest.approx(9 * 0.58 + 10 * 0.25, rel=0.2)
    assert wild.clock.waited_s == pytest.approx(4 * (0.58 + 0.25), rel=0.3)
    calm = device_of(spread=0.9, patience_s=0.0)
    assert seconds_of(calm, ["xxs.onnx"]) == pytest.approx(5 * 0.58 + 6 * 0.25, rel=0.2)
    assert calm.clock.waited_s == 0.0


def test_rounds_follow_each_other_as_they_were_seen() -> None:
    """Five at a time, from some moment of the rehearsal on; networks in turns have the same moments.

    Rounds of 10 ms that were off by -5, -2.5, 0, 2.5 and 5 % in this order, of which each measurement has all.
    """
    device = device_of(spread=0.05, patience_s=0.0)
    seen = [1 + 0.05 * (i - 2) / 2 for i in range(5)]
    wider = [one ** (5 / 4) ** 0.5 for one in seen]
    starts = set()
    for _ in range(8):
        found = measure_files([Path("s.onnx"), Path("xs.onnx")], device.settings, device=device)
        ratios = [[ms / one.median_ms for ms in one.process_medians_ms] for one in found]
        assert ratios[0] == pytest.approx(ratios[1], rel=1e-3)
        start = min(range(5), key=lambda i: abs(ratios[0][0] - wider[i]))
        assert ratios[0] == pytest.approx([wider[(start + i) % 5] for i in range(5)], rel=1e-3)
        starts.add(start)
    assert len(starts) > 2


def test_the_noise_of_a_network_does_not_hang_on_others() -> None:
    """Its rounds are the same beside others, and how many they had."""
    alone, beside = device_of(spread=0.05), device_of(spread=0.05)
    (first,) = measure_files([Path("xs.onnx")], SETTINGS, device=alone)
    found = measure_files([Path("s.onnx"), Path("xs.onnx")], SETTINGS, device=beside)
    assert first.process_medians_ms[:5] == found[1].process_medians_ms[:5]
    spread = [ms / first.median_ms for ms in first.process_medians_ms]
    assert max(spread) - min(spread) > 0.01
