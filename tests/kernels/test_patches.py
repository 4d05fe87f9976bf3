import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("numba", reason="numba is not installed")

from modscale.kernels.patches import patches_of_planes, patches_of_tokens, tokens_of_patches

GEOMETRIES = [(9, 13, 3, 2, 1), (16, 8, 7, 4, 3), (6, 6, 4, 4, 0)]


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def sides(height, width, size, stride, padding):
    return ((height + 2 * padding - size) // stride + 1, (width + 2 * padding - size) // stride + 1)


@pytest.mark.parametrize(("height", "width", "size", "stride", "padding"), GEOMETRIES)
def test_a_row_of_planes_is_what_torch_unfolds(height, width, size, stride, padding):
    x = drawn(2, 3, height, width)
    down, across = sides(height, width, size, stride, padding)
    out = torch.full((2 * down * across, 3 * size * size), torch.nan)
    patches_of_planes(x.data_ptr(), out.data_ptr(), 2, 3, height, width, size, stride, padding, down, across)
    expected = F.unfold(x, size, padding=padding, stride=stride)  # [B, C k k, h w]
    assert torch.equal(out, expected.transpose(1, 2).reshape(out.shape))


@pytest.mark.parametrize(("height", "width", "size", "stride", "padding"), GEOMETRIES)
def test_a_row_of_tokens_is_what_torch_unfolds_and_folds_back(height, width, size, stride, padding):
    dim = 13
    x = drawn(2, height, width, dim)
    down, across = sides(height, width, size, stride, padding)
    out = torch.full((2 * down * across, size * size * dim), torch.nan)
    geometry = (2, height, width, dim, size, stride, padding, down, across)
    patches_of_tokens(x.data_ptr(), out.data_ptr(), *geometry)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), size, padding=padding, stride=stride).transpose(1, 2)
    expected = unfolded.reshape(len(out), dim, -1).transpose(1, 2).reshape(out.shape)
    assert torch.equal(out, expected)

    grad, found = drawn(*out.shape), torch.zeros_like(x)
    tokens_of_patches(grad.data_ptr(), found.data_ptr(), *geometry)
    by_channel = grad.view(2, down * across, size * size, dim).permute(0, 3, 2, 1).reshape(2, -1, down * across)
    folded = F.fold(by_channel, (height, width), size, padding=padding, stride=stride).permute(0, 2, 3, 1)
    assert torch.allclose(found, folded, rtol=1e-5, atol=1e-5)
