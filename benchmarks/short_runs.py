"""Networks whose runs take less than the probe between them: how often it may run, and for how long a round times.

    python benchmarks/short_runs.py levels SECONDS [THREADS]  what networks take, the probe after so many ms of runs
    python benchmarks/short_runs.py search SECONDS            `smoke`'s networks timed as a search does, one by one
    python benchmarks/short_runs.py moments SECONDS           how long the moments last in which one is slow

A way is `EVERY_MS:ROUND_S`: `timing_worker.PROBE_EVERY_NS` in milliseconds and `device.ROUND_S`; `0:0` is how it was
before. All ways take turns in one run, so that they meet the same machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import numpy as np

from modscale.deploy import timing_worker
from modscale.deploy.export import export_all
from modscale.latency import device as timing
from modscale.latency.device import Device
from modscale.latency.probed import in_probes
from modscale.latency.protocol import measure_files
from modscale.runs.experiment import load_experiment
from modscale.searching.rehearsal import draw_candidates
from modscale.searching.study import SearchStudy
from modscale.settings import LatencySettings
from modscale.spaces.tables import build_tables
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec

SIDES = (32, 64, 96, 128, 160)
"""Of images with which xxs is timed: 1 to 8 ms with one thread."""
PROGRAM = Path(timing_worker.__file__)
EVERY = f"PROBE_EVERY_NS = {timing_worker.PROBE_EVERY_NS:_}"
MOST = f"MOST_RUNS = {timing_worker.MOST_RUNS}"


def smoke_specs(number: int) -> list[ModelSpec]:
    """The networks with which a search of `smoke` begins."""
    experiment = load_experiment("spaces/smoke.yaml")
    study = SearchStudy(experiment, build_tables(experiment.space), seed=experiment.search.seed)
    return [one.spec for one in draw_candidates(study, number, number)][:number]


@contextmanager
def timed_in(way: str, most: int = timing_worker.MOST_RUNS) -> Iterator[None]:
    """Has the processes time in a way, so many runs at most."""
    every_ms, round_s = map(float, way.split(":"))
    text = PROGRAM.read_text()
    for old, new in ((EVERY, f"PROBE_EVERY_NS = {round(every_ms * 1e6)}"), (MOST, f"MOST_RUNS = {most}")):
        assert old in text
        text = text.replace(old, new)
    before = timing.ROUND_S
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(text)
        file.flush()
        timing_worker.__file__, timing.ROUND_S = file.name, round_s
        try:
            yield
        finally:
            timing_worker.__file__, timing.ROUND_S = str(PROGRAM), before


def levels(files: dict[str, Path], seconds: float, threads: int) -> None:
    """A table: what a run takes, in milliseconds and probes, and how far rounds lie from their median."""
    ways = ("0:0.1", "2:0.1", "5:0.1", "10:0.1")
    device = Device(LatencySettings(threads=threads))
    seen: dict[tuple[str, str], list[timing_worker.Timings]] = {(name, way): [] for name in files for way in ways}
    began, turn = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for name, way in list(seen)[:: 1 if turn % 2 == 0 else -1]:
            with timed_in(way):
                seen[name, way].append(device.time(files[name], runs=10, shape=None))
        turn += 1
    print(f"{turn} rounds each, {threads} thread(s)\n")
    print("| network | " + " | ".join(f"{way.split(':')[0]} ms" for way in ways) + " |")
    print("|---" * (1 + len(ways)) + "|")
    for name in files:
        cells = []
        for way in ways:
            rounds = seen[name, way]
            ratios = np.array([in_probes(one) for one in rounds])
            off = 100 * np.sqrt(np.mean((ratios / np.median(ratios) - 1) ** 2))
            cells.append(f"{median(one.median_ms for one in rounds):.3f}, {np.median(ratios):.3f}, {off:.1f} %")
        print(f"| {name} | " + " | ".join(cells) + " |")


def search(files: dict[str, Path], seconds: float) -> None:
    """A table: what one measurement takes, and how often five processes were enough."""
    ways = ("0:0", "0:0.1", "5:0", "5:0.1", "5:0.2")
    settings = load_experiment("spaces/smoke.yaml").latency
    found: dict[str, list[tuple[str, float, int, float, float]]] = {way: [] for way in ways}
    began, turn = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        name = list(files)[turn % len(files)]
        for way in ways[:: 1 if turn % 2 == 0 else -1]:
            with timed_in(way):
                at = time.monotonic()
                (one,) = measure_files([files[name]], settings, device=Device(settings))
                found[way].append((name, time.monotonic() - at, one.all_rounds, one.quiet_ms, one.reached_percent))
        turn += 1
    print("| way | networks | five were enough | seconds each, sd | interval reached, % |\n|---|---|---|---|---|")
    for way, rows in found.items():
        took, reached = [row[1] for row in rows], [row[4] for row in rows]
        enough = sum(row[2] == 5 for row in rows)
        span = f"{min(reached):.1f} to {max(reached):.1f}, {median(reached):.1f}"
        print(f"| {way} | {len(rows)} | {enough} | {fmean(took):.1f}, {np.std(took):.1f} | {span} |")


def moments(file: Path, seconds: float) -> None:
    """How much of the time runs are a seventh slower than the quick ones, for how long, and what the probe tells."""
    device = Device(LatencySettings(threads=1))
    with timed_in(f"5:{seconds}", most=10**7):
        one = device.time(file, runs=10, shape=None)
    groups: list[list[int]] = [[]]
    for ns in one.times_ns:
        groups[-1].append(ns)
        if sum(groups[-1]) >= timing_worker.PROBE_EVERY_NS:
            groups.append([])
    runs = np.array([median(each) for each in groups if each])
    slow, probes = runs > 1.15 * np.quantile(runs, 0.1), np.array(one.probes_ns[1 : len(runs) + 1]) / 1e6
    edges = np.flatnonzero(np.diff(np.concatenate([[False], slow, [False]]).astype(int)))
    lasted = 7.2 * (edges[1::2] - edges[::2])
    print(f"{len(runs)} groups of 7.2 ms, {slow.mean():.1%} slow, in {len(lasted)} moments of", np.round(lasted), "ms")
    told = [np.round(np.quantile(probes[of], [0.1, 0.5, 0.9]), 2) for of in (~slow, slow)]
    print("probe beside quick and beside slow ones, deciles and median, ms:", *told)
    for length in (14, 28, 56, 100):
        windows = np.median(runs[: len(runs) // length * length].reshape(-1, length), axis=1)
        off = np.mean(windows > 1.1 * np.quantile(runs, 0.1))
        print(f"{off:.1%} of the rounds of {7.2 * length:.0f} ms would be off by a tenth")


def main() -> None:
    what, seconds = sys.argv[1], float(sys.argv[2])
    with tempfile.TemporaryDirectory() as place:
        specs = smoke_specs(2 if what == "levels" else 6)
        if what == "levels":
            specs += [replace(published("xxs"), resolution=side, name=f"xxs at {side}") for side in SIDES]
        outs = [Path(place) / str(i) for i in range(len(specs))]
        export_all(specs, outs)
        files = {spec.name: out / "model.onnx" for spec, out in zip(specs, outs, strict=True)}
        if what == "levels":
            levels(files, seconds, int(sys.argv[3]) if len(sys.argv) > 3 else 1)
        elif what == "search":
            search(files, seconds)
        else:
            moments(files["smoke-2"], seconds)


if __name__ == "__main__":
    main()
