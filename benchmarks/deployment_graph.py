"""The exported graph against the straightforward export of the same network, and against another version's.

    python benchmarks/deployment_graph.py [--models xxs xs s s_conv SPEC.yaml] [--threads 1 2] [--seconds 40]
        [--before FOLDER]

The straightforward form permutes and copies around every conv, repeats the context and has LayerScale, as the authors'
code has, and is written by torch.onnx.export's own defaults. `--before` is a folder with NAME/model.onnx of exports by
another version. The files of a model have the same weights but for `before`.

Fresh processes take turns, in an order that reverses every round; of each process the lower quartile of its runs counts
(a neighbour only ever adds), and the table has the median over the processes, and the geometric mean of the ratios to
the first form, round by round, with its 95 % interval. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median, quantiles, stdev

import torch
from network_forms import plain_copy

from modscale.deploy import export, onnx_graph, runtime
from modscale.files import scratch_folder
from modscale.specs.published import resolve_model

RUNS = 12
WORKER = """
import json, sys, time
import numpy as np, onnxruntime as ort
file, threads, runs, provider = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
chosen = {"cpu": ("CPUExecutionProvider", {}), "openvino": ("OpenVINOExecutionProvider", {
    "device_type": "CPU", "precision": "FP32", "num_of_threads": str(threads)})}[provider]
if provider != "cpu":
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
session = ort.InferenceSession(file, options, providers=[chosen], enable_fallback=0)
assert session.get_providers()[0] == chosen[0], session.get_providers()
feed = session.get_inputs()[0]
image = np.random.default_rng(0).standard_normal(feed.shape).astype("float32")
def run():
    start = time.perf_counter()
    session.run(None, {feed.name: image})
    return (time.perf_counter() - start) * 1e3
for _ in range(4):
    run()
print(json.dumps([run() for _ in range(runs)]))
"""

Seen = dict[str, list[float]]


def take_turns(
    files: Mapping[str, Path], *, threads: int, seconds: float, provider: str = "cpu", python: Path | None = None
) -> Seen:
    """By file, the lower quartile of the milliseconds of each process, in rounds for so long."""
    seen: Seen = {name: [] for name in files}
    end = time.monotonic() + seconds
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    turn = 0
    while time.monotonic() < end or turn < 3:
        for name in files if turn % 2 == 0 else reversed(files):
            command = [python or sys.executable, "-c", WORKER, files[name], threads, RUNS, provider]
            given = subprocess.run([str(one) for one in command], check=True, env=alone, stdout=subprocess.PIPE)
            seen[name].append(quantiles(json.loads(given.stdout), n=4)[0])
        turn += 1
    return seen


def ratio_text(seen: Seen, name: str) -> str:
    """`ms | ratio (interval) | rounds` of one file."""
    first = next(iter(seen.values()))
    logs = [math.log(one / other) for one, other in zip(first, seen[name], strict=True)]
    middle, half = fmean(logs), 2 * stdev(logs) / math.sqrt(len(logs))
    told = f"{math.exp(middle):.3f} ({math.exp(middle - half):.3f} to {math.exp(middle + half):.3f})"
    return f"{median(seen[name]):.2f} | {told} | {len(logs)}"


def write_straightforward(network: torch.nn.Module, spec, file: Path) -> None:
    """As torch.onnx.export writes it."""
    image = torch.zeros(1, spec.in_chans, spec.resolution, spec.resolution)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = plain_copy(network, spec).eval()
        torch.onnx.export(
            plain,
            (image,),
            str(file),
            dynamo=False,
            opset_version=onnx_graph.OPSET,
            input_names=[runtime.INPUT_NAME],
            output_names=[runtime.OUTPUT_NAME],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["xxs", "xs", "s", "s_conv"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=40, help="for each model and number of threads")
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    print("| model | threads | export | ms | straightforward / this (95 % interval) | rounds |")
    print("|---|--:|---|--:|--:|--:|")
    with scratch_folder() as folder:
        for name in given.models:
            spec = resolve_model(name)
            loud = export.loud_copy(export.fresh_network(spec, seed=0), spec).eval()
            files = {form: folder / f"{Path(name).stem}-{form}.onnx" for form in ("straightforward", "ours")}
            write_straightforward(loud, spec, files["straightforward"])
            export.export_onnx(loud, spec, files["ours"])
            images = export.probe_images(spec)
            answers = [runtime.run_images(str(file), images) for file in files.values()]
            scale = max(abs(one).max() for one in answers[0].values())
            error = max(abs(answers[0][key] - answers[1][key]).max() for key in images) / scale
            assert error < 1e-5, error
            if given.before:
                files["before"] = given.before / name / "model.onnx"
            for threads in given.threads:
                seen = take_turns(files, threads=threads, seconds=given.seconds)
                for form in files:
                    print(f"| {name} | {threads} | {form} | {ratio_text(seen, form)} |", flush=True)
            print(f"<!-- {name}: largest difference {error:.1e} of the largest logit -->", flush=True)


if __name__ == "__main__":
    main()
