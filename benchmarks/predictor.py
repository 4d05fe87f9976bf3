"""How well latencies are predicted: random networks of a space that were in no fit, exported, timed and compared.

    python benchmarks/predictor.py export --networks 210 --models MODELS     # minutes of CPU; nothing is timed
    python benchmarks/predictor.py time --models MODELS --rows ROWS.jsonl    # 280 s at most; once more goes on
    modscale calibrate spaces/mobile.yaml --out mobile.json
    python benchmarks/predictor.py judge mobile.json --models MODELS --rows ROWS.jsonl

Every network is the true export of its spec, not one put together of pieces. It is timed in two fresh processes with
others between; what was timed while a reference network was slow is timed again, and does not count. The difference of
the two says how much of the error is the truth's own noise.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median

import numpy as np

from modscale.analysis.rank_correlation import kendall_tau
from modscale.api.calibrate import device_clock, draw_networks
from modscale.latency.calibration import read_calibration
from modscale.latency.steady import SLOWER, take_steadily
from modscale.lines import append_line, read_lines
from modscale.processes import Child
from modscale.runs.experiment import load_experiment
from modscale.settings import LatencySettings
from modscale.specs.counts import count_model
from modscale.specs.pieces import network_pieces
from modscale.specs.published import published
from modscale.specs.spec import load_spec

CHUNK_S = 270.0
PROCESS_S = 0.35
SEED = 20_261
"""Of the networks; a calibration draws by seed 0."""


def export(space: str, models: Path, number: int) -> None:
    """Exports the networks, each into a folder of its own, and the reference."""
    drawn = draw_networks(load_experiment(space).space, number, seed=SEED)
    specs = {"reference": published("xxs"), **{f"{i:03}": spec for i, spec in enumerate(drawn)}}
    with Child("modscale.deploy.export", name="the export") as child:
        for name, spec in specs.items():
            if not (models / name / "spec.yaml").exists():
                child.ask("export_model", spec, models / name)
                (models / name / "model.safetensors").unlink()  # large, and not needed


def time_networks(models: Path, out: Path, threads: int) -> None:
    """Adds the times of one chunk to the file."""
    done = defaultdict(int)
    rows = [row for _, row in read_lines(out)]
    best = np.quantile([row["references_ms"][0] for row in rows], 0.25) if rows else np.inf
    for row in rows:
        done[row["name"]] += is_steady(row, best)
    names = sorted(file.parent.name for file in models.glob("[0-9]*/spec.yaml"))
    left = [name for turn in (0, 1) for name in names if done[name] <= turn]
    flops = {name: count_model(load_spec(models / name / "spec.yaml")).flops for name in set(left)}
    clock = device_clock(LatencySettings(threads=threads))
    began = time.time()
    takes = take_steadily(
        len(left),
        lambda i: models / left[i] / "model.onnx",
        clock.time_file,
        models / "reference" / "model.onnx",
        runs=lambda i: int(np.clip(PROCESS_S / (3e-11 / threads * flops[left[i]]), 8, 60)),
        flops=lambda i: flops[left[i]],
        limit_s=CHUNK_S,
        tries=2,
    )
    for take in (*takes.steady, *takes.others):
        append_line(out, {
            "name": left[take.index], "times_ns": list(take.times_ns), "references_ms": list(take.references_ms),
            "disturbed": take.disturbed, "at": began + take.at_s,
        })  # fmt: skip
    print(f"{len(takes.steady)} steady, {len(takes.others)} others, reference {takes.reference_ms:.2f} ms")


def is_steady(row: dict, best: float) -> bool:
    """Whether nothing was slow or disturbed around a timing."""
    return not row["disturbed"] and max(row["references_ms"]) <= SLOWER * best


def judge(file: str, rows_file: Path, models: Path) -> None:
    """What came of it."""
    rows = [row for _, row in read_lines(rows_file)]
    best = float(np.quantile([row["references_ms"][0] for row in rows], 0.25))
    times = defaultdict(list)
    for row in rows:
        if is_steady(row, best):
            times[row["name"]].append(median(row["times_ns"]) / 1e6)
    names = sorted(times)
    truth = np.array([fmean(times[name]) for name in names])
    specs = [load_spec(models / name / "spec.yaml") for name in names]
    calibration = read_calibration(file)
    predictor = calibration.predictor()
    found = predictor.predict([network_pieces(spec) for spec in specs])
    predicted = np.array([one.latency_ms for one in found])
    inside = [one.ci90_ms[0] <= ms <= one.ci90_ms[1] for one, ms in zip(found, truth, strict=True)]
    pairs = np.array([np.log(each[0] / each[1]) for each in times.values() if len(each) > 1])
    noise = float(pairs.std() / 2**0.5) if len(pairs) else float("nan")
    factor = float(np.median(truth / predicted))
    print(f"{len(rows)} timings; {len(names)} networks steady, {len(pairs)} of them twice")
    print(f"{truth.min():.1f} to {truth.max():.1f} ms")
    for what, scale in (("as predicted", 1.0), (f"times {factor:.3f}, the machine's change", factor)):
        error = np.abs(scale * predicted / truth - 1)
        print(
            f"{what}: mean {error.mean():.2%}, median {np.median(error):.2%}, worst {error.max():.2%};"
            f" within 5 % {np.mean(error <= 0.05):.1%}, within 10 % {np.mean(error <= 0.1):.1%}"
        )
    print(f"tau {float(kendall_tau(predicted[None], truth[None])[0]):.3f}; 90 % intervals hold {np.mean(inside):.1%}")
    halves = [(one.ci90_ms[1] - one.ci90_ms[0]) / 2 / one.latency_ms for one in found]
    print(f"half of an interval {np.median(halves):.2%}")
    deviation = float((np.log(factor * predicted / truth)).std())
    print(f"standard deviation of the error {deviation:.2%}, of one process {noise:.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("export", "time", "judge"))
    parser.add_argument("calibration", nargs="?")
    parser.add_argument("--space", default="spaces/mobile.yaml")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/predictor.jsonl"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", type=int, default=220)
    given = parser.parse_args()
    if given.step == "export":
        export(given.space, given.models, given.networks)
    elif given.step == "time":
        time_networks(given.models, given.rows, given.threads)
    else:
        judge(given.calibration, given.rows, given.models)
