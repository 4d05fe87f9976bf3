"""Wide products: a block's value that is wider than a core's cache is computed copy by copy.

The value [T, rC] has r times the channels of the context [T, C] that multiplies it. Where it does not fit the cache,
each of its r copies of C channels goes the whole way from `fc1` to `fc2` by itself, and each product by W2 adds what
those before it gave:

    fc2(v * context) = sum over the copies p of W2_p (v_p * context), + bias

That spares the way to memory and back, and the product of few channels by broadcasting, for which ONNX Runtime's CPU
provider calls its kernel once for every C numbers. It takes more operators; where the value fits, it does not pay
(`benchmarks/latency.md`).

Shapes: B images of H x W, T = B * H * W tokens, C channels, r the MLP ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modscale.deploy import onnx_graph
from modscale.deploy.onnx_graph import Graph
from modscale.deploy.tokens import ELEMENTWISE

FLOAT_BYTES = 4
WIDE_BYTES = 3 * 2**19
"""A value of more is taken copy by copy: 1.5 times the second-level cache of a core of today's servers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Product:
    """A value times its context (or plus it), between two linear layers."""

    node: Any
    """The product, [B, H, W, r, C] by [B, H, W, 1, C]."""
    value: str
    """[T, rC]."""
    context: str
    """[T, C]."""
    ratio: int
    """r."""
    before: tuple[Any, ...]
    """`fc1` and the nodes of its activation, in order."""
    last: Any
    """`fc2`."""


def split_wide(model: Graph) -> Graph:
    """`model` of `tokens.as_tokens`, changed in place, its weights those that it is to have."""
    return _Rewriter(model).run()


class _Rewriter:
    """One pass over the products."""

    def __init__(self, model: Graph) -> None:
        self.model = model
        self.shapes = onnx_graph.shapes_of(model)
        self.stored = onnx_graph.stored_shapes(model)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers = onnx_graph.readers_of(model)

    def run(self) -> Graph:
        nodes: list[Any] = []
        instead: dict[str, list[Any]] = {}  # by the output of the node in whose place they stand
        for node in self.model.graph.node:
            product = self._product(node)
            if product is not None and self._is_wide(product):
                instead[product.last.output[0]] = self._copy_by_copy(product)
            nodes += instead.get(node.output[0], [node])
        onnx_graph.refill(self.model.graph.node, nodes)
        onnx_graph.drop_unread(self.model)
        return self.model

    def _product(self, node: Any) -> _Product | None:
        """What a node is the product of; None where it is another one, or something else reads what it is made of."""
        if node.op_type not in ("Mul", "Add"):
            return None
        views = [self.makers.get(name) for name in node.input]
        flat = self._reader(node.output[0], "Reshape")
        if flat is None or any(view is None or view.op_type != "Reshape" for view in views):
            return None
        value, context = (view.input[0] for view in views)  # type: ignore[union-attr]
        (ratio, width), (one, channels) = (self._stored_shape(view)[-2:] for view in views)
        if one != 1 or ratio < 2 or width != channels or any(len(self.shapes[name]) != 2 for name in (value, context)):
            return None
        before, last = self._activated(value), self._reader(flat.output[0], "Gemm")
        if not before or last is None or any(name not in self.stored for name in last.input[1:]):
            return None
        return _Product(node=node, value=value, context=context, ratio=ratio, before=before, last=last)

    def _stored_shape(self, reshape: Any) -> list[int]:
        return [0, 0, *onnx_graph.stored_values(self.model, reshape.input[1])]

    def _reader(self, name: str, kind: str) -> Any | None:
        """The one node that reads what stands under a name, if it is of a kind."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 and found[0].op_type == kind else None

    def _activated(self, value: str) -> tuple[Any, ...]:
        """The linear layer that `value` comes from and the nodes between; none where others read any of it."""
        found, asked = [], [value]
        while asked:
            node = self.makers[asked.pop()]
            if node not in found:
                found.append(node)
                if node.op_type in ELEMENTWISE:
                    asked += [name for name in node.input if name not in self.stored]
        first = [node for node in found if node.op_type not in ELEMENTWISE]
        if len(first) != 1 or first[0].op_type != "Gemm" or any(name not in self.stored for name in first[0].input[1:]):
            return ()
        read = [node for one in found for name in one.output for node in self.readers[name] if node not in found]
        return tuple(node for node in self.model.graph.node if node in found) if len(read) == 1 else ()

    def _is_wide(self, product: _Product) -> bool:
        tokens, width = self.shapes[product.value]  # tokens are 0 where the batch is open
        return FLOAT_BYTES * tokens * width > WIDE_BYTES

    def _copy_by_copy(self, product: _Product) -> list[Any]:
        nodes, total = [], ""
        width = self.shapes[product.context][1]
        for i in range(product.ratio):
            rows = slice(i * width, (i + 1) * width)
            nodes += [self._copied(node, product.before, i, rows) for node in product.before]
            fused = f"{product.node.output[0]}/{i}"
            nodes.append(onnx_graph.new_node(product.node.op_type, [f"{product.value}/{i}", product.context], fused))
            weight = self._part(product.last.input[1], i, (slice(None), rows))
            added = [total] if i else list(product.last.input[2:])
            total = product.last.output[0] if i == product.ratio - 1 else f"{product.last.output[0]}/to {i}"
            nodes.append(onnx_graph.new_node("Gemm", [fused, weight, *added], total, transB=1))
        return nodes

    def _copied(self, node: Any, before: tuple[Any, ...], i: int, rows: slice) -> Any:
        """A node of `fc1` or its activation for one copy."""
        inside = {name for one in before for name in one.output}
        inputs = [f"{name}/{i}" if name in inside else name for name in node.input]
        if node.op_type != "Gemm":
            return onnx_graph.new_node(node.op_type, inputs, f"{node.output[0]}/{i}")
        inputs[1:] = [self._part(name, i, rows) for name in node.input[1:]]
        return onnx_graph.new_node("Gemm", inputs, f"{node.output[0]}/{i}", transB=1)

    def _part(self, name: str, i: int, part: slice | tuple[slice, slice]) -> str:
        """Some of what is stored under a name, stored under another, which is given back."""
        return onnx_graph.store_array(self.model, f"{name}/{i}", onnx_graph.stored_array(self.model, name)[part])
