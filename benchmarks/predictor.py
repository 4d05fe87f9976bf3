"""How well latencies are predicted: random networks of a space that were in no fit, exported, timed and compared.

    python benchmarks/predictor.py export --networks 215 --models MODELS     # minutes of CPU; nothing is timed
    python benchmarks/predictor.py time --models MODELS --rows ROWS.jsonl    # 285 s at most; once more goes on
    modscale calibrate spaces/mobile.yaml --threads 1 --out mobile.json
    python benchmarks/predictor.py judge mobile.json --models MODELS --rows ROWS.jsonl
    python benchmarks/predictor.py ways --networks 12 --models MODELS --rows WAYS.jsonl   # 240 s

Every network is the true export of its spec, not one put together of pieces, and is timed by a program that shares
nothing with modscale but the probe's model (`ONE`): ONNX Runtime alone, a fresh process for every timing, the network
with the fewest timings next. The probe runs after every run, on the same threads, since the machine changes its speed.
`judge` compares what is predicted with the networks as they are at the machine's best, by the probe, and with plain
medians; of several threads it leaves out the processes that the probe found slow (`--slow` keeps them). Every chunk has
its own probe times: a row's `session` says which.

`ways` tells whether a calibration times otherwise than others do: the same networks in turns, exported whole or put
together of pieces, by this program, by the calibration's worker, and by a plain one without a probe.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import numpy as np

from modscale.analysis.rank_correlation import kendall_tau
from modscale.api.calibrate import WARMUP, draw_networks
from modscale.deploy.timing_worker import PROBE
from modscale.files import scratch_folder
from modscale.latency.calibration import read_calibration
from modscale.latency.device import Device
from modscale.latency.plan import plan_exports
from modscale.latency.steady import LOW, Take, are_slow, steady_ms
from modscale.lines import append_line, read_lines
from modscale.processes import Child
from modscale.runs.experiment import load_experiment
from modscale.settings import LatencySettings
from modscale.specs.pieces import network_pieces
from modscale.specs.spec import load_spec

CHUNK_S = 285.0
SEED = 20_261
"""Of the networks; a calibration draws by seed 0."""
ONE = """
import json, os, sys, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np, onnxruntime as ort

threads = int(sys.argv[3])
if threads > 1:
    ort.set_global_thread_pool_sizes(threads, 1)

def ready(file):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads > 1:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed, binding = session.get_inputs()[0], session.io_binding()
    image = np.random.default_rng(0).standard_normal(feed.shape, dtype=np.float32)
    binding.bind_ortvalue_input(feed.name, ort.OrtValue.ortvalue_from_numpy(image, "cpu", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu", 0)
    def run():
        start = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        return time.perf_counter_ns() - start
    return run

network, probe = ready(sys.argv[1]), ready(sys.argv[2])
for _ in range(3):
    network(), probe()
runs = max(8, min(40, int(0.35e9 / min(network(), network()))))
network(), probe()
pairs = [(network(), probe()) for _ in range(runs)]
print(json.dumps({"at": time.time(), "times_ns": [a for a, _ in pairs], "probes_ns": [b for _, b in pairs]}))
"""
PLAIN = """
import json, sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = int(sys.argv[2]), 3
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = session.get_inputs()[0]
image = np.random.default_rng(0).standard_normal(feed.shape, dtype=np.float32)
def run():
    start = time.perf_counter_ns()
    session.run(None, {feed.name: image})
    return time.perf_counter_ns() - start
for _ in range(12):
    run()
print(json.dumps({"times_ns": [run() for _ in range(25)], "probes_ns": []}))
"""
WAYS = ("exported, predictor.py", "put together, predictor.py", "exported, calibrate", "put together, calibrate",
        "put together just before, predictor.py", "put together just before, calibrate", "exported, plain")  # fmt: skip
WAYS_S = 240.0


def export(space: str, models: Path, number: int) -> None:
    """Exports the networks, each into a folder of its own."""
    drawn = draw_networks(load_experiment(space).space, number, seed=SEED)
    with Child("modscale.deploy.export", name="the export") as child:
        for i, spec in enumerate(drawn):
            if not (models / f"{i:03}" / "spec.yaml").exists():
                child.ask("export_model", spec, models / f"{i:03}")
                (models / f"{i:03}" / "model.safetensors").unlink()  # large, and not needed


def time_networks(models: Path, out: Path, threads: int, number: int) -> None:
    """Adds the timings of one chunk to the file."""
    done = Counter(row["name"] for _, row in read_lines(out))
    names = sorted(file.parent.name for file in models.glob("[0-9]*/spec.yaml"))[:number]
    random.Random(len(done)).shuffle(names)
    start, taken, session = time.monotonic(), 0, f"{time.time():.0f}"
    with scratch_folder() as folder:
        probe = folder / "probe.onnx"
        probe.write_bytes(PROBE)
        while time.monotonic() - start < CHUNK_S:
            name = min(names, key=lambda name: done[name])
            command = [sys.executable, "-c", ONE, str(models / name / "model.onnx"), str(probe), str(threads)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            append_line(out, {"name": name, "session": session, **row})
            done[name] += 1
            taken += 1
    print(f"{taken} timings; {sum(done[name] > 1 for name in names)} of {len(names)} networks twice or more")


def judge(file: str, rows_file: Path, models: Path, half: int | None, session: str | None, keeps_slow: bool) -> None:
    """What came of it; of all networks, or of those with an even (0) or odd (1) number; of all sessions, or of one."""
    rows = [row for _, row in read_lines(rows_file) if session in (None, row["session"])]
    calibration = read_calibration(file)
    each, plain = defaultdict(list), defaultdict(list)
    for chunk in dict.fromkeys(row["session"] for row in rows):
        some = [row for row in rows if row["session"] == chunk]
        takes = [Take(times_ns=tuple(row["times_ns"]), probes_ns=tuple(row["probes_ns"])) for row in some]
        if calibration.conditions.threads > 1 and not keeps_slow:
            slow = are_slow(takes)
            print(f"{slow.sum()} of {len(takes)} processes were slow by the probe, and are left out")
            some = [row for row, is_slow in zip(some, slow, strict=True) if not is_slow]
            takes = [take for take, is_slow in zip(takes, slow, strict=True) if not is_slow]
        for row, ms in zip(some, steady_ms(takes), strict=True):
            if half is None or int(row["name"]) % 2 == half:
                each[row["name"]].append(float(ms))
                plain[row["name"]].append(median(row["times_ns"]) / 1e6)
    names = sorted(each)
    specs = [load_spec(models / name / "spec.yaml") for name in names]
    found = calibration.predictor().predict([network_pieces(spec) for spec in specs])
    predicted = np.array([one.latency_ms for one in found])
    print(
        f"{sum(map(len, each.values()))} timings of {len(names)} networks, {min(map(len, each.values()))} at the least"
    )
    for what, times in (("at the machine's best, by the probe", each), ("plain medians", plain)):
        truth = np.array([np.mean(times[name]) for name in names])
        shares = [np.log(one / np.mean(times[name])) for name in names for one in times[name] if len(times[name]) > 1]
        freedom = len(shares) - sum(len(times[name]) > 1 for name in names)
        noise = (np.sum(np.square(shares)) / freedom) ** 0.5
        print(f"{what}: {truth.min():.1f} to {truth.max():.1f} ms; one process deviates by {noise:.2%}")
        factor = float(np.median(truth / predicted))
        for words, scale in (("as predicted", 1.0), (f"times {factor:.3f}", factor)):
            error = np.abs(scale * predicted / truth - 1)
            inside = [
                scale * one.ci90_ms[0] <= ms <= scale * one.ci90_ms[1] for one, ms in zip(found, truth, strict=True)
            ]
            print(
                f"  {words}: mean {error.mean():.2%}, median {np.median(error):.2%}, worst {error.max():.2%};"
                f" within 5 % {np.mean(error <= 0.05):.1%}, within 10 % {np.mean(error <= 0.1):.1%};"
                f" 90 % intervals hold {np.mean(inside):.1%}"
            )
        print(f"  tau {float(kendall_tau(predicted[None], truth[None])[0]):.3f}")
        twice = np.array([times[name][:2] for name in names if len(times[name]) > 1]).T
        if len(twice):
            own = float(kendall_tau(twice[:1], twice[1:])[0])
            print(f"  a first and a second timing of {twice.shape[1]} networks: tau {own:.3f} to each other")
    halves = [(one.ci90_ms[1] - one.ci90_ms[0]) / 2 / one.latency_ms for one in found]
    print(f"half of an interval {np.median(halves):.2%}")


def time_ways(models: Path, out: Path, threads: int, number: int) -> None:
    """Adds what some networks take in every way, in turns, each a process."""
    every = sorted(file.parent.name for file in models.glob("[0-9]*/spec.yaml"))
    names = every[:: max(1, len(every) // number)][:number]
    specs = {name: load_spec(models / name / "spec.yaml") for name in names}
    device = Device(LatencySettings(threads=threads, warmup=WARMUP))
    device.check()
    with scratch_folder() as folder, Child("modscale.deploy.pieces", "Composer", name="the export") as composer:
        probe, joined = folder / "probe.onnx", folder / "joined.onnx"
        probe.write_bytes(PROBE)
        for spec in plan_exports(list(specs.values())):
            composer.ask("add", spec)
        for name, spec in specs.items():
            composer.ask("write", spec, folder / f"{name}.onnx")
        start, session = time.monotonic(), f"{time.time():.0f}"
        for turn, name in ((turn, name) for turn in itertools.count() for name in names):
            for way in WAYS[:: -1 if turn % 2 else 1]:
                if time.monotonic() - start > WAYS_S:
                    return
                what, program = way.split(", ")
                file = models / name / "model.onnx" if what == "exported" else folder / f"{name}.onnx"
                if what == "put together just before":
                    composer.ask("write", specs[name], file := joined)
                if program == "calibrate":
                    found = device.time(file, runs=12, shape=None, is_probed=True)
                    row = {"times_ns": found.times_ns, "probes_ns": found.probes_ns[1:]}
                else:
                    text, rest = (PLAIN, []) if program == "plain" else (ONE, [str(probe)])
                    command = [sys.executable, "-c", text, str(file), *rest, str(threads)]
                    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                append_line(out, {"name": name, "way": way, "session": session, "round": turn, **row})


def tell_ways(file: Path) -> None:
    """What each way of a session comes to, divided by the first: medians, lower deciles, these by the probe's."""
    rows = [row for _, row in read_lines(file)]
    for session in dict.fromkeys(row["session"] for row in rows):
        seen = {(row["way"], row["name"], row["round"]): row for row in rows if row["session"] == session}
        ways = [way for way in WAYS if any(way == mine for mine, *_ in seen)]
        print(f"| way, session {session} | processes | median | lower decile | by the probe's |\n|---|--:|--:|--:|--:|")
        for way in ways[1:]:
            pairs = [
                (row, seen[ways[0], *rest])
                for (mine, *rest), row in seen.items()
                if mine == way and (ways[0], *rest) in seen
            ]
            median_logs, low_logs = (_logs(pairs, "times_ns", quantile) for quantile in (0.5, LOW))
            probed = [low_logs - _logs(pairs, "probes_ns", LOW)] if pairs[0][0]["probes_ns"] else []
            cells = [_mean_text(logs) for logs in (median_logs, low_logs, *probed)]
            print(f"| {way} / {ways[0]} | {len(pairs)} | {' | '.join(cells)} |")


def _logs(pairs: list[tuple[dict, dict]], key: str, quantile: float) -> np.ndarray:
    return np.array([np.log(np.quantile(a[key], quantile) / np.quantile(b[key], quantile)) for a, b in pairs])


def _mean_text(logs: np.ndarray) -> str:
    return f"{np.exp(logs.mean()):.3f} ± {1.96 * logs.std() / len(logs) ** 0.5:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("export", "time", "judge", "ways"))
    parser.add_argument("calibration", nargs="?")
    parser.add_argument("--space", default="spaces/mobile.yaml")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/predictor.jsonl"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", type=int, default=215)
    parser.add_argument("--half", type=int, choices=(0, 1))
    parser.add_argument("--session", help="judge the timings of this one alone")
    parser.add_argument("--slow", action="store_true", help="keep the slow processes of several threads")
    given = parser.parse_args()
    if given.step == "export":
        export(given.space, given.models, given.networks)
    elif given.step == "ways":
        time_ways(given.models, given.rows, given.threads, given.networks)
        tell_ways(given.rows)
    elif given.step == "time":
        time_networks(given.models, given.rows, given.threads, given.networks)
    else:
        judge(given.calibration, given.rows, given.models, given.half, given.session, given.slow)
