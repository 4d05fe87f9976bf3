"""Counts of an ONNX graph against the closed forms of a spec, which have an fvcore trace behind them, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_specs import small

from modscale.deploy.export import Form, export_onnx, fresh_network
from modscale.deploy.foreign import count_file
from modscale.deploy.onnx_counts import GraphCount, count_graph
from modscale.errors import InputError
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec


def test_attention_as_one_operator_counts_as_its_products(tmp_path: Path) -> None:
    """ONNX's own; that of ONNX Runtime's domain has other inputs, and is named."""
    spec = small({"dim": 8, "depth": 1, "attention_depth": 1})
    file = tmp_path / "model.onnx"
    export_onnx(fresh_network(spec, seed=0), spec, file, form=Form(for_cpu=True))
    model = onnx.load(file)
    assert [node.op_type for node in model.graph.node].count("Attention") == 1
    found = count_file(file, (1, spec.in_chans, spec.resolution, spec.resolution))
    assert found.flops == count_model(replace(spec, layer_scale=None)).flops
    own = helper.make_node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=2)
    shapes = {"x": (1, 3, 4), "w": (4, 12), "b": (12,), "y": (1, 3, 4)}
    assert count_graph(helper.make_graph([own], "g", [], []), shapes).not_counted == ("Attention",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        small({"dim": 8, "depth": 1, "block": "focal"}, {"dim": 16, "depth": 1, "attention_depth": 1}),
        small({"dim": 8, "depth": 1, "block": "van"}, {"dim": 8, "depth": 1, "block": "mbconv"}, head="semantic_fpn"),
    ],
    ids=["classifier", "masks"],
)
def test_a_file_of_ours_counts_as_its_spec(tmp_path: Path, spec: ModelSpec) -> None:
    """Convs, linear layers, attention's products, both norms, resizing and the pooling, to the unit; no LayerScale.

    That is folded into the linear layers, as are the biases of those that read a LayerNorm.
    """
    file = tmp_path / "model.onnx"
    network = fresh_network(spec, seed=0)
    export_onnx(network, spec, file)
    expected = count_model(replace(spec, layer_scale=None))
    behind = (".mlp.fc1.bias", ".context_layer.f.bias", ".modulation.f.bias")
    has_norms = spec.head == "classifier"  # the other's blocks have BatchNorm
    carried = sum(one.numel() for name, one in network.named_parameters() if has_norms and name.endswith(behind))
    found = count_file(file, (1, spec.in_chans, spec.resolution, spec.resolution))
    assert found == GraphCount(params=expected.params - carried, flops=expected.flops)


def graph_file(folder: Path, nodes: list[onnx.NodeProto], weights: dict[str, list[int]], shape: list[object]) -> Path:
    """A file of these nodes from `x` to `y`, its weights zeros of these shapes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor(name, TensorProto.FLOAT, dims, [0.0] * int(math.prod(dims)))
            for name, dims in weights.items()
        ],
    )
    file = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), file)
    return file


def test_by_hand(tmp_path: Path) -> None:
    """An open batch and sides take the shape that is given; what nobody reads is no param, nor is a lone number."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2], group=2),  # [1, 6, 4, 4] of 2x2x2 filters
        helper.make_node("ConvTranspose", ["c", "t"], ["u"], strides=[2, 2]),  # each of 96 inputs meets 3x2x2
        helper.make_node("Mul", ["u", "one"], ["m"]),
        helper.make_node("Einsum", ["m", "e"], ["y"], equation="bchw,ck->bkhw"),  # 3 x 64 x 5
    ]
    weights = {"w": [6, 2, 2, 2], "b": [6], "t": [6, 3, 2, 2], "one": [1], "e": [3, 5], "unread": [100]}
    found = count_file(graph_file(tmp_path, nodes, weights, ["N", 4, "H", "W"]), (1, 4, 8, 8))
    assert found == GraphCount(params=48 + 6 + 72 + 15, flops=96 * 8 + 96 * 12 + 3 * 64 * 5)


def test_what_nobody_counts_is_named(tmp_path: Path) -> None:
    """A recurrent layer and a loop: no FLOPs, and never too few."""
    nodes = [
        helper.make_node("Loop", ["", "", "x"], ["h"], body=helper.make_graph([], "body", [], [])),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("LSTM", ["x", "w", "r0"], ["y"], hidden_size=2),
    ]
    file = graph_file(tmp_path, nodes, {"w": [1, 8, 4], "r0": [1, 8, 2]}, [3, 1, 4])
    assert count_file(file, (3, 1, 4)) == GraphCount(params=48, flops=None, not_counted=("LSTM", "Loop"))


def test_what_is_no_onnx_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match=r"text\.onnx: cannot be read by onnx"):
        count_file(tmp_path / "text.onnx", (1, 3, 8, 8))
