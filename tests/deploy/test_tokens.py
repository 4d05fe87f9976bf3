"""Tokens: every linear layer is one product, what lies between is spared, and the answers are those of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loud_exports import exported
from tiny_specs import SPECS

from modscale.deploy import onnx_graph, runtime
from modscale.deploy.export import Form, export_onnx
from modscale.models.efficientmod import build_network


@pytest.mark.parametrize("batch", [1, None])
@pytest.mark.parametrize(
    "name", ["modulation", "separate_mlp", "van", "focal", "mbconv", "context g", "attention first"]
)
def test_every_linear_layer_is_one_product(name, batch, tmp_path):
    """Attention's own products stay; three images at once give what PyTorch gives for each."""
    spec = SPECS[name]
    model, network = exported(spec, tmp_path, Form(batch=batch and 3))
    linear = sum(isinstance(module, torch.nn.Linear) for module in network.modules())
    kinds = onnx_graph.weighted_nodes(model)
    assert (len(kinds["linear"]), len(kinds["head"])) == (linear - 1, 1)
    attention = sum(stage.attention_depth for stage in spec.stages)
    assert sum(node.op_type == "MatMul" for node in model.graph.node) == 2 * attention
    shape = (3, spec.in_chans, spec.resolution, spec.resolution)
    images = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    (found,) = runtime.run_batches(str(tmp_path / "m.onnx"), [images])
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    assert abs(found["logits"] - expected).max() < 1e-5


@pytest.mark.parametrize(("name", "most"), [("no LayerScale", 7), ("separate_mlp", 4), ("context f", 3)])
def test_no_reshape_is_left_that_two_neighbours_could_do_without(name, most, tmp_path):
    """Counted by hand for two blocks; stem, trunk and head have three more.

    `no LayerScale`, of ratios 1 and 6: to a conv and back twice, and value, context and product of the second.
    `separate_mlp`: to a conv and back twice. `context f`: value, context and product.
    """
    spec = SPECS[name]
    export_onnx(build_network(spec, seed=0), spec, tmp_path / "m.onnx")
    nodes = onnx_graph.parse(tmp_path / "m.onnx").graph.node
    made = {node.output[0]: node for node in nodes if node.op_type == "Reshape"}
    assert not [node.name for node in made.values() if node.input[0] in made]
    assert len(made) <= most + 3
