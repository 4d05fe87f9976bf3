"""The trace that the closed forms are held against leaves nothing out silently."""

from __future__ import annotations

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from modscale.errors import MismatchError
from modscale.models import fvcore_trace as tracing
from modscale.models.efficientmod import build_network
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec, StageSpec

TINY = ModelSpec(resolution=16, num_classes=2, stages=(StageSpec(dim=8, depth=1, attention_depth=1),))


def test_fvcore_alone_leaves_attention_out():
    """fvcore reads 1,324,722,024 for s; our trace has both attention products too: 1,409,390,888."""
    analysis = FlopCountAnalysis(build_network(published("s"), seed=0).eval(), torch.zeros(1, 3, 224, 224))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    assert int(analysis.total()) == 1_324_722_024
    assert tracing.trace_model(published("s")) == (12_897_184, 1_409_390_888)


def test_an_operator_nobody_counts_is_an_error(monkeypatch):
    """An operator that is neither counted nor known to be free is named, and no number is given out."""
    monkeypatch.setattr(tracing, "FREE_OPERATORS", tracing.FREE_OPERATORS - {"aten::gelu"})
    with pytest.raises(MismatchError, match=r"fvcore does not count aten::gelu;"):
        tracing.trace_model(TINY)


def test_tracing_leaves_the_global_random_state_alone():
    """A check in the middle of a training run does not change what the run draws next."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    tracing.trace_model(TINY)
    assert torch.equal(torch.rand(1), expected)
