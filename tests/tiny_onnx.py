"""A small ONNX model with the names of an exported one."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def write_tiny(file: Path) -> Path:
    """logits = the mean over the image of its square, [1, 3, 32, 32] to [1, 3, 1, 1]."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 1, 1])
    nodes = [
        helper.make_node("Mul", ["image", "image"], ["x"]),
        helper.make_node("GlobalAveragePool", ["x"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file
