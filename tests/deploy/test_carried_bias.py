"""Carried biases: no product behind a LayerNorm has a bias, and the answers are those of the formula with one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_specs import SPECS

from modscale.deploy import export, onnx_graph, runtime
from modscale.deploy.carried_bias import carry_biases
from modscale.deploy.export import export_onnx
from modscale.models.efficientmod import build_network

DIM = 6


def normed_layers(*, seed: int, reader: str = "Gemm") -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """LayerNorm of `image` [4, 6], two layers behind it, one through a Reshape, one without bias; `reader` reads it."""
    rng = np.random.default_rng(seed)
    sizes = {"gain": (DIM,), "shift": (DIM,), "wide": (9, DIM), "wide_bias": (9,), "plain": (3, DIM)}
    values = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    nodes = [
        helper.make_node("LayerNormalization", ["image", "gain", "shift"], ["normed"], axis=-1, epsilon=1e-5),
        helper.make_node("Gemm", ["normed", "wide", "wide_bias"], ["logits"], transB=1),
        helper.make_node("Reshape", ["normed", "shape"], ["again"]),
        helper.make_node("Gemm", ["again", "plain"], ["second"], transB=1),
    ]
    if reader != "Gemm":
        nodes.append(helper.make_node(reader, ["normed"], ["third"]))
    ends = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [4, DIM])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("logits", "second", *(["third"] if reader != "Gemm" else []))
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in values.items()]
    stored.append(numpy_helper.from_array(np.array([4, DIM], np.int64), "shape"))
    graph = helper.make_graph(nodes, "g", ends, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), values


def expected(values: dict[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """Both layers by LayerNorm's definition, in float64."""
    wide = {name: value.astype(np.float64) for name, value in values.items()}
    x = x.astype(np.float64)
    n = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    h = n * wide["gain"] + wide["shift"]
    return {"logits": h @ wide["wide"].T + wide["wide_bias"], "second": h @ wide["plain"].T}


@pytest.mark.parametrize("seed", range(3))
def test_layers_behind_a_norm_give_the_same_without_a_bias(seed):
    """Also for a token that varies nowhere, of which the norm leaves nothing but the biases."""
    model, values = normed_layers(seed=seed)
    carry_biases(model)
    x = np.random.default_rng(seed + 10).standard_normal((4, DIM)).astype(np.float32) * 5 + 3
    x[2] = 7.0
    assert [len(node.input) for node in model.graph.node if node.op_type == "Gemm"] == [2, 2]
    assert "wide_bias" not in onnx_graph.stored_shapes(model)
    (found,) = runtime.run_batches(model.SerializeToString(), [x])
    for name, value in expected(values, x).items():
        assert abs(found[name] - value).max() < 1e-5 * abs(value).max()


def test_a_norm_that_something_else_reads_is_left_alone():
    """What it gives must stay what it was."""
    model, _ = normed_layers(seed=0, reader="Relu")
    before = model.SerializeToString()
    assert carry_biases(model).SerializeToString() == before


@pytest.mark.parametrize(
    ("name", "biases"),
    [
        ("modulation", 2 * 4 + 2),  # g and fc2 of four blocks, the attention's proj and fc2
        ("separate_mlp", 2 * 3),  # g, fc2, and the MLP's fc2
        ("focal", 2 * 3),  # h, proj, and the MLP's fc2
        ("context conv", 2 * 2),  # a conv reads the norm: all keep theirs
        ("context g", 2 * 1),
        ("van", 2 * 5),  # BatchNorm
    ],
)
def test_the_biases_that_are_left(name, biases, tmp_path):
    """Counted by hand, without the head."""
    export_onnx(export.loud_copy(build_network(SPECS[name], seed=0), SPECS[name]), SPECS[name], tmp_path / "m.onnx")
    model = onnx_graph.parse(tmp_path / "m.onnx")
    linear = [node for node in model.graph.node if node.op_type == "Gemm" and node.input[1] != onnx_graph.HEAD]
    assert sum(len(node.input) == 3 for node in linear) == biases
