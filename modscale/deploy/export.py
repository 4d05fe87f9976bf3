"""A network as an ONNX file that is proved equal to PyTorch before anything else may use it.

The exporter is PyTorch's TorchScript-based one (about a second; opset 17). Three things are done to its graph:

- it is traced on *loud* weights, in which every branch counts. A fresh network would hide a broken branch: LayerScale
  starts at 1e-4, linear layers at a standard deviation of 0.02, and all biases at zero;
- what depends on shapes alone is computed now, so that no node is left that a GPU provider would hand to the CPU;
- the loud graph is run against PyTorch; only then are the real weights put in its place, by their names, and the
  result is run against PyTorch again.

The runs use ONNX Runtime with the graph optimisations that are timed later. Nothing is written unless both agree.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from modscale.deploy import runtime
from modscale.errors import InputError, MismatchError, TooLargeError
from modscale.files import scratch_folder, write_whole
from modscale.models.checkpoint import LoadedWeights, load_weights, save_weights
from modscale.models.efficientmod import build_network
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec, spec_to_yaml

OPSET = 17

TOLERANCE = 1e-4
"""Largest error of a logit that is put down to rounding, as a share of the largest logit."""

MAX_BYTES = 2**31 - 2**20
"""An ONNX file is one protocol buffer, which ends at 2 GiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What `export_model` wrote and found."""

    spec: Path
    """The spec file."""
    onnx: Path
    """The ONNX file: input `image` [1, C, R, R], output `logits` [1, K]."""
    weights: Path
    """The weights, safetensors."""
    params: int
    """Learned numbers of the network."""
    flops: int
    """Multiply-adds of one image."""
    max_abs_error: float
    """Largest difference between a logit of ONNX Runtime and of PyTorch, real weights."""
    loaded: LoadedWeights | None
    """What was taken from a checkpoint; None where the network is freshly initialised."""


def export_model(
    spec: ModelSpec,
    out_dir: str | Path,
    *,
    weights: Path | None = None,
    key: str | None = None,
    fresh_head: bool = False,
    seed: int = 0,
) -> ExportResult:
    """Writes `spec.yaml`, `model.onnx` and `model.safetensors` into `out_dir`, which is created.

    Without `weights` the network is freshly initialised from `seed`; `key` and `fresh_head` are those of
    `load_weights`.

    >>> import modscale
    >>> result = modscale.export_model(tiny_spec, folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['model.onnx', 'model.safetensors', 'spec.yaml']
    >>> result.max_abs_error < 1e-4
    True

    Raises:
        InputError: `out_dir` cannot be written.
        TooLargeError: the network is too large for one ONNX file.
        CheckpointError: the weights do not fit.
        MismatchError: ONNX Runtime and PyTorch disagree, or the network's size is not the counted one.
    """
    counted = count_model(spec)
    network = fresh_network(spec, seed=seed)
    params = sum(parameter.numel() for parameter in network.parameters())
    if params != counted.params:
        raise MismatchError(f"{spec.name} has {params} params where the closed form counts {counted.params}")
    loaded = None if weights is None else load_weights(network, weights, key=key, fresh_head=fresh_head)
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be created: {error.strerror or error}", file=out_dir) from error
    files = {name: folder / name for name in ("spec.yaml", "model.onnx", "model.safetensors")}
    max_abs_error = export_onnx(network, spec, files["model.onnx"])
    save_weights(network, files["model.safetensors"], trained=loaded is not None and loaded.trained)
    write_whole(files["spec.yaml"], spec_to_yaml(spec))
    return ExportResult(
        spec=files["spec.yaml"],
        onnx=files["model.onnx"],
        weights=files["model.safetensors"],
        params=params,
        flops=counted.flops,
        max_abs_error=max_abs_error,
        loaded=loaded,
    )


def fresh_network(spec: ModelSpec, *, seed: int) -> nn.Module:
    """The network of `spec`, freshly initialised and fit for eval mode: BatchNorm has seen some noise.

    Raises:
        TooLargeError: its weights are too large for one ONNX file; they are not even drawn.
    """
    _check_size(4 * count_model(spec).params)
    network = build_network(spec, seed=seed)
    settle_norms(network, spec, seed=seed)
    return network


def export_onnx(network: nn.Module, spec: ModelSpec, file: str | Path) -> float:
    """Writes the network of `spec` as ONNX and returns its largest absolute error against PyTorch.

    The network is left as it was found, in its mode and on its device.

    Raises:
        InputError: `file` cannot be written.
        TooLargeError: the network is too large for one ONNX file.
        MismatchError: ONNX Runtime and PyTorch disagree; nothing is written.
    """
    network = copy.deepcopy(network).cpu().float().eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    _check_size(size)
    images = probe_images(spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a few single images: on a busy machine, waiting for a second thread costs far more
    try:
        loud = loud_copy(network, spec)
        model = fold_shapes(_trace(loud, spec))
        compare(loud, model.SerializeToString(), images, what="with weights that make every branch count")
        set_weights(model, network)
        onnx.checker.check_model(model, full_check=True)
        content = model.SerializeToString()
        max_abs_error = compare(network, content, images, what="with its own weights")
    finally:
        torch.set_num_threads(threads)
    write_whole(file, content)
    return max_abs_error


def probe_images(spec: ModelSpec, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs [1, C, R, R] that the two sides are compared on: normal noise, a smooth image, and nothing at all."""
    generator = np.random.default_rng(seed)
    shape = (1, spec.in_chans, spec.resolution, spec.resolution)
    ramp = np.linspace(-2, 2, spec.resolution, dtype=np.float32)
    smooth = np.broadcast_to(np.outer(ramp, ramp), shape) + generator.normal(size=(1, spec.in_chans, 1, 1))
    return {
        "normal": generator.standard_normal(shape, dtype=np.float32),
        "smooth": np.ascontiguousarray(smooth, dtype=np.float32),
        "zero": np.zeros(shape, dtype=np.float32),
    }


def loud_copy(network: nn.Module, spec: ModelSpec, *, seed: int = 0) -> nn.Module:
    """A copy of `network` with random weights under which every branch carries about as much as its trunk.

    Matrices and convs keep the variance of their input, LayerScale and the norms' gains lie around 1, biases are not
    zero, and BatchNorm's running statistics are those of noise.
    """
    loud = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in loud.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(1 + 0.2 * noise)
        settle_norms(loud, spec, seed=seed)
        for statistic in loud.buffers():
            if statistic.is_floating_point():  # equal ones would be stored once, under one of their names
                statistic.mul_(1 + 0.1 * torch.rand(statistic.shape, generator=generator))
                statistic.add_(0.01 * torch.rand(statistic.shape, generator=generator))
    return loud


def settle_norms(network: nn.Module, spec: ModelSpec, *, seed: int = 0) -> None:
    """Sets BatchNorm's running statistics, where there are any, to those of two images of noise.

    A fresh network has none yet, and without them one of many `van` blocks overflows. A variance below 1 is set to 1: a
    channel that hardly varies would else have its rounding errors blown up. Leaves `network` in eval mode.
    """
    norms = [module for module in network.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0  # one batch replaces what was there
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network(torch.randn(2, spec.in_chans, spec.resolution, spec.resolution, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
        if norm.running_var is not None:
            norm.running_var.clamp_(min=1.0)


def compare(network: nn.Module, model: bytes, images: dict[str, np.ndarray], *, what: str) -> float:
    """Largest absolute difference between the logits of ONNX Runtime and of PyTorch over `images`.

    Raises:
        MismatchError: it exceeds `TOLERANCE` of the largest logit, or a logit is not finite.
    """
    with torch.inference_mode():
        expected = {name: network(torch.from_numpy(image)).numpy() for name, image in images.items()}
    scale = max(float(np.abs(logits).max()) for logits in expected.values())
    if not math.isfinite(scale):
        raise MismatchError(f"the network, {what}, gives logits that are not finite; it is neither written nor timed")
    found = runtime.run_images(model, images)
    error = max(float(np.abs(found[name] - expected[name]).max()) for name in images)
    if not error <= TOLERANCE * scale:  # also when the error is not a number
        raise MismatchError(
            f"the exported model, {what}, differs from PyTorch by {error:.2g} where logits reach {scale:.2g} "
            f"(at most {TOLERANCE:g} of that is rounding); it is neither written nor timed"
        )
    return error


def set_weights(model: onnx.ModelProto, network: nn.Module) -> None:
    """Puts the state of `network` into `model`, tensor by tensor, by name. Raises MismatchError where one is absent."""
    state: dict[str, Tensor] = {
        name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    absent = [name for name in state if name not in stored]
    if absent:
        raise MismatchError(f"the exported model lacks {len(absent)} tensors of the network, {absent[0]} among them")
    for name, tensor in state.items():
        stored[name].CopyFrom(numpy_helper.from_array(tensor.detach().numpy(), name))


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
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
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in known.items() if name in used)
    return model


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise TooLargeError("an ONNX file holds at most 2 GiB of weights", place="network", value=size)


def export_all(specs: Sequence[ModelSpec], folders: Sequence[Path]) -> None:
    """Exports each spec, freshly initialised, into its folder; what a child process is asked. See `export_model`."""
    for spec, folder in zip(specs, folders, strict=True):
        export_model(spec, folder)


def _output_types(
    node: onnx.NodeProto,
    inputs: list[str],
    types: dict[str, Any],
    known: dict[str, np.ndarray],
    model: onnx.ModelProto,
) -> dict[str, Any]:
    return shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, OPSET),
        node,
        {name: types[name] for name in inputs},
        {name: numpy_helper.from_array(known[name]) for name in inputs if name in known},
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )


def _trace(network: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """The exporter's graph, in which every parameter still bears its own name."""
    image = torch.zeros(1, spec.in_chans, spec.resolution, spec.resolution)
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
            output_names=[runtime.OUTPUT_NAME],
            # Neither fold weights nor fuse norms into convs: both would rename tensors, and ONNX Runtime does both.
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        return onnx.load(file)
