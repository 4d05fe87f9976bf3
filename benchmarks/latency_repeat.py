"""Whether a latency taken twice is the same: invocations of `modscale latency` on ten networks, quiet and busy.

    python benchmarks/latency_repeat.py --out repeat --take quiet-1 xxs xs s ...     # one invocation; again for quiet-2
    python benchmarks/latency_repeat.py --out repeat --take busy-1 --neighbours 1 xxs xs s ...
    python benchmarks/latency_repeat.py --out repeat                                 # the table of all that was taken

Each invocation is a command of its own and keeps its raw timings in `repeat/NAME.jsonl`; the table is made of those
alone, by every way of making one figure of the rounds that was considered. What is compared are invocations 1 and 2
of a situation: the difference of each network's figure in percent, as it is and in units of the reference of its own
invocation; told is the median over the networks, and the largest. Neighbours are processes that never rest, started by
this script and in the middle of nothing: beside one of them a figure is the neighbour's too, but must repeat.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from busy_machine import SETTLE_S, beside

from modscale.latency.raw import Measurement, read_measurements
from modscale.latency.summary import Round, best_reference_ms, drift_percent

TEN = ("xxs", "xs", "s", "s_conv", "xs_conv", "isotropic-6m", "van-b0", "focalnet-4m", "s_conv/separate-mlp",
       "xs_conv/mbconv")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=TEN, help="as `modscale latency` takes them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the raw timings")
    parser.add_argument("--take", help="take an invocation of this name: SITUATION-1, SITUATION-2")
    parser.add_argument("--neighbours", type=int, default=0, help="processes that never rest beside it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patience", type=float, default=16.0, help="seconds a model beyond the first rounds")
    options = parser.parse_args()
    if options.take:
        take(options)
    else:
        compare(options.out)


def take(options: argparse.Namespace) -> None:
    """One invocation, as a user types it."""
    options.out.mkdir(exist_ok=True)
    file = options.out / f"{options.take}.jsonl"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "modscale", "latency", *options.models, "--out", str(file)]
    command += ["--threads", str(options.threads), "--until", "1", "--patience", str(options.patience)]
    start = time.monotonic()
    with beside(options.neighbours):
        subprocess.run(command, check=True)
    print(f"{options.take}: {time.monotonic() - start - SETTLE_S:.0f} s")


def steady(rounds: Sequence[Round], measurement: Measurement) -> float:
    """What `modscale latency` reports."""
    place = measurement.rounds.index(tuple(rounds))
    return measurement.latencies()[place].median_ms


def all_times(rounds: Sequence[Round]) -> list[float]:
    return sorted(ns / 1e6 for one in rounds for ns in one.timings.times_ns)


FIGURES: dict[str, Callable[[Sequence[Round], Measurement], float]] = {
    "median of the medians of quiet rounds (reported)": steady,
    "median of the medians of all rounds": lambda rounds, _: statistics.median(one.median_ms for one in rounds),
    "mean of all runs (the paper's)": lambda rounds, _: statistics.fmean(all_times(rounds)),
    "median of all runs": lambda rounds, _: statistics.median(all_times(rounds)),
    "10th percentile of all runs (`relative`)": lambda rounds, _: statistics.quantiles(all_times(rounds), n=10)[0],
    "fastest run": lambda rounds, _: all_times(rounds)[0],
}


def compare(folder: Path) -> None:
    """The table, a situation after the other."""
    found = {file.stem: read_measurements(file)[-1] for file in sorted(folder.glob("*.jsonl"))}
    for name, one in found.items():
        rounds = sum(map(len, one.rounds))
        drift = drift_percent(one.references) or 0.0
        reached = sorted(latency.reached_percent for latency in one.latencies())
        print(
            f"{name}: {len(one.models)} networks, {rounds} rounds and {len(one.references)} of the reference"
            f" (best {best_reference_ms(one.references):.2f} ms, drift {drift:+.1f} %), intervals reached"
            f" {reached[0]:.1f} to {reached[-1]:.1f} %, median {statistics.median(reached):.1f} %"
        )
    for situation in dict.fromkeys(name.rpartition("-")[0] for name in found):
        pair = [found[name] for name in (f"{situation}-1", f"{situation}-2") if name in found]
        if len(pair) < 2:
            continue
        print(
            f"\n{situation}\n\n| figure | as it is: median, largest % | relative to the reference: median, largest % |"
        )
        print("|---|--:|--:|")
        for name, figure in FIGURES.items():
            values = [[figure(rounds, one) for rounds in one.rounds] for one in pair]
            units = [figure_of_reference(name, one) for one in pair]
            plain = [100 * abs(b / a - 1) for a, b in zip(*values, strict=True)]
            relative = [100 * abs(b / units[1] / (a / units[0]) - 1) for a, b in zip(*values, strict=True)]
            texts = [f"{statistics.median(each):.2f}, {max(each):.2f}" for each in (plain, relative)]
            print(f"| {name} | {texts[0]} | {texts[1]} |")


def figure_of_reference(name: str, measurement: Measurement) -> float:
    """The same figure of the reference itself; where only quiet rounds count, its best."""
    references = measurement.references
    if name == next(iter(FIGURES)):
        return best_reference_ms(references)
    return FIGURES[name](references, measurement)


if __name__ == "__main__":
    main()
