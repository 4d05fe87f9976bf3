"""How fast a space is counted: the tables against fvcore traces, in turn on one core, and the census of three spaces.

Run `python benchmarks/counting.py`; it prints the tables of `counting.md`.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modscale.models.fvcore_trace import trace_model
from modscale.runs.experiment import load_experiment
from modscale.spaces.census import take_census
from modscale.spaces.feasibility import require_feasible
from modscale.spaces.space import Space, parse_space
from modscale.spaces.tables import build_tables

ARCHITECTURES = 1_000_000
TRACES = 4
ROUNDS = 5
MOBILE = Path(__file__).parents[1] / "spaces" / "mobile.yaml"
LIMITS = {"params": {"max": 14.0e6}, "flops": {"max": 1.6e9}, "widths": "nondecreasing"}


def wide_document(name: str, depth: int) -> dict[str, Any]:
    """A space of the shape of `mobile`, with finer ranges."""
    return {
        "name": name,
        "constraints": LIMITS,
        "stages": [
            {"dim": {"low": 24, "high": 72, "step": 8}, "depth": {"low": 1, "high": depth}, "expansion": [2, 3, 4, 6]},
            {"dim": {"low": 48, "high": 128, "step": 16}, "depth": {"low": 1, "high": depth}, "expansion": [2, 3, 4, 6],
             "attention_depth": {"low": 0, "high": 3}},
            {"dim": {"low": 96, "high": 256, "step": 32}, "depth": {"low": 1, "high": depth + 4},
             "expansion": [2, 3, 4, 6], "attention_depth": {"low": 0, "high": 4}},
            {"dim": {"low": 192, "high": 512, "step": 64}, "depth": {"low": 1, "high": depth + 2},
             "expansion": [2, 3, 4, 6], "attention_depth": {"low": 0, "high": 4}},
        ],
    }  # fmt: skip


def fine_document(name: str, step: int, depths: tuple[int, int, int, int], kernels: list[int]) -> dict[str, Any]:
    """Widths in small steps: many at which the halves are cut, and few partial sums that coincide."""
    ends = ((16, 64, step), (32, 128, step), (64, 256, step), (128, 512, 2 * step))
    return {
        "name": name,
        "constraints": LIMITS,
        "stages": [
            {"dim": {"low": low, "high": high, "step": by}, "depth": {"low": 1, "high": depth},
             "expansion": [2, 3, 4, 5, 6], "kernel_size": kernels,
             "attention_depth": {"low": 0, "high": 4} if i >= 2 else 0}
            for i, ((low, high, by), depth) in enumerate(zip(ends, depths, strict=True))
        ],
    }  # fmt: skip


def compare_rates(space: Space) -> None:
    tables = build_tables(space)
    rng = np.random.default_rng(0)
    table_rates, mask_rates, trace_rates = [], [], []
    for _ in range(ROUNDS):
        rows = tables.sample(rng, ARCHITECTURES)
        start = time.perf_counter()
        params, flops = tables.count(rows)
        table_rates.append(ARCHITECTURES / (time.perf_counter() - start))
        start = time.perf_counter()
        tables.feasible(rows)
        mask_rates.append(ARCHITECTURES / (time.perf_counter() - start))
        specs = [tables.spec(row) for row in rows[:TRACES]]
        start = time.perf_counter()
        traced = [trace_model(spec) for spec in specs]
        trace_rates.append(TRACES / (time.perf_counter() - start))
        assert traced == list(zip(params[:TRACES], flops[:TRACES], strict=True)), "the counts differ"
    print("| path | architectures a second (median) | slowest and fastest round |")
    print("|---|---|---|")
    for name, rates in (("`count`", table_rates), ("`feasible`", mask_rates), ("fvcore trace", trace_rates)):
        print(f"| {name} | {statistics.median(rates):,.1f} | {min(rates):,.1f} to {max(rates):,.1f} |")
    ratios = [fast / slow for fast, slow in zip(table_rates, trace_rates, strict=True)]
    print(f"\n`count` to fvcore, round by round: {min(ratios):,.0f} to {max(ratios):,.0f} times.\n")


def time_censuses(spaces: list[Space]) -> None:
    print("| space | architectures | feasible | distinct networks | `require_feasible` | `take_census`, wall (CPU) |")
    print("|---|---|---|---|---|---|")
    for space in spaces:
        start = time.perf_counter()
        require_feasible(space)
        quick = time.perf_counter() - start
        start, cpu = time.perf_counter(), time.process_time()
        census = take_census(space)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        low, high = census.feasible_interval
        feasible = f"{low:,}" if census.exact else f"{low:,} to {high:,} (95 %, {census.draws:,} draws)"
        print(
            f"| {space.name} | {census.size:,} | {feasible} | {census.distinct:,} | {quick:.2f} s"
            f" | {wall:.1f} s ({cpu:.1f} s) |"
        )


def main() -> None:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, one core{load}\n")
    mobile = load_experiment(sys.argv[1] if len(sys.argv) > 1 else MOBILE).space
    compare_rates(mobile)
    if cores:
        os.sched_setaffinity(0, cores)
    time_censuses([
        mobile,
        load_experiment(MOBILE.with_name("gpu.yaml")).space,
        parse_space(wide_document("wide", 12)),
        parse_space(wide_document("wider", 24)),
        parse_space(fine_document("fine3e10", 8, (3, 3, 5, 4), [7])),
        parse_space(fine_document("fine", 8, (8, 8, 12, 8), [7])),
        parse_space(fine_document("finer", 4, (4, 4, 8, 6), [7])),
        parse_space(fine_document("huge", 4, (12, 12, 20, 12), [3, 5, 7])),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
