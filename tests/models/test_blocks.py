"""Each block against a plain [B, C, H, W] rewrite from its paper, on the same weights; and the parameters' names."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modscale.models.blocks import BLOCKS, AttentionBlock
from modscale.models.drop_path import DropPath
from modscale.specs.block_kinds import BLOCKS as KINDS
from modscale.specs.counts import BLOCK_TALLIES
from modscale.specs.sameness import network_key
from modscale.specs.spec import CONTEXT_PARTS, ModelSpec, StageSpec

DIM, SIDE = 6, 9
CONTEXTS = [part for size in (1, 2, 3) for part in combinations(CONTEXT_PARTS, size)]


class Weights:
    """The tensors under one prefix of a state dict, with the layers written out as plain [B, C, H, W] functions."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = "") -> None:
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[f"{self.prefix}{name}"]

    def under(self, name: str) -> Weights:
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(f"{self.prefix}{name}")

    def point(self, name: str, x: Tensor) -> Tensor:
        """A linear layer as the 1x1 conv that the papers write."""
        return F.conv2d(x, self[f"{name}.weight"][:, :, None, None], self.get(f"{name}.bias"))

    def depthwise(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self[f"{name}.weight"]
        pad = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.get(f"{name}.bias"), padding=pad, dilation=dilation, groups=x.shape[1])

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        normal = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-5)
        return normal * self[f"{name}.weight"][:, None, None] + self[f"{name}.bias"][:, None, None]

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            self[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def mlp(self, x: Tensor) -> Tensor:
        return self.point("fc2", gelu(self.point("fc1", x)))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


def modulated(w: Weights, x: Tensor, stage: StageSpec, ratio: int) -> Tensor:
    """EfficientMod, section 3.2: the context modulates the value, repeated along the channels; fc2 projects."""
    context = x
    if "f" in stage.context:
        context = w.point("context_layer.f", context)
    if "conv" in stage.context:
        convs = [w.depthwise(f"context_layer.context_list.{i}", context) for i in range(len(stage.kernel_size))]
        context = torch.stack([gelu(conv) for conv in convs]).sum(0)
    if "g" in stage.context:
        context = w.point("context_layer.g", context)
    value = w.point("fc1", x)
    if ratio > 1:
        value = gelu(value)
    context = context.repeat(1, ratio, 1, 1)
    return w.point("fc2", value * context if stage.fusion == "mul" else value + context)


def scale(w: Weights, name: str) -> Tensor | float:
    gamma = w.get(name)
    return 1.0 if gamma is None else gamma[:, None, None]


def modulation(w: Weights, x: Tensor, stage: StageSpec, ratio: int) -> Tensor:
    return x + scale(w, "gamma_1") * modulated(w.under("mlp"), w.layer_norm("norm", x), stage, ratio)


def separate_mlp(w: Weights, x: Tensor, stage: StageSpec, ratio: int) -> Tensor:
    """EfficientMod, Appendix L: modulation without expansion, then an MLP, as two residual sub-blocks."""
    x = x + scale(w, "gamma_1") * modulated(w.under("modulation"), w.layer_norm("norm1", x), stage, 1)
    return x + scale(w, "gamma_2") * w.under("mlp").mlp(w.layer_norm("norm2", x))


def mbconv(w: Weights, x: Tensor, stage: StageSpec, ratio: int) -> Tensor:
    """MobileNetV2, table 1: 1x1 and ReLU6, depthwise and ReLU6, linear 1x1, each normalised."""
    y = relu6(w.batch_norm("norm1", w.point("expand", x)))
    y = sum(w.depthwise(f"depthwise.{i}", y) for i in range(len(stage.kernel_size)))
    return x + w.batch_norm("norm3", w.point("project", relu6(w.batch_norm("norm2", y))))


def van(w: Weights, x: Tensor, stage: StageSpec, ratio: int) -> Tensor:
    """VAN, figure 3: attention = 1x1(dilated depthwise(depthwise)) times its input, between two 1x1; conv MLP."""
    a, m = w.under("attn"), w.under("mlp")
    y = w.batch_norm("norm1", x)
    value = gelu(a.point("proj_1", y))
    attention = a.point("conv1", a.depthwise("conv_spatial", a.depthwise("conv0", value), dilation=3))
    x = x + y + a.point("proj_2", value * attention)
    hidden = m.depthwise("dwconv", m.point("fc1", w.batch_norm("norm2", x)))
    return x + m.point("fc2", gelu(hidden))


def focal(w: Weights, x: Tensor, stage: StageSpec, ratio: int) -> Tensor:
    """FocalNet, equations 3 to 7: gated focal levels and a global one, summed, projected by h, times the query."""
    a = w.under("modulation")
    chain = {7: (3, 5, 7), 5: (3, 5), 3: (3,), 1: (1,)}
    sizes = stage.kernel_size if len(stage.kernel_size) > 1 else chain[stage.kernel_size[0]]
    everything = a.point("f", w.layer_norm("norm1", x))
    query, level, gates = everything[:, :DIM], everything[:, DIM : 2 * DIM], everything[:, 2 * DIM :]
    assert gates.shape[1] == len(sizes) + 1
    gathered = torch.zeros_like(query)
    for i, size in enumerate(sizes):
        assert a[f"focal_layers.{i}.weight"].shape[-1] == size
        level = gelu(a.depthwise(f"focal_layers.{i}", level))
        gathered = gathered + gates[:, i : i + 1] * level
    gathered = gathered + gates[:, -1:] * gelu(level.mean((2, 3), keepdim=True))
    x = x + a.point("proj", query * a.point("h", gathered))
    return x + w.under("mlp").mlp(w.layer_norm("norm2", x))


REWRITES = {"modulation": modulation, "separate_mlp": separate_mlp, "mbconv": mbconv, "van": van, "focal": focal}


def shaken(block: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    """Draws every tensor of `block` afresh, norms and their statistics too, and returns them by name."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in block.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator) * 0.4
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return dict(block.state_dict())


def assert_equal_to_rewrite(stage: StageSpec, ratio: int, layer_scale: float | None = 1e-4) -> None:
    block = BLOCKS[stage.block](stage, ratio, layer_scale, 0.0).eval()
    weights = Weights(shaken(block, seed=ratio))
    x = torch.randn(2, DIM, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        ours = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        plain = REWRITES[stage.block](weights, x, stage, ratio)
    assert (plain - x).abs().max() > 0.1, "the block must do something for the comparison to mean anything"
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [1, 2, 5])
@pytest.mark.parametrize("kind", BLOCKS)
def test_block_equals_its_paper(kind, ratio):
    """Each block at several expansions gives the outputs of a plain rewrite from its paper."""
    assert_equal_to_rewrite(StageSpec(dim=DIM, depth=1, block=kind), ratio)


@pytest.mark.parametrize("fusion", ["mul", "sum"])
@pytest.mark.parametrize("kept", CONTEXTS, ids="-".join)
def test_parts_of_the_context(kept, fusion):
    """Any part of the context branch may be left out, under either fusion."""
    assert_equal_to_rewrite(StageSpec(dim=DIM, depth=1, context=kept, fusion=fusion), 3)


@pytest.mark.parametrize("sizes", [(1,), (3, 3), (9, 3, 5)])
@pytest.mark.parametrize("kind", ["modulation", "separate_mlp", "mbconv"])
def test_parallel_kernels(kind, sizes):
    """Several kernel sizes are parallel convs whose outputs, after GELU in the context branch, are summed."""
    assert_equal_to_rewrite(StageSpec(dim=DIM, depth=1, block=kind, kernel_size=sizes), 2)


@pytest.mark.parametrize("sizes", [(1,), (3,), (5,), (7, 3), (5, 5)])
def test_focal_chain(sizes):
    """One size stands for FocalNet's chain 3, 5, ... up to it; a list is the chain itself, in its order."""
    assert_equal_to_rewrite(StageSpec(dim=DIM, depth=1, block="focal", kernel_size=sizes), 2)


@pytest.mark.parametrize("kind", ["modulation", "separate_mlp"])
def test_layer_scale_switched_off(kind):
    """Without LayerScale the branches are added as they are."""
    assert_equal_to_rewrite(StageSpec(dim=DIM, depth=1, block=kind), 2, layer_scale=None)


def test_attention_block():
    """Pre-norm softmax attention of 8 heads of width 32, scaled by the root of the width, then a GELU MLP."""
    block = AttentionBlock(DIM, 15, 0.0).eval()
    w = Weights(shaken(block, seed=0))
    x = torch.randn(2, DIM, 3, 3, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        ours = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        heads = w.under("attn").point("qkv", w.layer_norm("norm1", x)).reshape(2, 3, 8, 32, 9)
        q, k, v = heads.unbind(1)
        scores = torch.softmax(torch.einsum("bhcn,bhcm->bhnm", q, k) / 32**0.5, dim=-1)
        out = torch.einsum("bhnm,bhcm->bhcn", scores, v).reshape(2, 256, 3, 3)
        plain = x + w.under("attn").point("proj", out)
        plain = plain + w.under("mlp").mlp(w.layer_norm("norm2", plain))
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


NAMES = {
    "modulation": {
        "gamma_1", "norm", "mlp.fc1", "mlp.fc2", "mlp.context_layer.f", "mlp.context_layer.g",
        "mlp.context_layer.context_list.0",
    },
    "separate_mlp": {
        "gamma_1", "gamma_2", "norm1", "norm2", "mlp.fc1", "mlp.fc2", "modulation.fc1", "modulation.fc2",
        "modulation.context_layer.f", "modulation.context_layer.g", "modulation.context_layer.context_list.0",
    },
    "mbconv": {"expand", "depthwise.0", "project", "norm1", "norm2", "norm3"},
    "van": {
        "norm1", "norm2", "attn.proj_1", "attn.conv0", "attn.conv_spatial", "attn.conv1", "attn.proj_2", "mlp.fc1",
        "mlp.dwconv", "mlp.fc2",
    },
    "focal": {
        "norm1", "norm2", "modulation.f", "modulation.focal_layers.0", "modulation.focal_layers.1",
        "modulation.focal_layers.2", "modulation.h", "modulation.proj", "mlp.fc1", "mlp.fc2",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", BLOCKS)
def test_parameter_names(kind):
    """The layers bear the authors' names (checkpoints load by them) or those of the block's own paper."""
    block = BLOCKS[kind](StageSpec(dim=DIM, depth=1, block=kind), 2, 1e-4, 0.0)
    names = {name.removesuffix(".weight").removesuffix(".bias") for name, _ in block.named_parameters()}
    assert names == NAMES[kind]


def test_every_kind_has_its_row_in_every_table():
    """What a spec may name can be built and counted, and nothing else can."""
    assert list(BLOCKS) == list(KINDS)
    assert set(BLOCK_TALLIES) == set(KINDS)


@pytest.mark.parametrize(
    ("changes", "layer_scale"),
    [
        ({"kernel_size": (3,)}, 0.5), ({"kernel_size": (3, 9)}, 0.5), ({"fusion": "sum"}, 0.5),
        ({"context": ("f", "conv")}, 0.5), ({"context": ("f", "g")}, 0.5),
        ({"context": ("f", "g"), "kernel_size": (3,)}, 0.5), ({}, None),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_field_has_an_effect_exactly_where_the_table_of_kinds_says_so(kind, changes, layer_scale):
    """Two blocks of one seed have equal weights and outputs just where their specs are one network."""
    plain = StageSpec(dim=DIM, depth=1, block=kind, mlp_ratios=(2,))
    changed = replace(plain, **changes)
    x = torch.randn(1, SIDE, SIDE, DIM, generator=torch.Generator().manual_seed(7))
    made = []
    for stage, scale in ((plain, 0.5), (changed, layer_scale)):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            block = BLOCKS[kind](stage, 2, scale, 0.0).eval()
            made.append((block.state_dict(), block(x)))
    (weights, out), (other_weights, other_out) = made
    same = weights.keys() == other_weights.keys() and torch.equal(out, other_out)
    keys = [
        network_key(ModelSpec(stages=(s,), layer_scale=scale)) for s, scale in ((plain, 0.5), (changed, layer_scale))
    ]
    assert (keys[0] == keys[1]) is same


def test_drop_path_keeps_the_mean():
    """In training whole samples are dropped and the rest scaled up; in evaluation nothing happens."""
    x = torch.ones(4000, 1, 1, 2)
    drop = DropPath(0.25)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = drop.train()(x)
    assert set(out[:, 0, 0, 0].tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert torch.equal(out[..., 0], out[..., 1])
    assert abs(float((out[:, 0, 0, 0] == 0).float().mean()) - 0.25) < 0.03
    assert torch.equal(drop.eval()(x), x)
