"""The network: equal to the authors' code on golden files, and to a plain form of the block written out here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from torch import nn
from torch.nn import functional as F

from modscale.models.blocks import ModulationBlock
from modscale.models.drop_path import DropPath
from modscale.models.efficientmod import build_network
from modscale.specs.spec import StageSpec, parse_spec


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small run slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PARITY_FILES = sorted(GOLDEN.glob("parity_*.npz"))


def test_parity_files_are_there():
    """An empty list would make the parity test pass without a word."""
    assert len(PARITY_FILES) >= 3


@pytest.mark.parametrize("file", PARITY_FILES, ids=lambda file: file.stem)
def test_parity_with_the_authors_code(file):
    """Their weights under their own names give their logits and pooled features to 1e-5."""
    with np.load(file) as golden:
        spec = parse_spec(json.loads(str(golden["spec"])))
        prefix = "state_dict/"
        state = {k.removeprefix(prefix): torch.from_numpy(golden[k]) for k in golden.files if k.startswith(prefix)}
        image, logits, pooled = (torch.from_numpy(golden[key]) for key in ("input", "logits", "pooled_features"))
    network = build_network(spec).eval()
    network.load_state_dict(state)
    with torch.inference_mode():
        features = network.forward_features(image)
        assert (network.forward_head(features, pre_logits=True) - pooled).abs().max() < 1e-5
        assert (network(image) - logits).abs().max() < 1e-5


class PlainBlock(nn.Module):
    """The paper's block as it would be written down first: channels permuted, context repeated, all copied."""

    def __init__(self, block: ModulationBlock, ratio: int, fusion: str) -> None:
        super().__init__()
        self.block, self.ratio, self.fusion = block, ratio, fusion

    def forward(self, x):
        mlp = self.block.mlp
        h = self.block.norm(x)
        value = mlp.fc1(h)
        if self.ratio > 1:
            value = F.gelu(value)
        layer = mlp.context_layer
        context = layer.f(h) if hasattr(layer, "f") else h
        if hasattr(layer, "context_list"):
            image = context.permute(0, 3, 1, 2).contiguous()
            image = sum(F.gelu(conv(image)) for conv in layer.context_list)
            context = image.permute(0, 2, 3, 1).contiguous()
        if hasattr(layer, "g"):
            context = layer.g(context)
        context = context.repeat(1, 1, 1, self.ratio)
        fused = value * context if self.fusion == "mul" else value + context
        out = mlp.fc2(fused)
        return x + (out if self.block.gamma_1 is None else self.block.gamma_1 * out)


@pytest.mark.parametrize("ratio", [1, 6])
@pytest.mark.parametrize("context", [("f", "conv", "g"), ("f",), ("conv", "g")])
@pytest.mark.parametrize("fusion", ["mul", "sum"])
@pytest.mark.parametrize("kernel_size", [(7,), (3, 5, 7)])
def test_block_equals_the_plain_form(ratio, context, fusion, kernel_size):
    """Broadcasting on channels-last views gives the outputs and gradients of permuting and repeating."""
    torch.manual_seed(0)
    stage = StageSpec(dim=6, depth=1, context=context, fusion=fusion, kernel_size=kernel_size)
    block = ModulationBlock(stage, ratio, 0.7, 0.0)
    plain = PlainBlock(block, ratio, fusion)
    x = torch.randn(2, 5, 7, 6)
    ours, theirs = block(x), plain(x)
    assert (ours - theirs).abs().max() < 1e-6
    target = torch.randn_like(x)
    for output in (ours, theirs):
        block.zero_grad()
        (output * target).sum().backward()
        gradients = [parameter.grad.clone() for parameter in block.parameters()]
        if output is ours:
            first = gradients
    for a, b in zip(first, gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_stage_is_left_channels_last():
    """Between linear layers and depthwise convs the features stay in one memory layout: no copy is hidden anywhere."""
    torch.manual_seed(0)
    block = ModulationBlock(StageSpec(dim=16, depth=1), 6, None, 0.0)
    seen = []
    for conv in block.mlp.context_layer.context_list:
        conv.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    block(torch.randn(2, 9, 9, 16))
    assert len(seen) == 2
    for tensor in seen:
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    """In training, samples are dropped at the given rate and the kept ones scaled up by as much; in eval nothing is."""
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(20_000, 1, 1, 2)
    y = drop(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(y[..., 0], y[..., 1])
    # 5 standard errors of a mean of 20,000 samples of variance 1/3
    assert abs(y.mean().item() - 1) < 5 * (1 / 3 / 20_000) ** 0.5
    assert torch.equal(drop.eval()(x), x)


def test_drop_path_rises_linearly():
    """From 0 at the first block to the spec's rate at the last, attention blocks included."""
    spec = parse_spec({
        "drop_path_rate": 0.4, "stages": [{"dim": 8, "depth": 2}, {"dim": 8, "depth": 1, "attention_depth": 2}],
    })  # fmt: skip
    rates = [module.rate for module in build_network(spec).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    one = parse_spec({"drop_path_rate": 0.4, "stages": [{"dim": 8, "depth": 1}]})
    assert [m.rate for m in build_network(one).modules() if isinstance(m, DropPath)] == [0.0]


TINY = parse_spec({
    "resolution": 32, "num_classes": 1000,
    "stages": [{"dim": 64, "depth": 2}, {"dim": 128, "depth": 1, "attention_depth": 1}],
})  # fmt: skip


def test_seeds():
    """A seed always gives the same weights, another one others, and the global random state is left alone."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = build_network(TINY, seed=0).state_dict()
    assert torch.equal(torch.rand(3), expected)
    again, other = build_network(TINY, seed=0).state_dict(), build_network(TINY, seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_initialisation():
    """Linear: normal of std 0.02, zero bias; convs PyTorch's uniform; norms 1 and 0; LayerScale the spec's value."""
    network = build_network(TINY, seed=0)
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            # 5 standard errors of a standard deviation
            assert abs(module.weight.std().item() / 0.02 - 1) < 5 / (2 * module.weight.numel()) ** 0.5, name
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            for tensor in (module.weight, module.bias):
                assert 0.8 * bound < tensor.abs().max().item() <= bound, name
        elif isinstance(module, nn.LayerNorm):
            assert (module.eps, module.weight.unique().item(), module.bias.unique().item()) == (1e-5, 1.0, 0.0)
    scales = [parameter for name, parameter in network.named_parameters() if "gamma" in name]
    assert len(scales) == 3
    assert all(torch.equal(scale, torch.full_like(scale, 1e-4)) for scale in scales)


@pytest.mark.parametrize("block", ["mbconv", "van", "focal", "separate_mlp"])
def test_other_blocks_train_every_parameter(block):
    """Each comparison block keeps its shape and gives every parameter a gradient."""
    torch.manual_seed(0)
    spec = parse_spec({
        "resolution": 32, "num_classes": 4, "layer_scale": 1.0, "stages": [{"dim": 8, "depth": 2, "block": block}],
    })  # fmt: skip
    network = build_network(spec, seed=0)
    logits = network(torch.randn(3, 3, 32, 32))
    assert logits.shape == (3, 4)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
