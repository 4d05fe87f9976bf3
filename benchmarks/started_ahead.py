"""Whether a process that was started ahead times as one that is started when its turn comes does, and what it saves.

    python benchmarks/started_ahead.py --seconds 200 --out benchmarks/started_ahead.jsonl
    python benchmarks/started_ahead.py --out benchmarks/started_ahead.jsonl --summary

Each model and the reference is timed in both ways in turn, in an order that changes every round, in fresh processes of
20 runs as a search has them. A row is a process. The ratios are of the two ways' figures as `latency/summary.py` has
them, with 95 % intervals by bootstrap over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from modscale.deploy.export import export_all
from modscale.latency.device import Device
from modscale.latency.protocol import REFERENCE
from modscale.settings import LatencySettings
from modscale.specs.published import published

WAYS = ("at its turn", "ahead")
SIDE = 4
"""Processes that are started together in a search that times three models in turns."""


def main() -> None:
    take_and_tell(__doc__ or "", take, tell, seconds=200.0)


def take_and_tell(
    doc: str,
    take: Callable[[argparse.Namespace], None],
    tell: Callable[[list[dict[str, object]]], None],
    *,
    seconds: float,
) -> None:
    """A benchmark of fresh processes: rows are taken for so many seconds, unless only a summary is asked for."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["xxs", "xs", "s_conv"])
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", action="store_true", help="of what is there")
    options = parser.parse_args()
    if not options.summary:
        take(options)
    tell([json.loads(line) for line in options.out.read_text().splitlines()])


def files_to_time(models: Sequence[str], folder: Path) -> dict[str, Path]:
    """The reference and the models, exported there, by name."""
    outs = [folder / name for name in models]
    export_all([published(name) for name in models], outs)
    return {"reference": REFERENCE.file} | {out.name: out / "model.onnx" for out in outs}


def take(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = files_to_time(options.models, Path(folder))
        device = Device(LatencySettings(threads=options.threads))
        end = time.monotonic() + options.seconds
        with options.out.open("a") as stream:
            for number in itertools.count():
                if time.monotonic() > end:
                    break
                for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                    began = time.monotonic()
                    if way == "ahead":
                        device.start(SIDE)
                    start_s = (time.monotonic() - began) / SIDE
                    for name, file in files.items():
                        began = time.monotonic()
                        timings = device.time(file, runs=10 if name == "reference" else 20, shape=None)
                        seconds = time.monotonic() - began + (start_s if way == "ahead" else 0.0)
                        row = {"round": number, "way": way, "model": name, "seconds": seconds}
                        print(json.dumps({**row, "times_ns": timings.times_ns}), file=stream, flush=True)


def tell(rows: list[dict[str, object]]) -> None:
    rng = np.random.default_rng(0)
    rounds = max(int(str(row["round"])) for row in rows) + 1
    print("| model | rounds | seconds of a process, at its turn and ahead | 5th percentile ms | ahead / at its turn "
          "(95 %) | median ms | ahead / at its turn (95 %) |")  # fmt: skip
    print("|---|--:|---|---|---|---|---|")
    for model in dict.fromkeys(row["model"] for row in rows):
        taken = {way: [row for row in rows if (row["model"], row["way"]) == (model, way)] for way in WAYS}
        times = {way: [np.array(row["times_ns"]) / 1e6 for row in each] for way, each in taken.items()}
        seconds = [np.median([float(str(row["seconds"])) for row in taken[way]]) for way in WAYS]
        cells = [f"{seconds[0]:.2f}, {seconds[1]:.2f}"]
        for figure in (low, middle):
            at = [figure(times[way]) for way in WAYS]
            drawn = []
            for _ in range(2000):
                picks = rng.integers(0, len(times["ahead"]), len(times["ahead"]))
                drawn.append(np.divide(*(figure([times[way][i] for i in picks]) for way in WAYS[::-1])))
            ends = np.quantile(drawn, [0.025, 0.975])
            cells += [f"{at[0]:.2f}, {at[1]:.2f}", f"{at[1] / at[0]:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"]
        print(f"| {model} | {rounds} | {' | '.join(cells)} |")


def low(processes: list[np.ndarray]) -> float:
    """The 5th percentile of all runs."""
    return float(np.quantile(np.concatenate(processes), 0.05))


def middle(processes: list[np.ndarray]) -> float:
    """The median of the processes' medians."""
    return float(np.median([np.median(one) for one in processes]))


if __name__ == "__main__":
    main()
