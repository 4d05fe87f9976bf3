import math

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from modscale.kernels.gelu import gelu_times, gelu_times_backward


def exact(wide, bias, context, context_bias, copies, has_context):
    """In float64, by the error function."""
    x = wide + bias
    value = x if copies == 1 and has_context else x * (1 + torch.erf(x / math.sqrt(2))) / 2
    if not has_context:
        return value
    return (value.view(len(x), copies, -1) * (context + context_bias)[:, None]).view_as(x)


@pytest.mark.parametrize("dim", [16, 11])
@pytest.mark.parametrize(("copies", "has_context"), [(3, True), (1, True), (1, False)])
def test_gelu_and_its_gradients_are_those_of_the_error_function(copies, has_context, dim):
    generator = torch.Generator().manual_seed(0)
    tokens = 41
    wide, grad = (3 * torch.randn(tokens, copies * dim, generator=generator) for _ in range(2))
    wide[0, :7] = torch.tensor([0.0, 20.0, -20.0, 1e4, -1e4, 1e-30, -5.0])
    bias, context = torch.randn(copies * dim, generator=generator), torch.randn(tokens, dim, generator=generator)
    context_bias = torch.randn(dim, generator=generator)
    wanted = [tensor.double().requires_grad_() for tensor in (wide, bias, context, context_bias)]
    expected = exact(*wanted, copies, has_context)
    gradients = torch.autograd.grad(expected, wanted, grad.double(), allow_unused=True)

    out, again, of_wide = torch.empty_like(wide), torch.empty_like(wide), grad.clone()
    of_bias, of_context_bias = (torch.zeros(len(tensor) + 8)[: len(tensor)] for tensor in (bias, context_bias))
    of_context = torch.empty_like(context)
    places = [tensor.data_ptr() if has_context else 0 for tensor in (context, context_bias)]
    gelu_times(wide.data_ptr(), bias.data_ptr(), *places, out.data_ptr(), tokens, copies, dim)
    gelu_times_backward(
        of_wide.data_ptr(), wide.data_ptr(), bias.data_ptr(), *places, again.data_ptr(), of_bias.data_ptr(),
        of_context.data_ptr(), of_context_bias.data_ptr(), tokens, copies, dim,
    )  # fmt: skip

    assert torch.allclose(out.double(), expected, rtol=1e-6, atol=5e-6)
    assert torch.equal(again, out)
    found = (of_wide, of_bias, of_context, of_context_bias)
    for one, other in zip(found, gradients, strict=True):
        if other is not None:
            assert torch.allclose(one.double(), other, rtol=1e-5, atol=2e-5)


def test_what_is_not_a_number_stays_so():
    """A training that diverged must be seen."""
    wide, out = torch.tensor([math.nan, math.inf, -math.inf, 0, 0, 0, 0, 0]), torch.empty(8)
    bias = torch.zeros(8)
    gelu_times(wide.data_ptr(), bias.data_ptr(), 0, 0, out.data_ptr(), 1, 1, 8)
    assert not out[:1].isfinite()
    assert not out[1].isfinite()
