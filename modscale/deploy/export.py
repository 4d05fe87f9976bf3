"""A network as an ONNX file that is proved equal to PyTorch before anything else may use it.

First LayerScale is folded into the layer before it (`models/folding.py`); PyTorch, which the file is held against, has
it still. Then six things are done to the graph that is traced (`onnx_graph.py`):

- it is traced on *loud* weights, in which every branch counts. A fresh network would hide a broken branch: LayerScale
  starts at 1e-4, linear layers at a standard deviation of 0.02, and all biases at zero;
- what depends on shapes alone is computed now, so that no node is left that a GPU provider would hand to the CPU;
- the batch is opened and the normalisation folded in, where that is asked for;
- linear layers, and what stands between them, work on one matrix of tokens (`tokens.py`);
- once its weights are in place, those behind a LayerNorm take the biases (`carried_bias.py`), and where that is asked
  for, what is wider than a core's cache is computed in parts (`wide_products.py`) and attention by one operator
  (`joined_attention.py`);
- the loud graph is run against PyTorch; only then are the real weights put in its place, by their names, and the
  result is run against PyTorch again.

The runs use ONNX Runtime with the graph optimisations that are timed later. Nothing is written unless both agree.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from modscale.deploy import onnx_graph, runtime
from modscale.deploy.carried_bias import carry_biases
from modscale.deploy.facts import Facts, metadata, untrained_facts
from modscale.deploy.joined_attention import join_attention
from modscale.deploy.tokens import as_tokens
from modscale.deploy.wide_products import split_wide
from modscale.errors import InputError, MismatchError, TooLargeError
from modscale.files import user_path, write_whole
from modscale.models.checkpoint import LoadedWeights, load_weights, save_weights
from modscale.models.efficientmod import Network, build_network
from modscale.models.folding import fold_layer_scale
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec, spec_to_yaml

Array = npt.NDArray[np.float32]

TOLERANCE = 1e-4
"""Largest error of a logit that is put down to rounding, as a share of the largest logit."""

MAX_BYTES = 2**31 - 2**20
"""An ONNX file is one protocol buffer, which ends at 2 GiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What an ONNX file takes and gives."""

    batch: int | None = 1
    """Images at once; None leaves that open."""
    features: bool = False
    """Whether the map of each stage is an output, `stage1` and so on, [B, C, H, W]."""
    logits: bool = True
    """Whether the logits are, or masks; without them the maps must be."""
    folded: bool = False
    """Whether it takes pixels scaled to 0..1 as they are: mean and deviation are dealt with inside."""
    for_cpu: bool = False
    """Whether what is wider than a core's cache is computed in parts, and attention by one operator of opset 23: faster
    on ONNX Runtime's CPU provider (1.23 or later). OpenVINO (onnxruntime-openvino 1.24.1) cannot read that operator."""

    def outputs(self, spec: ModelSpec) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        maps = [onnx_graph.stage_name(i) for i in range(len(spec.stages))] if self.features else []
        return (*([onnx_graph.answer_name(spec)] if self.logits else []), *maps)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What `export_model` wrote and found."""

    spec: Path
    """The spec file."""
    onnx: Path
    """The ONNX file: input `image` [B, C, R, R], outputs see `Form`: `logits` [B, K] or `masks` [B, K, R, R], maps."""
    weights: Path
    """The weights, safetensors."""
    params: int
    """Learned numbers of the network."""
    flops: int
    """Multiply-adds of one image."""
    max_abs_error: float
    """Largest difference between an output of ONNX Runtime and of PyTorch, real weights."""
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
    form: Form | None = None,
    facts: Facts | None = None,
) -> ExportResult:
    """Writes `spec.yaml`, `model.onnx` and `model.safetensors` into `out_dir`, which is created.

    Without `weights` the network is freshly initialised from `seed`; `key` and `fresh_head` are those of
    `load_weights`. `form` says what the ONNX file takes and gives, by default one image and its logits; `facts` what
    it says of itself.

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
    folder = user_path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be created: {error.strerror or error}", file=out_dir) from error
    files = {name: folder / name for name in ("spec.yaml", "model.onnx", "model.safetensors")}
    max_abs_error = export_onnx(network, spec, files["model.onnx"], form=form, facts=facts)
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


def fresh_network(spec: ModelSpec, *, seed: int) -> Network:
    """The network of `spec`, freshly initialised and fit for eval mode: BatchNorm has seen some noise.

    Raises:
        TooLargeError: its weights are too large for one ONNX file; they are not even drawn.
    """
    _check_size(4 * count_model(spec).params)
    network = build_network(spec, seed=seed)
    settle_norms(network, spec, seed=seed)
    return network


def export_onnx(
    network: nn.Module, spec: ModelSpec, file: str | Path, *, form: Form | None = None, facts: Facts | None = None
) -> float:
    """Writes the network of `spec` as ONNX and returns its largest absolute error against PyTorch.

    The network is left as it was found, in its mode and on its device.

    Raises:
        InputError: `file` cannot be written.
        TooLargeError: the network is too large for one ONNX file.
        MismatchError: ONNX Runtime and PyTorch disagree; nothing is written.
    """
    form, facts = form or Form(), facts or untrained_facts(spec)
    outputs = form.outputs(spec)
    network = copy.deepcopy(network).cpu().float().eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    _check_size(size)
    images = probe_images(spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a few single images: on a busy machine, waiting for a second thread costs far more
    try:
        loud = loud_copy(network, spec)
        # Two at once in the trace of an open batch: what is written for one may be true of one alone.
        traced = onnx_graph.trace(_folded(loud), spec, batch=form.batch or 2, outputs=outputs)
        model = onnx_graph.fold_shapes(traced)
        if form.batch is None:
            onnx_graph.open_batch(model)
        model = as_tokens(model)

        def finish(model: onnx_graph.Graph, network: nn.Module, what: str) -> tuple[bytes, float]:
            onnx_graph.set_weights(model, _folded(network))
            carry_biases(model)
            if form.for_cpu:
                model = join_attention(split_wide(model))
            if form.folded:
                onnx_graph.fold_normalisation(model, facts.mean, facts.std)
            onnx_graph.set_metadata(model, metadata(spec, facts, folded=form.folded))
            content = onnx_graph.serialise(model)
            return content, compare(_reference(network, form, facts, outputs), content, images, form.batch, what=what)

        finish(copy.deepcopy(model), loud, "with weights that make every branch count")
        content, max_abs_error = finish(model, network, "with its own weights")
    finally:
        torch.set_num_threads(threads)
    write_whole(file, content)
    return max_abs_error


def _folded(network: nn.Module) -> nn.Module:
    """A copy that computes the same with fewer operators; see `models/folding.py`."""
    return fold_layer_scale(copy.deepcopy(network))


def _reference(
    network: nn.Module, form: Form, facts: Facts, outputs: Sequence[str]
) -> Callable[[Tensor], dict[str, Tensor]]:
    """What PyTorch gives for an image as the file takes it, by output."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (facts.mean, facts.std))

    def run(image: Tensor) -> dict[str, Tensor]:
        image = (image - mean) / std if form.folded else image
        given = onnx_graph.outputs_of(network, image, outputs) if form.features else (network(image),)
        return dict(zip(outputs, given, strict=True))

    return run


def probe_images(spec: onnx_graph.TakesImages, *, seed: int = 0) -> dict[str, Array]:
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


def loud_copy(network: nn.Module, spec: onnx_graph.TakesImages, *, seed: int = 0) -> nn.Module:
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


def settle_norms(network: nn.Module, spec: onnx_graph.TakesImages, *, seed: int = 0) -> None:
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


def compare(
    reference: Callable[[Tensor], Mapping[str, Tensor]],
    model: bytes,
    images: Mapping[str, Array],
    batch: int | None,
    *,
    what: str,
) -> float:
    """Largest absolute difference between an output of ONNX Runtime and of PyTorch over `images`.

    PyTorch takes them one by one; ONNX Runtime `batch` at once, or where that is open first each alone, then all.

    Raises:
        MismatchError: it exceeds `TOLERANCE` of the output's largest number, or a number is not finite.
    """
    with torch.inference_mode():
        expected = {
            name: {output: value.numpy() for output, value in reference(torch.from_numpy(image)).items()}
            for name, image in images.items()
        }
    batches = _batches(tuple(images), batch)
    fed = [np.concatenate([images[name] for name in names]) for names in batches]
    found = list(runtime.run_batches(model, fed))
    worst = 0.0
    for output in next(iter(expected.values())):
        scale = max(float(np.abs(one[output]).max()) for one in expected.values())
        if not math.isfinite(scale):
            raise MismatchError(
                f"the network, {what}, gives {output} that are not finite; it is neither written nor timed"
            )
        error = max(
            float(np.abs(given[output] - np.concatenate([expected[name][output] for name in names])).max())
            for names, given in zip(batches, found, strict=True)
        )
        if not error <= TOLERANCE * scale:  # also when the error is not a number
            raise MismatchError(
                f"the exported model, {what}, differs from PyTorch by {error:.2g} where {output} reach {scale:.2g} "
                f"(at most {TOLERANCE:g} of that is rounding); it is neither written nor timed"
            )
        worst = max(worst, error)
    return worst


def _batches(names: tuple[str, ...], batch: int | None) -> list[tuple[str, ...]]:
    """The names in batches of one size, as often as needed to fill them; or each alone, and all at once."""
    if batch is None:
        return [*((name,) for name in names), names]
    endless = cycle(names)
    return [tuple(islice(endless, batch)) for _ in range(-(-len(names) // batch))]


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise TooLargeError("an ONNX file holds at most 2 GiB of weights", place="network", value=size)


def export_all(specs: Sequence[ModelSpec], folders: Sequence[Path]) -> None:
    """Exports each spec, freshly initialised, into its folder; what a child process is asked. See `export_model`."""
    for spec, folder in zip(specs, folders, strict=True):
        export_model(spec, folder)
