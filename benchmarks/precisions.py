"""The published networks in fp32, fp16 and int8 on the CPU provider, and in fp32 on OpenVINO, in turns.

    python benchmarks/precisions.py prepare --models MODELS                  # exports, verifies, puts in each precision
    python benchmarks/precisions.py time --models MODELS --openvino PYTHON --seconds 280 --out ROWS.jsonl

PYTHON is one whose environment has onnxruntime-openvino. Every round times each network in each form once, a fresh
process each, in an order that reverses; told is the 5th percentile of all runs, and its ratio to that of fp32 on the
CPU provider, with a 95 % interval by bootstrap over the rounds of both, as `modscale latency` has it against its
reference.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path

from modscale.cli.arguments import latency_settings
from modscale.deploy.timing_worker import Timings
from modscale.latency.device import Device
from modscale.latency.summary import LOW, Round, relative_latency
from modscale.processes import Child
from modscale.specs.published import published

NETWORKS = ("xxs", "xs", "s", "s_conv")
PRECISIONS = ("fp32", "fp16", "int8")
ROW = "{:<8} {:<14} {:>16} {:>16} {:>7}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "time", "table"))
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the files")
    parser.add_argument("--openvino", help="a Python that has onnxruntime-openvino")
    parser.add_argument("--out", type=Path, default=Path("precisions.jsonl"), help="a line a process")
    parser.add_argument("--seconds", type=float, default=280)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    {"prepare": prepare, "time": take, "table": tell}[options.step](options)


def prepare(options: argparse.Namespace) -> None:
    specs = [published(name) for name in NETWORKS]
    with Child("modscale.deploy.export", name="export", limit_s=600) as child:
        child.ask("export_all", specs, [options.models / spec.name for spec in specs])
    with Child("modscale.deploy.precision", name="precision", limit_s=600) as child:
        for name, precision in product(NETWORKS, PRECISIONS[1:]):
            source, out = options.models / name / "model.onnx", options.models / name / f"{precision}.onnx"
            print(name, precision, child.ask("write_in", precision, str(source), str(out), "cpu", "all"))


def file_of(options: argparse.Namespace, name: str, precision: str) -> Path:
    return options.models / name / ("model.onnx" if precision == "fp32" else f"{precision}.onnx")


def take(options: argparse.Namespace) -> None:
    here = Device(latency_settings("cpu", options.threads, options.runs))
    forms = [(f"cpu {precision}", here, precision) for precision in PRECISIONS]
    if options.openvino:
        target = options.models / "openvino.yaml"
        target.write_text(f"{{name: openvino, command: [{options.openvino}, '-'], provider: openvino}}\n")
        there = Device(latency_settings(None, options.threads, options.runs, target=str(target)))
        forms.append(("openvino fp32", there, "fp32"))
    jobs = list(product(NETWORKS, forms))
    end, turn = time.monotonic() + options.seconds, 0
    with options.out.open("a") as out:
        while True:
            for name, (form, device, precision) in jobs if turn % 2 == 0 else reversed(jobs):
                if time.monotonic() > end:
                    print({form: device.facts.get("runtime") for form, device, _ in forms})
                    tell(options)
                    return
                timings = device.time(file_of(options, name, precision), runs=options.runs, shape=None)
                row = {"round": turn, "network": name, "form": form, "times_ns": timings.times_ns}
                out.write(json.dumps(row) + "\n")
                out.flush()
            turn += 1


def tell(options: argparse.Namespace) -> None:
    seen: dict[tuple[str, str], list[Round]] = {}
    for order, line in enumerate(options.out.read_text().splitlines()):
        row = json.loads(line)
        timings = Timings(times_ns=tuple(row["times_ns"]), preemptions=-1)
        one = Round(order=order, at_s=order, seconds=1, timings=timings)
        seen.setdefault((row["network"], row["form"]), []).append(one)
    print(ROW.format("network", "form", "quiet ms", "ratio to fp32", "rounds"))
    for (name, form), rounds in sorted(seen.items(), key=lambda one: NETWORKS.index(one[0][0])):
        runs = sorted(ns / 1e6 for one in rounds for ns in one.timings.times_ns)
        ratio, half, _ = relative_latency(rounds, seen[name, "cpu fp32"])
        told = "1" if form == "cpu fp32" else f"{ratio:.3f} ± {half or float('nan'):.3f}"
        print(ROW.format(name, form, f"{runs[int(LOW * len(runs))]:.2f}", told, len(rounds)))


if __name__ == "__main__":
    main()
