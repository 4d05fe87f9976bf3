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
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from busy_machine import SETTLE_S, beside

from modscale.latency.raw import Measurement, read_measurements
from modscale.latency.summary import LOW, Round, beside_ms, best_reference_ms, drift_percent

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
    """`median_ms`."""
    place = measurement.rounds.index(tuple(rounds))
    return measurement.latencies()[place].median_ms


def all_times(rounds: Sequence[Round]) -> list[float]:
    return sorted(ns / 1e6 for one in rounds for ns in one.timings.times_ns)


def low(share: float) -> Callable[[Sequence[Round], Measurement], float]:
    """A quantile of all runs."""

    def figure(rounds: Sequence[Round], measurement: Measurement) -> float:
        times = all_times(rounds)
        return times[int(share * len(times))]

    return figure


def lowest(rounds: Sequence[Round], measurement: Measurement) -> float:
    """Mean of the fastest tenth of all runs."""
    times = all_times(rounds)
    return statistics.fmean(times[: max(1, len(times) // 10)])


def paired(rounds: Sequence[Round], measurement: Measurement) -> float:
    """Median over rounds of the ratio to the reference beside it, times the reference's quiet level."""
    if tuple(rounds) == measurement.references:
        return best_reference_ms(measurement.references)
    beside = beside_ms(rounds, measurement.references)
    ratios = [one.median_ms / statistics.fmean(ms) for one, ms in zip(rounds, beside, strict=True) if ms]
    return statistics.median(ratios) * best_reference_ms(measurement.references)


FIGURES: dict[str, Callable[[Sequence[Round], Measurement], float]] = {
    "median of the medians of quiet rounds (`median_ms`)": steady,
    "median of the medians of all rounds": lambda rounds, _: statistics.median(one.median_ms for one in rounds),
    "median of the ratios to the reference beside each round": paired,
    "mean of all runs (the paper's, `mean_ms`)": lambda rounds, _: statistics.fmean(all_times(rounds)),
    "median of all runs": lambda rounds, _: statistics.median(all_times(rounds)),
    "20th percentile of all runs": low(0.2),
    "10th percentile of all runs": low(0.1),
    "5th percentile of all runs (reported where there is no probe)": low(LOW),
    "2nd percentile of all runs": low(0.02),
    "mean of the fastest tenth": lowest,
    "fastest run": low(0.0),
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
        reported = list(zip(*(one.latencies() for one in pair), strict=True))
        quiet = [100 * abs(b.quiet_ms / a.quiet_ms - 1) for a, b in reported]
        units = [100 * abs(b.relative / a.relative - 1) for a, b in reported]
        for name, found_percent in (("quiet_ms", quiet), ("relative", units)):
            middle, most = statistics.median(found_percent), max(found_percent)
            print(f"\n`{name}` as reported differs by {middle:.2f} % (median), {most:.2f} % at most;", end=" ")
        within = sum(abs(a.quiet_ms - b.quiet_ms) <= math.hypot(a.quiet_ci95_ms, b.quiet_ci95_ms) for a, b in reported)
        print(f"\nof {len(reported)} networks {within} agree in `quiet_ms` within the two intervals together;", end=" ")
        agree = sum(
            abs(a.relative - b.relative) <= math.hypot(*(one.relative_ci95 or math.inf for one in (a, b)))
            for a, b in reported
        )
        print(f"{agree} in `relative`")
        medians = sum(abs(a.median_ms - b.median_ms) <= math.hypot(a.ci95_ms, b.ci95_ms) for a, b in reported)
        halves = statistics.median(100 * one.ci95_ms / one.median_ms for each in reported for one in each)
        print(f"(`median_ms`: {medians}, with an interval of {halves:.1f} % in the middle)")


def figure_of_reference(name: str, measurement: Measurement) -> float:
    """The same figure of the reference itself; where only quiet rounds count, its best."""
    references = measurement.references
    if name == next(iter(FIGURES)):
        return best_reference_ms(references)
    return FIGURES[name](references, measurement)


if __name__ == "__main__":
    main()
