"""A graph rewritten to tokens: what works on channels alone works on one matrix [T, C] of all tokens of all images.

As it is traced, a linear layer is a turned weight, a product over [B, H, W, C] and a sum. ONNX Runtime makes one Gemm
of these, with a Reshape before it and one behind, and leaves all of them there; for int8 it looks too early and finds
none. Here the Gemms are written out, and two tensors that hold the same numbers in the same order are one: a Reshape
of a Reshape reads what that one read, and LayerNorm, GELU, sums and products are taken on the matrix where an input has
one. Reshapes are left around convs and attention alone. Nothing is computed otherwise.

Shapes: B batch, H x W tokens of a stage, C channels, T = B * H * W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modscale.deploy import onnx_graph
from modscale.deploy.onnx_graph import Graph

ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Erf", "Clip", "Relu"}
"""Operators that treat every number by itself."""


def as_tokens(model: Graph) -> Graph:
    """`model`, changed in place, with each linear layer one Gemm, its weight [out, in] as PyTorch has it."""
    return _Rewriter(model).run()


class _Rewriter:
    """One pass over the nodes in their order."""

    def __init__(self, model: Graph) -> None:
        self.model = model
        self.shapes = onnx_graph.shapes_of(model)
        self.stored = onnx_graph.stored_shapes(model)
        self.readers = onnx_graph.readers_of(model)
        self.turned = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type == "Transpose" and node.input[0] in self.stored
        }
        self.origin: dict[str, str] = {}
        """By name of what a Reshape gives: what it reads, which is no Reshape's."""
        self.matrix: dict[str, str] = {}
        """By name: the same numbers as [T, C]."""
        self.channels: dict[str, int] = {}
        """Of each such matrix."""
        self.kept: list[Any] = []

    def run(self) -> Graph:
        done: set[str] = set()  # sums that went into a product
        for node in self.model.graph.node:
            if node.name in done:
                continue
            if node.op_type == "MatMul" and node.input[1] in self.turned:
                done |= self._linear(node)
            elif node.op_type == "Reshape":
                self._reshape(node.input[0], node.output[0], onnx_graph.stored_values(self.model, node.input[1]))
            elif node.op_type == "Unsqueeze":
                self._reshape(node.input[0], node.output[0], [*self.shapes[node.output[0]]])
            elif self._works_on_tokens(node):
                self._on_tokens(node)
            else:
                self.kept.append(node)
        onnx_graph.refill(self.model.graph.node, self.kept)
        onnx_graph.drop_unread(self.model)
        return self.model

    def _linear(self, node: Any) -> set[str]:
        """A Gemm in place of a product, and of the sum behind it; the names of nodes that it stands for."""
        gone, output = {node.name}, node.output[0]
        inputs = [self._as_matrix(node.input[0]), self.turned[node.input[1]]]
        after = self.readers.get(output, [])
        if len(after) == 1 and after[0].op_type == "Add" and set(after[0].input) & set(self.stored):
            inputs.append(next(name for name in after[0].input if name in self.stored))
            output = after[0].output[0]
            gone.add(after[0].name)
        if len(self.shapes[output]) == 2:
            self.kept.append(onnx_graph.new_node("Gemm", inputs, output, transB=1))
        else:
            self.kept.append(onnx_graph.new_node("Gemm", inputs, self._matrix_of(output), transB=1))
            self._back(output)
        return gone

    def _works_on_tokens(self, node: Any) -> bool:
        """Whether the node treats tokens alike, and one of its inputs is a matrix already."""
        computed = [name for name in node.input if name not in self.stored]
        if not any(name in self.matrix for name in computed) or len(node.output) != 1:
            return False
        shape = self.shapes[node.output[0]]
        if any(self.shapes[name] != shape for name in computed):
            return False
        if node.op_type == "LayerNormalization":
            return onnx_graph.axis_of(node) == -1
        alike = all(len(self.stored[name]) < 2 for name in node.input if name in self.stored)
        return node.op_type in ELEMENTWISE and alike

    def _on_tokens(self, node: Any) -> None:
        output = node.output[0]
        node.input[:] = [name if name in self.stored else self._as_matrix(name) for name in node.input]
        node.output[0] = self._matrix_of(output)
        self.kept.append(node)
        self._back(output)

    def _matrix_of(self, name: str) -> str:
        """The name that what is computed as a matrix in place of `name` gets."""
        self.matrix[name] = f"{name}/tokens"
        self.channels[self.matrix[name]] = self.shapes[name][-1]
        return self.matrix[name]

    def _back(self, name: str) -> None:
        """`name` itself, of its matrix; it goes again where nobody reads it."""
        self._reshape(self.matrix[name], name, self.shapes[name])

    def _as_matrix(self, name: str) -> str:
        """What `name` holds, as a matrix."""
        if len(self.shapes.get(name, ())) == 2:
            return name
        channels, source = self.shapes[name][-1], self.origin.get(name, name)
        if self.channels.get(source) == channels:  # it has been reshaped from one, and lies there still
            return source
        if name not in self.matrix:
            self._reshape(name, self._matrix_of(name), [-1, channels])
        return self.matrix[name]

    def _reshape(self, source: str, output: str, shape: Sequence[int]) -> None:
        """The numbers of `source` in another shape, 0 for the length of an open batch, read where they come from."""
        if 0 not in shape or -1 not in shape:  # else it must go on reading what its 0 was meant for
            source = self.origin.get(source, source)
            shape = [length or -1 for length in shape]
        self.origin[output] = source
        place = onnx_graph.store(self.model, f"{output}/shape", list(shape))
        self.kept.append(onnx_graph.new_node("Reshape", [source, place], output))
