"""Wall time of `modscale count xxs` against a script that imports torch and fvcore and traces the same network.

Both are whole processes, started in turn, `--rounds` times each; the ratio of the medians is what counts.

    python benchmarks/count_startup.py [--rounds 10]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

TRACE = """
import torch
from fvcore.nn import FlopCountAnalysis
from modscale.models.efficientmod import build_network
from modscale.specs.published import published
network = build_network(published("xxs")).eval()
analysis = FlopCountAnalysis(network, torch.zeros(1, 3, 224, 224))
analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
print(sum(p.numel() for p in network.parameters()), analysis.total())
"""
COMMANDS = {
    "modscale count xxs": [sys.executable, "-m", "modscale", "count", "xxs"],
    "torch + fvcore trace": [sys.executable, "-c", TRACE],
    "python with typer, yaml, rich": [sys.executable, "-c", "import typer, yaml, rich.console, rich.table"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:32} median {medians[name]:.3f} s, least {min(values):.3f} s, {rounds} rounds")
    ratios = [t / c for t, c in zip(seconds["torch + fvcore trace"], seconds["modscale count xxs"], strict=True)]
    print(f"trace / count: median {statistics.median(ratios):.1f}, range {min(ratios):.1f} to {max(ratios):.1f}")


if __name__ == "__main__":
    main()
