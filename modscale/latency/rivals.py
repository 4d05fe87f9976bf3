"""Networks that are none of ours, made ready to be timed beside ours, each in a process that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modscale.deploy.onnx_counts import GraphCount
from modscale.latency.protocol import OnnxModel
from modscale.processes import Child
from modscale.rivals import TIMM

LIMIT_S = 600.0
"""Seconds that an export, or a count, may take."""


def timm_model(name: str, folder: Path, resolution: int | None = None) -> OnnxModel:
    """A network of timm's as an ONNX file in `folder`, proved equal to torch, with weights drawn at random.

    Raises:
        InputError: timm is not there, does not know it, cannot build it, or it does not take such an image.
        MismatchError, TrialFailed: it could not be exported.
    """
    file = folder / f"{name}.onnx"
    shape = _ask("export_timm", name, file, resolution)
    return OnnxModel(file=file, shape=shape, name=f"{TIMM}{name}")


def check_timm(names: Sequence[str], place: str = "") -> None:
    """Raises InputError where timm is not there, or does not know one of these names."""
    _ask("check_timm", names, place)


def count_onnx(model: OnnxModel) -> GraphCount:
    """Params and FLOPs of what is in an ONNX file. Raises InputError where it cannot be read."""
    return _ask("count_file", model.file, model.shape)


def _ask(function: str, *arguments: Any) -> Any:
    module = "modscale.deploy.foreign"
    with Child(module, name=module, environment={"OMP_NUM_THREADS": "1"}, limit_s=LIMIT_S, keeps_log=True) as child:
        return child.ask(function, *arguments)
