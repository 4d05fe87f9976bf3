"""The weight gradient of a depthwise 7x7 conv: oneDNN's against ours (`models/depthwise.py`), by size of the map.

    python benchmarks/depthwise.py [--threads 1] [--batch-size 64]

Both are taken in turn on the same channels-last tensors, and must be equal, or the script stops.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

from modscale.processes import PASSIVE

os.environ |= PASSIVE  # before torch is loaded

import torch
from torch.nn import functional as F

from modscale.models.depthwise import weight_gradient

MAPS = ((16, 32), (12, 64), (10, 64), (8, 64), (7, 128), (4, 128), (2, 256), (1, 256))
"""Side and channels."""
ROUNDS = 7


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print("| map, channels | forward ms | oneDNN's weight gradient ms | ours ms |\n|---|--:|--:|--:|")
    for side, dim in MAPS:
        shape = (options.batch_size, dim, side, side)
        x, grad = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2))
        weight = torch.randn(dim, 1, 7, 7)
        settings = ([1, 1], [3, 3], [1, 1], False, [0, 0], dim, [False, True, False])

        def forward(x=x, weight=weight, dim=dim):
            return F.conv2d(x, weight, padding=3, groups=dim)

        def onednn(x=x, grad=grad, weight=weight, settings=settings):
            return torch.ops.aten.convolution_backward(grad, x, weight, None, *settings)[1]

        def ours(x=x, grad=grad):
            return weight_gradient(x, grad, 7)

        assert torch.allclose(onednn(), ours(), rtol=1e-3, atol=1e-2), "the gradients differ"
        times = [[milliseconds(function) for function in (forward, onednn, ours)] for _ in range(ROUNDS)]
        cells = " | ".join(f"{median(column):.2f}" for column in zip(*times, strict=True))
        print(f"| {side} x {side}, {dim} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
