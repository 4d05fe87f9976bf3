"""Biases carried by weights: where linear layers alone read a LayerNorm, its gain and bias and theirs go into them.

What LayerNorm normalises, n [T, C], sums to nought over the channels of every token, whatever the token. So the node is
left to give h = n + LEVEL, whose channels sum to C * LEVEL, and a layer behind it, W (gain * n + shift) + bias, is V h:

    U = W * gain        V = U - (mean of U's row) + (W shift + bias) / (C * LEVEL)

The first two terms see n alone, the last one the constant sum alone. That spares the bias itself: before it multiplies,
ONNX Runtime's Gemm writes the bias into every row of its output, on one thread, and then reads it back; the wide output
of `fc1` does not fit a core's cache. Exact but for rounding, as long as n sums to nought, which it does to the rounding
of its mean.

Worked example, C = 2, n = (1, -1), gain 1, shift 0, W = (3, 1), bias 4: W n + bias = 6. V = (3, 1) - 2 + 4 / (2 * 0.5)
= (5, 3), h = (1.5, -0.5), V h = 7.5 - 1.5 = 6.

Shapes: T tokens, C channels, O outputs of a layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modscale.deploy import onnx_graph
from modscale.deploy.onnx_graph import Graph

LEVEL = 0.5
"""What is added to each normalised value. The larger it is, the more is lost of n where numbers have few bits; the
smaller, the more a bias weighs in its weights."""


def carry_biases(model: Graph) -> Graph:
    """`model` of `tokens.as_tokens`, changed in place, its weights those that it is to have."""
    stored = onnx_graph.stored_shapes(model)
    readers = onnx_graph.readers_of(model)
    outputs = {value.name for value in model.graph.output}
    for norm in model.graph.node:
        if norm.op_type != "LayerNormalization" or onnx_graph.axis_of(norm) != -1:
            continue
        layers = _layers_behind(norm.output[0], readers, outputs)
        own = (*norm.input[1:], *(name for layer in layers for name in layer.input[1:]))
        if layers and all(name in stored and len(readers[name]) == 1 for name in own):
            _carry(model, norm, layers)
    onnx_graph.drop_unread(model)
    return model


def _layers_behind(name: str, readers: dict[str, list[Any]], outputs: set[str]) -> list[Any]:
    """The linear layers that read what stands under a name, or none where anything else does."""
    found: list[Any] = []
    for node in readers.get(name, []):
        if node.op_type == "Gemm" and node.input[0] == name and name not in node.input[1:]:
            found.append(node)
        elif node.op_type == "Reshape" and (behind := _layers_behind(node.output[0], readers, outputs)):
            found += behind
        else:
            return []
    return [] if name in outputs else found


def _carry(model: Graph, norm: Any, layers: list[Any]) -> None:
    gain, shift = (onnx_graph.stored_array(model, name).astype(np.float64) for name in norm.input[1:])
    for layer in layers:
        weight = onnx_graph.stored_array(model, layer.input[1]).astype(np.float64)  # [O, C]
        carried = weight @ shift
        if len(layer.input) > 2:
            carried += onnx_graph.stored_array(model, layer.input[2])
            del layer.input[2:]
        scaled = weight * gain
        scaled += (carried / (LEVEL * gain.size) - scaled.mean(axis=1))[:, None]
        onnx_graph.store_array(model, layer.input[1], scaled.astype(np.float32))
    onnx_graph.store_array(model, norm.input[1], np.ones(gain.size, np.float32))
    onnx_graph.store_array(model, norm.input[2], np.full(gain.size, LEVEL, np.float32))
