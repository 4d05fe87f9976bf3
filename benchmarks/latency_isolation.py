"""What a timing process must be spared, and how far fresh processes differ: the evidence behind `latency/protocol.py`.

Five situations take turns, round by round, each timing the same model with the same number of runs and threads:

- alone: a fresh process, as `modscale latency` does it;
- beside idle torch: the same, while another process that has just trained sits idle with its thread pools;
- torch inside: a process that has just trained times the model itself;
- two sessions: one process holds sessions of two models and runs them in turn, with their default spinning threads;
- beside a busy core: a fresh process while another one computes.

Usage: python benchmarks/latency_isolation.py [--model xxs] [--other s] [--rounds 8] [--runs 60] [--threads N]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median, stdev

from modscale.deploy.timing_worker import Job, open_session, time_model
from modscale.latency.device import program, read_answer
from modscale.machine import available_cores
from modscale.providers import PROVIDERS

CPU = asdict(PROVIDERS["cpu"])
SITUATIONS = ("alone", "beside idle torch", "torch inside", "two sessions", "beside a busy core")

TRAIN = """
import torch, sys
net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7, 4), torch.nn.GELU(), torch.nn.Conv2d(64, 64, 3))
for _ in range(5):
    net(torch.randn(16, 3, 128, 128)).square().mean().backward()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="xxs")
    parser.add_argument("--other", default="s")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=min(4, available_cores()))
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        run_inside(*options.inside)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}.onnx" for name in (options.model, options.other)]
        code = (
            "import sys; from modscale.deploy.export import *; from modscale.specs.published import resolve_model\n"
            "for name, file in zip(sys.argv[1::2], sys.argv[2::2]):\n"
            "    spec = resolve_model(name); export_onnx(fresh_network(spec, seed=0), spec, file)"
        )
        subprocess.run(
            [sys.executable, "-c", code, options.model, str(files[0]), options.other, str(files[1])], check=True
        )
        job = Job(
            onnx_file=str(files[0]), provider=CPU, threads=options.threads, warmup=20, runs=options.runs, limit_s=600.0
        )
        seen: dict[str, list[list[float]]] = {situation: [] for situation in SITUATIONS}
        for turn in range(options.rounds):
            for situation in SITUATIONS if turn % 2 == 0 else reversed(SITUATIONS):
                seen[situation].append(time_once(situation, job, str(files[1])))
    report(options, seen)


def time_once(situation: str, job: Job, other: str) -> list[float]:
    """Milliseconds of each timed run of the model in one situation."""
    if situation == "alone":
        return worker(job)
    if situation == "beside idle torch":
        with neighbour(TRAIN + "print(flush=True); sys.stdin.read()"):
            return worker(job)
    if situation == "beside a busy core":
        with neighbour("print(flush=True)\nwhile True: sum(range(1000))"):
            return worker(job)
    inside = subprocess.run(
        [sys.executable, __file__, "--inside", situation, other],
        input=json.dumps(asdict(job)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ns / 1e6 for ns in json.loads(inside.stdout)["times_ns"]]


@contextlib.contextmanager
def neighbour(code: str):
    """Another process, ready once it has printed a line."""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        time.sleep(0.3)  # OpenMP's threads spin for a while before they sleep
        yield
    finally:
        process.kill()
        process.wait()


def worker(job: Job) -> list[float]:
    """As `modscale latency` times it."""
    done = subprocess.run([sys.executable, "-P", "-"], input=program(job, "m"), capture_output=True, check=True)
    return [ns / 1e6 for ns in read_answer(done.stdout, "m")["ok"]["timings"]["times_ns"]]


def run_inside(situation: str, other: str) -> None:
    """The two situations that no worker of ours ever is in."""
    import numpy as np

    job = Job(**json.load(sys.stdin))
    if situation == "torch inside":
        exec(TRAIN)  # noqa: S102  # this file's own text
        times = list(time_model(job.onnx_file, job).times_ns)
    else:
        sessions = [open_session(file, CPU, job.threads) for file in (job.onnx_file, other)]
        image = np.random.default_rng(0).standard_normal(sessions[0].get_inputs()[0].shape, dtype=np.float32)
        times = []
        for _ in range(job.warmup + job.runs):
            start = time.perf_counter_ns()
            sessions[0].run(None, {"image": image})
            times.append(time.perf_counter_ns() - start)
            sessions[1].run(None, {"image": image})
        del times[: job.warmup]
    print(json.dumps({"times_ns": times}))


def report(options: argparse.Namespace, seen: dict[str, list[list[float]]]) -> None:
    print(
        f"{options.model}, {options.threads} threads on {available_cores()} cores, {options.rounds} rounds of "
        f"{options.runs} runs, alternating; load average at the end {os.getloadavg()[0]:.1f}\n"
    )
    print("| situation | median ms | mean ms | fastest run ms | median ratio to alone, by round (range) |")
    print("|---|---|---|---|---|")
    alone = seen["alone"]
    for situation, rounds in seen.items():
        ratios = [median(here) / median(there) for here, there in zip(rounds, alone, strict=True)]
        everything = [time for times in rounds for time in times]
        print(
            f"| {situation} | {median(everything):.2f} | {fmean(everything):.2f} | {min(everything):.2f} | "
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    means = [fmean(times) for times in alone]
    within = math.sqrt(fmean(stdev(times) ** 2 / len(times) for times in alone))
    print(
        f"\nFresh processes alone: means {min(means):.2f} to {max(means):.2f} ms, standard deviation "
        f"{stdev(means):.3f} ms; independent runs within a process would explain {within:.3f} ms "
        f"(ratio {stdev(means) / within:.1f})."
    )


if __name__ == "__main__":
    main()
