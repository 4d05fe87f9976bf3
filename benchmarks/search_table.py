"""Scores every feasible network of a small space, so that searches can be replayed on the table (`search_replay.py`).

    python benchmarks/search_table.py                    # the generated data; about 40 minutes of one core
    python benchmarks/search_table.py --data FOLDER --out table.jsonl

The space is `search_table.yaml`. Each network is trained once by the proxy as the space has it, on one thread, and
scored on held-out images at a quarter, at half and at the end of its training. One JSON line a finished network; one
that stands in the file is not trained again, so the command resumes. The networks come in a shuffled order, so that a
part of the table is a sample of the whole. `--lock FILE` waits while another process holds that file alone (`flock`),
for a quiet measurement.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from modscale.machine import describe_machine, describe_versions
from modscale.runs.experiment import Experiment, load_experiment
from modscale.searching.draws import iter_feasible
from modscale.spaces.tables import build_tables

HERE = Path(__file__).parent
SPACE = HERE / "search_table.yaml"
TABLE = HERE / "search_table.jsonl"
RUNGS = (0.25, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights and the order")
    parser.add_argument("--first", type=int, help="so many of the networks only")
    parser.add_argument("--lock", type=Path)
    options = parser.parse_args()
    experiment = load_experiment(SPACE)
    score_all(experiment, options)


def choices(experiment: Experiment) -> list[dict[str, Any]]:
    """Every feasible architecture as the options of its searched parameters, shuffled, always in the same way."""
    space, tables = experiment.space, build_tables(experiment.space)
    found = [tables.choice(row) for row in iter_feasible(tables)]
    shuffled = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    return [{p.name: p.label(options[p.name]) for p in space.searched} for options in shuffled]


def score_all(experiment: Experiment, options: argparse.Namespace) -> None:
    """Trains what the file has not."""
    from modscale.datasets.dataset import load_dataset
    from modscale.specs.counts import count_model
    from modscale.training.proxies import score_to_rungs
    from modscale.training.proxy_data import prepare

    proxy = replace(experiment.proxy, device="cpu")
    dataset = load_dataset(
        options.data,
        resolution=proxy.resolution,
        train_images=proxy.train_images,
        val_images=proxy.val_images,
        seed=options.seed,
    )
    data = prepare(dataset, proxy)
    head = {"data": dataset.name, "fingerprint": dataset.fingerprint, "seed": options.seed, "settings": asdict(proxy)}
    conditions = options.out.with_suffix(".conditions.json")
    stated = head | {"machine": describe_machine(), "versions": describe_versions(), "rungs": RUNGS}
    if conditions.exists() and any(json.loads(conditions.read_text())[key] != head[key] for key in head):
        raise SystemExit(f"{options.out} is of other data, another seed or other settings: give another --out")
    conditions.write_text(json.dumps(stated, indent=1) + "\n")
    everything = choices(experiment)[: options.first]
    done = {json.dumps(row["choice"]) for row in read_rows(options.out)}
    for choice in everything:
        if json.dumps(choice) in done:
            continue
        spec = experiment.space.spec({p.name: p.option(choice[p.name]) for p in experiment.space.searched})
        counts = count_model(spec)
        row: dict[str, Any] = {"choice": choice, "params": counts.params, "flops": counts.flops, "rungs": []}
        with quiet(options.lock):
            start, cpu = time.perf_counter(), time.process_time()
            for share, found in zip(
                RUNGS, score_to_rungs(spec, data, proxy, seed=options.seed, rungs=RUNGS), strict=True
            ):
                row["rungs"].append(
                    {
                        "share": share,
                        "accuracy": found.results["trained_accuracy"],
                        "loss": round(found.results["val_loss"], 6),
                        "cpu_seconds": round(time.process_time() - cpu, 3),
                    }
                )
            row |= {
                "seconds": round(time.perf_counter() - start, 3),
                "cpu_seconds": round(time.process_time() - cpu, 3),
            }
        append(options.out, row)
        done.add(json.dumps(choice))
        last = row["rungs"][-1]
        print(
            f"{len(done)}/{len(everything)}: {row['params'] / 1e6:.2f} M, {row['flops'] / 1e6:.0f} MFLOPs, "
            f"accuracy {last['accuracy']:.3f}, loss {last['loss']:.3f}, {row['cpu_seconds']:.1f} CPU-s",
            flush=True,
        )


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a table; a line that a kill cut short is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append(file: Path, row: dict[str, Any]) -> None:
    """Adds a line; one that a kill cut short is closed first."""
    cut = file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n")
    with file.open("a") as stream:
        stream.write(("\n" if cut else "") + json.dumps(row) + "\n")


@contextmanager
def quiet(lock: Path | None) -> Iterator[None]:
    """Runs beside others that share the lock, never beside one that has it alone."""
    if lock is None:
        yield
        return
    with lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


if __name__ == "__main__":
    main()
