import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("numba", reason="numba is not installed")

from modscale.kernels.attention import attention, attention_backward, room


@pytest.mark.parametrize("size", [1.0, 30.0])  # of large scores one token takes all
@pytest.mark.parametrize(("tokens", "width"), [(16, 32), (4, 39), (1, 5), (9, 8), (20, 3)])
def test_attention_and_its_gradient_are_those_of_float64(tokens, width, size):
    images, heads = 2, 3
    generator = torch.Generator().manual_seed(0)
    x = size * torch.randn(images, tokens, 3 * heads * width, generator=generator)
    grad = torch.randn(images, tokens, heads * width, generator=generator)
    exact = x.double().requires_grad_()
    query, key, value = exact.unflatten(-1, [3, heads, width]).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    (wanted,) = torch.autograd.grad(expected, exact, grad.double())

    out, found, scratch = torch.empty_like(grad), torch.empty_like(x), torch.empty(room(tokens, width))
    sides = images, heads, tokens, width
    attention(x.data_ptr(), out.data_ptr(), scratch.data_ptr(), *sides)
    attention_backward(grad.data_ptr(), x.data_ptr(), found.data_ptr(), scratch.data_ptr(), *sides)
    assert torch.allclose(out.double(), expected, rtol=1e-4, atol=1e-5 * size)
    assert (found - wanted).norm() <= 1e-4 * wanted.norm()
