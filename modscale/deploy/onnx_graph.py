"""An ONNX graph: traced from PyTorch, then rewritten for where it is to run. Only this module knows the onnx library.

The exporter is PyTorch's TorchScript-based one (about a second; opset 17). It leaves every parameter its own
name, so that the weights of another network of the same spec can be put in their place. All rewrites are exact but
for rounding; `export.py` holds the result against PyTorch.

Shapes: B batch, C channels, R resolution, D channels of the stem.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from modscale import __version__
from modscale.deploy import runtime
from modscale.errors import InputError, MismatchError
from modscale.files import scratch_folder
from modscale.specs.spec import ModelSpec

if TYPE_CHECKING:  # two seconds, which what only reads a file need not wait
    from torch import Tensor, nn

OPSET = 17

STEM = "patch_embed.proj.weight"
"""[D, C, k, k]: the weight that meets the pixels."""

HEAD = "head.weight"
"""[K, C]: the weight of the classifier."""

ANSWERS = {"classifier": runtime.OUTPUT_NAME, "semantic_fpn": runtime.MASKS_NAME}
"""By a spec's head, the output of what it says."""

PRODUCTS = ("Conv", "Gemm", "MatMul")
"""What the types of operators that multiply by weights have in their names, also those of a runtime's own."""

PASSED = ("Transpose", "Reshape")
"""Operators through which a weight is the same weight."""

HELD_BEHIND = ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear")
"""Further ones, in a file, of which a runtime makes nothing, or one operator with that which multiplies."""

PACKED = ("MatMulNBits",)
"""Operators whose bytes hold several weights each."""

PRECISIONS = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
}
"""What a weight is kept in."""

BEHIND_MAPS = ("norm.", "fpn.", "head.")
"""Weights that no map of a stage depends on."""

Graph = onnx.ModelProto


class TakesImages(Protocol):
    """What is known of a network's input: a spec, or what stands for one of a network that has none."""

    @property
    def in_chans(self) -> int:
        """Channels."""

    @property
    def resolution(self) -> int:
        """Side of the square image, pixels."""


def trace(network: nn.Module, spec: ModelSpec, *, batch: int, outputs: Sequence[str]) -> Graph:
    """The exporter's graph for `batch` images, in which every parameter still bears its own name.

    Args:
        network: an EfficientMod network.
        spec: its spec.
        batch: images at once, fixed in the graph.
        outputs: names as `outputs_of` has them.
    """
    if tuple(outputs) != (answer_name(spec),):
        network = copy.copy(network)  # the parameters and their names are shared; what is computed is another thing
        network.forward = MethodType(lambda self, image: outputs_of(self, image, outputs), network)
    return trace_module(network, spec, batch=batch, outputs=outputs)


def trace_module(network: nn.Module, takes: TakesImages, *, batch: int = 1, outputs: Sequence[str]) -> Graph:
    """The exporter's graph of any module that takes images, its outputs named in their order; see `trace`."""
    import torch

    image = torch.zeros(batch, takes.in_chans, takes.resolution, takes.resolution)
    with scratch_folder() as folder, warnings.catch_warnings():
        file = folder / "model.onnx"
        # The successor takes ten times as long and one more dependency; this one is kept for that, knowingly.
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        torch.onnx.export(
            network,
            (image,),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[runtime.INPUT_NAME],
            output_names=list(outputs),
            # Neither fold weights nor fuse norms into convs: both would rename tensors, and ONNX Runtime does both.
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        return onnx.load(file)


def outputs_of(network: Any, image: Tensor, outputs: Sequence[str]) -> tuple[Tensor, ...]:
    """What a network gives for images [B, C, R, R], by the names of outputs: `logits`, `masks`, `stage1` ..."""
    features, maps = network.forward_maps(image)
    known = {stage_name(i): one for i, one in enumerate(maps)}
    for name in ANSWERS.values():
        if name in outputs:
            known[name] = network.answer(features)
    return tuple(known[name] for name in outputs)


def answer_name(spec: ModelSpec) -> str:
    """The output of the head of a spec."""
    return ANSWERS[spec.head]


def stage_name(index: int) -> str:
    """The output with the map of the stage of this index, from 0: `stage1`."""
    return f"stage{index + 1}"


def set_weights(model: Graph, network: nn.Module) -> None:
    """Puts the state of `network` into `model`, tensor by tensor, by name. Raises MismatchError where one is absent."""
    state: dict[str, Tensor] = {
        name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    without_logits = not {value.name for value in model.graph.output} & set(ANSWERS.values())
    state = {name: tensor for name, tensor in state.items() if not (without_logits and name.startswith(BEHIND_MAPS))}
    absent = [name for name in state if name not in stored]
    if absent:
        raise MismatchError(f"the exported model lacks {len(absent)} tensors of the network, {absent[0]} among them")
    for name, tensor in state.items():
        stored[name].CopyFrom(numpy_helper.from_array(tensor.detach().numpy(), name))


def fold_shapes(model: Graph) -> Graph:
    """`model` with every value that follows from shapes alone computed once and stored, weights left as they are."""
    graph = model.graph
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    types = {value.name: value.type for value in graph.input}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    known: dict[str, np.ndarray] = {}
    kept = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        values: Any
        if node.op_type == "Shape":
            dims = types[node.input[0]].tensor_type.shape.dim
            values = [np.array([dim.dim_value for dim in dims], dtype=np.int64)]
        elif all(name in known for name in inputs):
            values = ReferenceEvaluator(node, opsets=opsets).run(None, {name: known[name] for name in inputs})
        else:
            kept.append(node)
            types.update(_output_types(node, inputs, types, known, model))
            continue
        for name, value in zip(node.output, values, strict=True):
            known[name] = np.asarray(value)
            data_type = onnx.helper.np_dtype_to_tensor_dtype(known[name].dtype)
            types[name] = onnx.helper.make_tensor_type_proto(data_type, known[name].shape)
    used = {name for node in kept for name in node.input}
    refill(graph.node, kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in known.items() if name in used)
    return model


def open_batch(model: Graph) -> Graph:
    """`model` for any number of images: every shape that a tensor is given takes its first length from that tensor.

    That is right where images stay apart and their axis the first; that they do is seen when the file is run.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape":
            shape = numpy_helper.to_array(stored[node.input[1]]).copy()
            shape[0] = 0
            stored[node.input[1]].CopyFrom(numpy_helper.from_array(shape, node.input[1]))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    return model


def fold_normalisation(model: Graph, mean: Sequence[float], std: Sequence[float]) -> Graph:
    """`model` for pixels scaled to 0..1, of which `mean` was taken and which were divided by `std` before.

    The division goes into the stem's weights. Where the stem pads, zeros stand for pixels of the mean's colour: there
    the mean is taken from the image; else it goes into the stem's bias.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stem = next(node for node in graph.node if node.op_type == "Conv" and node.input[1] == STEM)
    weight = numpy_helper.to_array(stored[STEM]).astype(np.float64) / np.asarray(std)[:, None, None]
    stored[STEM].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), STEM))
    pads = next((list(one.ints) for one in stem.attribute if one.name == "pads"), [0])
    if not any(pads):
        name = stem.input[2]
        bias = numpy_helper.to_array(stored[name]) - np.einsum("dckl,c->d", weight, np.asarray(mean))
        stored[name].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), name))
        return model
    level = np.asarray(mean, dtype=np.float32)[:, None, None]
    graph.initializer.append(numpy_helper.from_array(level, "image_mean"))
    node = onnx.helper.make_node("Sub", [stem.input[0], "image_mean"], ["image_centred"], name="/image_centred")
    stem.input[0] = node.output[0]
    graph.node.insert(list(graph.node).index(stem), node)
    return model


def shapes_of(model: Graph) -> dict[str, list[int]]:
    """The shape of everything computed or given, by name; an open dimension is 0."""
    inferred = shape_inference.infer_shapes(model).graph
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }


def new_node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
    """A node of one output, named after that."""
    return onnx.helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes)


def add_apart(model: Graph) -> Graph:
    """`model`, changed in place, with no Gemm that adds something computed: an Add behind it does.

    No quantiser of ONNX Runtime's takes such a Gemm in int8.
    """
    stored, nodes = stored_shapes(model), []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Gemm" and len(node.input) == 3 and node.input[2] not in stored:
            output, added = node.output[0], node.input.pop()
            node.output[0] = f"{output}/product"
            nodes.append(new_node("Add", [added, node.output[0]], output))
    refill(model.graph.node, nodes)
    return model


def axis_of(node: Any) -> int:
    """The axis that a node says, -1 where it says none."""
    return next((one.i for one in node.attribute if one.name == "axis"), -1)


def order_of(node: Any) -> list[int]:
    """The order of axes that a Transpose says."""
    return next(list(one.ints) for one in node.attribute if one.name == "perm")


def knows(opset: int) -> bool:
    """Whether the onnx library does."""
    return bool(onnx.defs.onnx_opset_version() >= opset)


def in_opset(model: Graph, version: int) -> Graph:
    """`model` in a later opset, where its nodes say the same in other words."""
    converted = onnx.version_converter.convert_version(model, version)
    converted.ir_version = onnx.helper.find_min_ir_version_for(list(converted.opset_import))
    del converted.graph.value_info[:]
    return converted


def stored_shapes(model: Graph) -> dict[str, list[int]]:
    """The shape of everything that is stored, by name."""
    return {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}


def stored_values(model: Graph, name: str) -> list[int]:
    """The whole numbers stored under a name."""
    tensor = next(one for one in model.graph.initializer if one.name == name)
    return [int(value) for value in numpy_helper.to_array(tensor)]


def store(model: Graph, name: str, values: Sequence[int]) -> str:
    """Stores whole numbers under a name, which is given back."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
    return name


def stored_array(model: Graph, name: str) -> np.ndarray:
    """What is stored under a name."""
    return numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == name))


def store_array(model: Graph, name: str, values: np.ndarray) -> str:
    """Stores values under a name, in place of what stood there; the name is given back."""
    tensor = next((one for one in model.graph.initializer if one.name == name), None)
    tensor = model.graph.initializer.add() if tensor is None else tensor
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def readers_of(model: Graph) -> dict[str, list[Any]]:
    """The nodes that read what stands under a name, by that; a node is listed as often as it reads it."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def refill(field: Any, values: Sequence[Any]) -> None:
    """Puts these in place of all that a field of a graph holds, its nodes say."""
    del field[:]
    field.extend(values)


def drop_unread(model: Graph) -> None:
    """Takes out the nodes whose output nobody reads, then what is stored and no longer read."""
    wanted = {value.name for value in model.graph.output}
    needed = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            needed.append(node)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    refill(model.graph.node, needed[::-1])
    refill(model.graph.initializer, kept)


def make_unique(tensor: Any, number: int) -> None:
    """Changes the first value of a stored float32 matrix by so many 2 ** -20 of itself, so that no two are equal.

    ONNX Runtime 1.32 packs equal matrices once: a network whose blocks have the same weights reads fewer of them.
    """
    values = numpy_helper.to_array(tensor)
    if number and values.ndim > 1 and values.dtype == np.float32:
        values = values.copy()
        values.flat[0] *= np.float32(1 + number / 2**20)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def weighted_nodes(model: Graph) -> dict[str, list[str]]:
    """Names of the nodes that multiply by weights: `linear`, `conv` (a dense one), `depthwise` and `head`.

    `model` is one of `tokens.as_tokens`: products of two things that were computed, as in attention, are none of them.
    """
    found: dict[str, list[str]] = {"linear": [], "conv": [], "depthwise": [], "head": []}
    for node in model.graph.node:
        if node.op_type == "Gemm":
            found["head" if node.input[1] == HEAD else "linear"].append(node.name)
        elif node.op_type == "Conv":
            groups = next((one.i for one in node.attribute if one.name == "group"), 1)
            found["depthwise" if groups > 1 else "conv"].append(node.name)
    return found


def weight_precisions(model: Graph, *, as_run: bool) -> dict[str, str]:
    """The precision of each weight that an operator multiplies by, by the weight's name; `PRECISIONS` has them.

    In a file (`as_run` false) int8 weights stand behind a DequantizeLinear, which a runtime is to join to the operator
    that reads it. In the graph that a runtime has made of it they must not: it would multiply in float.
    """
    return {name: kind for name, (_, kind) in _weights(model, as_run=as_run).items()}


def held_precision(file: str | Path) -> str:
    """What most of the weights in a file that operators multiply by are kept in, each counted by its size.

    `fp32`, `fp16`, `int8` or `other`; where nothing is multiplied by a weight, the input's. `unknown` where the onnx
    library cannot read the file.
    """
    try:
        model = onnx.inliner.inline_local_functions(onnx.load(file, load_external_data=False))
    except Exception:  # noqa: BLE001  # protobuf and onnx raise a dozen kinds; ONNX Runtime could read it
        return "unknown"
    sizes: Counter[str] = Counter()
    for tensor, kind in _weights(model, as_run=False).values():
        sizes[kind] += math.prod(tensor.dims)
    if not sizes:
        stored = {tensor.name for tensor in model.graph.initializer}
        feeds = [value.type.tensor_type.elem_type for value in model.graph.input if value.name not in stored]
        return PRECISIONS.get(feeds[0], "other")
    return sizes.most_common(1)[0][0]


def _weights(model: Graph, *, as_run: bool) -> dict[str, tuple[Any, str]]:
    """By its name each weight that an operator multiplies by, and its precision; see `weight_precisions`."""
    passed = PASSED if as_run else (*PASSED, *HELD_BEHIND)
    behind = {node.output[0]: node for node in model.graph.node if node.op_type in passed}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for held in node.attribute if node.op_type == "Constant" else ():
            if held.name == "value":
                stored[node.output[0]] = held.t
    found = {}
    for node in model.graph.node:
        if not any(kind in node.op_type for kind in PRODUCTS):
            continue
        for name in node.input:
            is_quantised = False  # in the file itself, from a weight that is stored in float
            while name in behind:
                is_quantised |= behind[name].op_type == "QuantizeLinear"
                name = behind[name].input[0]
            tensor = stored.get(name)
            if tensor is not None and len(tensor.dims) > 1:
                kind = PRECISIONS.get(tensor.data_type, "other")
                packed = node.op_type in PACKED
                found[name] = (tensor, "other" if packed else "int8" if is_quantised else kind)
    return found


def set_metadata(model: Graph, metadata: Mapping[str, object]) -> Graph:
    """`model` that carries `metadata` in place of what it carried, each value as a JSON text."""
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    model.producer_name, model.producer_version = "modscale", __version__
    return model


def sort_nodes(model: Graph) -> Graph:
    """`model` with every node behind those that it reads from, as the format wants it."""
    made = {name: node.name for node in model.graph.node for name in node.output}
    order = TopologicalSorter({
        node.name: [made[name] for name in node.input if name in made] for node in model.graph.node
    })  # fmt: skip
    nodes = {node.name: node for node in model.graph.node}
    ordered = [nodes[name] for name in order.static_order()]
    refill(model.graph.node, ordered)
    return model


def serialise(model: Graph) -> bytes:
    """The file's content, once the onnx library has found nothing wrong in it."""
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def load_inferred(file: str | Path, shape: Sequence[int]) -> tuple[Any, dict[str, tuple[int, ...] | None]]:
    """The graph in a file, without its large weights, and the shapes of its tensors where its one input has `shape`.

    Raises:
        InputError: the onnx library cannot read it, or infer its shapes.
    """
    try:
        model = onnx.load(file, load_external_data=False)
        model = onnx.inliner.inline_local_functions(model)
        stored = {tensor.name for tensor in model.graph.initializer}
        feed = next(value for value in model.graph.input if value.name not in stored)
        dims = feed.type.tensor_type.shape.dim
        for dim, size in zip(dims, shape, strict=True):
            dim.dim_value = size
        del model.graph.value_info[:]  # shapes of an open batch, say
        model = shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # protobuf and onnx raise a dozen kinds
        raise InputError(f"cannot be read by onnx: {' '.join(str(error).split())[:200]}", file=file) from error
    shapes: dict[str, tuple[int, ...] | None] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        held = value.type.tensor_type
        sizes = tuple(dim.dim_value if dim.HasField("dim_value") else 0 for dim in held.shape.dim)
        shapes[value.name] = sizes if held.HasField("shape") and all(sizes) else None
    return model.graph, shapes


def parse(content: bytes | str | Path) -> Graph:
    """The graph in a file's content, or in a file."""
    return onnx.load_from_string(content) if isinstance(content, bytes) else onnx.load(content)


def _output_types(
    node: onnx.NodeProto,
    inputs: list[str],
    types: dict[str, Any],
    known: dict[str, np.ndarray],
    model: Graph,
) -> dict[str, Any]:
    return shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, OPSET),
        node,
        {name: types[name] for name in inputs},
        {name: numpy_helper.from_array(known[name]) for name in inputs if name in known},
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
