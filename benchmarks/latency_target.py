"""Whether a target's figure is the local one: this machine timed directly and through targets that lead back to it.

    python benchmarks/latency_target.py --rounds 12 --targets loopback.yaml netns.yaml -- xxs.onnx

The devices take turns, a process of each in every round, in an order that reverses. Told for each: the median of its
rounds' medians with its 95 % interval; what it takes on the quiet machine, by the probe between its runs, in units of
the local figure, with the interval of `modscale latency`'s `relative`; and what a round takes beyond its runs, start,
transport and load.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from statistics import median

from modscale.cli.arguments import latency_settings
from modscale.latency.confidence import median_interval
from modscale.latency.device import Device
from modscale.latency.probed import find_probe
from modscale.latency.summary import Round, level_ms, relative_latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("--targets", nargs="+", default=[], help="YAML files, as for `modscale latency --target`")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    devices = {"here": Device(latency_settings("cpu", options.threads, options.runs))}
    for file in options.targets:
        device = Device(latency_settings("cpu", options.threads, options.runs, target=file))
        devices[device.settings.target.name or file] = device
    for device in devices.values():
        device.check()
        device.time(options.model, runs=2, shape=None)  # the model is sent, and cached
    medians: dict[str, list[float]] = {name: [] for name in devices}
    rounds: dict[str, list[Round]] = {name: [] for name in devices}
    rest: dict[str, list[float]] = {name: [] for name in devices}
    for turn in range(options.rounds):
        for name in devices if turn % 2 == 0 else reversed(devices):
            start = time.monotonic()
            timings = devices[name].time(options.model, runs=options.runs, shape=None)
            rest[name].append(time.monotonic() - start - sum(timings.times_ns) / 1e9)
            medians[name].append(median(timings.times_ns) / 1e6)
            rounds[name].append(Round(order=turn, at_s=start, seconds=0, timings=timings))
    facts = devices["here"].facts
    probe = find_probe([one.timings for taken in rounds.values() for one in taken], options.threads)
    level = partial(level_ms, probe=probe)
    print(f"{options.model}: {options.threads} threads, {options.rounds} rounds of {options.runs} runs, {facts}\n")
    print("| device | median ms | ratio to here | slow rounds | a round beyond its runs, s |\n|---|--:|--:|--:|--:|")
    for name, values in medians.items():
        ratio, half, _ = relative_latency(rounds[name], rounds["here"], level)
        told = "1" if name == "here" else f"{ratio:.3f} ± {half or float('nan'):.3f}"
        slow = "" if probe is None else sum(probe.are_slow([one.timings for one in rounds[name]]))
        ms = f"{median(values):.2f} ± {median_interval(values)[0]:.2f}"
        print(f"| {name} | {ms} | {told} | {slow} | {median(rest[name]):.2f} |")


if __name__ == "__main__":
    main()
