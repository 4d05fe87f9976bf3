"""What networks would take by those that were rehearsed, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modscale.deploy.timing_worker import Timings
from modscale.latency.device import Device
from modscale.latency.raw import Measurement
from modscale.latency.summary import Round
from modscale.searching.costs import Costs
from modscale.searching.rehearsal import Rehearsal, Rehearsed
from modscale.settings import LatencySettings
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.training.pace import Pace

FACTS = {"processor": "one", "system": "Linux", "runtime": "1.0", "cores": 2, "threads": 1}
XXS, XS, S = (published(name) for name in ("xxs", "xs", "s"))
SETTINGS = LatencySettings(runs=50, patience_s=4.0, threads=1)


def taken(order: int, seconds: float, ms: float) -> Round:
    """A round of two runs, each of which had its core."""
    ns = round(ms * 1e6)
    timings = Timings(times_ns=(ns, ns), preemptions=0, cpu_ns=2 * ns, main_cpu_ns=2 * ns)
    return Round(order=order, at_s=float(order), seconds=seconds, timings=timings)


def session(*, seconds: tuple[float, ...], spread: float = 0.0, settings: LatencySettings = SETTINGS) -> Measurement:
    """Of each network five rounds of 10 ms that took so long, whose runs differ by `spread`; 0.25 s of the reference.

    A round has 2 + 10 + 2 runs: of 0.5 s are 0.36 s for start and load, and with 10 timed runs, as a search takes them,
    it is 0.36 + 22 x 0.01 = 0.58 s.
    """
    rounds = tuple(
        tuple(taken(2 * i + 1, each_s, 10 * (1 + spread * (i - 2) / 2)) for i in range(5)) for each_s in seconds
    )
    references = tuple(taken(2 * i, 0.25, 10.0) for i in range(6)) if settings.reference else ()
    models = tuple({"name": str(i)} for i in range(len(seconds)))
    return Measurement(models=models, device=Device(settings, FACTS), rounds=rounds, references=references)


def costs_of(measured: Measurement, *, step_s: tuple[float, ...] = (0.01, 0.03), speed: float = 1.0) -> Costs:
    """Of xxs and s, as far as there are rounds."""
    networks = [
        Rehearsed(
            spec=spec, flops=count_model(spec).flops, results={}, export_s=export_s,
            pace=Pace(start_s=0.5, step_s=each_s, score_image_s=0.001, steps_an_epoch=100, val_images=1000),
        )
        for spec, export_s, each_s in zip((XXS, S), (1.4, 2.8), step_s, strict=True)
    ]  # fmt: skip
    rehearsal = Rehearsal(
        networks=tuple(networks[: len(measured.rounds)]), sessions=(measured,), anchor=None, reference_ms=10.0,
        workers_start_s=0.0, bytes_a_round=100.0, bytes_a_run=10.0,
    )  # fmt: skip
    return Costs(rehearsal, speed)


def test_a_steady_network_takes_its_first_rounds() -> None:
    """Five rounds of 0.58 s and six of the reference; of two in turns ten and six. At half the speed twice that."""
    costs = costs_of(session(seconds=(0.5, 0.5)))
    assert costs.timing_s([XXS]) == pytest.approx(5 * 0.58 + 6 * 0.25)
    assert costs.timing_s([XXS, S]) == pytest.approx(10 * 0.58 + 6 * 0.25)
    assert costs.timing_s([XXS] * 4) == pytest.approx(20 * 0.58 + 11 * 0.25)  # the reference before every third
    slow = costs_of(session(seconds=(0.5, 0.5)), speed=2.0)
    assert slow.timing_s([XXS]) == pytest.approx(2 * costs.timing_s([XXS]))
    alone = costs_of(session(seconds=(0.5, 0.5), settings=replace(SETTINGS, reference=False)))
    assert alone.timing_s([XXS]) == pytest.approx(5 * 0.58)


def test_what_others_take_lies_between() -> None:
    """By FLOPs in a straight line, the nearest beyond; what is trained and exported by the number of blocks besides."""
    costs = costs_of(session(seconds=(0.5, 0.9)))
    flops = [count_model(spec).flops for spec in (XXS, XS, S)]
    share = (flops[1] - flops[0]) / (flops[2] - flops[0])
    assert costs.timing_s([XS]) == pytest.approx(5 * (0.58 + share * 0.4) + 6 * 0.25)
    blocks = [spec.num_blocks() for spec in (XXS, XS, S)]
    assert costs.export_s(S) == pytest.approx(2.8)
    a, b = 1.4 / blocks[0], 2.8 / blocks[2]
    assert costs.export_s(XS) == pytest.approx(blocks[1] * (a + share * (b - a)))
    assert costs.training_s(XXS, 2) == pytest.approx(0.5 + 200 * 0.01 + 1.0)
    assert costs.training_s(S, 4, 5000) == pytest.approx(0.5 + 400 * 0.03 + 5.0)
    assert costs.training_s(S, 4, share=0.5, scorings=2) == pytest.approx(0.5 + 200 * 0.03 + 2.0)
    deep = replace(S, stages=(replace(S.stages[0], depth=S.stages[0].depth + blocks[2]), *S.stages[1:]))
    assert costs.export_s(deep) == pytest.approx(2 * 2.8)


def test_an_unsteady_one_is_measured_for_the_patience() -> None:
    """Runs that differ by half: no first rounds reach 10 %, and five more of 0.58 + 0.25 s would go beyond 4 s."""
    wild = costs_of(session(seconds=(0.5,), spread=0.9))
    assert wild.timing_s([XXS]) == pytest.approx(9 * 0.58 + 10 * 0.25, rel=0.15)
    calm = costs_of(session(seconds=(0.5,), spread=0.9, settings=replace(SETTINGS, patience_s=0.0)))
    assert calm.timing_s([XXS]) == pytest.approx(5 * 0.58 + 6 * 0.25)


def test_the_end_takes_rounds_in_turns() -> None:
    """Exports, then the first rounds or those within the patience, with the reference between."""
    steady = costs_of(session(seconds=(0.5, 0.5)))
    exports = 4 * (1.4 + 2.8) / 2
    assert steady.finals_s([XXS, S], 4) == pytest.approx(exports + 5 * (4 * 0.58 + 2 * 0.25) + 0.25)
    assert steady.finals_s([XXS, S], 4, workers=2) == pytest.approx(exports / 2 + 5 * (4 * 0.58 + 2 * 0.25) + 0.25)
    assert steady.finals_s([XXS, S], 0) == 0.0
    # at a share of 1 % that is asked for, what reaches 10 % is measured as long as the patience lasts
    shaky = costs_of(session(seconds=(0.5, 0.5), spread=0.06))
    assert shaky.timing_s([XXS]) == pytest.approx(5 * 0.58 + 6 * 0.25)
    rounds = 5 + 4.0 // (0.58 + 0.25 * 2 / 4)
    assert shaky.finals_s([XXS, S], 4) == pytest.approx(exports + rounds * (4 * 0.58 + 2 * 0.25) + 0.25, rel=0.1)


def test_the_file_of_timings_grows_by_rounds_and_runs() -> None:
    """Two candidates alone: 5 rounds of 10 runs and 6 of the reference's 10; at the end in turns, as many rounds."""
    costs = costs_of(session(seconds=(0.5, 0.5)))
    assert costs.timings_bytes([XXS, S], 0) == pytest.approx(2 * (11 * 100 + (50 + 60) * 10))
    last = (10 + 6) * 100 + (100 + 60) * 10
    assert costs.timings_bytes([XXS, S], 2) == pytest.approx(2 * (11 * 100 + (50 + 60) * 10) + last)
