"""The modulated MLP in pieces is torch's own, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modscale.models import blocks, modulated_mlp
from modscale.models.blocks import ModulationMlp
from modscale.models.modulated_mlp import is_worth_pieces, modulate_in_pieces
from modscale.specs.spec import StageSpec


def written_out(x: Tensor, context: Tensor, fc1: tuple[Tensor, Tensor], fc2: tuple[Tensor, Tensor]) -> Tensor:
    """As the paper's figure has it: the context repeated for each copy of the channels."""
    values = F.gelu(F.linear(x, *fc1))
    ratio = values.shape[-1] // context.shape[-1]
    return F.linear(values * context.repeat(1, 1, 1, ratio), *fc2)


@pytest.mark.parametrize("piece_values", [1, 24, 60, 10_000])
def test_output_and_gradients_are_those_of_torch(monkeypatch: pytest.MonkeyPatch, piece_values: int) -> None:
    """Pieces of one token, of 2, of 5 with a shorter last one, and the whole; inputs and gradient not contiguous."""
    monkeypatch.setattr(modulated_mlp, "PIECE_VALUES", piece_values)
    torch.manual_seed(0)
    shapes = ((12, 4), (12,), (4, 12), (4,))
    weights = [torch.randn(shape, requires_grad=True) for shape in shapes]
    x, context, grad = (torch.randn(2, 4, 3, 3).permute(0, 2, 3, 1) for _ in range(3))
    leaves = [x.requires_grad_(), context.requires_grad_(), *weights]
    found, expected = (
        function(x, context, (weights[0], weights[1]), (weights[2], weights[3]))
        for function in (modulate_in_pieces, written_out)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    pairs = zip(*(torch.autograd.grad(out, leaves, grad) for out in (found, expected)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a block was computed in pieces; two tokens are worth two of them."""
    seen: list[int] = []
    monkeypatch.setattr(modulated_mlp, "PIECE_VALUES", 8)
    monkeypatch.setattr(blocks, "modulate_in_pieces", lambda *given: seen.append(1) or modulate_in_pieces(*given))
    return seen


def test_only_a_training_in_float32_takes_pieces(calls: list[int]) -> None:
    """Evaluation, an export, half precision, addition and ratio 1 are computed as they are written."""
    x = torch.randn(1, 2, 1, 4)
    mlp = ModulationMlp(StageSpec(dim=4, depth=1), 2)
    whole = mlp.eval()(x)
    with torch.no_grad():
        mlp.train()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mlp(x)
    for other in (
        ModulationMlp(StageSpec(dim=4, depth=1, fusion="sum"), 2),
        ModulationMlp(StageSpec(dim=4, depth=1), 1),
    ):
        other.train()(x)
    assert not calls
    torch.testing.assert_close(mlp(x), whole, rtol=1e-5, atol=1e-6)
    assert len(calls) == 1
    assert not is_worth_pieces(x[:, :1], 2)
