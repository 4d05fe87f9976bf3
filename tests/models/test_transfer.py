"""Weights of a like network: all of them where it is the same, those that both have where it is wider or narrower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modscale.errors import CheckpointError
from modscale.models.checkpoint import save_weights
from modscale.models.efficientmod import EfficientMod, build_network
from modscale.models.transfer import TakenOver, take_over
from modscale.specs.spec import parse_spec


def network(seed: int, *, dims: tuple[int, int] = (8, 16), ratio: int = 2, **top: Any) -> EfficientMod:
    stages = [
        {"dim": dims[0], "depth": 1, "mlp_ratios": [ratio]},
        {"dim": dims[1], "depth": 1, "mlp_ratios": [ratio], "attention_depth": 1},
    ]
    return build_network(parse_spec({"resolution": 32, "num_classes": 5, "stages": stages, **top}), seed=seed)


def taken(tmp_path: Path, theirs: EfficientMod, ours: EfficientMod) -> TakenOver:
    save_weights(theirs, tmp_path / "theirs.safetensors")
    return take_over(ours, tmp_path / "theirs.safetensors")


def test_of_the_same_network_everything_is_taken(tmp_path: Path) -> None:
    """Its outputs are the other one's, to the bit."""
    theirs, ours = network(1), network(2)
    found = taken(tmp_path, theirs, ours)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images), theirs(images))
    assert set(found.whole) == set(ours.state_dict())
    assert found.partial == found.fresh == found.unused == ()


def test_a_head_of_other_classes_stays_fresh(tmp_path: Path) -> None:
    """The features are the other network's, the head its own."""
    theirs, ours = network(1), network(2, num_classes=7)
    before = ours.head.weight.clone()
    found = taken(tmp_path, theirs, ours)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.forward_features(images), theirs.forward_features(images))
    assert torch.equal(ours.head.weight, before)
    assert found.fresh == ("head.weight", "head.bias")
    assert "fresh: head.weight, head.bias" in found.describe()


@pytest.mark.parametrize(("theirs_dims", "ours_dims"), [((8, 16), (12, 24)), ((12, 24), (8, 16))])
def test_of_other_widths_the_common_channels_are_taken(
    tmp_path: Path, theirs_dims: tuple[int, int], ours_dims: tuple[int, int]
) -> None:
    """Channel by channel of each copy and each head, worked out one number at a time."""
    theirs, ours = network(1, dims=theirs_dims), network(2, dims=ours_dims)
    start = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    taken(tmp_path, theirs, ours)
    old, new = theirs.state_dict(), ours.state_dict()
    old_dim, new_dim = theirs_dims[1], ours_dims[1]
    common = min(old_dim, new_dim)
    fc1 = "layers.1.blocks.0.mlp.fc1.weight"
    for row in range(2 * new_dim):
        copy, channel = divmod(row, new_dim)
        for column in range(new_dim):
            shared = channel < common and column < common
            expected = old[fc1][copy * old_dim + channel, column] if shared else start[fc1][row, column]
            assert new[fc1][row, column] == expected
    fc2 = "layers.1.blocks.0.mlp.fc2.weight"
    for column in range(2 * new_dim):
        copy, channel = divmod(column, new_dim)
        for row in range(new_dim):
            shared = channel < common and row < common
            expected = old[fc2][row, copy * old_dim + channel] if shared else start[fc2][row, column]
            assert new[fc2][row, column] == expected
    stem = "patch_embed.proj.weight"
    assert torch.equal(new[stem][: min(theirs_dims[0], ours_dims[0])], old[stem][: min(theirs_dims[0], ours_dims[0])])
    bias = "layers.1.blocks.0.mlp.fc1.bias"
    assert torch.equal(new[bias][new_dim : new_dim + common], old[bias][old_dim : old_dim + common])


def test_heads_of_an_attention_stay_apart(tmp_path: Path) -> None:
    """8 heads of 32 and of 36 channels (a width of 288): the first 32 channels of each head are those of that head."""
    theirs, ours = network(1, dims=(8, 256)), network(2, dims=(8, 288))
    taken(tmp_path, theirs, ours)
    old, new = (
        one.state_dict()["layers.1.blocks.1.attn.qkv.weight"].unflatten(0, (3, 8, -1)) for one in (theirs, ours)
    )
    assert torch.equal(new[:, :, :32, :256], old)
    old, new = (one.state_dict()["layers.1.blocks.1.attn.proj.weight"].unflatten(1, (8, -1)) for one in (theirs, ours))
    assert torch.equal(new[:256, :, :32], old)


def test_what_has_no_place_is_told(tmp_path: Path) -> None:
    """A deeper network's further block, and a kernel of another size."""
    deeper = build_network(
        parse_spec({"resolution": 32, "num_classes": 5, "stages": [{"dim": 8, "depth": 2, "kernel_size": 5}]}), seed=1
    )
    ours = build_network(parse_spec({"resolution": 32, "num_classes": 5, "stages": [{"dim": 8, "depth": 1}]}), seed=2)
    found = taken(tmp_path, deeper, ours)
    assert all(name.startswith("layers.0.blocks.1.") for name in found.unused)
    assert found.unused
    assert "layers.0.blocks.0.mlp.context_layer.context_list.0.weight" in found.fresh


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": torch.ones(2)}, "none by a name of the network"),
        ({"head.weight": torch.full((5, 16), float("nan")), "head.bias": torch.ones(5)}, "not finite"),
        ({"norm.weight": torch.ones(3, dtype=torch.int64)}, "floating-point"),
        ({"patch_embed.proj.weight": torch.ones(8, 3, 3, 3)}, "no tensor that fits"),
    ],
)
def test_a_file_of_nothing_that_fits_is_refused(tmp_path: Path, state: dict[str, torch.Tensor], words: str) -> None:
    """In a line that names it, and the network stays as it was."""
    file = tmp_path / "odd.safetensors"
    save_file(state, file)
    ours = network(2)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as caught:
        take_over(ours, file)
    assert str(caught.value).startswith(str(file))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
