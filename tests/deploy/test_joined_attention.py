"""Attention as one operator where that is asked for, with the answers of PyTorch's own, and nothing else changed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from loud_exports import exported, kinds_of
from tiny_specs import small

from modscale.deploy import joined_attention, onnx_graph, precision, runtime
from modscale.deploy.export import Form

SPEC = small({"dim": 8, "depth": 1, "attention_depth": 2}, {"dim": 12, "depth": 1, "attention_depth": 1})
"""At 32 px 64 tokens, then 16; three blocks of attention."""


@pytest.mark.parametrize("batch", [1, 3, None])
def test_attention_is_one_operator(batch, tmp_path):
    """In a batch of one, of several and an open one; its answers are PyTorch's."""
    before, _ = exported(SPEC, tmp_path, Form(batch=batch))
    assert {entry.domain: entry.version for entry in before.opset_import} == {"": onnx_graph.OPSET}
    model, network = exported(SPEC, tmp_path, Form(batch=batch, for_cpu=True))
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": joined_attention.OPSET}
    more, fewer = kinds_of(model) - kinds_of(before), kinds_of(before) - kinds_of(model)
    assert (more["Attention"], more["Gemm"]) == (3, 6)
    assert (fewer["Softmax"], fewer["MatMul"], fewer["Split"], fewer["Transpose"]) == (3, 6, 3, 9)
    images = np.random.default_rng(1).standard_normal((batch or 2, 3, 32, 32), dtype=np.float32)
    (found,) = runtime.run_batches(str(tmp_path / "m.onnx"), [images])
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    assert abs(found["logits"] - expected).max() < 1e-5 * abs(expected).max()


@pytest.mark.parametrize("block", ["focal", "mbconv", "van", "separate_mlp"])
def test_other_operators_say_the_same_in_the_later_opset(block, tmp_path):
    """Those of every kind of block, whose splits and means are written in other words there."""
    spec = small({"dim": 8, "depth": 1, "block": block, "attention_depth": 1})
    model, network = exported(spec, tmp_path, Form(for_cpu=True))
    assert kinds_of(model)["Attention"] == 1
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 32), dtype=np.float32)
    (found,) = runtime.run_batches(str(tmp_path / "m.onnx"), [image])
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)).numpy()
    assert abs(found["logits"] - expected).max() < 1e-5 * abs(expected).max()


def test_a_graph_without_attention_stays_in_its_opset(tmp_path):
    """And is the very same."""
    spec = small({"dim": 8, "depth": 1})
    before, _ = exported(spec, tmp_path)
    assert exported(spec, tmp_path, Form(for_cpu=True))[0] == before


def test_a_runtime_of_before_gets_what_it_can_read(monkeypatch, tmp_path):
    """ONNX Runtime 1.22 refuses opset 23."""
    before, _ = exported(SPEC, tmp_path)
    monkeypatch.setattr(joined_attention, "RUNTIME", (99, 0))
    assert exported(SPEC, tmp_path, Form(for_cpu=True))[0] == before


def test_the_parts_of_attention_are_multiplied_in_int8(tmp_path):
    """q, k and v each, as ONNX Runtime runs it; fp16 is written and read as well."""
    exported(SPEC, tmp_path, Form(for_cpu=True))
    counts = precision.write_in("int8", tmp_path / "m.onnx", tmp_path / "q.onnx", "cpu")
    # two modulation blocks of 4, three of attention of 3 + 1 + 2, stem, downsampling and head; two depthwise convs
    assert counts == {"int8": 2 * 4 + 3 * 6 + 3, "fp32": 2}
    assert sum(precision.write_in("fp16", tmp_path / "m.onnx", tmp_path / "h.onnx", "cpu").values()) == 31
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(onnx_graph.parse(tmp_path / "h.onnx")).graph.value_info
    }
    read = {
        types[name]
        for node in onnx_graph.parse(tmp_path / "h.onnx").graph.node
        if node.op_type == "Attention"
        for name in node.input
    }
    assert read == {onnx.TensorProto.FLOAT}  # the CPU provider's kernel for fp16 is the slower one
