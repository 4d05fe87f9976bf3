"""A training step on a GPU: the network as built here against the straightforward form, in float32 and in bfloat16.

The forms are those of `network_forms.py`, and what is computed for a CPU alone (slices of the batch, pieces of the MLP,
the depthwise weight gradient by products) is not on a GPU. Steps take turns; each is waited for. `--profile` prints
instead the kernels that take most of a step.

Usage: python benchmarks/gpu_training.py [--models xxs s] [--resolution 224] [--batch-size 128] [--rounds 10]
           [--profile]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from network_forms import plain_copy, ratio_text
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from modscale.models.efficientmod import build_network
from modscale.specs.published import resolve_model

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def new_step(network: nn.Module, images, labels, dtype: torch.dtype | None, *, fused: bool) -> Callable[[], float]:
    """One step of AdamW, waited for; returns its seconds."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=fused or None)

    def step() -> float:
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            logits = network(images)
        F.cross_entropy(logits, labels).backward()
        optimiser.step()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["xxs", "s"])
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    size = f"{options.resolution} px, {options.batch_size} images"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {size}")
    print("| model | precision | ours, ms | plain, ms | plain / ours (95 % interval) | images a second | GiB |")
    print("|---|---|--:|--:|---|--:|--:|", flush=True)
    for model in options.models:
        spec = replace(resolve_model(model), resolution=options.resolution, layer_scale=0.1)
        for precision, dtype in PRECISIONS.items():
            ours = build_network(spec, seed=0)
            forms = {name: form.cuda().train() for name, form in (("plain", plain_copy(ours, spec)), ("ours", ours))}
            images = torch.randn(options.batch_size, 3, options.resolution, options.resolution, device="cuda")
            labels = torch.randint(0, spec.num_classes, (options.batch_size,), device="cuda")
            steps = {name: new_step(form, images, labels, dtype, fused=name == "ours") for name, form in forms.items()}
            if options.profile:
                for name, step in steps.items():
                    step(), step()
                    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
                        step()
                    print(f"{model}, {precision}, {name}")
                    print(
                        seen.key_averages().table(
                            sort_by="self_cuda_time_total", row_limit=14, max_name_column_width=70
                        )
                    )
                continue
            seconds: dict[str, list[float]] = {name: [] for name in forms}
            torch.cuda.reset_peak_memory_stats()
            for turn in range(-3, options.rounds):
                for name in steps if turn % 2 else reversed(steps):
                    took = steps[name]()
                    if turn >= 0:
                        seconds[name].append(took)
            ms = {name: median(took) * 1e3 for name, took in seconds.items()}
            print(
                f"| {model} | {precision} | {ms['ours']:.1f} | {ms['plain']:.1f} "
                f"| {ratio_text(seconds['plain'], seconds['ours'])} | {options.batch_size / ms['ours'] * 1e3:.0f} "
                f"| {torch.cuda.max_memory_allocated() / 2**30:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
