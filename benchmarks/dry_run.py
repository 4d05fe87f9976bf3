"""What `search --dry-run` says against what the search then takes: seconds, memory, disk; and what its bar says.

    python benchmarks/dry_run.py plan SPACE TRIALS [OPTION...]    plans a search; adds a line to dry_run.jsonl
    python benchmarks/dry_run.py run SPACE TRIALS [OPTION...]     makes it; likewise, to be compared with the plan
    python benchmarks/dry_run.py                                  prints the tables
    python benchmarks/dry_run.py noise SPACE SECONDS              times some of its networks in turns, so long each, and
                                                                  tells by how much each turn was off, and each network

Each is a whole process of its own, timed from outside; the options are those of `modscale search` (`--data`,
`--workers`). A run is compared with the plan of the same search before it, or after it where there is none.

Memory is looked at four times a second over the search and all of its processes: `memory` is what each alone holds, and
of what is mapped from files that of the process that maps most; `pss` is the sum of their proportional set sizes, in
which a library that other programs of the machine have loaded too counts in part. `reference` is the mean over all
rounds of the reference network: how fast the machine was meanwhile. `at one speed` is the plan at the run's reference,
on the straight line through what the plan says at two speeds, over what the run took.

The bar's time left is taken down whenever a network is finished, and held against what was really left then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

ROWS = Path(__file__).with_suffix(".jsonl")
LOOK_S = 0.25


def family(pid: int) -> set[int]:
    """A process and all that it started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
    ours = {pid}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return ours


def memory_of(pids: set[int]) -> tuple[int, int]:
    """Bytes of some processes: what each holds alone with the most that one maps from files, and the sum of PSS."""
    alone, files, pss = 0, 0, 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
            anonymous = found["Anonymous"]
            alone += anonymous
            files = max(files, found["Rss"] - anonymous)
            pss += found["Pss"]
    return alone + files, pss


def run(command: list[str]) -> tuple[str, float, int, int]:
    """Its standard output, seconds, and most bytes both ways."""
    began, most, most_pss = time.monotonic(), 0, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None:
            memory, pss = memory_of(family(process.pid))
            most, most_pss = max(most, memory), max(most_pss, pss)
            time.sleep(LOOK_S)
        assert process.stdout is not None
        assert process.returncode == 0, command
        return process.stdout.read(), time.monotonic() - began, most, most_pss


def reference_ms(folder: Path) -> float:
    """Mean over all rounds of the reference."""
    lines = [json.loads(line) for line in read(folder / "timings.jsonl")]
    return fmean(median(one["times_ns"]) / 1e6 for one in lines if one.get("model", 0) is None)


def sessions(folder: Path) -> list[tuple[int, float, int, float]]:
    """Of each measurement the models in turns, the percent they are timed to, the rounds of all, and their seconds."""
    found: list[tuple[int, float, int, float]] = []
    for line in map(json.loads, read(folder / "timings.jsonl")):
        if "begin" in line:
            found.append((len(line["begin"]["models"]), line["begin"]["latency"]["until_percent"], 0, 0.0))
        else:
            models, percent, rounds, seconds = found[-1]
            found[-1] = (models, percent, rounds + 1, round(seconds + line["seconds"], 2))
    return found


def read(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def plan(space: str, trials: str, options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        told, seconds, _, _ = run(
            [sys.executable, "-m", "modscale", *search(space, trials, folder, options), "--dry-run"]
        )
        assert not folder.exists()
    return {"seconds": seconds, "plan": json.loads(told)}


def take(space: str, trials: str, options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder, heard = Path(place) / "run", Path(place) / "heard.json"
        began = time.monotonic()
        words = [sys.executable, __file__, "watched", str(heard), *search(space, trials, folder, options)]
        _, seconds, memory, pss = run(words)
        return {
            "seconds": seconds,
            "trial_s": [round(json.loads(line)["seconds"], 1) for line in read(folder / "trials.jsonl")],
            "references_s": [round(json.loads(line)["seconds"], 1) for line in read(folder / "references.jsonl")],
            "finals": len(json.loads((folder / "finals.json").read_text())["finals"]),
            "sessions": sessions(folder),
            "reference_ms": reference_ms(folder),
            "memory_bytes": memory,
            "pss_bytes": pss,
            "disk_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
            "bar": [
                {"label": one["label"], "told_s": one["told_s"], "left_s": round(began + seconds - one["at"], 1)}
                for one in json.loads(heard.read_text())
            ],
        }


def search(space: str, trials: str, folder: Path, options: list[str]) -> list[str]:
    return ["search", space, "--trials", trials, "--out", str(folder), "--json", *options]


def watched(out: Path, arguments: list[str]) -> int:
    """The command, with what its bar says of the time left whenever a network is finished, written to `out`."""
    from modscale.cli import progress
    from modscale.cli.main import main as command

    heard: list[dict[str, Any]] = []

    class Hearing(progress.Terminal):
        @contextmanager
        def searching(self, **counts: Any) -> Iterator[Any]:
            with super().searching(**counts) as bar:
                finished = bar.finished

                def hear(label: str, measured: Any) -> None:
                    finished(label, measured)
                    left = bar.left_s()
                    told = None if left is None else round(left, 1)
                    heard.append({"label": label, "told_s": told, "at": time.monotonic()})

                bar.finished = hear
                yield bar

    progress.Terminal = Hearing  # type: ignore[misc]
    try:
        return command(arguments)
    finally:
        out.write_text(json.dumps(heard))


def at_speed(told: dict[str, Any], level_ms: float) -> float:
    """The seconds of a plan at another speed of the machine than its own."""
    seconds: float = told["seconds"]
    now_ms, slower = told["reference_ms"], told["slower"]
    return seconds + (slower["seconds"] - seconds) * (level_ms - now_ms) / (slower["reference_ms"] - now_ms)


def name_of(row: dict[str, Any]) -> str:
    return f"{row['space']}, {row['trials']}" + "".join(f" {word}" for word in row.get("options", []))


def print_plans(rows: list[dict[str, Any]]) -> None:
    heads = ["search, trials", "planned, s", "range", "took, s", "ratio", "at one speed", "reference, ms", "finals"]
    heads += ["memory, MB", "pss, MB", "disk, kB", "the dry run itself, s"]
    print("| " + " | ".join(heads) + " |" + "\n" + "|---" * len(heads) + "|")
    for row, planned in pairs(rows):
        told = planned["plan"]
        low, high = told.get("seconds_range", (0, 0))
        cells = [
            name_of(row),
            f"{told['seconds']:.0f}",
            f"{low:.0f} to {high:.0f}",
            f"{row['seconds']:.0f}",
            f"{told['seconds'] / row['seconds']:.2f}",
            f"{at_speed(told, row['reference_ms']) / row['seconds']:.2f}",
            f"{told['reference_ms']:.1f} / {row['reference_ms']:.1f}",
            f"{told['finals']} / {row['finals']}",
            f"{told['memory_bytes'] / 1e6:.0f} / {row['memory_bytes'] / 1e6:.0f}",
            f"{row.get('pss_bytes', 0) / 1e6:.0f}",
            f"{told['disk_bytes'] / 1e3:.0f} / {row['disk_bytes'] / 1e3:.0f}",
            f"{planned['seconds']:.0f}",
        ]
        print("| " + " | ".join(cells) + " |")


def pairs(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each run with the plan of the same search before it, or else after it."""
    for i, row in enumerate(rows):
        if row["what"] == "run":
            same = [
                one for one in (*rows[:i][::-1], *rows[i:]) if one["what"] == "plan" and name_of(one) == name_of(row)
            ]
            if same:
                yield row, same[0]


def print_bars(rows: list[dict[str, Any]]) -> None:
    print("\n| search, trials | told / really left, s, as each network was finished |\n|---|---|")
    for row in rows:
        if row.get("bar"):
            told = ", ".join(
                f"{one['label'].removeprefix('trial ')}: {one['told_s'] or 0:.0f} / {one['left_s']:.0f}"
                for one in row["bar"]
            )
            print(f"| {name_of(row)} | {told} |")


def noise(space: str, seconds: float) -> None:
    """How far rounds of networks in turns lie from the network's own median, in probes: by turns and by networks."""
    from modscale.deploy.export import export_all
    from modscale.latency.device import Device
    from modscale.latency.probed import in_probes
    from modscale.latency.protocol import measure_files
    from modscale.runs.experiment import load_experiment
    from modscale.searching.rehearsal import choose_networks, draw_candidates
    from modscale.searching.study import SearchStudy
    from modscale.spaces.tables import build_tables

    experiment = load_experiment(space)
    study = SearchStudy(experiment, build_tables(experiment.space), seed=experiment.search.seed)
    drawn = [one.spec for one in draw_candidates(study, 6, 6)]
    specs = list({spec.name: spec for spec in (*drawn[:6], *choose_networks(drawn))}.values())
    settings = replace(experiment.latency, until_percent=1e-6, patience_s=seconds)
    seen: list[list[tuple[float, float]]] = [[] for _ in specs]

    def keep(which: int | None, taken: Any, device: Any) -> None:
        if which is not None:
            seen[which].append((taken.at_s, in_probes(taken.timings)))

    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(i) for i in range(len(specs))]
        export_all(specs, folders)
        measure_files([one / "model.onnx" for one in folders], settings, device=Device(settings), keep=keep)
    middles = [median(value for _, value in each) for each in seen]
    off = [[100 * (value / middle - 1) for _, value in each] for each, middle in zip(seen, middles, strict=True)]
    print("| second | root mean square, % | " + " | ".join(spec.name for spec in specs) + " |")
    print("|---" * (2 + len(specs)) + "|")
    for turn in zip(seen[0], *off, strict=False):
        at_s, each = turn[0][0], turn[1:]
        mean = fmean(one**2 for one in each) ** 0.5
        print(f"| {at_s:.0f} | {mean:.0f} | " + " | ".join(f"{one:+.0f}" for one in each) + " |")
    print("| all | | " + " | ".join(f"{fmean(one**2 for one in each) ** 0.5:.0f}" for each in off) + " |")


def main() -> None:
    if sys.argv[1:2] == ["watched"]:
        sys.exit(watched(Path(sys.argv[2]), sys.argv[3:]))
    if sys.argv[1:2] == ["noise"]:
        noise(sys.argv[2], float(sys.argv[3]))
        return
    if len(sys.argv) > 1:
        what, space, trials, *options = sys.argv[1:]
        row = {"what": what, "space": Path(space).stem, "trials": int(trials), "options": options}
        row["at"] = time.strftime("%H:%M")
        row |= {"plan": plan, "run": take}[what](space, trials, options)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row, indent=1))
        return
    rows = [json.loads(line) for line in read(ROWS)]
    print_plans(rows)
    print_bars(rows)


if __name__ == "__main__":
    main()
