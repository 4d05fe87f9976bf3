"""What more workers are worth: the time of a search with one and with several, and what a window costs its front.

    python benchmarks/workers.py times --trials 6 --rounds 2       # alternates --workers 1 and 2: 1, 2, 2, 1
    python benchmarks/workers.py times --whole --tree old=../old --cases old:1 2    # the search as it is; other code
    python benchmarks/workers.py windows --seeds 16 --budget 50    # replays on search_table.jsonl
    python benchmarks/workers.py summary

Both add to workers.jsonl. `times` takes the wall time of whole commands on the same space with the same window, so that
the same networks are measured; beside it stands where the seconds went, and what the reference network took meanwhile.
`windows` has the surrogate draw trial n by trials 0 to n - W; `ignored` leaves out of its model what is under way, as a
search does not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from search_replay import SCORES, curves_of, key
from search_table import SPACE, TABLE, append, read_rows

from modscale.document import read_yaml
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
    parser.add_argument("--cases", nargs="+", default=["1", "2"], help="numbers of workers; NAME:N by a --tree's code")
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--reverse", action="store_true", help="the last case first")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 2, 3, 4, 6, 8, 12])
    parser.add_argument("--default-window", action="store_true", help="that of so many workers, in place of --window")
    parser.add_argument("--whole", action="store_true", help="all trials of the space, its references and finals too")
    parser.add_argument("--tree", action="append", default=[], help="NAME=FOLDER: another checkout of modscale")
    if sys.argv[1:2] == ["watched"]:
        watched(Path(sys.argv[2]), sys.argv[3:])
        return
    options = parser.parse_args()
    if options.what == "times":
        trees = dict(tree.split("=", 1) for tree in options.tree)
        for round_ in range(options.rounds):
            for case in options.cases[:: -1 if options.reverse != bool(round_ % 2) else 1]:
                code, _, workers = case.rpartition(":")
                window = None if options.default_window else options.window
                trials = None if options.whole else options.trials
                row = time_search(options.space, trials, int(workers), window, code, trees.get(code, ""))
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


def time_search(
    space: str, trials: int | None, workers: int, window: int | None, code: str, tree: str
) -> dict[str, Any]:
    """A search of so many trials without references or finals, or the whole one, as a command by the code of `tree`."""
    with tempfile.TemporaryDirectory() as folder:
        file, run, events = Path(folder) / "timed.yaml", Path(folder) / "run", Path(folder) / "events.json"
        cut = "" if trials is None else f"search: {{trials: {trials}, references: [], finals: false}}\n"
        file.write_text(f"extends: {space}\nname: timed\n{cut}")
        command = [sys.executable, __file__, "watched", str(events), "search", str(file), "--out", str(run)]
        command += ["--workers", str(workers), *([] if window is None else ["--window", str(window)])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (tree, os.environ.get("PYTHONPATH"))))}
        start = time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.time() - start
        lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
        rounds = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
        heard = json.loads(events.read_text())
        settings: Any = read_yaml(run / "run.yaml")
    lines.sort(key=lambda line: line["number"])
    taken = [one for one in rounds if "seconds" in one]
    levels = [median(one["times_ns"]) / 1e6 for one in taken if one["model"] is None]
    return {
        "kind": "times", "space": space, "trials": len(lines), "whole": trials is None, "code": code,
        "workers": workers, "window": settings["space"]["search"]["window"], "seconds": round(seconds, 1),
        "timing_s": round(sum(one["seconds"] for one in taken), 1), "rounds": len(taken),
        "phases": phases(heard["events"], start, start + seconds), "cpu_s": round(heard["cpu_s"], 1),
        "reference_ms": round(fmean(levels), 2), "reference_best_ms": round(min(levels), 2),
        "trial_seconds": [round(line["seconds"], 1) for line in lines],
        "latency_ms": [line["latency_ms"] for line in lines],
        "relative": [line.get("latency_relative") for line in lines],
        "relative_ci95": [line.get("latency_relative_ci95") for line in lines],
        "accuracy": [line.get("accuracy") for line in lines],
        "reference_levels_ms": [round(level, 2) for level in levels],
        "wide": sum(bool(line.get("latency_wide")) for line in lines), "at": time.strftime("%H:%M"),
    }  # fmt: skip


def watched(out: Path, arguments: list[str]) -> None:
    """The command, with every moment that its watcher hears of written to `out` as [time, kind, label, text]."""
    from modscale.api import session
    from modscale.cli import progress
    from modscale.cli.main import main as command

    events: list[tuple[float, str, str, str]] = [(time.time(), "started", "", "")]

    class Hearing(progress.Terminal):
        def say(self, text: str) -> None:
            events.append((time.time(), "say", "", text))
            super().say(text)

        @contextmanager
        def searching(self, **counts: Any) -> Iterator[Any]:
            events.append((time.time(), "searching", "", ""))
            with super().searching(**counts) as inner:
                for kind in ("started", "stage", "finished"):
                    setattr(inner, kind, hearing(kind, getattr(inner, kind)))
                yield inner
            events.append((time.time(), "searched", "", ""))

    def hearing(kind: str, call: Any) -> Any:
        def hear(*arguments: Any, **named: Any) -> None:
            told = (*arguments[1:], *named.values(), "")[0]
            text, label = (arguments[0], told) if kind == "stage" else ("", arguments[0])
            events.append((time.time(), kind, label, text))
            call(*arguments, **named)

        return hear

    def report(folder: Path) -> Any:
        events.append((time.time(), "reporting", "", ""))
        return report_run(folder)

    report_run, session.report_run = session.report_run, report
    progress.Terminal = Hearing  # type: ignore[misc]
    code = command(arguments)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(one.ru_utime + one.ru_stime for one in used)
    out.write_text(json.dumps({"events": events, "cpu_s": cpu_s}))
    sys.exit(code)


def phases(events: list[Any], start: float, end: float) -> dict[str, float]:
    """Where the seconds went. `import`, `data`, `search`, `finals` and `report` follow each other.

    Within `search` the timing is wall time; every other stage is the sum over all workers, without what was timed
    meanwhile.
    """
    at = {kind: moment for moment, kind, _, _ in events}
    loading = next(moment for moment, kind, _, text in events if kind == "say" and text.startswith("loading the data"))
    spans: dict[str, list[tuple[float, float]]] = {}
    under_way: dict[str, tuple[str, float]] = {}
    for moment, kind, label, text in events:
        if kind in ("stage", "finished") and label in under_way:
            stage, began = under_way.pop(label)
            spans.setdefault(stage, []).append((began, moment))
        if kind == "stage" and text:
            under_way[label] = (text, moment)
    still = united(spans.pop("latency", []))
    found = {
        "import": loading - start, "data": at["searching"] - loading, "search": at["searched"] - at["searching"],
        "finals": at["reporting"] - at["searched"], "report": end - at["reporting"],
        "timing": sum(b - a for a, b in still),
    }  # fmt: skip
    for stage, each in spans.items():
        found[stage] = sum(b - a - sum(max(0.0, min(b, d) - max(a, c)) for c, d in still) for a, b in each)
    return {key: round(value, 1) for key, value in found.items()}


def united(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same moments in spans that do not overlap."""
    found: list[tuple[float, float]] = []
    for a, b in sorted(spans):
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(b, found[-1][1]))
        else:
            found.append((a, b))
    return found


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
    head = {"at": "at", "code": "code", "trials": "trials", "whole": "whole", "workers": "workers", "window": "W",
            "seconds": "seconds", "timing_s": "of them timing", "rounds": "rounds", "wide": "wide latencies",
            "reference_ms": "reference ms"}  # fmt: skip
    lines += ["", f"| {' | '.join(head.values())} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(str(row.get(key, '')) for key in head)} |" for row in rows if row["kind"] == "times"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
