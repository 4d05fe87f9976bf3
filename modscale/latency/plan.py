"""Which networks a calibration exports, to cut them into pieces, and which it puts together of those and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from modscale.specs.pieces import Piece, piece_keys
from modscale.specs.spec import ModelSpec, StageSpec

LOOKED_AT = 400
"""Networks among which the next one to time is chosen."""


def shrunk(spec: ModelSpec) -> ModelSpec:
    """The smallest network that has every piece of `spec`: of equal blocks, one is left."""
    return replace(spec, stages=tuple(map(_shrunk_stage, spec.stages)))


def plan_exports(specs: Sequence[ModelSpec]) -> Iterator[ModelSpec]:
    """Few small networks that have every piece of `specs` among them; the one with the most that is new comes next."""
    left = {spec: set(piece_keys(spec)) for spec in dict.fromkeys(map(shrunk, specs))}
    while left:
        best = max(left, key=lambda spec: len(left[spec]))
        taken = left.pop(best)
        if not taken:
            return
        yield best
        left = {spec: pieces - taken for spec, pieces in left.items() if pieces - taken}


def plan_networks(specs: Sequence[ModelSpec], pieces: set[tuple[Piece, bool]]) -> Iterator[ModelSpec]:
    """Those of `specs` that can be put together of `pieces`: the next in line and a rare one, in turn.

    A rare one is that whose pieces were seen least. Only the former would leave rare pieces out; only the latter would
    hardly take small networks, without which what two pieces take that are seldom apart is not told apart.
    """
    possible = [(spec, set(found)) for spec in specs if (found := piece_keys(spec)) and pieces.issuperset(found)]
    seen: Counter[tuple[Piece, bool]] = Counter()
    for turn in range(len(possible)):
        some = possible[: LOOKED_AT if turn % 2 else 1]
        best = max(range(len(some)), key=lambda i: sum(1 / (1 + seen[p]) for p in some[i][1]) / len(some[i][1]))
        spec, taken = possible.pop(best)
        seen.update(taken)
        yield spec


def _shrunk_stage(stage: StageSpec) -> StageSpec:
    first, *later = stage.block_ratios()
    ratios = (first, *dict.fromkeys(later))
    return replace(stage, depth=len(ratios), mlp_ratios=ratios, attention_depth=min(1, stage.attention_depth))
