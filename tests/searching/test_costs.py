"""What networks would take by those that were rehearsed, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rehearsed import XS, XXS, S, rehearsal_of, session

from modscale.searching.costs import Costs
from modscale.settings import LatencySettings
from modscale.specs.counts import count_model


def test_what_others_take_lies_between() -> None:
    """By FLOPs in a straight line, the nearest beyond, and by the number of blocks."""
    costs = Costs(rehearsal_of(session((0.5, 0.5), (10.0, 30.0), LatencySettings(threads=1))))
    flops = [count_model(spec).flops for spec in (XXS, XS, S)]
    share = (flops[1] - flops[0]) / (flops[2] - flops[0])
    blocks = [spec.num_blocks() for spec in (XXS, XS, S)]
    assert costs.export_s(S) == pytest.approx(2.8)
    a, b = 1.4 / blocks[0], 2.8 / blocks[2]
    assert costs.export_s(XS) == pytest.approx(blocks[1] * (a + share * (b - a)))
    assert costs.training_s(XXS, 2) == pytest.approx(0.5 + 200 * 0.01 + 1.0)
    assert costs.training_s(S, 4, 5000) == pytest.approx(0.5 + 400 * 0.03 + 5.0)
    assert costs.training_s(S, 4, share=0.5, scorings=2) == pytest.approx(0.5 + 200 * 0.03 + 2.0)
    deep = replace(S, stages=(replace(S.stages[0], depth=S.stages[0].depth + blocks[2]), *S.stages[1:]))
    assert costs.export_s(deep) == pytest.approx(2 * 2.8)
    assert costs.anchor_s(2) == 0.0
