"""Attention as one operator, ONNX's own of opset 23, in place of the eleven that it is traced as.

    q, k, v = split(turn(x W^T))        y = turn(softmax(q k^T / sqrt(D)) v)

becomes three products, by the rows of W that make q, k and v, and `Attention` of these as they come, [B, N, hD]. ONNX
Runtime's CPU kernel reads the heads where they lie, so that no layout is turned, nothing split, and no score written
between two operators. Runtimes and converters that do not know opset 23 cannot read such a file.

Shapes: B images, N tokens of each, T = B * N, C channels, h heads of D numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modscale.deploy import onnx_graph, runtime
from modscale.deploy.onnx_graph import Graph

OPSET = 23
"""The first with `Attention`."""

RUNTIME = (1, 23)
"""The first ONNX Runtime that reads it."""

HEADS_FIRST = [0, 2, 1, 3]
"""[B, N, h, D] to [B, h, N, D], and back."""
KEYS_LAST = [0, 1, 3, 2]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attention:
    """The operators that attention is traced as."""

    product: Any
    """The Gemm that gives q, k and v side by side, [T, 3hD]."""
    images: list[int]
    """B and N, as a Reshape has them."""
    heads: int
    """h."""
    scale: float
    """Of the scores."""
    last: Any
    """The Reshape behind it all."""


def join_attention(model: Graph) -> Graph:
    """`model` of `tokens.as_tokens`, its weights those that it is to have; in opset 23 if there is attention in it.

    As it was where the libraries here do not know that opset.
    """
    if not (runtime.is_at_least(RUNTIME) and onnx_graph.knows(OPSET) and _all_found(model)):
        return model
    model = onnx_graph.in_opset(model, OPSET)
    found = _all_found(model)
    instead = {one.last.name: _joined(model, one) for one in found}
    onnx_graph.refill(model.graph.node, [new for node in model.graph.node for new in instead.get(node.name, [node])])
    onnx_graph.drop_unread(model)
    return model


def _all_found(model: Graph) -> list[_Attention]:
    finder = _Finder(model)
    return [one for node in model.graph.node if (one := finder.find(node)) is not None]


class _Finder:
    """Looks from a Softmax both ways."""

    def __init__(self, model: Graph) -> None:
        self.model = model
        self.stored = onnx_graph.stored_shapes(model)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers = onnx_graph.readers_of(model)

    def find(self, softmax: Any) -> _Attention | None:
        """The attention that a node is the softmax of; None where it is something else, or is made of other nodes."""
        if softmax.op_type != "Softmax" or onnx_graph.axis_of(softmax) != -1:
            return None
        scores = self._maker(softmax.input[0], "MatMul")
        answer = self._reader(softmax.output[0], "MatMul")
        turned = answer and self._reader(answer.output[0], "Transpose", HEADS_FIRST)
        last = turned and self._reader(turned.output[0], "Reshape")
        if scores is None or answer is None or last is None:
            return None
        (query, one), (key, other) = (self._unscaled(name) for name in scores.input)
        keys = self._maker(key, "Transpose", KEYS_LAST)
        split = self._maker(query, "Split")
        if keys is None or split is None or onnx_graph.axis_of(split) != 1:
            return None
        if list(split.output) != [query, keys.input[0], answer.input[1]]:
            return None
        turned = self._maker(split.input[0], "Transpose", HEADS_FIRST)
        heads = turned and self._maker(turned.input[0], "Reshape")
        if heads is None:
            return None
        images = self._maker(heads.input[0], "Reshape") or heads  # [B, N, 3hD] first where the batch is open
        product = self._maker(images.input[0], "Gemm")
        if product is None or any(name not in self.stored for name in product.input[1:]):
            return None
        return _Attention(
            product=product,
            images=onnx_graph.stored_values(self.model, images.input[1])[:2],
            heads=onnx_graph.stored_values(self.model, heads.input[1])[2] // 3,
            scale=one * other,
            last=last,
        )

    def _maker(self, name: str, kind: str, order: list[int] | None = None) -> Any | None:
        """The node of a kind that makes what stands under a name, for one reader alone."""
        node = self.makers.get(name)
        if node is None or node.op_type != kind or len(self.readers[name]) != 1:
            return None
        return node if order is None or onnx_graph.order_of(node) == order else None

    def _reader(self, name: str, kind: str, order: list[int] | None = None) -> Any | None:
        """The one node that reads what stands under a name, if it is of a kind."""
        found = self.readers.get(name, [])
        if len(found) != 1 or found[0].op_type != kind:
            return None
        return found[0] if order is None or onnx_graph.order_of(found[0]) == order else None

    def _unscaled(self, name: str) -> tuple[str, float]:
        """What stands under a name before it was multiplied by a stored number, and that number."""
        node = self._maker(name, "Mul")
        if node is None or node.input[1] not in self.stored:
            return name, 1.0
        factor = onnx_graph.stored_array(self.model, node.input[1])
        return (node.input[0], float(factor.flat[0])) if factor.size == 1 else (name, 1.0)


def _joined(model: Graph, found: _Attention) -> list[Any]:
    """Nodes that give the same as `found`."""
    nodes, inputs, product = [], [], found.product
    weights = [np.split(onnx_graph.stored_array(model, name), 3) for name in product.input[1:]]
    width = len(weights[0][0])
    shape = onnx_graph.store(model, f"{product.output[0]}/each/shape", [*found.images, width])
    for i, what in enumerate("qkv"):
        name = f"{product.output[0]}/{what}"
        own = [
            onnx_graph.store_array(model, f"{stored}/{what}", parts[i])
            for stored, parts in zip(product.input[1:], weights, strict=True)
        ]
        nodes.append(onnx_graph.new_node("Gemm", [product.input[0], *own], name, transB=1))
        inputs.append(f"{name}/images")
        nodes.append(onnx_graph.new_node("Reshape", [name, shape], inputs[-1]))
    joined, heads = f"{found.last.output[0]}/heads", found.heads
    nodes.append(
        onnx_graph.new_node("Attention", inputs, joined, q_num_heads=heads, kv_num_heads=heads, scale=found.scale)
    )
    return [*nodes, onnx_graph.new_node("Reshape", [joined, found.last.input[1]], found.last.output[0])]
