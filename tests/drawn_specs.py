"""Specs drawn at random, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import CONTEXT_PARTS, FUSIONS, ModelSpec, StageSpec, StemSpec


@st.composite
def specs(draw) -> ModelSpec:
    """Any valid spec of moderate size."""
    stage = st.builds(
        StageSpec,
        dim=st.integers(8, 400),
        depth=st.integers(1, 30),
        mlp_ratios=st.lists(st.integers(1, 8), min_size=1, max_size=6).map(tuple),
        kernel_size=st.lists(st.sampled_from((1, 3, 5, 7, 63)), min_size=1, max_size=4).map(tuple),
        attention_depth=st.integers(0, 3),
        attention_mlp_ratio=st.one_of(st.integers(1, 8), st.floats(0.25, 8).filter(lambda x: not x.is_integer())),
        block=st.sampled_from(list(BLOCKS)),
        context=st.sets(st.sampled_from(CONTEXT_PARTS), min_size=1).map(
            lambda kept: tuple(part for part in CONTEXT_PARTS if part in kept)
        ),
        fusion=st.sampled_from(FUSIONS),
    )
    return ModelSpec(
        name=draw(st.text(min_size=1, max_size=20).filter(lambda name: name.strip() and name.isprintable())),
        resolution=draw(st.integers(64, 400)),
        in_chans=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(1, 2000)),
        stem=StemSpec(kernel_size=draw(st.integers(1, 16)), stride=draw(st.integers(1, 16))),
        layer_scale=draw(st.none() | st.floats(1e-8, 1)),
        drop_path_rate=draw(st.floats(0, 0.9)),
        stages=tuple(draw(st.lists(stage, min_size=1, max_size=5))),
    )
