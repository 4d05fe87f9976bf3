"""Latency: fresh processes without torch, providers that are what they say, and intervals that hold."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import asdict, replace
from statistics import median

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modscale.cli.main import main
from modscale.deploy.runtime import fixed_shape
from modscale.deploy.timing_worker import Timings
from modscale.errors import InputError, OpenSidesError, TrialFailed
from modscale.latency import device, probed, summary
from modscale.latency import protocol as latency
from modscale.latency.device import Device
from modscale.latency.noise import noise_text
from modscale.latency.protocol import find_onnx, latency_to_json, measure_files, measure_latency
from modscale.latency.summary import Latency
from modscale.settings import LatencySettings, Target
from modscale.specs.spec import parse_spec


def write_square(file, *, pixels):
    """A small model with the names of an exported one: logits = mean of a GELU-free product of the image."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, pixels, pixels])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 1, 1])
    nodes = [
        helper.make_node("Mul", ["image", "image"], ["x"]),
        helper.make_node("GlobalAveragePool", ["x"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_square(tmp_path_factory.mktemp("onnx") / "m.onnx", pixels=32)


def test_the_caller_stays_light():
    """Whoever asks for a latency loads neither torch nor ONNX Runtime nor NumPy for it."""
    heavy = "{'torch', 'onnxruntime', 'numpy', 'onnx'}"
    code = f"import sys, modscale.latency.protocol; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_measure_latency(model_file, monkeypatch):
    """Real runs: the number asked for, over five processes, none of which is called slow, with consistent figures."""
    for limit in ("UNSTEADY", "SHORT"):
        monkeypatch.setattr(probed, limit, 1e9)
    result = measure_latency(model_file, LatencySettings(threads=2, warmup=1, runs=22, patience_s=0))
    assert (result.provider, result.threads, result.runs, len(result.process_means_ms)) == ("cpu", 2, 22, 5)
    assert 0 < result.min_ms <= result.median_ms <= result.p90_ms
    assert result.min_ms <= result.mean_ms
    assert result.ci95_ms > 0
    shares = (5, 5, 4, 4, 4)
    weighted = sum(share * mean for share, mean in zip(shares, result.process_means_ms, strict=True)) / 22
    assert result.mean_ms == pytest.approx(weighted)
    longer = measure_latency(model_file, LatencySettings(threads=2, warmup=1, runs=22, patience_s=1e-6))
    assert (longer.runs, longer.all_rounds) == (5 * 600, 5)  # runs of some microseconds, until a limit


def test_measure_models_exports_and_times(monkeypatch):
    """Specs are exported in a process that has ended, then timed; the JSON has the contract's keys."""
    monkeypatch.setattr(summary, "PROCESSES", 2)
    stages = [{"dim": 8, "depth": 1}]
    specs = [
        parse_spec({"name": n, "resolution": r, "num_classes": 5, "stages": stages}) for n, r in (("a", 32), ("b", 40))
    ]
    rounds = []
    results = latency.measure_models(
        specs,
        LatencySettings(threads=1, warmup=1, runs=10, patience_s=0),
        on_round=lambda done, total: rounds.append((done, total)),
    )
    assert rounds == [(i, 4) for i in range(1, 5)]
    documents = [latency_to_json(spec, result) for spec, result in zip(specs, results, strict=True)]
    assert [document["name"] for document in documents] == ["a", "b"]
    assert {"name", "provider", "threads", "runs", "mean_ms", "median_ms", "ci95_ms"} <= set(documents[0])
    json.dumps(documents, allow_nan=False)


def test_models_take_turns(monkeypatch):
    """Every round times each file once, in an order that reverses, and the runs add up."""
    asked, started = [], []

    def record(device, file, *, runs, shape):
        asked.append((file.name, runs))
        device.facts = FACTS
        return Timings(times_ns=tuple(range(1_000_000, 1_000_000 + runs)), preemptions=2)

    monkeypatch.setattr(Device, "start", lambda self, count: started.append(count))
    monkeypatch.setattr(Device, "time", record)
    results = measure_files(["a", "b", "c"], LatencySettings(threads=1, runs=100, reference=False))
    assert [name for name, _ in asked] == list("abccbaabccbaabc")
    assert [sum(runs for name, runs in asked if name == file) for file in "abc"] == [100] * 3
    assert [result.runs for result in results] == [100] * 3
    assert results[0].preemptions == 10
    assert started == [3] * 5


# A busy machine


def round_of(mean_ms: float, *, share: float = 1.0, main: float = 1.0, preemptions: int = 0, runs: int = 20) -> Timings:
    """What a process of two threads saw that had its cores for `share` of the time, the asking thread for `main`."""
    wall_ns = round(mean_ms * 1e6) * runs
    return Timings(
        times_ns=(round(mean_ms * 1e6),) * runs,
        preemptions=preemptions,
        cpu_ns=round(share * 2 * wall_ns),
        main_cpu_ns=round(main * wall_ns),
    )


@pytest.fixture
def machine(monkeypatch):
    """A machine of two cores on which each process takes a second, and what it sees is made up."""

    def made_of(*rounds: Timings) -> list[Timings]:
        clock, left = [0.0], list(rounds)

        def run(self, file, *, runs, shape):
            clock[0] += 1.0
            self.facts = FACTS
            return left.pop(0)

        monkeypatch.setattr(Device, "start", lambda self, count: None)
        monkeypatch.setattr(Device, "time", run)
        monkeypatch.setattr(Device, "now", lambda self: clock[0])
        monkeypatch.setattr(device, "available_cores", lambda: 2)
        return left

    return made_of


FACTS = {"processor": "a CPU", "cores": 2, "threads": 2, "system": "Linux", "runtime": "1.2.3"}


@pytest.fixture
def with_reference(monkeypatch):
    """Processes of a second each; the reference takes what `reference_ms` says at that time, a model 10 ms times it.

    Each that is started ahead takes `start_s` besides.
    """

    def made_of(reference_ms, start_s=0.0, **settings):
        clock, order, waiting = [0.0], [], [0]

        def start(self, count):
            clock[0] += start_s * max(0, count - waiting[0])
            waiting[0] = max(count, waiting[0])
            order.append(count)

        def run(self, file, *, runs, shape):
            self.facts = FACTS
            ms = reference_ms(clock[0])
            clock[0] += 1.0
            waiting[0] -= 1
            order.append(file.stem)
            return round_of(ms if file.stem == "reference" else 10 * ms, runs=runs)

        monkeypatch.setattr(Device, "start", start)
        monkeypatch.setattr(Device, "time", run)
        monkeypatch.setattr(Device, "now", lambda self: clock[0])
        monkeypatch.setattr(device, "available_cores", lambda: 2)
        said = []
        files = "abcd"[: settings.pop("files", 1)]
        options = {key: settings.pop(key) for key in ("only_in_doubt", "beside") if key in settings}
        found = measure_files(list(files), LatencySettings(threads=2, **settings), note=said.append, **options)
        return found, order, said

    return made_of


QUIET = [round_of(mean) for mean in (10.0, 10.1, 9.9, 10.05, 9.95)]
TWO = LatencySettings(threads=2, reference=False)


def in_rounds(timings) -> list[summary.Round]:
    """As if each had taken a second."""
    return [summary.Round(order=i, at_s=float(i), seconds=1.0, timings=one) for i, one in enumerate(timings)]


def test_a_quiet_model_is_measured_once(machine):
    """Five rounds whose interval is narrow are enough, and nobody is told anything."""
    left, said = machine(*QUIET, round_of(1.0)), []
    (result,) = measure_files(["a"], TWO, note=said.append)
    assert (len(left), said, result.rounds, result.runs, result.core_share) == (1, [], 5, 100, 1.0)
    assert (result.wide, result.busy) == (False, False)
    assert result.reached_percent == pytest.approx(100 * result.ci95_ms / result.median_ms)


def test_a_wide_interval_is_measured_again_until_it_is_narrow(machine):
    """Rounds are added, all of them counted, and no more once the interval is as narrow as asked."""
    means = [10, 12, 10.5, 11, 13, *[11] * 12]
    left = machine(*map(round_of, means))
    (result,) = measure_files(["a"], replace(TWO, patience_s=100))
    seen = means[: len(means) - len(left)]

    def percent(rounds):
        """95 % of Student's t and McKean and Schrader's error: ranks (n + 1) / 2 -+ 2.576 sqrt(n / 4)."""
        n = len(rounds)
        t = [2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160][n - 5]
        low = (n + 1) / 2 - 2.575829 * math.sqrt(n / 4)
        ends = np.interp([low, n + 1 - low], range(1, n + 1), sorted(rounds))
        return 100 * t * (ends[1] - ends[0]) / (2 * 2.575829) / median(rounds)

    assert 5 < len(seen) < len(means)
    assert percent(seen) <= 10 < percent(seen[:-1])
    assert result.reached_percent == pytest.approx(percent(seen), rel=1e-3)
    assert (result.wide, result.busy, result.rounds, result.runs) == (False, False, len(seen), 20 * len(seen))


def test_the_reference_runs_in_every_round_and_last(with_reference):
    """Before the first of three models each, and at the end, so that every model lies between two of its rounds."""
    (one, *_), order, _ = with_reference(lambda now: 2.0, files=4, runs=10)
    letters = "".join("R" if name == "reference" else str(name) for name in order)
    assert letters == "4Rabc2Rd" + "4Rdcb2Ra" + "4Rabc2Rd" + "4Rdcb2Ra" + "4Rabc3Rd" + "R"  # and how many are started
    assert (one.reference_ms, one.reference_drift_percent, one.unsteady_rounds) == (2.0, 0.0, 0)
    assert (one.relative, one.relative_ci95) == (pytest.approx(10), pytest.approx(0, abs=1e-9))


def test_rounds_beside_a_slow_reference_do_not_count_once_enough_others_are_there(with_reference):
    """A machine that is slow for a while, whoever has its cores: told by the reference, never by the model itself."""
    slow = lambda now: 2.0 if now < 4 or now > 9 else 3.5  # noqa: E731
    (one,), *_ = with_reference(slow, patience_s=40, until_percent=1)
    assert (one.quiet_ms, one.relative, one.wide) == (20.0, pytest.approx(10), False)
    assert (one.rounds, one.unsteady_rounds, one.all_rounds) == (8, 4, 8)
    seen = [
        summary.Round(order=i, at_s=i, seconds=1, timings=round_of((10 * (i % 2) or 1) * slow(i))) for i in range(23)
    ]
    settled = Device(LatencySettings(threads=2), FACTS)
    for count, (counted, median_ms) in {6: (6, 27.5), 9: (5, 20.0)}.items():  # of 6 only 2 lie between fast ones
        some = summary.summarise(seen[1 : 2 * count : 2], seen[: 2 * count + 1 : 2], settled)
        assert (some.all_rounds, some.rounds, some.median_ms) == (count, counted, median_ms)
    (one,), *_ = with_reference(slow, patience_s=0, until_percent=1)
    assert (one.rounds, one.all_rounds, one.wide) == (5, 5, True)
    text = noise_text([one], LatencySettings(until_percent=1))
    assert text.startswith("note: too noisy for 1 % in the time given: 1 of 1 reached ")
    assert text.endswith("of 5 rounds 0 were disturbed and 4 ran while the machine was slow")
    assert noise_text([replace(one, wide=False)], LatencySettings()) is None


def test_what_a_machine_at_its_best_takes_is_told_of_one_that_is_mostly_slow(with_reference):
    """Half of the rounds at 1.7 times, in no order: the median is of both, the quiet figure of the fast ones.

    Quantiles and interval by NumPy: the 5th percentile of all runs, and a bootstrap over rounds of its own.
    """
    speeds = np.random.default_rng(3).choice([2.0, 3.4], 400)
    (one,), *_ = with_reference(lambda now: speeds[int(now)] * (1 + int(now) % 7 / 100), patience_s=60, until_percent=1)
    assert one.all_rounds == 35
    assert one.quiet_ms == pytest.approx(20.0, rel=0.07)
    assert one.quiet_ms == pytest.approx(one.relative * one.reference_quiet_ms)
    assert one.quiet_ci95_ms == pytest.approx(1.959964 * one.relative_standard_error * one.reference_quiet_ms)
    assert one.reached_percent == pytest.approx(100 * one.relative_ci95 / one.relative)
    assert one.reached_percent < 5 < 100 * one.ci95_ms / one.median_ms
    (plain,), *_ = with_reference(lambda now: 2.0, patience_s=0, reference=False)
    assert (plain.quiet_ms, plain.quiet_ci95_ms, plain.relative) == (plain.median_ms, plain.ci95_ms, None)


def test_the_interval_of_the_ratio_is_a_bootstrap_over_the_rounds_of_both():
    """Held against NumPy's own draws; ten rounds of twenty runs and twelve of ten, each round of its own speed."""
    rng = np.random.default_rng(0)

    def made(count, runs, ms):
        levels = ms * rng.lognormal(0, 0.1, count)
        times = [np.round(1e6 * level * rng.lognormal(0, 0.02, runs)).astype(int) for level in levels]
        return in_rounds([Timings(times_ns=tuple(map(int, each)), preemptions=0) for each in times]), times

    (rounds, times), (references, others) = made(10, 20, 12.0), made(12, 10, 9.0)

    def low(some):
        ordered = np.sort(np.concatenate(some))
        return ordered[len(ordered) // 20]

    relative, half, error = summary.relative_latency(rounds, references, summary.low_ms)
    assert relative == low(times) / low(others)
    picks = [(rng.integers(10, size=10), rng.integers(12, size=12)) for _ in range(4000)]
    drawn = [low([times[i] for i in a]) / low([others[i] for i in b]) for a, b in picks]
    assert error == pytest.approx(np.std(drawn), rel=0.15)
    assert half == pytest.approx(1.959964 * error)
    assert summary.relative_latency(rounds[:2], references, summary.low_ms) == (
        pytest.approx(relative, rel=0.5),
        None,
        None,
    )


def test_drift_is_told_and_hardly_moves_what_is_relative(with_reference):
    """A machine that slows down by a percent a process: the median moves with it, the ratio by a tenth of that."""
    (one,), _, _ = with_reference(lambda now: 2.0 + now / 50, patience_s=0, until_percent=100)
    assert one.reference_drift_percent == pytest.approx(100 * (2.16 / 2.04 - 1), abs=1.5)
    assert one.relative == pytest.approx(10, rel=0.011)
    assert one.median_ms == pytest.approx(21, abs=0.5)


@pytest.mark.parametrize(("patience", "again"), [(0, 0), (0.9, 0), (3.5, 3), (5, 5)])
def test_patience_bounds_the_time_and_what_stays_wide_is_marked(machine, patience, again):
    """A round that would end too late is not begun: here each takes a second."""
    left = machine(*(round_of(mean) for mean in [10, 20] * 6))
    (result,) = measure_files(["a"], replace(TWO, patience_s=patience))
    assert 12 - len(left) == result.rounds == 5 + again
    assert (result.wide, result.busy) == (True, False)
    assert result.reached_percent > 10


@pytest.mark.parametrize(
    ("patience", "files", "again"),
    [(1.9, 1, 0), (2.1, 1, 1), (6.1, 1, 3), (5.3, 3, 3), (5.4, 3, 4), (3.5, 4, 2), (4.6, 4, 3)],
)
def test_the_reference_counts_towards_the_patience(with_reference, patience, files, again):
    """All that is run for a model is: here a round takes a second, and so does the reference, for all it runs beside.

    Worked by hand: of 1 model a turn takes 2 s, of 3 models 4/3 s each, of 4 models, with two references, 1.5 s.
    """
    speeds = np.random.default_rng(3).uniform(2, 4, 200)
    found, *_ = with_reference(lambda now: speeds[int(now)], patience_s=patience, files=files, until_percent=0.001)
    assert {one.all_rounds for one in found} == {5 + again}


def test_a_start_counts_towards_the_patience(with_reference):
    """2 s of rounds and 1 s of starts a turn; in the fifth 1.5 s, as the process of the end is started with it."""
    speeds = np.random.default_rng(3).uniform(2, 4, 200)
    some = {"until_percent": 0.001, "start_s": 0.5}
    for patience, again in ((2.9, 0), (3.6, 1), (7.0, 2)):
        (one,), *_ = with_reference(lambda now: speeds[int(now)], patience_s=patience, **some)
        assert one.all_rounds == 5 + again


def test_a_neighbour_that_goes_away_leaves_no_trace(machine):
    """Disturbed rounds do not count once most were undisturbed; the reader is told at the time."""
    busy = [round_of(30.0, share=0.4, main=0.5, preemptions=200) for _ in range(4)]
    left, said = machine(*busy, *QUIET, round_of(1.0)), []
    (result,) = measure_files(["a"], replace(TWO, patience_s=100), note=said.append)
    assert (len(left), result.rounds, result.disturbed_rounds, result.wide, result.busy) == (1, 5, 4, False, False)
    assert result.median_ms == pytest.approx(10.0)
    (line,) = said  # (4 x 30 ms x 0.4 + 10 ms) in 4 x 30 + 10 ms
    assert line.startswith(
        "note: the machine is busy: the timing threads had a core 45% of the time (8.0 preemptions a run"
    )
    assert line.endswith("; measuring for 100 s more at most")


def test_a_blip_is_no_busy_machine(machine):
    """One disturbed round of five counts and is no reason for doubt; two are, and are replaced where there is time."""
    blip = round_of(10.2, share=0.7, main=0.8)
    left = machine(*QUIET[:4], blip)
    (result,) = measure_files(["a"], TWO)
    assert (len(left), result.rounds, result.disturbed_rounds, result.busy) == (0, 5, 1, False)
    for patience, more, expected in ((0, 0, (5, 100, 2, True)), (5, 2, (5, 100, 2, False))):
        left = machine(*QUIET[:3], blip, blip, *QUIET[3:])
        (result,) = measure_files(["a"], replace(TWO, patience_s=patience))
        assert 2 - len(left) == more
        assert (result.rounds, result.runs, result.disturbed_rounds, result.busy) == expected


def test_the_interval_holds_although_it_decides_when_to_stop(machine):
    """Looking at the interval after every round costs it little: it holds the true mean in at least 92 % of cases."""
    generator = random.Random(0)
    held = again = 0
    for _ in range(400):
        machine(*(round_of(10 + generator.gauss(0, 1)) for _ in range(10)))
        (result,) = measure_files(["a"], TWO)
        held += abs(result.median_ms - 10) <= result.ci95_ms
        again += result.rounds > 5
    assert held / 400 >= 0.92
    assert again > 100


def test_a_neighbour_that_stays_is_marked(machine):
    """A narrow interval beside a neighbour is that of the neighbour: all rounds count, and they are in doubt."""
    machine(*(round_of(mean, share=0.5, main=0.5, preemptions=100) for mean in [30.0, 30.1] * 5))
    (result,) = measure_files(["a"], replace(TWO, patience_s=5))
    assert (result.rounds, result.disturbed_rounds, result.wide, result.busy) == (10, 10, False, True)
    assert result.mean_ms == pytest.approx(30.05)
    machine(*(round_of(mean, share=0.5, main=0.5) for mean in [30.0, 60.0] * 5))
    (result,) = measure_files(["a"], replace(TWO, patience_s=0))
    assert (result.wide, result.busy) == (True, True)


def test_only_the_models_in_doubt_are_measured_again(machine, monkeypatch):
    """Of two models one is settled after five rounds; the patience is each model's own."""
    asked = []

    def run(self, file, *, runs, shape):
        asked.append(file.name)
        clock[0] += 1.0
        self.facts = FACTS
        return round_of(10.0 if file.name == "a" else 10.0 + len(asked) % 4 * 5)

    machine()
    clock = [0.0]
    monkeypatch.setattr(Device, "time", run)
    monkeypatch.setattr(Device, "now", lambda self: clock[0])
    heard = []
    first, second = measure_files(
        ["a", "b"], replace(TWO, patience_s=3), on_round=lambda done, total: heard.append((done, total))
    )
    assert (first.rounds, second.rounds) == (5, 8)
    assert asked[10:] == ["b"] * 3
    assert heard == [(done, max(10, done)) for done in range(1, 14)]


@pytest.mark.parametrize(("beside", "rounds"), [((), 5), (((10.0, 0.1),), 8), (((5.0, 0.1), (30.0, 0.1)), 5)])
def test_a_model_is_told_apart_from_those_that_were_timed_before(with_reference, beside, rounds):
    """A model of ten references alone: five rounds; again for its patience where it ties with one known before."""
    speeds = random.Random(0)
    (one,), *_ = with_reference(
        lambda now: 2.0 * speeds.uniform(1, 1.1), patience_s=7, until_percent=0.001, only_in_doubt=True, beside=beside
    )
    assert one.all_rounds == rounds


@pytest.mark.parametrize(
    ("changes", "disturbed"),
    [
        ({}, False),
        ({"main": 0.85, "share": 0.95}, True),  # the asking thread waited
        ({"share": 0.7, "preemptions": 60}, True),  # its helper was kept from the other core
        ({"share": 0.5, "preemptions": 3}, False),  # its helper had nothing to do, and slept
        ({"share": 0.9, "preemptions": 60}, False),
    ],
)
def test_a_disturbed_round(changes, disturbed, monkeypatch):
    """Told by whether its threads had their cores; on a GPU, or where the system does not say, by nothing."""
    monkeypatch.setattr(device, "available_cores", lambda: 2)
    seen = round_of(10.0, **changes)
    assert summary.is_disturbed(seen, Device(TWO, FACTS)) is disturbed
    assert summary.is_disturbed(seen, Device(replace(TWO, provider="cuda"), FACTS)) is False
    assert summary.is_disturbed(replace(seen, cpu_ns=-1), Device(TWO, FACTS)) is False


def may_go_first() -> bool:
    """Whether this user may set a negative nice value, as a process that does so, and ends, tells."""
    return subprocess.run([sys.executable, "-c", "import os; os.nice(-20)"], stderr=subprocess.DEVNULL).returncode == 0


ORDINARY = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 23); os.execv(sys.executable, [sys.executable, '-'])"
"""Gives the right to a negative nice value up (PR_CAPBSET_DROP, CAP_SYS_NICE), for a Python that reads its program."""


FIRST_TOO = """
import os
os.setsid()
os.setpriority(os.PRIO_PROCESS, 0, -20)
if os.path.exists("/proc/self/autogroup"):
    open("/proc/self/autogroup", "w").write("-20")
"""
"""Has a process go before all others, as a timing process does."""


@pytest.fixture
def beside_two(request, tmp_path, monkeypatch):
    """The latency of a large model beside two processes that never rest, all on one core, and what was said of it.

    A run must last longer than the system lets a thread have the core: between two runs it takes it away unseen.
    """
    monkeypatch.setattr(summary, "PROCESSES", 1)
    large_file = write_square(tmp_path / "large.onnx", pixels=2048)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    begin = getattr(request, "param", "")
    spin = [sys.executable, "-c", f"{begin}\nprint(flush=True)\nwhile True: pass"]
    neighbours = [subprocess.Popen(spin, stdout=subprocess.PIPE) for _ in range(2)]
    said = []

    def measure(target: Target | None):
        settings = LatencySettings(threads=1, warmup=1, runs=50, patience_s=0, target=target)
        return measure_latency(large_file, settings, note=said.append), said

    try:
        for neighbour in neighbours:
            neighbour.stdout.readline()
        yield measure
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.communicate()
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(sys.platform != "linux", reason="others bind no process to cores")
def test_a_real_neighbour_on_the_only_core_is_seen(beside_two):
    """An ordinary user's timing thread has about a third of it, and the latency says so, and what would help."""
    result, said = beside_two(Target(command=(sys.executable, "-c", ORDINARY)))
    assert result.core_share < 0.7
    assert result.busy
    assert "the machine is busy" in said[0]
    assert "; root, or who may set a negative nice value, is timed before all others" in said[0]


@pytest.mark.skipif(sys.platform != "linux", reason="others bind no process to cores")
@pytest.mark.skipif(not may_go_first(), reason="this user may not go before others")
@pytest.mark.parametrize("beside_two", ["", FIRST_TOO], indirect=True, ids=["ordinary neighbours", "first as well"])
def test_who_may_goes_first(beside_two):
    """Neighbours cost nothing where the timing process may go before all others: it has nearly all of the core.

    Where nice values do not do, as between containers, or here before others with the same, it becomes a real-time one.
    """
    result, said = beside_two(None)
    assert result.core_share > 0.9
    assert (result.busy, said) == (False, [])


def test_so_many_runs_are_so_many(monkeypatch, capsys):
    """A number of runs on the command line is kept to, unless an interval is asked for; else there is patience."""
    asked = []

    def measure(models, settings, **_):
        asked.append((settings.runs, settings.until_percent, settings.patience_s))
        return [summary.summarise(in_rounds(QUIET), [], Device(TWO, FACTS))]

    monkeypatch.setattr(latency, "measure_models", measure)
    for options in ([], ["--runs", "50"], ["--runs", "50", "--until", "2"], ["--until", "1", "--patience", "90"]):
        assert main(["latency", "xxs", *options, "--json"]) == 0
    assert asked == [(100, 1.0, 30.0), (50, 1.0, 0.0), (50, 2.0, 30.0), (100, 1.0, 90.0)]
    (row,) = json.loads(capsys.readouterr().out.split("\n}\n")[0] + "}")["models"]
    assert {"rounds", "reached_percent", "wide", "busy"} <= set(row)
    for options, told in (
        (["--until", "0"], "--until: must be more than 0, got 0.0"),
        (["--patience", "-1"], "--patience: must be 0 or more, got -1.0"),
    ):
        assert main(["latency", "xxs", *options]) == 2
        assert told in capsys.readouterr().err


# Workers that fail


def test_a_broken_model_is_one_line(tmp_path):
    """A file that is no ONNX model fails the candidate with ONNX Runtime's own reason."""
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(TrialFailed) as caught:
        measure_latency(tmp_path / "m.onnx", LatencySettings(threads=1, runs=10))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# The figures


def test_a_latency_is_plain_numbers():
    """The JSON of a latency reads back as it was written."""
    timings = [Timings(times_ns=(1_000_000, 3_000_000), preemptions=-1)] * 2
    result = summary.summarise(
        in_rounds(timings), [], Device(LatencySettings(threads=4, runs=4), {**FACTS, "threads": 4})
    )
    assert isinstance(result, Latency)
    assert (result.mean_ms, result.median_ms, result.min_ms, result.preemptions) == (2.0, 2.0, 1.0, -1)
    assert json.loads(json.dumps(asdict(result)))["threads"] == 4


# Files of any origin


def foreign(file, dims, *, kind=TensorProto.FLOAT, inputs=1, outputs=1, external=False):
    """An ONNX file that none of our code wrote: a sum of inputs, times weights, to any number of outputs."""
    feeds = [helper.make_tensor_value_info(f"in{i}", kind, dims) for i in range(inputs)]
    makes = [helper.make_tensor_value_info(f"out{i}", kind, None) for i in range(outputs)]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = onnx.numpy_helper.from_array(np.full(1, 2, dtype), "w")
    first = ("Sum", [feed.name for feed in feeds]) if inputs > 1 else ("Identity", ["in0"])
    nodes = [helper.make_node(*first, ["s"])]
    nodes += [helper.make_node("Mul", ["s", "w"], [make.name]) for make in makes]
    graph = helper.make_graph(nodes, "g", feeds, makes, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if external:
        onnx.save(model, file, save_as_external_data=True, location="w.bin", size_threshold=0)
    else:
        onnx.save(model, file)
    return file


@pytest.mark.parametrize(
    ("dims", "resolution", "shape", "side"),
    [
        ([1, 3, 32, 32], None, (1, 3, 32, 32), 32),
        (["N", 3, 32, 32], None, (1, 3, 32, 32), 32),
        (["N", 3, "H", "W"], 48, (1, 3, 48, 48), 48),
        ([None, 32, 32, 3], None, (1, 32, 32, 3), 32),
        (["N", "H", "W", 3], 16, (1, 16, 16, 3), 16),
        ([4, 3, 32, 24], None, (4, 3, 32, 24), None),
        ([4, 3, 32, 32], 32, (4, 3, 32, 32), 32),
        (["N", 7], None, (1, 7), None),
    ],
)
def test_a_file_of_any_origin_is_found_with_its_input(tmp_path, dims, resolution, shape, side):
    """Fixed dimensions stay, an open batch is 1, open sides are what was asked for."""
    found = find_onnx(foreign(tmp_path / "m.onnx", dims), resolution)
    assert (found.shape, found.resolution) == (shape, side)


@pytest.mark.parametrize(
    ("dims", "options", "resolution", "message"),
    [
        (
            ["N", 3, "H", "W"],
            {},
            None,
            r"input: \[open, 3, open, open\] leaves height and width open: say --resolution",
        ),
        (["N", "C", 32, 32], {}, None, "may leave open only its batch, and height and width of an image"),
        ([1, "T"], {}, 32, "may leave open only its batch"),
        ([1, 3, 32, 32], {}, 64, r"input: \[1, 3, 32, 32\] is fixed, and not 64 x 64"),
        ([1, 7], {}, 64, "is fixed, and not 64 x 64"),
        ([1, 3, 32, 32], {"inputs": 2}, None, "must have one input to be timed; it has 2: in0, in1"),
        ([1, 3, 32, 32], {"kind": TensorProto.INT64}, None, r"must take real numbers .*, got 'tensor\(int64\)'"),
        ([1, 3, 100_000, 100_000], {}, None, "must be of at most 536870912 numbers to be timed"),
    ],
)
def test_a_file_that_cannot_be_timed_is_one_line(tmp_path, dims, options, resolution, message):
    """The file, what it has, and what may be done."""
    file = foreign(tmp_path / "m.onnx", dims, **options)
    with pytest.raises(InputError, match=message) as caught:
        find_onnx(file, resolution)
    assert str(caught.value).startswith(f"{file}: ")


def test_only_open_sides_are_what_a_space_fills_in():
    """An open height and width is told apart from other open dimensions, whatever the words."""
    with pytest.raises(OpenSidesError, match="leaves height and width open"):
        fixed_shape([None, 3, None, None], None)
    with pytest.raises(InputError, match="may leave open only its batch") as refused:
        fixed_shape([None, None, 224, 224], None)
    assert not isinstance(refused.value, OpenSidesError)
    assert fixed_shape([None, 3, None, None], 160) == (1, 3, 160, 160)


def test_files_that_are_no_model(tmp_path):
    """Broken, missing, empty, or without the weights that lie beside it: one line each."""
    file = foreign(tmp_path / "m.onnx", [1, 3, 8, 8], external=True)
    assert find_onnx(file).shape == (1, 3, 8, 8)
    (tmp_path / "w.bin").unlink()
    broken, empty = tmp_path / "broken.onnx", tmp_path / "empty.onnx"
    broken.write_bytes(b"\x08\x09" + bytes(range(200)))
    empty.touch()
    for bad in (file, broken, empty):
        with pytest.raises(InputError, match="is no model that ONNX Runtime loads: ") as caught:
            find_onnx(bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        find_onnx(tmp_path / "none.onnx")


def test_files_and_specs_are_timed_together(tmp_path, monkeypatch, capsys):
    """Half precision, several outputs and open dimensions, beside a network of ours; a fixed batch is told."""
    monkeypatch.setattr(summary, "PROCESSES", 2)
    half = foreign(tmp_path / "half.onnx", ["N", 3, "H", "W"], kind=TensorProto.FLOAT16, outputs=2)
    four = foreign(tmp_path / "four.onnx", [4, 3, 32, 32], external=True)
    spec = tmp_path / "net.yaml"
    spec.write_text("name: net\nresolution: 32\nnum_classes: 3\nstages: [{dim: 8, depth: 1}]\n")
    command = [
        "latency",
        str(half),
        str(spec),
        str(four),
        "--resolution",
        "32",
        "--runs",
        "10",
        "--threads",
        "1",
        "--json",
    ]
    assert main(command) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["models"]
    assert [(row["name"], row["resolution"], row.get("input"), row["runs"]) for row in rows] == [
        (str(half), 32, [1, 3, 32, 32], 10), ("net", 32, None, 10), (str(four), 32, [4, 3, 32, 32], 10)
    ]  # fmt: skip
    assert "four.onnx is fixed: what is timed is 4 images at once" in captured.err
