"""Semantic FPN, against a plain form written out here with other operations, and its counts against fvcore."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modscale.errors import InputError
from modscale.models.efficientmod import build_network
from modscale.models.fvcore_trace import trace_model
from modscale.models.semantic_fpn import SemanticFPN, upsample
from modscale.models.transfer import take_over
from modscale.specs.counts import count_model, sum_by
from modscale.specs.published import published
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec, parse_spec, spec_to_dict


def dense(name_or_stages: object, **top: object) -> ModelSpec:
    """A spec under Semantic FPN, of a published name or of stages."""
    base = spec_to_dict(published(name_or_stages)) if isinstance(name_or_stages, str) else {"stages": name_or_stages}
    return parse_spec({**base, "head": "semantic_fpn", **top})


TINY = dense(
    [{"dim": 8, "depth": 1}, {"dim": 16, "depth": 1, "block": "mbconv"}, {"dim": 24, "depth": 1}],
    resolution=32, num_classes=5,
)  # fmt: skip


def doubled(x: Tensor) -> Tensor:
    """Twice the side by bilinear interpolation, as two products with a matrix made by hand (edges repeated)."""

    def matrix(side: int) -> Tensor:
        rows = torch.zeros(2 * side, side)
        for i in range(2 * side):
            at = min(max((i + 0.5) / 2 - 0.5, 0), side - 1)
            low = int(at)
            rows[i, low] += 1 - (at - low)
            rows[i, min(low + 1, side - 1)] += at - low
        return rows

    return torch.einsum("ih,bchw,jw->bcij", matrix(x.shape[2]), x, matrix(x.shape[3]))


def plain(fpn: SemanticFPN, maps: list[Tensor]) -> Tensor:
    """Panoptic FPN's figure 3, step by step: lateral, top-down sum, 3x3, then conv, norm, ReLU and a doubling each."""
    state = fpn.state_dict()
    pyramid = [
        torch.einsum("oc,bchw->bohw", state[f"laterals.{i}.weight"][:, :, 0, 0], one)
        + state[f"laterals.{i}.bias"][:, None, None]
        for i, one in enumerate(maps)
    ]
    for i in (1, 0):
        pyramid[i] = pyramid[i] + pyramid[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    total = torch.zeros(1)
    for level, one in enumerate(pyramid):
        x = F.conv2d(one, state[f"smooth.{level}.weight"], state[f"smooth.{level}.bias"], padding=1)
        for step in range(max(level, 1)):
            at = f"branches.{level}.{(4 if level else 3) * step}"
            norm = f"branches.{level}.{(4 if level else 3) * step + 1}"
            x = F.conv2d(x, state[f"{at}.weight"], padding=1)
            mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
            x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
            x = (x * state[f"{norm}.weight"][:, None, None] + state[f"{norm}.bias"][:, None, None]).clamp(min=0)
            x = doubled(x) if level else x
        total = total + x
    return total


def test_it_is_the_segmentation_branch_of_panoptic_fpn() -> None:
    """Three maps through the module and through the plain form, with statistics and gains that are not 0 and 1."""
    torch.manual_seed(0)
    fpn = SemanticFPN([4, 6, 8]).eval()
    for module in fpn.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                tensor.data.uniform_(0.5, 1.5)
    maps = [torch.randn(2, dim, side, side) for dim, side in ((4, 8), (6, 4), (8, 2))]
    with torch.no_grad():
        torch.testing.assert_close(fpn(maps), plain(fpn, maps), rtol=1e-4, atol=1e-4)


def test_a_mask_for_each_class_at_the_size_of_the_image() -> None:
    """[B, K, R, R], the head's maps enlarged by the stem's stride."""
    network = build_network(TINY, seed=0).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features, maps = network.forward_maps(image)
        assert [tuple(one.shape) for one in maps] == [(2, 8, 8, 8), (2, 16, 4, 4), (2, 24, 2, 2)]
        torch.testing.assert_close(network(image), doubled(doubled(network.head(features))), rtol=0.2, atol=0.05)
        assert torch.equal(network(image), upsample(network.head(features), 4))
        assert network(image).shape == (2, 5, 32, 32)


@pytest.mark.parametrize("name", ["xxs", "s_conv"])
def test_the_counts_equal_a_trace_of_fvcore(name: str) -> None:
    """To the last unit, convs, norms, attention and upsampling together."""
    spec = dense(name, resolution=64, num_classes=7)
    counted = count_model(spec)
    assert (counted.params, counted.flops) == trace_model(spec)


def test_params_of_the_papers_network_by_hand() -> None:
    """s at 150 classes: its stages, 552 x 256 laterals, four 3x3 convs, seven of the branch, 128 x 150 at the end."""
    stages = 12_897_184 - 312 * 1000 - 1000 - 2 * 312
    laterals = (32 + 64 + 144 + 312) * 256 + 4 * 256
    smooth = 4 * (9 * 256 * 256 + 256)
    branch = 4 * 9 * 256 * 128 + 3 * 9 * 128 * 128 + 7 * 2 * 128
    counted = count_model(dense("s", resolution=512, num_classes=150))
    assert counted.params == stages + laterals + smooth + branch + 128 * 150 + 150 == 16_729_374
    assert list(sum_by(counted.parts, "part"))[-2:] == ["fpn", "head"]


def test_a_classifiers_weights_are_taken_over_but_its_head(tmp_path) -> None:
    """Even where it has as many classes: the head of a classifier is none of a mask's."""
    torch.manual_seed(1)
    theirs = build_network(parse_spec({**spec_to_dict(TINY), "head": "classifier"}), seed=5)
    torch.nn.init.normal_(theirs.head.bias)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    network = build_network(TINY, seed=4)
    taken = take_over(network, tmp_path / "weights.pt")
    assert torch.equal(network.layers[2].blocks[0].mlp.fc1.weight, theirs.layers[2].blocks[0].mlp.fc1.weight)
    assert {"head.weight", "head.bias", "fpn.laterals.0.weight"} <= set(taken.fresh)
    assert not network.head.bias.detach().any()


@pytest.mark.parametrize(("resolution", "is_fit"), [(32, True), (16, True), (40, False), (36, False), (24, False)])
def test_maps_must_halve_exactly(resolution: int, is_fit: bool) -> None:
    """Three stages behind a stride of 4: 16 pixels to a token of the last."""
    document = {**spec_to_dict(TINY), "resolution": resolution}
    if is_fit:
        assert build_network(parse_spec(document), seed=0).eval()(torch.zeros(1, 3, resolution, resolution)).ndim == 4
        return
    with pytest.raises(InputError, match=r"resolution: must be a multiple of 16 for head: semantic_fpn, got"):
        parse_spec(document)


def test_the_head_is_a_part_of_what_a_network_is() -> None:
    """It is written only where it is no classifier, and two heads are two networks."""
    classifier = parse_spec({**spec_to_dict(TINY), "head": "classifier"})
    assert spec_to_dict(TINY)["head"] == "semantic_fpn"
    assert "head" not in spec_to_dict(classifier)
    assert parse_spec(spec_to_dict(TINY)) == TINY
    assert network_key(TINY) != network_key(classifier)


def test_masks_follow_the_figure_they_were_trained_on() -> None:
    """A few steps on one scene bring the loss of its pixels down: every branch learns."""
    torch.manual_seed(0)
    network = build_network(TINY, seed=0)
    image = torch.randn(2, 3, 32, 32)
    masks = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (2, 8, 8))).repeat_interleave(4, 1)
    masks = masks.repeat_interleave(4, 2)
    before = {name: p.clone() for name, p in network.named_parameters()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(network(image), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in network.named_parameters())
