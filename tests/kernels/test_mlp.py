import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("numba", reason="numba is not installed")

from modscale.kernels.mlp import mlp, mlp_backward


def exact(x, weight1, bias1, context, context_bias, weight2, copies, has_context):
    """In float64."""
    value = x @ weight1.t() + bias1
    if copies > 1 or not has_context:
        value = F.gelu(value)
    if has_context:
        value = (value.view(len(x), copies, -1) * (context + context_bias)[:, None]).flatten(1)
    return value @ weight2.t()


@pytest.mark.parametrize("piece", [8, 23, 5])
@pytest.mark.parametrize(("copies", "has_context"), [(3, True), (1, True), (1, False)])
def test_two_layers_and_their_gradients_are_those_of_float64(copies, has_context, piece):
    tokens, dim = 23, 12
    width = dim if has_context else 20
    hidden = copies * width
    generator = torch.Generator().manual_seed(0)
    shapes = (tokens, dim), (hidden, dim), (hidden,), (tokens, width), (width,), (dim, hidden)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    grad = torch.randn(tokens, dim, generator=generator)
    wanted = [tensor.double().requires_grad_() for tensor in inputs]
    expected = exact(*wanted, copies, has_context)
    gradients = torch.autograd.grad(expected, wanted, grad.double(), allow_unused=True)

    x, weight1, bias1, context, context_bias, weight2 = inputs
    turned1, turned2 = weight1.t().contiguous(), weight2.t().contiguous()
    wide, out = torch.empty(tokens, hidden), torch.empty(tokens, dim)
    fused, inner = torch.empty(piece, hidden), torch.empty(piece, hidden)
    of_x, of_weight1, of_weight2 = torch.empty_like(x), torch.empty_like(weight1), torch.empty_like(weight2)
    of_bias1, of_context_bias = (torch.zeros(len(bias) + 8)[: len(bias)] for bias in (bias1, context_bias))
    of_context = torch.empty_like(context)
    places = [tensor.data_ptr() if has_context else 0 for tensor in (context, context_bias, of_context)]
    places.append(of_context_bias.data_ptr() if has_context else 0)
    sides = tokens, dim, copies, width, piece
    mlp(
        x.data_ptr(), turned1.data_ptr(), bias1.data_ptr(), *places[:2], turned2.data_ptr(), wide.data_ptr(),
        fused.data_ptr(), out.data_ptr(), *sides,
    )  # fmt: skip
    mlp_backward(
        grad.data_ptr(), x.data_ptr(), weight1.data_ptr(), bias1.data_ptr(), *places[:2], weight2.data_ptr(),
        wide.data_ptr(), fused.data_ptr(), inner.data_ptr(), of_x.data_ptr(), of_weight1.data_ptr(),
        of_bias1.data_ptr(), *places[2:], of_weight2.data_ptr(), *sides,
    )  # fmt: skip

    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-4)
    found = of_x, of_weight1, of_bias1, of_context, of_context_bias, of_weight2
    for one, other in zip(found, gradients, strict=True):
        if other is not None:
            assert (one - other).norm() <= 1e-5 * other.norm()
