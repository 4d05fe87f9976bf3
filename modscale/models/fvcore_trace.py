"""Params and FLOPs measured on the network itself: an fvcore trace, attention included, nothing left out silently.

fvcore has no handle for fused attention and reports it only in a log line, so `s` reads 1,324,722,024 instead of
1,409,390,888. Here the handle is registered, and an operator that is neither counted nor on the list of free ones
is an error.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn

from modscale.errors import MismatchError
from modscale.models.efficientmod import build_network
from modscale.specs.spec import ModelSpec

FREE_OPERATORS = frozenset({
    # element-wise
    "aten::add", "aten::add_", "aten::mul", "aten::gelu", "aten::relu", "aten::relu6",
    # left out in eval mode
    "aten::feature_dropout",
    # views
    "aten::unflatten",
    # reductions that the convention leaves free (contract: only adaptive pooling is counted)
    "aten::mean",
})  # fmt: skip


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Both products of scaled_dot_product_attention on [B, heads, N, width]."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    batch_heads = math.prod(query[:-2])
    return batch_heads * query[-2] * key[-2] * (query[-1] + value[-1])


def trace_model(spec: ModelSpec) -> tuple[int, int]:
    """(params, flops) of the network of `spec` by tracing it with fvcore, batch 1.

    Raises:
        MismatchError: the trace met an operator that is neither counted nor known to be free.
    """
    network = build_network(spec, seed=0).eval()
    params, flops, uncounted = trace_network(network, (spec.in_chans, spec.resolution, spec.resolution))
    if uncounted:
        raise MismatchError(f"fvcore does not count {', '.join(uncounted)}; the trace is no measure")
    return params, flops


def trace_network(network: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int, tuple[str, ...]]:
    """(params, flops, operators that are neither counted nor known to be free) of any network, for one image [C, R, R].

    Where there are such operators, the FLOPs are those of the others.
    """
    analysis = FlopCountAnalysis(network, torch.zeros(1, *shape))
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    flops = int(analysis.total())
    uncounted = tuple(sorted(set(analysis.unsupported_ops()) - FREE_OPERATORS))
    return sum(parameter.numel() for parameter in network.parameters()), flops, uncounted
