"""Does a model fitted to a search's own trials rank them better than their raw scores do?

    python benchmarks/search_table.py --seed 1 --first 40 --out benchmarks/search_table_seed1.jsonl    # the truth
    python benchmarks/proxy_smoothing.py

A search of N networks is N rows of `search_table.jsonl` drawn at random among those that the second table has. Raw is
each one's loss, or the share it gets wrong, with seed 0; smoothed is the posterior mean of the search's own Gaussian
process (`searching/surrogate.py`, the noise the most likely of its grid) at the very networks it was fitted to; `line`
is a least-squares line in the logarithms of params and FLOPs, which forgets all else; `both` is half raw, half
smoothed. The truth is the loss of the same networks trained on other generated images with other initial weights and
another order: as noisy as the raw loss but independent of it, so that all taus are too low alike and only their order
counts.

`picked` is by how much the truth of the network that has the best score lies above the best truth of the N, in standard
deviations of the truth. Means over 200 searches; ± are standard errors of the difference to raw, over searches (which
share networks).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from search_replay import key
from search_table import SPACE, TABLE, read_rows

from modscale.analysis.rank_correlation import kendall_tau
from modscale.runs.experiment import load_experiment
from modscale.searching.draws import iter_feasible
from modscale.searching.surrogate import describe_rows, describe_slopes, fit_process
from modscale.spaces.tables import build_tables

TRUTH = Path(__file__).parent / "search_table_seed1.jsonl"
SEARCHES = 200
SCORES = {"loss at a quarter": (0, "loss"), "loss at half": (1, "loss"), "loss": (2, "loss"), "error": (2, "accuracy")}


def tau_of(score: np.ndarray, truth: np.ndarray) -> float:
    return float(kendall_tau(score[None], truth[None])[0])


def smoothed(features: np.ndarray, slopes: np.ndarray, values: np.ndarray) -> np.ndarray:
    process = fit_process(features, slopes, values, logarithmic=True)
    return process.draw(features, slopes, np.zeros((1, len(values))))[0]


def lined(logs: np.ndarray, values: np.ndarray) -> np.ndarray:
    x = np.column_stack([np.ones(len(logs)), logs])
    return x @ np.linalg.lstsq(x, values, rcond=None)[0]


def main() -> None:
    space = load_experiment(SPACE).space
    tables = build_tables(space)
    place = {}
    for row in iter_feasible(tables):
        options = tables.choice(row)
        place[key({p.name: p.label(options[p.name]) for p in space.searched})] = row
    first = {key(row["choice"]): row for row in read_rows(TABLE)}
    second: dict[str, Any] = {key(row["choice"]): row for row in read_rows(TRUTH)}
    names = [name for name in second if name in first]
    rows = np.stack([place[name] for name in names])
    logs = np.log([[first[n]["params"], first[n]["flops"]] for n in names])
    truth = np.log([second[n]["rungs"][-1]["loss"] for n in names])
    print(f"{len(names)} networks; tau of params with the truth {tau_of(-logs[:, 0], truth):+.2f}\n")
    print("| score | N | raw | smoothed | line | both | smoothed - raw | picked: raw | smoothed | line |")
    print("|---|--:" + "|--:" * 8 + "|")
    rng = np.random.default_rng(0)
    features = describe_rows(tables, rows)
    for label, (rung, kind) in SCORES.items():
        values = np.array([first[n]["rungs"][rung][kind] for n in names])
        loss = np.log(values if kind == "loss" else 1 - values)
        for count in (10, 20, len(names)):
            found = []
            for _ in range(SEARCHES if count < len(names) else 1):
                some = rng.permutation(len(names))[:count]
                sizes = (logs[some] - logs[some].mean(0)) / np.maximum(logs[some].std(0), 1e-9)
                slopes = describe_slopes(tables, rows[some], features[some], sizes)
                raw, real = loss[some], truth[some]
                ways = [raw, np.log(smoothed(features[some], slopes, np.exp(raw))), lined(logs[some], raw)]
                taus = [tau_of(way, real) for way in (*ways, (ways[0] + ways[1]) / 2)]
                found.append([*taus, *((real[way.argmin()] - real.min()) / real.std() for way in ways)])
            mean, gain = np.mean(found, axis=0), np.array(found)[:, 1] - np.array(found)[:, 0]
            error = f" ± {gain.std(ddof=1) / len(gain) ** 0.5:.3f}" if len(gain) > 1 else ""
            cells = [*(f"{value:+.2f}" for value in mean[:4]), f"{gain.mean():+.3f}{error}"]
            cells += [f"{value:.2f}" for value in mean[4:]]
            print(f"| {label} | {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
