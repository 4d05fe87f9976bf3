"""The depthwise conv of small maps against torch's own, in double precision."""

import pytest
import torch
from torch.nn import functional as F

from modscale.models import depthwise
from modscale.models.depthwise import DepthwiseConv2d, weight_gradient


def _pair(size, dilation, bias, dtype=torch.float64):
    """Our conv, and torch's with the same weights."""
    torch.manual_seed(0)
    ours = DepthwiseConv2d(4, size, dilation=dilation, bias=bias).to(dtype)
    plain = torch.nn.Conv2d(4, 4, size, padding="same", dilation=dilation, groups=4, bias=bias).to(dtype)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1), (7, 1), (7, 3)])
@pytest.mark.parametrize("sides", [(1, 1), (1, 3), (2, 2), (5, 3), (8, 8), (9, 9)])
def test_outputs_and_gradients_are_torchs(sides, size, dilation, bias):
    ours, plain = _pair(size, dilation, bias)
    x = torch.randn(3, 4, *sides, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 4, *sides, dtype=torch.float64)
    found, wanted = ours(x), plain(x)
    assert torch.allclose(found, wanted)
    found = torch.autograd.grad(found, [x, *ours.parameters()], grad)
    wanted = torch.autograd.grad(wanted, [x, *plain.parameters()], grad)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other)


def test_channels_last_memory_gives_the_same_gradient():
    x, grad = torch.randn(2, 3, 6, 4, 4)
    last = torch.channels_last
    plain = weight_gradient(x, grad, 5)
    assert torch.allclose(
        weight_gradient(x.contiguous(memory_format=last), grad.contiguous(memory_format=last), 5), plain, atol=1e-5
    )


def test_small_maps_take_our_gradient_and_large_ones_and_evaluation_torchs(monkeypatch):
    asked = []
    monkeypatch.setattr(
        depthwise, "weight_gradient", lambda x, *rest: asked.append(x.shape) or weight_gradient(x, *rest)
    )
    conv = DepthwiseConv2d(4, 7)
    for side in (8, 9):
        conv(torch.randn(2, 4, side, side)).sum().backward()
    conv.eval()(torch.randn(2, 4, 8, 8)).sum().backward()
    assert asked == [(2, 4, 8, 8)]


def test_an_input_that_needs_no_gradient_gets_none():
    conv = DepthwiseConv2d(4, 3)
    x = torch.randn(2, 4, 4, 4)
    conv(x).square().sum().backward()
    wanted = torch.autograd.grad(F.conv2d(x, conv.weight, conv.bias, padding=1, groups=4).square().sum(), conv.weight)
    assert x.grad is None
    assert torch.allclose(conv.weight.grad, wanted[0], atol=1e-4)
