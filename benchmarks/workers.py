"""What more workers are worth: the time of a search with one and with several, and what a window costs its front.

    python benchmarks/workers.py times --trials 5 --rounds 1       # alternates --workers 1 and 2
    python benchmarks/workers.py windows --seeds 16 --budget 50    # replays on search_table.jsonl
    python benchmarks/workers.py summary

Both add to workers.jsonl. `times` takes the wall time of whole commands on the same space with the same window, so that
the same networks are measured. `windows` has the surrogate draw trial n by trials 0 to n - W; `ignored` leaves out of
its model what is under way, as a search does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from search_replay import SCORES, curves_of, key
from search_table import SPACE, TABLE, append, read_rows

from modscale.runs.experiment import Experiment, load_experiment
from modscale.runs.trials import Trial
from modscale.searching import study as studies
from modscale.searching.study import SearchStudy
from modscale.spaces.tables import build_tables

OUT = Path(__file__).parent / "workers.jsonl"
AT = (10, 12, 16, 20, 30, 50)
"""Trials after which hypervolumes are told."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("times", "windows", "summary"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--space", default="mobile", help="what the timed searches extend")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--reverse", action="store_true", help="the largest number of workers first")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 2, 3, 4, 6, 8, 12])
    options = parser.parse_args()
    if options.what == "times":
        for round_ in range(options.rounds):
            for workers in sorted(options.workers, reverse=options.reverse != bool(round_ % 2)):
                row = time_search(options.space, options.trials, workers, options.window)
                print(json.dumps(row), flush=True)
                append(options.out, row)
    if options.what == "windows":
        experiment, table = load_experiment(SPACE), read_rows(TABLE)
        for seed in range(options.seeds):
            for score in ("estimate", "loss"):
                for window in options.windows:
                    for ignored in (False, True) if window > 1 else (False,):
                        append(options.out, replay(experiment, table, score, window, seed, options.budget, ignored))
    print(summary(read_rows(options.out)))


def time_search(space: str, trials: int, workers: int, window: int) -> dict[str, Any]:
    """A search of so many trials without references or finals, as a command."""
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "timed.yaml", Path(folder) / "run"
        file.write_text(f"extends: {space}\nname: timed\nsearch: {{trials: {trials}, references: [], finals: false}}\n")
        command = [sys.executable, "-m", "modscale", "search", str(file), "--out", str(run)]
        command += ["--workers", str(workers), "--window", str(window)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
        rounds = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
        timing_s = sum(one.get("seconds", 0.0) for one in rounds)
    lines.sort(key=lambda line: line["number"])
    return {
        "kind": "times", "space": space, "trials": trials, "workers": workers, "window": window,
        "seconds": round(seconds, 1), "timing_s": round(timing_s, 1), "rounds": len(rounds),
        "trial_seconds": [round(line["seconds"], 1) for line in lines],
        "latency_ms": [line["latency_ms"] for line in lines], "accuracy": [line.get("accuracy") for line in lines],
        "wide": sum(bool(line.get("latency_wide")) for line in lines), "at": time.strftime("%H:%M"),
    }  # fmt: skip


def replay(
    experiment: Experiment, table: list[Any], score: str, window: int, seed: int, budget: int, ignored: bool
) -> dict[str, Any]:
    """A search on the table, told of trials 0 to n - W as it draws trial n: the rows in the order it took them."""
    search = replace(experiment.search, sampler="surrogate", startup_trials=4, seed=seed)
    study = SearchStudy(replace(experiment, search=search), build_tables(experiment.space), seed=seed)
    place = {key(row["choice"]): i for i, row in enumerate(table)}
    order: list[int] = []
    trials: list[Trial] = []
    with ignoring(ignored):
        for number in range(budget):
            if number >= window:
                study.tell(trials[number - window])
            candidate = study.ask()
            assert candidate is not None
            order.append(place[key(candidate.choice)])
            row = table[order[-1]]
            results = {"params": row["params"], "flops": row["flops"], "accuracy": SCORES[score](row)}
            trials.append(
                Trial(
                    number=number, state="complete", spec=candidate.spec, results=results, seconds=0.0,
                    choice=candidate.choice,
                )
            )  # fmt: skip
    return {"kind": "window", "score": score, "window": window, "ignored": ignored, "seed": seed, "order": order}


@contextmanager
def ignoring(is_so: bool) -> Iterator[None]:
    """The surrogate is told nothing of what is under way."""
    propose = studies.propose
    if is_so:
        studies.propose = lambda *arguments, waiting, **named: propose(*arguments, **named)
    try:
        yield
    finally:
        studies.propose = propose


def summary(rows: list[Any]) -> str:
    lines = []
    table = read_rows(TABLE)
    for score in ("estimate", "loss"):
        lines += [
            f"\n`{score}`:\n",
            f"| W | under way | seeds | {' | '.join(map(str, AT))} |",
            "|--:|---|--:" + "|--:" * len(AT) + "|",
        ]
        groups: dict[tuple[int, bool], list[Any]] = {}
        for row in rows:
            if row["kind"] == "window" and row["score"] == score:
                groups.setdefault((row["window"], row["ignored"]), []).append(row)
        for (window, ignored), group in sorted(groups.items()):
            areas, _ = curves_of(table, group)
            cells = [f"{np.mean(areas[:, at - 1]):.3f} ± {np.std(areas[:, at - 1], ddof=1) / len(areas) ** 0.5:.3f}"
                     if at <= areas.shape[1] and len(areas) > 1 else "" for at in AT]  # fmt: skip
            lines.append(f"| {window} | {'ignored' if ignored else 'believed'} | {len(areas)} | {' | '.join(cells)} |")
    head = ("space", "trials", "workers", "W", "seconds", "of them timing", "wide latencies", "at")
    lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    shown = ("space", "trials", "workers", "window", "seconds", "timing_s", "wide", "at")
    lines += [f"| {' | '.join(str(row.get(key, '')) for key in shown)} |" for row in rows if row["kind"] == "times"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
