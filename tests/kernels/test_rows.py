import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("numba", reason="numba is not installed")

from modscale.kernels.rows import add_branch, add_branch_backward, layer_norm, layer_norm_backward


def drawn(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def sums(dim):
    return torch.zeros(dim + 8)[:dim]


def doubles(*tensors):
    return [tensor.double().requires_grad_() for tensor in tensors]


def places(*tensors):
    return [tensor.data_ptr() for tensor in tensors]


@pytest.mark.parametrize("dim", [8, 40, 5, 20])
def test_layer_norm_and_its_gradients_are_torchs(dim):
    x, weight, bias, grad, added = drawn((37, dim), dim, dim, (37, dim), (37, dim))
    x += 100  # far from 0: the deviation is of what is left
    wanted = doubles(x, weight, bias)
    expected = F.layer_norm(wanted[0], (dim,), *wanted[1:], eps=1e-5)
    of_x, of_weight, of_bias = torch.autograd.grad(expected, wanted, grad.double())

    out, mean, scale = torch.empty_like(x), torch.empty(37), torch.empty(37)
    layer_norm(*places(x, weight, bias, out, mean, scale), 37, dim, 1e-5)
    assert torch.allclose(out.double(), expected, rtol=1e-4, atol=1e-4)

    found = [torch.empty_like(x), sums(dim), sums(dim)]
    layer_norm_backward(*places(grad, x, weight, mean, scale, added, *found), 37, dim)
    for one, other in zip(found, (of_x + added, of_weight, of_bias), strict=True):
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("has_gamma", [True, False])
@pytest.mark.parametrize("has_drop", [True, False])
def test_the_end_of_a_branch_and_its_gradients_are_autograds(has_gamma, has_drop):
    images, tokens, dim = 3, 5, 21
    shape = (images * tokens, dim)
    x, branch, bias, gamma, grad = drawn(shape, shape, dim, dim, shape)
    drop = torch.tensor([0.0, 1.25, 1.25])
    wanted = doubles(x, branch, bias, gamma)
    factor = wanted[3] if has_gamma else torch.ones(dim).double()
    share = drop.double().repeat_interleave(tokens)[:, None] if has_drop else 1
    expected = wanted[0] + share * factor * (wanted[1] + wanted[2])
    gradients = torch.autograd.grad(expected, wanted[1:], grad.double(), allow_unused=True)

    optional = [gamma.data_ptr() if has_gamma else 0, drop.data_ptr() if has_drop else 0]
    out = torch.empty_like(x)
    add_branch(*places(x, branch, bias), *optional, out.data_ptr(), images, tokens, dim)
    assert torch.allclose(out.double(), expected, rtol=1e-6, atol=1e-6)

    found = [torch.empty_like(x), sums(dim), sums(dim)]
    add_branch_backward(
        *places(grad, branch, bias), *optional, *places(found[0], found[2], found[1]), images, tokens, dim
    )
    for one, other in zip(found, gradients, strict=True):
        if other is not None:
            assert torch.allclose(one.double(), other, rtol=1e-5, atol=1e-5)
