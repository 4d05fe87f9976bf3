"""What a teacher adds to xxs at equal steps: trainings with and without it by several seeds, a row each as it comes.

    python benchmarks/distillation.py --data FOLDER --out DIR [--teachers xs:24 xxs:24] [--kinds plain hard soft]

A teacher is a network trained on the same data for so many epochs, without a teacher itself, or the folder of one that
is trained already; `none` is none (for `--kinds plain`). With a teacher a training has the same start and batches as
the plain one of its seed. Everything resumes: a finished training is read from its folder, a killed one goes on;
several processes may share DIR where they share no training. `--summary` prints the table of the rows.
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
from modscale.runs.train_folder import read_rows
from modscale.specs.published import resolve_model
from modscale.training.job import TrainJob
from modscale.training.settings import DistillationSettings, TrainSettings


def train(
    args: argparse.Namespace, name: str, model: str, epochs: int, seed: int,
    teacher: Path | None = None, kind: str = "hard",
) -> dict[str, Any]:  # fmt: skip
    """Trains in a folder of its own; the scores of its last epoch, so that nothing is chosen by them."""
    spec = replace(resolve_model(model), resolution=args.resolution)
    told = DistillationSettings(kind=kind, alpha=args.alpha, temperature=args.temperature if kind == "soft" else 1.0)
    settings = TrainSettings(epochs=epochs, threads=args.threads, distillation=told)
    job = TrainJob(
        spec=spec, source=args.data, settings=settings, seed=seed, folder=args.out / name,
        teacher=None if teacher is None else str(teacher),
    )  # fmt: skip
    best = train_network(job, watcher=Terminal())
    rows = read_rows(args.out / name)
    return {
        "accuracy": rows[-1]["accuracy"], "val_loss": rows[-1]["val_loss"], "best_accuracy": best["accuracy"],
        "seconds": round(sum(row["seconds"] for row in rows)),
    }  # fmt: skip


def summarise(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["kind"] == "teacher":
            print(f"teacher {row['teacher']}: {100 * row['accuracy']:.1f} %, loss {row['val_loss']:.3f}")
    pupils = [row for row in rows if row["kind"] != "teacher"]
    plain = {row["seed"]: row for row in pupils if row["kind"] == "plain"}
    for kind, teacher in sorted({(row["kind"], row["teacher"] or "") for row in pupils}):
        found = {row["seed"]: row for row in pupils if (row["kind"], row["teacher"] or "") == (kind, teacher)}
        accuracies = [100 * row["accuracy"] for _, row in sorted(found.items())]
        each = ", ".join(f"{value:.1f}" for value in accuracies)
        loss = statistics.mean(row["val_loss"] for row in found.values())
        line = f"{kind} {teacher}: mean {statistics.mean(accuracies):.1f} % ({each}), loss {loss:.3f}"
        both = sorted(plain.keys() & found.keys()) if kind != "plain" else []
        if len(both) > 1:
            for key, scale, unit in (("accuracy", 100, "points"), ("val_loss", 1, "in loss")):
                gains = [scale * (found[seed][key] - plain[seed][key]) for seed in both]
                error = statistics.stdev(gains) / len(gains) ** 0.5
                line += f"; {statistics.mean(gains):+.2f} {unit} (standard error over seeds {error:.2f})"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--model", default="xxs")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--teachers", nargs="+", default=["xs:24"], metavar="MODEL:EPOCHS")
    parser.add_argument("--kinds", nargs="+", default=["plain", "hard", "soft"], choices=["plain", "hard", "soft"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "rows.jsonl"
    rows = [row for _, row in read_lines(file)] if file.exists() else []

    folders = {
        name: Path(name) if (Path(name) / "train.yaml").is_file() else args.out / f"teacher-{name.replace(':', '-')}"
        for name in args.teachers
        if name != "none"
    }

    def once(kind: str, teacher: str | None, seed: int, name: str, model: str, epochs: int) -> None:
        if any((row["kind"], row["teacher"], row["seed"]) == (kind, teacher, seed) for row in rows):
            return
        taught = kind in ("hard", "soft")
        told = folders[teacher] if taught and teacher is not None else None
        found = train(args, name, model, epochs, seed, told, kind if taught else "hard")
        row = {"kind": kind, "teacher": teacher, "seed": seed, "model": model, "epochs": epochs, **found}
        if taught:
            row |= {"alpha": args.alpha, "temperature": args.temperature if kind == "soft" else 1.0}
        append_line(file, row)
        rows.append(row)
        print(json.dumps(row), flush=True)

    if not args.summary:
        if args.data is None:
            parser.error("--data is needed")
        for teacher, folder in folders.items():
            if folder.parent == args.out:
                model, _, epochs = teacher.partition(":")
                once("teacher", teacher, 100, folder.name, model, int(epochs))
        for seed in range(args.seeds):
            if "plain" in args.kinds:
                once("plain", None, seed, f"plain-{seed}", args.model, args.epochs)
            for teacher, folder in folders.items():
                for kind in (kind for kind in args.kinds if kind != "plain"):
                    name = f"{kind}-{folder.name.removeprefix('teacher-')}-{seed}"
                    once(kind, teacher, seed, name, args.model, args.epochs)
    summarise(rows)


if __name__ == "__main__":
    main()
