"""What neighbours cost a timing process that goes before all others, and one that may not.

    python benchmarks/going_first.py --neighbours 1 3 --rounds 4 --rows benchmarks/going_first.jsonl

xxs and s are exported, and timed by fresh processes of 40 runs in turns: as they are, which go first where the system
lets them (root), and with the right to that given up, as an ordinary user's; quiet, and beside processes that never
rest. One JSON line a process; the table is of all that stand in the file. The machine has two speeds with two threads:
"quicker" is of the processes, so many, in which the probe took no longer than 1.15 times the least it took in any.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from busy_machine import beside

from modscale.deploy.export import export_all
from modscale.files import scratch_folder
from modscale.latency.device import Device
from modscale.lines import append_line
from modscale.settings import UNSTEADY, LatencySettings, Target
from modscale.specs.published import published

MODELS = ("xxs", "s")
RUNS = 40
ORDINARY = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 23); os.execv(sys.executable, [sys.executable, '-'])"
"""Gives the right to a negative nice value up (PR_CAPBSET_DROP, CAP_SYS_NICE), for a Python that reads its program."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[1, 3], help="processes that never rest")
    parser.add_argument("--rounds", type=int, default=4, help="processes of each kind; 0 only prints the table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines, added to")
    options = parser.parse_args()
    with scratch_folder() as folder:
        if options.rounds:
            export_all([published(name) for name in MODELS], [folder / name for name in MODELS])
        for _ in range(options.rounds):
            for neighbours in (0, *options.neighbours):
                with beside(neighbours):
                    take(folder, neighbours, options)
    show([json.loads(line) for line in options.rows.read_text().splitlines()])


def take(folder: Path, neighbours: int, options: argparse.Namespace) -> None:
    """A process of each kind for each model, added to the rows."""
    ordinary = Target(command=(sys.executable, "-c", ORDINARY), name="ordinary")
    for target in (None, ordinary):
        device = Device(LatencySettings(threads=options.threads, target=target))
        for name in MODELS:
            timings = device.time(folder / name / "model.onnx", runs=RUNS, shape=(1, 3, 224, 224))
            row = {"model": name, "neighbours": neighbours, "threads": options.threads, "nice": device.facts["nice"]}
            row |= {"median_ms": round(timings.median_ms, 3), "probe_ms": round(timings.probe_ms, 3)}
            append_line(options.rows, row)


def show(rows: list[dict[str, Any]]) -> None:
    print("| neighbours | nice | model | median ms of each process | median | quicker |\n|--:|--:|---|---|--:|--:|")
    limit_ms = UNSTEADY * min(row["probe_ms"] for row in rows)
    kinds = dict.fromkeys((row["neighbours"], row["nice"], row["model"]) for row in rows)
    for kind in sorted(kinds):
        some = [row for row in rows if (row["neighbours"], row["nice"], row["model"]) == kind]
        each = [row["median_ms"] for row in some]
        quick = [row["median_ms"] for row in some if row["probe_ms"] <= limit_ms]
        quicker = f"{median(quick):.1f} ({len(quick)})" if quick else ""
        told = ", ".join(f"{ms:.1f}" for ms in each)
        print(f"| {kind[0]} | {kind[1]} | {kind[2]} | {told} | {median(each):.1f} | {quicker} |")


if __name__ == "__main__":
    main()
