"""Training step time of the network as built here, against the straightforward form of the same network.

Ours stays channels-last throughout, so that the depthwise conv works on a view, multiplies the context by broadcasting,
takes the depthwise convs' weight gradient as matrix products where maps are small (`models/depthwise.py`), computes the
MLP's wide part a piece of the tokens at a time (`models/modulated_mlp.py`), learns from slices of the batch side by
side and steps with the fused AdamW, a share of the parameters a thread (`training/slices.py`). `kernels` is the same
in Numba, products and what lies between them (`models/by_kernels.py`), with `--kernels`. `whole` is ours given the
batch at once, in torch's own threads. The straightforward form permutes and copies around every conv, repeats the
context, and has torch's own convs and its default AdamW. All have the same weights; the steps alternate within one run,
and the order within a round alternates too. Threads wait as in a search's own children.

`--profile` prints instead where the time of a step goes: torch's operations by the time in each itself.

Usage: python benchmarks/network_forms.py [--model xxs] [--resolution 64] [--batch-size 64] [--pairs 20] [--threads N]
           [--kernels] [--profile]
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from statistics import fmean, median, stdev

from modscale.processes import PASSIVE

os.environ |= PASSIVE  # before torch is loaded

import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from modscale.machine import available_cores
from modscale.models.blocks import ContextLayer, ModulationMlp
from modscale.models.depthwise import DepthwiseConv2d
from modscale.models.drop_path import SharedDraws
from modscale.models.efficientmod import PatchEmbedding, build_network
from modscale.specs.published import resolve_model
from modscale.training.slices import Slices


def copied_to_first(x):
    return x.permute(0, 3, 1, 2).contiguous()


def copied_to_last(x):
    return x.permute(0, 2, 3, 1).contiguous()


class PlainContextLayer(ContextLayer):
    def forward(self, x):
        if hasattr(self, "f"):
            x = self.f(x)
        if hasattr(self, "context_list"):
            images = copied_to_first(x)
            x = copied_to_last(sum(F.gelu(conv(images)) for conv in self.context_list))
        return self.g(x) if hasattr(self, "g") else x


class PlainModulationMlp(ModulationMlp):
    def forward(self, x):
        value = self.fc1(x)
        if self.ratio > 1:
            value = F.gelu(value)
        context = self.context_layer(x).repeat(1, 1, 1, self.ratio)
        return self.fc2(value * context if self.fusion == "mul" else value + context)


class PlainPatchEmbedding(PatchEmbedding):
    def forward(self, x):
        return self.norm(copied_to_last(self.proj(copied_to_first(x))))


PLAIN = {
    ContextLayer: PlainContextLayer,
    ModulationMlp: PlainModulationMlp,
    PatchEmbedding: PlainPatchEmbedding,
    DepthwiseConv2d: nn.Conv2d,
}


def plain_copy(network: nn.Module, spec) -> nn.Module:
    """The straightforward form with the weights of `network`."""
    plain = build_network(spec)
    plain.load_state_dict(network.state_dict())
    for module in plain.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return plain


def outputs_of(network: nn.Module, images, rows: tuple[slice, ...]):
    """The logits of one forward pass in training, from the whole batch or its slices, with the same paths dropped."""
    torch.manual_seed(0)
    draws = SharedDraws(len(images))
    parts = []
    for part in rows:
        with draws.rows(part):
            parts.append(network.train()(images[part]).detach())
    return torch.cat(parts)


def print_profile(step: Callable[[], object], *, steps: int = 4, rows: int = 12) -> None:
    """The operations that take most of a step, in milliseconds of their own and calls a step."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(steps):
            step()
    found = sorted(((event.self_cpu_time_total, event) for event in seen.key_averages()), key=lambda row: -row[0])
    for microseconds, event in found[:rows]:
        print(f"{microseconds / steps / 1e3:8.1f} ms {event.count / steps:6.0f} {event.key}")
    print(f"{sum(microseconds for microseconds, _ in found) / steps / 1e3:8.1f} ms in all")


def ratio_text(slower: list[float], faster: list[float]) -> str:
    """The mean ratio of steps of the same rounds, with its 95 % interval."""
    logs = [math.log(s / f) for s, f in zip(slower, faster, strict=True)]
    half = 2 * stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(fmean(logs)):.2f} ({math.exp(fmean(logs) - half):.2f} to {math.exp(fmean(logs) + half):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="xxs")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--kernels", action="store_true", help="besides, by the kernels; needs Numba")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    spec = replace(resolve_model(options.model), resolution=options.resolution, layer_scale=0.1)
    ours = build_network(spec, seed=0)
    forms = {"ours": ours, "plain": plain_copy(ours, spec)}
    if options.kernels:
        from modscale.models.by_kernels import use_kernels

        forms = {"kernels": deepcopy(ours), **forms}
        use_kernels(forms["kernels"])
    images = torch.randn(options.batch_size, 3, options.resolution, options.resolution)
    labels = torch.randint(0, spec.num_classes, (options.batch_size,))
    slices = {
        name: Slices(forms[name], spec, items=options.batch_size, threads=options.threads)
        for name in forms
        if name != "plain"
    }
    fastest = next(iter(slices))
    rows = {fastest: slices[fastest].rows, "plain": (slice(0, options.batch_size),)}
    logits = [outputs_of(forms[name], images, rows[name]) for name in rows]
    difference = (logits[0] - logits[1]).abs().max().item()

    def loss_of(network: nn.Module, part: slice = slice(None)):
        return F.cross_entropy(network(images[part]), labels[part])

    def learn(name: str) -> None:
        """Leaves the gradients of one step in the parameters."""
        if name in slices:
            slices[name].learn(lambda part: loss_of(forms[name], part))
        else:
            loss_of(forms[name]).backward()

    gradients = []
    for name in rows:
        torch.manual_seed(0)  # the same paths are dropped
        learn(name)
        gradients.append([parameter.grad.clone() for parameter in forms[name].parameters()])
    largest = max((one - other).abs().max().item() for one, other in zip(*gradients, strict=True))
    relative = max(((one - other).norm() / other.norm()).item() for one, other in zip(*gradients, strict=True))
    forms["whole"] = ours
    optimisers = {
        name: slices[name].adamw([{"params": list(forms[name].parameters())}], lr=1e-3)
        if name in slices
        else torch.optim.AdamW(forms[name].parameters(), lr=1e-3, fused=name != "plain" or None)
        for name in forms
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}

    def step(name: str) -> float:
        start = time.perf_counter()
        forms[name].zero_grad(set_to_none=True)
        learn(name)
        optimisers[name].step()
        return time.perf_counter() - start

    if options.profile:
        for name in forms:
            step(name)
            print(f"{options.model}, {name}, a step of {options.batch_size} images, {options.threads} threads")
            print_profile(partial(step, name))
        return
    for pair in range(-2, options.pairs):  # two rounds to warm up
        for name in forms if pair % 2 == 0 else reversed(forms):
            duration = step(name)
            if pair >= 0:
                seconds[name].append(duration)
    ratios = [ratio_text(seconds["plain"], seconds[name]) for name in slices]
    print(
        f"| {options.model} | {options.resolution} | {options.batch_size} | {options.threads} | "
        f"{' | '.join(f'{median(seconds[name]) * 1e3:.0f}' for name in (*slices, 'whole', 'plain'))} | "
        f"{' | '.join(ratios)} | {difference:.1e} | {largest:.1e} | {relative:.1e} |"
    )


if __name__ == "__main__":
    main()
