import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("numba", reason="numba is not installed")

from modscale.kernels.depthwise import depthwise, depthwise_backward, room


def sums(dim):
    return torch.zeros(dim + 8)[:dim]


@pytest.mark.parametrize("dim", [16, 12])
@pytest.mark.parametrize(
    ("height", "width", "size", "dilation"),
    [(1, 1, 7, 1), (2, 2, 7, 1), (4, 4, 7, 1), (3, 5, 3, 1), (8, 8, 7, 1), (16, 16, 5, 1), (7, 9, 7, 3), (2, 17, 3, 2)],
)
def test_the_conv_and_its_gradients_are_torchs(height, width, size, dilation, dim):
    generator = torch.Generator().manual_seed(0)
    images = 2
    x, grad = (torch.randn(images, height, width, dim, generator=generator) for _ in range(2))
    weight = torch.randn(dim, 1, size, size, generator=generator) / size
    x_bias, bias = torch.randn(dim, generator=generator), torch.randn(dim, generator=generator)
    before, added = torch.empty_like(x), torch.randn(x.shape, generator=generator)
    wanted = [tensor.double().requires_grad_() for tensor in (x, x_bias, weight, bias)]
    padding = dilation * (size // 2)
    moved = (wanted[0] + wanted[1]).permute(0, 3, 1, 2)
    conv = F.conv2d(moved, *wanted[2:], padding=padding, dilation=dilation, groups=dim).permute(0, 2, 3, 1)
    expected = F.gelu(conv)
    of_x, of_x_bias, of_weight, of_bias = torch.autograd.grad(expected, wanted, grad.double())

    activated = added.clone()
    by_tap = torch.full((size * size * dim + 8,), torch.nan)
    by_tap[:-8] = weight.view(dim, -1).t().flatten()
    scratch = torch.full((room(height, width, dim, size, dilation),), torch.nan)
    sides = (images, height, width, dim, size, dilation)
    places = [tensor.data_ptr() for tensor in (x, x_bias, by_tap, bias, before, activated, scratch)]
    depthwise(*places, *sides, 1)
    assert torch.allclose(before.double(), conv, rtol=1e-5, atol=1e-5)
    assert torch.allclose(activated.double(), expected + added, rtol=1e-5, atol=1e-5)

    found = [added.clone(), torch.empty_like(weight), sums(dim), sums(dim)]
    scratch.fill_(torch.nan)
    places = [tensor.data_ptr() for tensor in (grad, before, x, x_bias, by_tap, *found, scratch)]
    depthwise_backward(*places, *sides, 1)
    for one, other in zip(found, (of_x + added, of_weight, of_bias, of_x_bias), strict=True):
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-4)
