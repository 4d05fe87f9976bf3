"""A network as a small picture of its stages: how wide, how deep, and which blocks attend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from modscale.specs.spec import ModelSpec, architecture_text

WIDTH, HEIGHT = 280, 112
"""Of a picture, pixels; a long network makes it wider."""
GROUND = 78
"""Where the blocks stand, pixels from the top."""
TALLEST = 68
"""Height of the widest stage's blocks, pixels: heights go by the square root of the width in channels."""
GAP = 10
"""Between two stages, pixels."""
LEAST = 34
"""Width that a stage's numbers need, pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One block."""

    x: float
    y: float
    width: float
    height: float
    attends: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """The blocks of a stage with what is written below them."""

    bars: Sequence[Bar]
    middle: float
    dim: str
    blocks: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """All of a network, in pixels."""

    width: float
    height: int
    stages: Sequence[Stage]
    text: str
    """The same in words."""
    has_attention: bool


def draw_stages(spec: ModelSpec) -> Picture:
    """One bar a block, as tall as its stage is wide."""
    counts = [stage.depth + stage.attention_depth for stage in spec.stages]
    unit = min(16.0, max(3.0, (WIDTH - GAP * (len(counts) - 1)) / max(sum(counts), 1)))
    widest = max(stage.dim for stage in spec.stages)
    stages, x = [], 0.0
    for stage, count in zip(spec.stages, counts, strict=True):
        room = max(unit * count, LEAST)
        height = round(TALLEST * sqrt(stage.dim / widest), 1)
        first = x + (room - unit * count) / 2
        bars = [
            Bar(
                x=round(first + i * unit, 1), y=round(GROUND - height, 1), width=round(unit - 1, 1), height=height,
                attends=i >= stage.depth,
            )
            for i in range(count)
        ]  # fmt: skip
        blocks = f"×{stage.depth}" + (f"+{stage.attention_depth}" if stage.attention_depth else "")
        stages.append(Stage(bars=bars, middle=round(x + room / 2, 1), dim=str(stage.dim), blocks=blocks))
        x += room + GAP
    return Picture(
        width=max(round(x - GAP, 1), WIDTH),
        height=HEIGHT,
        stages=stages,
        text=f"stages, channels × blocks + attention blocks: {architecture_text(spec)}",
        has_attention=any(stage.attention_depth for stage in spec.stages),
    )
