"""The theoretical receptive field against torch: what an output's gradient reaches."""

from dataclasses import replace

import pytest
import torch

from modscale.models.efficientmod import build_network
from modscale.specs.published import published
from modscale.specs.receptive_field import share_seen, token_places
from modscale.specs.spec import ModelSpec, StageSpec, StemSpec


def side_reached(spec: ModelSpec) -> int:
    """Columns of the image on which the middle place of the last stage depends, with fresh weights in doubles."""
    network = build_network(spec, seed=0).double().eval()
    draws = torch.Generator().manual_seed(0)  # ReLU6 is flat on some images
    image = torch.randn(1, 3, spec.resolution, spec.resolution, dtype=torch.double, generator=draws).requires_grad_()
    features: list[torch.Tensor] = []
    network.norm.register_forward_pre_hook(lambda module, args: features.append(args[0]))
    network(image)
    side = spec.sides()[-1]
    place = features[0].reshape(side, side, -1)[side // 2, side // 2]
    (gradient,) = torch.autograd.grad(place.square().sum(), image)
    return int(gradient.abs().sum((0, 1, 2)).gt(0).sum())


def two_stages(**keys: object) -> ModelSpec:
    stages = tuple(replace(StageSpec(dim=4, depth=1), **keys) for _ in range(2))
    return ModelSpec(resolution=320, num_classes=5, layer_scale=1.0, stages=stages)


@pytest.mark.parametrize(
    "spec",
    [
        two_stages(kernel_size=(3,)),
        two_stages(kernel_size=(3, 5)),
        two_stages(context=("f", "g")),
        two_stages(block="mbconv", kernel_size=(5,)),
        two_stages(block="separate_mlp", kernel_size=(3,)),
        two_stages(block="separate_mlp", context=("g",)),
        two_stages(block="van"),
        replace(two_stages(kernel_size=(3,)), stem=StemSpec(kernel_size=8, stride=8)),
    ],
    ids=lambda spec: f"{spec.stages[0].block}-{spec.stages[0].kernel_size}-{spec.stages[0].context}-{spec.stem.stride}",
)
def test_the_share_seen_is_what_the_gradient_reaches(spec: ModelSpec) -> None:
    assert share_seen(spec) * spec.resolution == side_reached(spec)


@pytest.mark.parametrize("keys", [{"block": "focal"}, {"kernel_size": (3,), "attention_depth": 1}])
def test_what_looks_at_the_whole_map_sees_the_whole_image(keys: dict[str, object]) -> None:
    spec = replace(two_stages(**keys), resolution=96)
    assert share_seen(spec) == 1.0
    assert side_reached(spec) >= 96 - 4  # the stem's stride leaves the border out


def test_of_the_papers_networks_only_those_without_a_spatial_operation_see_less_than_the_image() -> None:
    assert share_seen(published("s_conv")) == 1.0
    assert share_seen(published("s_conv/context-f")) == share_seen(published("s_conv/context-g")) == 63 / 224


@pytest.mark.parametrize("stem", [(7, 4), (4, 4), (3, 2), (4, 2), (8, 8)], ids=str)
def test_a_token_looks_where_the_middle_of_its_gradient_lies(stem: tuple[int, int]) -> None:
    """By the columns that tokens in the middle of each map depend on: none of them reaches the border."""
    kernel_size, stride = stem
    stages = tuple(StageSpec(dim=2, depth=1, kernel_size=(3,)) for _ in range(3))
    spec = ModelSpec(
        resolution=50 * stride, num_classes=5, layer_scale=1.0, stages=stages,
        stem=StemSpec(kernel_size=kernel_size, stride=stride),
    )  # fmt: skip
    network = build_network(spec, seed=0).double().eval()
    image = torch.randn(1, 3, 50 * stride, 50 * stride, dtype=torch.double, requires_grad=True)
    _, maps = network.forward_maps(image)
    for number, one in enumerate(maps, 1):
        first, distance = token_places(spec, number)
        column = one.shape[3] // 2
        (gradient,) = torch.autograd.grad(one[0, :, one.shape[2] // 2, column].square().sum(), image, retain_graph=True)
        reached = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        middle = (int(reached.min()) + int(reached.max()) + 1) / 2
        assert middle == first + distance * column
