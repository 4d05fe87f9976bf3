"""How a proxy training starts a network, and how fast each of its parameters learns.

The recipe must not let the ranking turn on one learning rate, for a wide network wants a smaller one than a narrow
network, and at one fixed rate the narrow one wins. So, after the width transfer of Adam in "Tensor Programs V"
(arXiv 2203.03466): the learning rate of every matrix and dense conv is scaled by min(1, 64 / fan_in), vectors have no
weight decay, LayerScale starts at `settings.layer_scale` (1e-4, right for 300 epochs, would hold every block shut for
the whole of a short run), and the initial weights are brought to unit gain (`rescale_weights`). Residual branches that
have no LayerScale, such as the attention blocks of a hybrid, are trained as if a constant one stood behind them: their
last layers start at that share of themselves (`damp_branches`) and move at that share of the learning rate, for Adam's
steps do not shrink with the weights. The figures that led here are in `benchmarks/proxy_recipe.md`.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from modscale.models.blocks import Block
from modscale.settings import ProxySettings

BASE_FAN_IN = 64
"""Matrices up to this fan-in train at the full learning rate."""
LINEAR_DEVIATION = 0.02
"""Of the linear layers' initial weights as `models/efficientmod.py` draws them (contract)."""


def stages_of(network: nn.Module) -> nn.Module:
    """What of a network the rules below are made for: all of a classifier, and the stages below Semantic FPN."""
    if not hasattr(network, "fpn"):
        return network
    return nn.ModuleDict(
        {"patch_embed": network.get_submodule("patch_embed"), "layers": network.get_submodule("layers")}
    )


def parameter_groups(network: nn.Module, settings: ProxySettings) -> list[dict[str, object]]:
    """AdamW's groups: learning rate by fan-in and LayerScale's share, no weight decay on vectors (biases, norms)."""
    damped = set(branch_ends(network))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in network.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        # A norm at the end of a branch is a LayerScale itself, and learns like one.
        is_norm = isinstance(module, (nn.BatchNorm2d, nn.GroupNorm))
        share = settings.layer_scale if module in damped and not is_norm else 1.0
        for parameter in module.parameters(recurse=False):
            is_vector = parameter.ndim < 2
            fan_in = 1 if is_vector or depthwise else parameter[0].numel()
            key = (share * min(1.0, BASE_FAN_IN / fan_in), 0.0 if is_vector else settings.weight_decay)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": settings.learning_rate * scale, "scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


@torch.no_grad()
def replace_batch_norm(network: nn.Module) -> None:
    """Puts GroupNorm of one group where BatchNorm is, with its scale and shift.

    What BatchNorm gains in a short training is a faster start, which says nothing of where a network ends.
    """
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                other = nn.GroupNorm(1, norm.num_features, eps=norm.eps)
                other.load_state_dict({"weight": norm.weight, "bias": norm.bias})
                setattr(parent, name, other)


@torch.no_grad()
def rescale_weights(network: nn.Module) -> None:
    """Brings every linear layer but the head, and every dense conv, to a deviation of 1 / sqrt(fan_in).

    The authors' 0.02 leaves a block's branch, a product of four such layers, near zero; a short training then spends
    most of its steps on leaving the plateau, and scores how fast a network does so rather than what it can learn.
    """
    for module in stages_of(network).modules():
        if isinstance(module, nn.Linear) and module is not getattr(network, "head", None):
            module.weight.mul_(1 / (LINEAR_DEVIATION * math.sqrt(module.in_features)))
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            module.weight.mul_(math.sqrt(3))  # PyTorch's default is uniform, of variance 1 / (3 fan_in)


def branch_ends(network: nn.Module) -> list[nn.Module]:
    """The last layer of every residual branch that has no LayerScale."""
    ends: list[nn.Module] = []
    for block in network.modules():
        if isinstance(block, Block) and getattr(block, "gamma_1", None) is None:
            ends += [block.get_submodule(name) for name in block.branch_ends]
    return ends


@torch.no_grad()
def damp_branches(network: nn.Module, share: float) -> None:
    """Starts every residual branch without LayerScale at `share` of itself, by the weights of its last layer."""
    for layer in branch_ends(network):
        layer.weight.mul_(share)  # type: ignore[operator]  # each end has a weight


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at `step` of `steps`: a linear rise over the first `warmup` share, then a cosine to 0."""
    rise = round(steps * warmup)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
