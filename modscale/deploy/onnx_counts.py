"""Params and FLOPs of an ONNX graph of any origin, in closed form from the shapes of its tensors.

The conventions are those of `specs/counts.py`, so that a file of ours counts as its spec does, to the unit, but for
LayerScale's params and the biases behind a LayerNorm, which an export folds away: a multiply-add is 1; convolutions,
matrix products (attention's among them) and what fvcore gives norms, resizing and pooling to one place. An operator
that is neither counted nor known to be free leaves the FLOPs out and is named: there is no estimate.

Params are the numbers stored in the file that are learned: floating-point or quantised tensors that something reads,
each once, but no running statistics, no scales of a quantisation and no lone numbers. A file whose norms were folded
into its convs, or LayerScale into its linear layers, has fewer than the network that was trained.

A graph is what `onnx_graph.load_inferred` gives; nothing of the onnx library is called here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Shapes = Mapping[str, Sequence[int] | None]
"""Tensor to its shape; None where that is not known, or not whole."""

LEARNED_TYPES = frozenset({1, 2, 3, 10, 11, 16, 17, 18, 19, 20, 21, 22})
"""ONNX's numbers of the types of weights: the floating-point ones, and integers of 8 bits and fewer."""

WIDE = {("DequantizeLinear", 0), ("QLinearConv", 8), ("QGemm", 6)}
"""Inputs that are learned in any type: a bias of a quantised layer has 32 bits."""

NOT_LEARNED = {
    "BatchNormalization": (3, 4),
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "DynamicQuantizeLinear": (),
    "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7), "QGemm": (1, 2, 4, 5, 7, 8),
    "ConvInteger": (2, 3), "MatMulInteger": (2, 3),
    "Clip": (1, 2), "Pad": (1, 2, 3), "Resize": (1, 2, 3), "Upsample": (1,), "OneHot": (1, 2),
}  # fmt: skip
"""Operator to its inputs that are no weights: running statistics, scales and zero points, limits."""

FREE = frozenset({
    # element by element
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp",
    "FastGelu", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub",
    "Sum", "Mean", "Tanh", "ThresholdedRelu", "Where", "Xor", "Softmax", "LogSoftmax", "Dropout",
    # moved about, or made
    "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike", "Flatten", "Gather",
    "GatherElements", "GatherND", "OneHot", "Pad", "Range", "Reshape", "ScatterElements", "ScatterND",
    "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
    "Upsample",
    # reduced: as with fvcore, only adaptive pooling to one place is counted
    "ArgMax", "ArgMin", "AveragePool", "CumSum", "MaxPool", "LpPool", "GlobalMaxPool", "ReduceL1", "ReduceL2",
    "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "TopK",
    # to and from integers
    "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear",
})  # fmt: skip
"""Operators without a multiply-add of the convention's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphCount:
    """What a graph holds and does."""

    params: int
    """Learned numbers that are stored."""
    flops: int | None
    """Multiply-adds of one run, with the batch that the input has; None where something is not counted."""
    not_counted: tuple[str, ...] = ()
    """Operators that are neither counted nor known to be free, and those whose shapes are not known."""


def count_graph(graph: Any, shapes: Shapes) -> GraphCount:
    """Params and FLOPs of a graph whose tensors have these shapes."""
    flops, not_counted = 0, set()
    for node in graph.node:
        if node.op_type in FREE and not any(attribute.HasField("g") for attribute in node.attribute):
            continue
        count = COUNTED.get(node.op_type)
        try:
            if count is None:
                raise KeyError(node.op_type)
            flops += count(node, [shapes.get(name) for name in node.input], [shapes.get(name) for name in node.output])
        except (KeyError, TypeError, IndexError):  # no row for it, or a shape is None
            not_counted.add(node.op_type)
    known = None if not_counted else flops
    return GraphCount(params=_count_params(graph), flops=known, not_counted=tuple(sorted(not_counted)))


def _count_params(graph: Any) -> int:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored |= {node.output[0]: one.t for one in node.attribute if one.HasField("t")}  # noqa: B035  # there is one
    learned = {
        name
        for node in graph.node
        for i, name in enumerate(node.input)
        if name in stored
        and i not in NOT_LEARNED.get(node.op_type, ())
        and (stored[name].data_type in LEARNED_TYPES or (node.op_type, i) in WIDE)
    }
    return sum(size for name in learned if (size := prod(stored[name].dims)) > 1)


def _attributes(node: Any) -> dict[str, Any]:
    return {one.name: one for one in node.attribute}


def _conv(weight: int) -> Callable[[Any, Any, Any], int]:
    """Each output needs a filter, [out, in / groups, *kernel]."""
    return lambda node, inputs, outputs: prod(outputs[0]) * prod(inputs[weight][1:])


def _transposed_conv(node: Any, inputs: Any, outputs: Any) -> int:
    return prod(inputs[0]) * prod(inputs[1][1:])  # each input meets a filter, [in, out / groups, *kernel]


def _product(left: int = 0) -> Callable[[Any, Any, Any], int]:
    """Each output of a matrix product is a sum over the last axis of its left side."""
    return lambda node, inputs, outputs: prod(outputs[0]) * inputs[left][-1]


def _gemm(node: Any, inputs: Any, outputs: Any) -> int:
    turned = _attributes(node).get("transA")
    return prod(outputs[0]) * inputs[0][0 if turned is not None and turned.i else -1]


def _attention(node: Any, inputs: Any, outputs: Any) -> int:
    """Of ONNX's own operator: each number of q, and of the answer, meets one of every key; past ones are unknown."""
    if node.domain not in ("", "ai.onnx") or any(node.input[4:6]):
        raise KeyError(node.op_type)
    return (prod(inputs[0]) + prod(outputs[0])) * inputs[1][-2]


def _einsum(node: Any, inputs: Any, outputs: Any) -> int:
    """Of two tensors: every combination of their indices is one multiply-add."""
    terms = _attributes(node)["equation"].s.decode().replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or "." in "".join(terms):
        raise KeyError(node.op_type)
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        sizes |= zip(term, shape, strict=True)
    return prod(sizes.values())


def _resize(node: Any, inputs: Any, outputs: Any) -> int:
    return prod(outputs[0]) * {b"nearest": 1, b"linear": 4}[_attributes(node)["mode"].s]


def _times_input(factor: int) -> Callable[[Any, Any, Any], int]:
    return lambda node, inputs, outputs: factor * prod(inputs[0])


COUNTED: dict[str, Callable[[Any, Any, Any], int]] = {
    "Conv": _conv(1), "FusedConv": _conv(1), "ConvInteger": _conv(1), "QLinearConv": _conv(3),
    "ConvTranspose": _transposed_conv,
    "Gemm": _gemm, "FusedGemm": _gemm, "QGemm": _gemm,
    "MatMul": _product(), "MatMulInteger": _product(), "QLinearMatMul": _product(),
    "Attention": _attention, "Einsum": _einsum, "Resize": _resize,
    # as fvcore has them, with their gain and bias
    "BatchNormalization": _times_input(2), "LayerNormalization": _times_input(5), "GroupNormalization": _times_input(5),
    "InstanceNormalization": _times_input(5), "GlobalAveragePool": _times_input(1),
}  # fmt: skip
"""Operator to the multiply-adds of one of its nodes, by the shapes of its inputs and outputs."""
