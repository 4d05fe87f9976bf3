"""How much neighbours cost: the same search, and the same training, quiet and beside processes that never rest.

    python benchmarks/busy_machine.py --space spaces/mobile.yaml --neighbours 3 --rounds 2 --out busy.jsonl

Situations take turns, round by round: quiet, busy, quiet, busy. In each, a search from nothing, and `--steps` steps of
training xs (batch 32, 32 px) by threads that wait for each other as OpenMP does by default, or passively as modscale
has them wait, and by one thread alone. One JSON line a finished measurement; one that stands in the file is not taken
again, so the command resumes. `--summary` prints the table of a file and measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modscale.machine import available_cores, describe_machine, describe_versions, load_average
from modscale.processes import PASSIVE

SITUATIONS = ("quiet", "busy")
TARGET = 3.5
"""Largest ratio of a search's time beside three neighbours to its quiet time."""
SETTLE_S = 2.0
"""Seconds between the start of the neighbours and the start of the clock."""

NEIGHBOUR = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100_000))
"""

TRAINING = """
import sys, time, torch
from torch.nn.functional import cross_entropy
from modscale.models.efficientmod import build_network
from modscale.specs.published import published
threads, steps = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
network = build_network(published("xs"), seed=0).train()
optimiser = torch.optim.AdamW(network.parameters(), fused=True)
images, labels = torch.randn(32, 3, 32, 32).to(memory_format=torch.channels_last), torch.randint(1000, (32,))
for step in range(steps + 3):
    if step == 3:
        start = time.perf_counter()
    optimiser.zero_grad()
    cross_entropy(network(images), labels).backward()
    optimiser.step()
print((time.perf_counter() - start) / steps)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="spaces/mobile.yaml", help="the search that is timed")
    parser.add_argument("--trials", type=int, help="as `modscale search --trials`")
    parser.add_argument("--neighbours", type=int, default=3, help="processes that never rest")
    parser.add_argument("--rounds", type=int, default=2, help="times that each situation is measured")
    parser.add_argument("--steps", type=int, default=30, help="steps of each training")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--summary", action="store_true", help="only print the table of --out")
    options = parser.parse_args()
    if not options.summary:
        measure_all(options)
    print_summary(read_rows(options.out))


def measure_all(options: argparse.Namespace) -> None:
    """Takes every measurement that the file lacks."""
    known = {row_key(row) for row in read_rows(options.out)}
    for turn in range(options.rounds):
        for situation in SITUATIONS:
            neighbours = options.neighbours if situation == "busy" else 0
            for what in ("search", *training_kinds()):
                row = {
                    "round": turn, "situation": situation, "neighbours": neighbours, "what": what,
                    "space": options.space, "trials": options.trials, "steps": options.steps,
                }  # fmt: skip
                if row_key(row) in known:
                    continue
                load_before = load_average()
                with beside(neighbours):
                    found = time_search(options) if what == "search" else time_training(what, options.steps)
                row |= found | {"load_before": load_before} | conditions()
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"round {turn}, {situation}: {what}: {row['seconds']:.3f} s", file=sys.stderr, flush=True)


def training_kinds() -> dict[str, tuple[int, bool]]:
    """What is trained, to its number of threads and whether they wait passively."""
    cores = available_cores()
    several = {f"{cores} threads, spinning": (cores, False), f"{cores} threads, passive": (cores, True)}
    return {**(several if cores > 1 else {}), "1 thread": (1, True)}


def time_search(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a whole search in a folder of its own, as a user starts it, and what became of its latencies."""
    with tempfile.TemporaryDirectory(prefix="busy-machine-") as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "modscale", "search", options.space, "--out", str(out)]
        command += [] if options.trials is None else ["--trials", str(options.trials)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=usual())
        seconds = time.perf_counter() - start
        files = [file for name in ("trials", "references") if (file := out / f"{name}.jsonl").exists()]
        trials = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return {
        "seconds": seconds,
        "networks": len(trials),
        "failed": sum(trial["state"] != "complete" for trial in trials),
        "wide": sum(bool(trial.get("latency_wide")) for trial in trials),
        "busy": sum(bool(trial.get("latency_busy")) for trial in trials),
        "accuracies": [trial["accuracy"] for trial in trials],
    }


def time_training(kind: str, steps: int) -> dict[str, Any]:
    """Seconds a step of a training in a process of its own."""
    threads, is_passive = training_kinds()[kind]
    command = [sys.executable, "-c", TRAINING, str(threads), str(steps)]
    environment = usual() | (PASSIVE if is_passive else {})
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return {"seconds": float(done.stdout)}


def usual() -> dict[str, str]:
    """The environment without a word on how threads wait, or how many there are."""
    return {key: value for key, value in os.environ.items() if key not in {*PASSIVE, "OMP_NUM_THREADS"}}


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """So many processes run, each as much as it is let."""
    neighbours = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(count)]
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def conditions() -> dict[str, Any]:
    return {"machine": describe_machine(), "versions": describe_versions()}


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The finished measurements; a last line that was cut off is none."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two measurements the same one."""
    is_search = row["what"] == "search"
    settings = (row["space"], row["trials"]) if is_search else (row["steps"],)
    return (row["round"], row["situation"], row["neighbours"], row["what"], *settings)


def print_summary(rows: Sequence[dict[str, Any]]) -> None:
    """The machine, and a line for each thing measured: medians, and the ratios of the rounds."""
    if not rows:
        print("nothing is measured yet")
        return
    machine, versions = rows[-1]["machine"], rows[-1]["versions"]
    print(f"{machine['cpu']}, {machine['cores']} cores, torch {versions['torch']},", end=" ")
    print(f"ONNX Runtime {versions.get('onnxruntime', 'none')}; {max(row['neighbours'] for row in rows)} neighbours")
    print("\n| what | quiet s | busy s | busy / quiet (range over rounds) |\n|---|--:|--:|--:|")
    for what in dict.fromkeys(row["what"] for row in rows):
        seconds = {
            situation: {
                row["round"]: row["seconds"] for row in rows if row["what"] == what and row["situation"] == situation
            }
            for situation in SITUATIONS
        }
        quiet, busy = (list(seconds[situation].values()) for situation in SITUATIONS)
        ratios = [
            seconds["busy"][turn] / quiet_s for turn, quiet_s in seconds["quiet"].items() if turn in seconds["busy"]
        ]
        if not ratios:
            continue
        ratio = statistics.median(ratios)
        verdict = "" if what != "search" else f", target {TARGET}: {'met' if ratio <= TARGET else 'NOT met'}"
        name = "search" if what == "search" else f"a step of xs, {what}"
        print(
            f"| {name} | {statistics.median(quiet):.3g} | {statistics.median(busy):.3g}"
            f" | {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}){verdict} |"
        )
    searches = [row for row in rows if row["what"] == "search"]
    for row in searches:
        print(
            f"\nround {row['round']}, {row['situation']}: {row['networks']} networks, {row['failed']} failed;"
            f" latency wide {row['wide']}, busy {row['busy']}; load average before {row['load_before'] or 0:.1f}"
        )
    if searches:
        same = len({json.dumps(row["accuracies"]) for row in searches}) == 1
        print(f"\naccuracies, bit for bit: {'the same in every search' if same else 'NOT the same'}")


if __name__ == "__main__":
    main()
