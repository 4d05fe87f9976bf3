"""What a backbone offers, as timm's models mean it: features, head, maps of stages, pruning, layers by depth."""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any

import pytest
import torch
from tiny_specs import SPECS, small
from torch import Tensor, nn

from modscale.errors import InputError
from modscale.models.efficientmod import EfficientMod, build_network
from modscale.specs.block_kinds import BLOCKS

SPEC = small(
    {"dim": 8, "depth": 2},
    {"dim": 12, "depth": 1, "block": "mbconv"},
    {"dim": 16, "depth": 1, "attention_depth": 1},
    {"dim": 24, "depth": 1},
    resolution=64,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(**options: Any) -> EfficientMod:
    """Linear layers ten times their start, so that every branch is seen."""
    network = build_network(SPEC, seed=0, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return network


def images(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def hooked_maps(network: EfficientMod, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what the modules that `feature_info` names give, channels first."""
    seen: list[Tensor] = []
    handles = [
        network.get_submodule(info["module"]).register_forward_hook(lambda _m, _x, out: seen.append(out))
        for info in network.feature_info
    ]
    logits = network(x)
    for handle in handles:
        handle.remove()
    return logits, [out.permute(0, 3, 1, 2) for out in seen]


@pytest.mark.parametrize("name", SPECS)
def test_features_and_head_make_the_whole(name: str) -> None:
    """The last map, its mean over the tokens, and the linear layer's product with that are the network."""
    spec = SPECS[name]
    network = build_network(spec, seed=0).eval()
    x = torch.randn(2, spec.in_chans, spec.resolution, spec.resolution)
    features = network.forward_features(x)
    assert features.shape == (2, network.num_features, spec.sides()[-1], spec.sides()[-1])
    pooled = network.forward_head(features, pre_logits=True)
    assert torch.allclose(pooled, features.mean((2, 3)), atol=1e-6)
    head = network.get_classifier()
    assert isinstance(head, nn.Linear)
    by_hand = torch.einsum("bc,kc->bk", pooled, head.weight) + head.bias
    assert torch.allclose(network.forward_head(features), by_hand, atol=1e-6)
    assert torch.equal(network(x), network.forward_head(features))
    assert (network.in_chans, network.num_classes) == (spec.in_chans, spec.num_classes)
    assert network.head_hidden_size == spec.stages[-1].dim
    for info, stage, side in zip(network.feature_info, spec.stages, spec.sides(), strict=True):
        assert info["num_chs"] == stage.dim
        assert abs(spec.resolution / info["reduction"] - side) <= 1


def test_the_maps_are_those_of_the_modules_that_are_named() -> None:
    """Before the downsampling; the last normalised where that is asked for; the features beside them."""
    network, x = fresh(), images()
    _, expected = hooked_maps(network, x)
    features, maps = network.forward_intermediates(x)
    assert torch.equal(features, network.forward_features(x))
    for one, other, info in zip(maps, expected, network.feature_info, strict=True):
        assert torch.equal(one, other)
        assert one.shape == (2, info["num_chs"], 64 // info["reduction"], 64 // info["reduction"])
    normalised = network.forward_intermediates(x, norm=True, intermediates_only=True)
    assert torch.equal(normalised[-1], features)
    assert all(torch.equal(a, b) for a, b in zip(normalised[:-1], maps[:-1], strict=True))
    last = network.forward_intermediates(x, indices=1, output_fmt="NHWC", intermediates_only=True)
    assert torch.equal(last[0].permute(0, 3, 1, 2), maps[-1])


@pytest.mark.parametrize(("indices", "expected"), [(2, [2, 3]), ([0, -2], [0, 2]), ((-1,), [3]), ([2, 0], [0, 2])])
def test_stages_are_chosen_by_number_or_by_index(indices: Any, expected: list[int]) -> None:
    """In the order of the stages, as timm gives them."""
    network, x = fresh(), images(1)
    _, maps = network.forward_intermediates(x)
    chosen = network.forward_intermediates(x, indices=indices, intermediates_only=True)
    assert len(chosen) == len(expected)
    assert all(torch.equal(one, maps[i]) for one, i in zip(chosen, expected, strict=True))


def test_what_is_not_needed_is_not_computed() -> None:
    """`stop_early` ends at the last stage that is asked for, with its map."""
    network, x = fresh(), images(1)
    whole = network.forward_intermediates(x, indices=[1])
    ran: list[int] = []
    for i, stage in enumerate(network.layers):
        stage.blocks.register_forward_hook(lambda _m, _x, _out, i=i: ran.append(i))
        if hasattr(stage, "downsample"):
            stage.downsample.register_forward_hook(lambda _m, _x, _out, i=i: ran.append(10 + i))
    x, maps = network.forward_intermediates(x, indices=[1], stop_early=True)
    assert ran == [0, 10, 1]
    assert torch.equal(maps[0], whole[1][0])
    assert torch.equal(x, maps[0])


@pytest.mark.parametrize("indices", [0, 5, -1, [4], [-5], []])
def test_stages_that_are_not_there(indices: Any) -> None:
    for ask in (fresh().prune_intermediate_layers, lambda i: fresh().forward_intermediates(images(1), i)):
        with pytest.raises(InputError, match="indices: must be"):
            ask(indices)
    with pytest.raises(InputError, match="output_fmt: must be one of NCHW, NHWC"):
        fresh().forward_intermediates(images(1), output_fmt="NLC")


@pytest.mark.parametrize("indices", [1, [0, 2], [1], [0, 1, 2, 3]])
def test_a_pruned_network_gives_the_same_maps_with_less(indices: Any) -> None:
    """Stages after the last one asked for are gone, its downsampling too; the maps stay to the bit."""
    network, x = fresh(), images(1)
    expected = network.forward_intermediates(x, indices=indices, intermediates_only=True)
    taken = network.prune_intermediate_layers(indices)
    found = network.forward_intermediates(x, indices=taken, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    last = max(taken)
    assert len(network.layers) == last + 1
    assert not hasattr(network.layers[-1], "downsample")
    assert isinstance(network.norm, nn.LayerNorm) is (last == 3)
    assert (network.num_classes, network.num_features) == (0, SPEC.stages[last].dim)
    assert network(x).shape == (1, SPEC.stages[last].dim, 16 // 2**last, 16 // 2**last)


def test_a_norm_is_pruned_and_a_head_kept_where_that_is_asked_for() -> None:
    network = fresh()
    network.prune_intermediate_layers(4, prune_norm=True, prune_head=False)
    assert isinstance(network.norm, nn.Identity)
    assert network(images(1)).shape == (1, 5)


def test_the_head_is_made_anew_or_taken_away() -> None:
    """Of the network's type; 0 classes leave the pooled features, no pooling leaves the map."""
    network, x = fresh(), images()
    features = network.forward_features(x)
    network.reset_classifier(11)
    head = network.get_classifier()
    assert isinstance(head, nn.Linear)
    assert network(x).shape == (2, 11)
    assert not head.bias.any()
    assert 0.01 < head.weight.std() < 0.03
    network.reset_classifier(0)
    assert torch.allclose(network(x), features.mean((2, 3)), atol=1e-6)
    network.reset_classifier(7, "")
    assert network(x).shape == (2, 7, 2, 2)
    assert torch.allclose(network(x)[:, :, 1, 0], network.get_classifier()(features[:, :, 1, 0]), atol=1e-6)
    network.reset_classifier(0, "")
    assert torch.equal(network(x), features)
    network.double().reset_classifier(3, "avg")
    assert network(x.double()).dtype == torch.float64
    for wrong in ((-1, None), (3, "max")):
        with pytest.raises(InputError, match="must be"):
            network.reset_classifier(*wrong)


@pytest.mark.parametrize("name", ["modulation", "mbconv", "van"])
def test_gradient_checkpointing_changes_no_gradient_and_no_statistic(name: str) -> None:
    """The same to the bit in a step of training; BatchNorm counts each batch once; blocks run twice."""
    spec = SPECS[name]
    plain = build_network(spec, seed=0).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    runs: list[None] = []
    saving.layers[0].blocks[0].register_forward_pre_hook(lambda *_: runs.append(None))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for network in (plain, saving):
        network(x).square().sum().backward()
    assert len(runs) == 2
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), key
    for (key, one), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(one, other), key
    saving.set_grad_checkpointing(False)
    runs.clear()
    saving(x).sum().backward()
    assert len(runs) == 1


def grouped(network: EfficientMod, coarse: bool) -> dict[str, tuple[int, ...]]:
    """The layer of each parameter's name, read off the patterns by what timm documents of them."""
    places: dict[str, tuple[float, ...]] = {}
    for name, _ in network.named_parameters():
        places[name] = (float("inf"),)
        for group, pattern in enumerate(network.group_matcher(coarse).values()):
            for expression, suffix in [(pattern, None)] if isinstance(pattern, str) else pattern:
                match = re.match(expression, name)
                if match and places[name] == (float("inf"),):
                    places[name] = (group, *map(float, match.groups()), *(suffix or ()))
    order: dict[tuple[float, ...], int] = {}
    for place in sorted(set(places.values())):
        before = max(order.values(), default=-1)
        order[place] = before if place[-1] == 99999 and before >= 0 else before + 1
    return {name: order[place] for name, place in places.items()}


def test_parameters_fall_into_layers_by_depth() -> None:
    """Stem, blocks or stages, head; a downsampling with what is before it, the last norm with the last block."""
    network = fresh()
    fine, coarse = grouped(network, False), grouped(network, True)
    assert {fine[name] for name in fine if name.startswith("patch_embed")} == {0}
    blocks = [f"layers.{i}.blocks.{j}." for i, n in enumerate((2, 1, 2, 1)) for j in range(n)]
    for depth, block in enumerate(blocks, 1):
        assert {fine[name] for name in fine if name.startswith(block)} == {depth}
    assert fine["layers.0.downsample.proj.weight"] == 2
    assert fine["layers.1.downsample.norm.bias"] == 3
    assert (fine["norm.weight"], fine["head.weight"]) == (6, 7)
    for name, layer in coarse.items():
        stage = re.match(r"layers\.(\d)", name)
        assert layer == (int(stage[1]) + 1 if stage else {"patch_embed": 0, "norm": 4, "head": 5}[name.split(".")[0]])


def test_layer_scale_is_spared_from_decay() -> None:
    names = fresh().no_weight_decay()
    assert {"layers.0.blocks.0.gamma_1", "layers.3.blocks.0.gamma_1"} <= names
    assert all(name.endswith("gamma_1") for name in names)
    assert len(names) == 4  # mbconv and attention have none


@pytest.mark.parametrize("block", BLOCKS)
def test_torchscript_and_fx_answer_the_same(block: str) -> None:
    """Compiled as it is, and from its traced graph."""
    spec = small({"dim": 8, "depth": 1, "block": block, "attention_depth": 1}, {"dim": 12, "depth": 1, "block": block})
    network = build_network(spec, seed=0).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    graph = torch.fx.symbolic_trace(network)
    assert torch.equal(graph(x), network(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to give it up
        scripted = [torch.jit.script(network), torch.jit.script(graph)]
    for one in scripted:
        torch.testing.assert_close(one(x), network(x), rtol=1e-4, atol=1e-5)
