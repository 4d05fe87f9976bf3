"""What `search --dry-run` says against what the search then takes: seconds, memory, disk.

    python benchmarks/dry_run.py plan SPACE.yaml TRIALS    plans a search; adds a line to dry_run.jsonl
    python benchmarks/dry_run.py run SPACE.yaml TRIALS     makes it; likewise, to be compared with the plan before it
    python benchmarks/dry_run.py                           prints the table

Each is a whole process of its own, timed from outside. Memory is the sum of the resident sizes of the search and all
of its processes, looked at twenty times a second: what they share counts twice. `reference` is the latency of the
reference network meanwhile, the median over all that was timed: how fast the machine was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROWS = Path(__file__).with_suffix(".jsonl")
LOOK_S = 0.05


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and all that it started."""
    parents, sizes = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            parents[int(entry.name)], sizes[int(entry.name)] = int(fields[1]), int(fields[21])
    page = os.sysconf("SC_PAGE_SIZE")
    ours = {pid}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return page * sum(sizes.get(one, 0) for one in ours)


def run(command: list[str]) -> tuple[str, float, int]:
    """Its standard output, seconds, and most bytes."""
    began, most = time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None:
            most = max(most, tree_bytes(process.pid))
            time.sleep(LOOK_S)
        assert process.stdout is not None
        assert process.returncode == 0, command
        return process.stdout.read(), time.monotonic() - began, most


def reference_ms(folder: Path) -> float:
    """Median over the trials of the reference's latency beside them."""
    lines = [json.loads(line) for file in ("trials", "references") for line in read(folder / f"{file}.jsonl")]
    return median(line["latency_reference_ms"] for line in lines)


def read(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def plan(space: str, trials: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        told, seconds, _ = run([*search(space, trials, folder), "--dry-run"])
        assert not folder.exists()
    return {"seconds": seconds, "plan": json.loads(told)}


def take(space: str, trials: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        _, seconds, memory = run(search(space, trials, folder))
        return {
            "seconds": seconds,
            "trial_s": [round(json.loads(line)["seconds"], 1) for line in read(folder / "trials.jsonl")],
            "references_s": [round(json.loads(line)["seconds"], 1) for line in read(folder / "references.jsonl")],
            "finals": len(json.loads((folder / "finals.json").read_text())["finals"]),
            "reference_ms": reference_ms(folder),
            "memory_bytes": memory,
            "disk_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        }


def search(space: str, trials: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "modscale", "search", space, "--trials", trials, "--out", str(folder), "--json"]


def main() -> None:
    if len(sys.argv) > 1:
        what, space, trials = sys.argv[1:]
        row = {"what": what, "space": Path(space).stem, "trials": int(trials)}
        row |= {"plan": plan, "run": take}[what](space, trials)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row, indent=1))
        return
    heads = ["space, trials", "planned, s", "took, s", "ratio", "at one speed", "reference, ms", "at the end again"]
    heads += ["memory, MB", "disk, kB", "the dry run itself, s"]
    print("| " + " | ".join(heads) + " |" + "\n" + "|---" * len(heads) + "|")
    planned: dict[str, Any] = {}
    for row in map(json.loads, read(ROWS)):
        if row["what"] == "plan":
            planned = row
            continue
        told = planned["plan"]
        ratio, speed = told["seconds"] / row["seconds"], row["reference_ms"] / told["reference_ms"]
        cells = [
            f"{row['space']}, {row['trials']}",
            f"{told['seconds']:.0f}",
            f"{row['seconds']:.0f}",
            f"{ratio:.2f}",
            f"{ratio * speed:.2f}",
            f"{told['reference_ms']:.1f} / {row['reference_ms']:.1f}",
            f"{told['finals']} / {row['finals']}",
            f"{told['memory_bytes'] / 1e6:.0f} / {row['memory_bytes'] / 1e6:.0f}",
            f"{told['disk_bytes'] / 1e3:.0f} / {row['disk_bytes'] / 1e3:.0f}",
            f"{planned['seconds']:.0f}",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
