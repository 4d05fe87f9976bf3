"""Networks that are none of ours: an ONNX file counted, and a network of timm's as one that is proved equal to torch.

What child processes are asked (`latency/rivals.py`). The export is our own (`export.py`): the same opset, one image,
and random weights under which every branch counts. They are what is timed, too, since no latency hangs on them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from modscale.deploy import onnx_graph, runtime
from modscale.deploy.export import compare, loud_copy, probe_images
from modscale.deploy.onnx_counts import GraphCount, count_graph
from modscale.errors import InputError, ModscaleError, TrialFailed
from modscale.files import write_whole
from modscale.models.timm_networks import build_deployed, check_name


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInput:
    """What a network takes: one square image."""

    in_chans: int
    """Channels."""
    resolution: int
    """Side, pixels."""


def check_timm(names: Sequence[str], place: str = "") -> None:
    """Raises InputError where timm is not there, or does not know one of these names."""
    for name in names:
        check_name(name, place)


def export_timm(name: str, file: str | Path, resolution: int | None = None) -> tuple[int, ...]:
    """Writes a network of timm's as ONNX, input `image` [1, C, R, R], and returns that shape.

    Raises:
        InputError: timm does not know it, or cannot build it, or it does not take such an image.
        MismatchError: ONNX Runtime and PyTorch disagree; nothing is written.
        TrialFailed: the exporter cannot write it.
    """
    network, (channels, side, _) = build_deployed(name, resolution=resolution)
    takes = ImageInput(in_chans=channels, resolution=side)
    images = probe_images(takes)
    try:
        with torch.inference_mode():
            answer = network(torch.from_numpy(images["normal"]))
    except Exception as error:  # each network raises its own
        raise InputError(f"does not take an image of {side} x {side}: {error}", value=name) from error
    if not isinstance(answer, torch.Tensor) or answer.ndim != 2:
        raise InputError("must answer with logits, [1, K]", value=name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a trace may miss, which is what the comparison is for
            loud = loud_copy(network, takes)
            graph = onnx_graph.fold_shapes(onnx_graph.trace_module(loud, takes, outputs=[runtime.OUTPUT_NAME]))
            content = onnx_graph.serialise(graph)
    except ModscaleError:
        raise
    except Exception as error:  # the exporter raises a dozen kinds
        raise TrialFailed(f"timm's {name} cannot be exported: {' '.join(str(error).split())[:300]}") from error
    what = "with weights that make every branch count"
    compare(lambda image: {runtime.OUTPUT_NAME: loud(image)}, content, images, 1, what=what)
    write_whole(file, content)
    return 1, channels, side, side


def count_file(file: str | Path, shape: Sequence[int]) -> GraphCount:
    """Params and FLOPs of an ONNX file whose one input has this shape. Raises InputError where it cannot be read."""
    return count_graph(*onnx_graph.load_inferred(file, shape))
