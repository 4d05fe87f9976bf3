"""The exported graph against the straightforward export of the same network, and against another version's.

    python benchmarks/deployment_graph.py [--models xxs xs s s_conv SPEC.yaml] [--threads 1 2] [--seconds 40]
        [--precisions fp32 fp16 int8] [--before FOLDER] [--openvino PYTHON] [--together] [--files FOLDER]

The straightforward form permutes and copies around every conv, repeats the context and has LayerScale, as the authors'
code has, and is written by torch.onnx.export's own defaults. `--before` is a folder with NAME/model.onnx of exports by
another version. The files of a model have the same weights but for `before`. fp16 is made of each file by ONNX
Runtime's converter, int8 of ours as `modscale latency --precision int8` makes it, of other files by the same quantiser
with the settings of `deploy/quantize.py`: dense convs and all products with weights.
With `--openvino`, a Python that has onnxruntime-openvino, that is timed too; a form that it cannot read is left out.

Fresh processes take turns, in an order that reverses every round; of each process the lower quartile of its runs counts
(a neighbour only ever adds), and the table has the median over the processes, and the geometric mean of the ratios to
the first form, round by round, with its 95 % interval. With `--together` each process loads all of a network's forms,
which take turns in it in bursts of 7 runs, of which the first is left out; of each burst the lower quartile counts, of
a process the median. So no process starts for a single form, and an interval of a percent takes half a minute. Several
threads are shared by the sessions of a process: pools of their own would wait for work on the same cores. With
`--files` what is written stays there, and is not written again; `--seconds 0` only writes. Prints a Markdown table.
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
from itertools import product
from pathlib import Path
from statistics import fmean, median, quantiles, stdev

import numpy as np
import onnx
import torch
from network_forms import plain_copy
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from modscale.deploy import export, onnx_graph, runtime
from modscale.deploy.precision import write_in
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

BURST = 6
"""Runs of a graph that count, before the next graph's turn."""
BURSTS = 4
"""Of each graph in a process."""
TOGETHER = """
import json, random, sys, time
import numpy as np, onnxruntime as ort
provider, threads, bursts, runs, seed, *files = sys.argv[1:]
order = list(files)
random.Random(int(seed)).shuffle(order)
options = ort.SessionOptions()
options.log_severity_level = 3
if int(threads) > 1 and provider == "cpu":
    ort.set_global_thread_pool_sizes(int(threads), 1)
    options.use_per_session_threads = False
else:
    options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
chosen = {"cpu": ("CPUExecutionProvider", {}), "openvino": ("OpenVINOExecutionProvider", {
    "device_type": "CPU", "precision": "FP32", "num_of_threads": threads})}[provider]
if provider != "cpu":
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
sessions = {file: ort.InferenceSession(file, options, providers=[chosen], enable_fallback=0) for file in order}
assert all(one.get_providers()[0] == chosen[0] for one in sessions.values())
feed = sessions[files[0]].get_inputs()[0]
image = np.random.default_rng(0).standard_normal(feed.shape).astype("float32")
seen = {file: [] for file in files}
for turn in range(int(bursts) + 1):
    for file in order if turn % 2 else reversed(order):
        times = []
        for _ in range(int(runs) + 1):
            start = time.perf_counter()
            sessions[file].run(None, {feed.name: image})
            times.append((time.perf_counter() - start) * 1e3)
        if turn:
            seen[file].append(np.quantile(times[1:], 0.25))
print(json.dumps([float(np.median(seen[file])) for file in files]))
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


def take_together(
    files: Mapping[str, Path], *, threads: int, seconds: float, provider: str = "cpu", python: Path | None = None
) -> Seen:
    """By file, a figure of each process, in milliseconds."""
    seen: Seen = {name: [] for name in files}
    end, seed = time.monotonic() + seconds, 0
    while time.monotonic() < end or seed < 3:
        command = [python or sys.executable, "-c", TOGETHER, provider, threads, BURSTS, BURST, seed, *files.values()]
        given = subprocess.run([str(one) for one in command], check=True, stdout=subprocess.PIPE)
        for name, value in zip(files, json.loads(given.stdout), strict=True):
            seen[name].append(value)
        seed += 1
    return seen


def runs_on(file: Path, provider: str, python: Path | None) -> bool:
    """Whether a provider takes a file at all; where it does not, it is told."""
    command = [python or sys.executable, "-c", WORKER, file, 1, 1, provider]
    given = subprocess.run([str(one) for one in command], capture_output=True, check=False)
    if given.returncode:
        print(f"<!-- {file.stem}: {provider} does not take it -->", flush=True)
    return not given.returncode


def ratio_text(seen: Seen, name: str) -> str:
    """`ms | ratio (interval) | rounds` of one file."""
    first = next(iter(seen.values()))
    logs = [math.log(one / other) for one, other in zip(first, seen[name], strict=True)]
    middle, half = fmean(logs), 2 * stdev(logs) / math.sqrt(len(logs))
    told = f"{math.exp(middle):.3f} ({math.exp(middle - half):.3f} to {math.exp(middle + half):.3f})"
    return f"{median(seen[name]):.2f} | {told} | {len(logs)}"


def write_int8(file: Path, out: Path, spec) -> None:
    """A file of any origin with its products and dense convs in int8, as `deploy/quantize.py` puts ours."""
    model = onnx.load(file)
    turned = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Transpose"}
    stored = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    names = []
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node{number}"
        is_depthwise = node.op_type == "Conv" and stored[node.input[1]][1] == 1
        has_weight = len(node.input) > 1 and turned.get(node.input[1], node.input[1]) in stored
        if node.op_type in ("Conv", "Gemm", "MatMul") and has_weight and not is_depthwise:
            names.append(node.name)
    named = out.with_suffix(".named")
    onnx.save(model, named)
    size = (4, 1, spec.in_chans, spec.resolution, spec.resolution)
    noise = np.random.default_rng(0).standard_normal(size, np.float32)
    quantize_static(
        str(named),
        str(out),
        _Reader(noise),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        nodes_to_quantize=names,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )


class _Reader(CalibrationDataReader):
    def __init__(self, batches) -> None:
        self.batches = iter(batches)

    def get_next(self):
        images = next(self.batches, None)
        return None if images is None else {runtime.INPUT_NAME: images}


def in_precision(file: Path, precision: str, spec) -> Path:
    """The file itself, or what is made of it."""
    out = file.with_name(f"{file.stem}-{precision}.onnx")
    if precision == "fp32" or out.exists():
        return file if precision == "fp32" else out
    is_ours = "modscale" in {entry.key for entry in onnx_graph.parse(file).metadata_props}
    if precision == "fp16" or (precision == "int8" and is_ours):
        write_in(precision, file, out, "cpu")
    elif precision == "int8":
        write_int8(file, out, spec)
    return out


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


def write_forms(spec, name: str, folder: Path) -> dict[str, Path]:
    """The files of a network's forms, of equal answers in float32."""
    files = {form: folder / f"{name}-{form}.onnx" for form in ("straightforward", "ours", "ours for the CPU")}
    if all(file.exists() for file in files.values()):
        return files
    loud = export.loud_copy(export.fresh_network(spec, seed=0), spec).eval()
    write_straightforward(loud, spec, files["straightforward"])
    export.export_onnx(loud, spec, files["ours"])
    export.export_onnx(loud, spec, files["ours for the CPU"], form=export.Form(for_cpu=True))
    images = export.probe_images(spec)
    answers = [runtime.run_images(str(file), images) for file in files.values()]
    scale = max(abs(one).max() for one in answers[0].values())
    error = max(abs(answers[0][key] - one[key]).max() for one in answers for key in images) / scale
    assert error < 1e-5, error
    print(f"<!-- {name}: largest difference {error:.1e} of the largest logit -->", flush=True)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["xxs", "xs", "s", "s_conv"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=40, help="for each model, precision and number of threads")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "fp16", "int8"])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--openvino", type=Path)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--files", type=Path)
    given = parser.parse_args()
    on = {"cpu": None} | ({"openvino": given.openvino} if given.openvino else {})
    take = take_together if given.together else take_turns
    print("| model | provider | threads | precision | export | ms | straightforward / this (95 % interval) | rounds |")
    print("|---|---|--:|---|---|--:|--:|--:|")
    with scratch_folder() as folder:
        for name in given.models:
            spec = resolve_model(name)
            files = write_forms(spec, Path(name).stem, given.files or folder)
            if given.before:
                files["before"] = given.before / name / "model.onnx"
            for precision in given.precisions:
                made = {form: in_precision(file, precision, spec) for form, file in files.items()}
                for (provider, python), threads in product(on.items(), given.threads if given.seconds else ()):
                    taken = {
                        form: file
                        for form, file in made.items()
                        if provider == "cpu" or runs_on(file, provider, python)
                    }
                    seen = take(taken, threads=threads, seconds=given.seconds, provider=provider, python=python)
                    for form in taken:
                        row = (name, provider, threads, precision, form, ratio_text(seen, form))
                        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
