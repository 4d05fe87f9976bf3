"""A pilot: one thin weight-sharing network whose slices are the published sizes; how do the slices rank?

    python benchmarks/proxy_supernet.py [--data FOLDER] [--epochs 4]

The supernet has, thinned as the proxy thins, the largest width, depth and MLP ratio that any of six published networks
has in each stage (attention blocks as conv blocks, as in the proxy). A network is a slice of it: the first channels of
every weight, the first blocks of every stage, the first ratios of every MLP; LayerNorm is all there is to normalise, so
nothing is calibrated anew. Each step takes the sandwich rule: the whole supernet on the labels, then the smallest slice
and two others at random, which learn from the whole one's answers (in-place distillation). Recipe, data and rate are
the proxy's.

Printed: held-out loss of each of the six as a slice, and Kendall's tau of it with the published top-1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from proxy_pilots import held_out
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from modscale.analysis.rank_correlation import kendall_tau
from modscale.datasets.dataset import load_dataset
from modscale.models.efficientmod import build_network
from modscale.settings import ProxySettings
from modscale.specs.known import published_networks
from modscale.specs.spec import ModelSpec
from modscale.training import recipe
from modscale.training.proxy import prepare, proxy_spec

MEMBERS = ("xxs", "xs", "s", "xxs_conv", "xs_conv", "s_conv")


class Slice(nn.Module):
    """A network of its own spec whose weights are the first of the supernet's."""

    def __init__(self, spec: ModelSpec, whole: nn.Module, whole_spec: ModelSpec) -> None:
        super().__init__()
        self.network = build_network(spec, seed=0)
        self.shared = [whole]  # not registered: the supernet has its own parameters
        self.ratios = {}
        for s, (own, most) in enumerate(zip(spec.stages, whole_spec.stages, strict=True)):
            for b, ratio in enumerate(own.block_ratios()):
                self.ratios[f"stages.{s}.blocks.{b}."] = (ratio, own.dim, most.block_ratios()[b], most.dim)

    def forward(self, x: Tensor) -> Tensor:
        shared = dict(self.shared[0].named_parameters())
        weights = {
            name: self.cut(name, shared[name], parameter.shape) for name, parameter in self.network.named_parameters()
        }
        return functional_call(self.network, weights, (x,))

    def cut(self, name: str, weight: Tensor, shape: torch.Size) -> Tensor:
        """The slice of a weight; hidden channels come in groups of the width, one a ratio."""
        axis = {"fc1": 0, "fc2": 1}.get(name.split(".")[-2])
        block = next((key for key in self.ratios if name.startswith(key)), None)
        if block is not None and axis is not None and axis < weight.ndim:
            ratio, dim, most_ratio, most_dim = self.ratios[block]
            if weight.shape[axis] == most_ratio * most_dim:
                parts = weight.unflatten(axis, (most_ratio, most_dim))
                weight = parts.narrow(axis, 0, ratio).narrow(axis + 1, 0, dim).flatten(axis, axis + 1)
        for i, length in enumerate(shape):
            weight = weight.narrow(i, 0, length)
        return weight


def largest(specs: list[ModelSpec]) -> ModelSpec:
    """The least spec of which all of these are slices."""
    stages = []
    for own in zip(*(spec.stages for spec in specs), strict=True):
        ratios = tuple(max(pair) for pair in zip(*(stage.mlp_ratios for stage in own), strict=True))
        widest, deepest = max(stage.dim for stage in own), max(stage.depth for stage in own)
        stages.append(replace(own[0], dim=widest, depth=deepest, mlp_ratios=ratios))
    return replace(specs[0], name="supernet", stages=tuple(stages))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = ProxySettings(device="cpu", threads=1, epochs=options.epochs)
    images = {"train_images": settings.train_images, "val_images": settings.val_images}
    data = prepare(load_dataset(options.data, resolution=settings.resolution, seed=0, **images), settings)
    members = [n for n in published_networks() if n.name in MEMBERS]
    specs = [proxy_spec(replace(n.spec, drop_path_rate=0.0), data, settings) for n in members]
    whole_spec = largest(specs)
    whole = build_network(whole_spec, seed=0)
    recipe.rescale_weights(whole)
    slices = [Slice(spec, whole, whole_spec) for spec in specs]
    sizes = [sum(p.numel() for p in each.network.parameters()) for each in slices]
    smallest = int(np.argmin(sizes))
    optimiser = torch.optim.AdamW(recipe.parameter_groups(whole, settings), fused=True)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    count = len(data.y_train)
    per_epoch = count // settings.batch_size
    steps = per_epoch * settings.epochs
    start = time.process_time()
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(count, generator=generator)
        for group in optimiser.param_groups:
            factor = recipe.learning_rate_factor(step, steps, settings.warmup)
            group["lr"] = settings.learning_rate * group["scale"] * factor
        first = step % per_epoch * settings.batch_size
        rows = order[first : first + settings.batch_size]
        images_ = data.normalise(data.x_train[rows])
        mirrored = torch.rand(len(rows), generator=generator).lt(0.5)
        images_ = torch.where(mirrored[:, None, None, None], images_.flip(3), images_)
        optimiser.zero_grad(set_to_none=True)
        logits = whole(images_)
        loss = F.cross_entropy(logits, data.y_train[rows], label_smoothing=settings.label_smoothing)
        loss.backward()
        told = F.softmax(logits.detach(), 1)
        others = [i for i in range(len(slices)) if i != smallest]
        for i in (smallest, *rng.choice(others, 2, replace=False)):
            F.cross_entropy(slices[i](images_), told).backward()
        optimiser.step()
        if (step + 1) % (steps // 4) == 0:
            losses = [held_out(each, data).mean().item() for each in slices]
            tau = kendall_tau(-np.array([losses]), np.array([[n.top1 for n in members]]))[0]
            shown = ", ".join(f"{n.name} {loss:.3f}" for n, loss in zip(members, losses, strict=True))
            spent = time.process_time() - start
            print(f"{step + 1} steps, {spent:.0f} CPU-s: {shown}; tau {tau:+.2f}", flush=True)


if __name__ == "__main__":
    main()
