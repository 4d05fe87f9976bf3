"""What a teacher adds to xxs at equal steps: trainings with and without it by several seeds, a row each as it comes.

    python benchmarks/distillation.py --data FOLDER --out DIR [--epochs 10] [--teacher-epochs 20] [--seeds 3]

The teacher is `--teacher-model` trained on the same data for longer, without a teacher. Everything resumes: a finished
training is read from its folder, a killed one goes on. `--summary` prints the table of the rows in DIR/rows.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from modscale.api.train import train_network
from modscale.cli.progress import Terminal
from modscale.lines import append_line, read_lines
from modscale.specs.published import resolve_model
from modscale.training.job import TrainJob
from modscale.training.settings import DistillationSettings, TrainSettings


def train(
    args: argparse.Namespace, name: str, model: str, epochs: int, seed: int, teacher: Path | None
) -> dict[str, Any]:
    spec = replace(resolve_model(model), resolution=args.resolution)
    told = DistillationSettings(kind=args.kind, alpha=args.alpha, temperature=args.temperature)
    settings = TrainSettings(epochs=epochs, threads=args.threads, distillation=told)
    job = TrainJob(
        spec=spec, source=args.data, settings=settings, seed=seed, folder=args.out / name,
        teacher=None if teacher is None else str(teacher),
    )  # fmt: skip
    return train_network(job, watcher=Terminal())


def summarise(rows: list[dict[str, Any]]) -> None:
    plain, taught = (
        {row["seed"]: 100 * row["accuracy"] for row in rows if row["kind"] == kind} for kind in ("plain", "taught")
    )
    for kind, found in (("plain", plain), ("taught", taught)):
        if found:
            each = ", ".join(f"{value:.1f}" for _, value in sorted(found.items()))
            print(f"{kind}: mean {statistics.mean(found.values()):.1f} % over {len(found)} seeds ({each})")
    gains = [taught[seed] - plain[seed] for seed in sorted(plain.keys() & taught.keys())]
    if len(gains) > 1:
        error = statistics.stdev(gains) / len(gains) ** 0.5
        print(f"gain: {statistics.mean(gains):+.1f} points, standard error over seeds {error:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--model", default="xxs")
    parser.add_argument("--teacher-model", default="xs")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kind", default="soft")
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "rows.jsonl"
    rows = [row for _, row in read_lines(file)]
    if not args.summary:
        if args.data is None:
            parser.error("--data is needed")
        taught_by = train(args, "teacher", args.teacher_model, args.teacher_epochs, 0, None)
        print(f"teacher {args.teacher_model}: {100 * taught_by['accuracy']:.1f} %")
        for seed in range(args.seeds):
            for kind, teacher in (("plain", None), ("taught", args.out / "teacher")):
                if any((row["kind"], row["seed"]) == (kind, seed) for row in rows):
                    continue
                found = train(args, f"{kind}-{seed}", args.model, args.epochs, seed, teacher)
                row = {
                    "kind": kind, "seed": seed, "model": args.model, "epochs": found["epochs"],
                    "accuracy": found["accuracy"], "teacher_accuracy": taught_by["accuracy"],
                    "how": [args.kind, args.alpha, args.temperature],
                }  # fmt: skip
                append_line(file, row)
                rows.append(row)
                print(json.dumps(row))
    summarise(rows)


if __name__ == "__main__":
    main()
