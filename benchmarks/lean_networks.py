"""What FLOPs are worth at a given number of params: by the paper's Table 1, and by the trainings of a run.

    python benchmarks/lean_networks.py [RUN/trials.jsonl ...]

Least squares of log-odds of top-1 on ln(params) and ln(FLOPs / params) over the paper's peers and own networks of
several sizes, with standard errors; of some trials.jsonl the same of ln(anchor's loss / loss). Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from peers import paper

from modscale.training.estimate import FITTED_FLOPS_PER_PARAM, evidence_of

LEAN = 140.0
"""FLOPs a param below which the hierarchical networks of the paper lie, its own and most peers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="trials.jsonl of runs")
    options = parser.parse_args()
    networks = paper()
    top1, _, params, flops = np.array(list(networks.values())).T
    ratio, odds = 1000 * flops / params, np.log(top1 / (100 - top1))
    low, high = FITTED_FLOPS_PER_PARAM
    print("| of | networks | FLOPs a param | by ln params | by ln FLOPs / params | left over |")
    print("|---|--:|--:|--:|--:|--:|")
    for label, kept in (
        ("Table 1", ratio > 0),
        (f"below {LEAN:.0f} FLOPs a param", ratio < LEAN),
        ("and no Mobile-Former", (ratio < LEAN) & np.array(["Former-508M" not in name for name in networks])),
        (f"{low:.0f} to {high:.0f}, as in the fit", (ratio >= low - 1) & (ratio <= high)),
    ):
        print_fit(f"log-odds of top-1, {label}", odds[kept], 1e6 * params[kept], 1e9 * flops[kept])
    for file in options.runs:
        rows = [row for row in map(json.loads, file.read_text().splitlines()) if row["state"] == "complete"]
        evidence = [evidence_of(row["val_loss"], row["anchor_loss"]) for row in rows]
        counts = (np.array([row[key] for row in rows], float) for key in ("params", "flops"))
        print_fit(f"evidence of the trainings of {file.parent.name}", evidence, *counts)


def print_fit(label: str, values: Sequence[float], params: np.ndarray, flops: np.ndarray) -> None:
    """A line of the table: the slopes with their standard errors."""
    x = np.stack([np.ones(len(params)), np.log(params), np.log(flops / params)], axis=1)
    slopes, *_ = np.linalg.lstsq(x, values, rcond=None)
    left = np.asarray(values) - x @ slopes
    errors = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * (left @ left) / (len(x) - x.shape[1]))
    by = [f"{slope:+.3f} ± {error:.3f}" for slope, error in zip(slopes[1:], errors[1:], strict=True)]
    ratio = flops / params
    print(f"| {label} | {len(x)} | {ratio.min():.0f} to {ratio.max():.0f} | {by[0]} | {by[1]} | {left.std():.3f} |")


if __name__ == "__main__":
    main()
