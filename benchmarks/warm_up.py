"""How many runs a model needs before the first timed one: run by run without any, and what two warm-ups come to.

    python benchmarks/warm_up.py --seconds 120 --out benchmarks/warm_up.jsonl
    python benchmarks/warm_up.py --out benchmarks/warm_up.jsonl --summary

Every model and the reference is timed in fresh processes with each warm-up in turn, in an order that changes every
round. A row is a process. Figures are of rounds that the probe does not call slow, in terms of the probe's, with 95 %
intervals of the ratio by bootstrap over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from started_ahead import files_to_time, take_and_tell

from modscale.latency.device import Device
from modscale.settings import UNSTEADY, LatencySettings

WARM_UPS = (2, 5, 12)
"""Runs before the first timed one: the fewest there are, as by default, and as it was until then."""
RUNS = 20


def main() -> None:
    take_and_tell(__doc__ or "", take, tell, seconds=120.0)


def take(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = files_to_time(options.models, Path(folder))
        settings = LatencySettings(threads=options.threads)
        devices = {count: Device(replace(settings, warmup=count)) for count in WARM_UPS}
        end = time.monotonic() + options.seconds
        with options.out.open("a") as stream:
            for number in itertools.count():
                if time.monotonic() > end:
                    break
                for count in WARM_UPS[:: -1 if number % 2 else 1]:
                    for name, file in files.items():
                        devices[count].start(1)
                        began = time.monotonic()
                        found = devices[count].time(file, runs=RUNS, shape=None)
                        row = {"model": name, "warmup": count, "seconds": round(time.monotonic() - began, 4)}
                        row |= {"times_ns": found.times_ns, "probes_ns": found.probes_ns}
                        stream.write(json.dumps(row) + "\n")


def tell(rows: list[dict[str, object]]) -> None:
    probes = np.array([np.median(row["probes_ns"]) for row in rows])  # type: ignore[arg-type]
    limit = UNSTEADY * np.quantile(probes, 0.1)
    rng = np.random.default_rng(0)
    print(f"{len(rows)} processes, {np.mean(probes > limit):.0%} of them slow by the probe\n")
    print(
        "| model | runs before | processes | seconds of one | median ms | to 12 runs before (95 %) | first five runs |"
    )
    print("|---|--:|--:|--:|--:|--:|---|")
    for name in dict.fromkeys(str(row["model"]) for row in rows):
        values = {}
        for count in WARM_UPS:
            mine = [row for row, probe in zip(rows, probes, strict=True)
                    if (row["model"], row["warmup"]) == (name, count) and probe <= limit]  # fmt: skip
            times = np.array([row["times_ns"] for row in mine], dtype=float)
            beside = np.array([np.median(row["probes_ns"]) for row in mine])  # type: ignore[arg-type]
            values[count] = (np.median(times, axis=1) / beside, times, np.mean([row["seconds"] for row in mine]))  # type: ignore[misc]
        base = values[12][0]
        for count, (ratios, times, seconds) in values.items():
            draws = [
                np.median(rng.choice(ratios, len(ratios))) / np.median(rng.choice(base, len(base))) for _ in range(4000)
            ]
            low, high = np.quantile(draws, (0.025, 0.975))
            first = np.median(times / np.median(times[:, 5:], axis=1, keepdims=True), axis=0)[:5]
            level_ms = np.median(ratios) * np.median(probes[probes <= limit]) / 1e6
            ratio = f"{np.median(ratios) / np.median(base):.3f} ({low:.3f} to {high:.3f})"
            cells = [name, count, len(ratios), f"{seconds:.2f}", f"{level_ms:.2f}", ratio]
            cells.append(", ".join(f"{one:.3f}" for one in first))
            print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
