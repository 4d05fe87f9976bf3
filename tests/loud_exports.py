"""Networks with loud weights, exported, for tests of what is done to a graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import torch

from modscale.deploy import export, onnx_graph
from modscale.deploy.export import Form, export_onnx
from modscale.models.efficientmod import build_network
from modscale.specs.spec import ModelSpec


def exported(spec: ModelSpec, folder: Path, form: Form | None = None) -> tuple[onnx.ModelProto, torch.nn.Module]:
    """The graph of `m.onnx` in a folder, and the network that it was made of."""
    network = export.loud_copy(build_network(spec, seed=0), spec, seed=3).eval()
    export_onnx(network, spec, folder / "m.onnx", form=form)
    return onnx_graph.parse(folder / "m.onnx"), network


def kinds_of(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each kind a graph has."""
    return Counter(node.op_type for node in model.graph.node)
