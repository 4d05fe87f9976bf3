"""A network as a list of pieces, by which its latency is predicted: stem, blocks, downsamplings, head.

Two networks that have a piece in common run the same operators on the same shapes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modscale.errors import InputError
from modscale.specs.counts import Tally, tally_downsample, tally_head, tally_stage, tally_stem
from modscale.specs.sameness import canonical_stage
from modscale.specs.spec import ModelSpec, StageSpec

ATTENTION = "attention"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What stands between two places of a network where a single tensor passes."""

    kind: str
    """`stem`, `downsample`, `head`, `attention`, or a kind of block."""
    side: int
    """Tokens along a side of the map that leaves it; of the head, that enters it."""
    dim: int
    """Channels that enter."""
    out: int
    """Channels that leave; classes of the head."""
    hidden: int = 0
    """Channels inside the MLP of a block; 0 where there is none."""
    kernels: tuple[int, ...] = ()
    """Sides of its kernels."""
    variant: str = ""
    """What else has an effect on its operators, in words."""
    params: int
    """Learned numbers."""
    flops: int
    """Multiply-adds of one image."""

    @property
    def name(self) -> str:
        """How a message calls it, as in `modulation 14x14 128 (hidden 768, kernel 7)`."""
        inside = [f"hidden {self.hidden}"] if self.hidden else []
        inside += [f"kernel {'+'.join(map(str, self.kernels))}"] if self.kernels else []
        inside += [self.variant] if self.variant else []
        width = f"{self.dim}" if self.dim == self.out else f"{self.dim} to {self.out}"
        return f"{self.kind} {self.side}x{self.side} {width}" + (f" ({', '.join(inside)})" if inside else "")

    @property
    def family(self) -> tuple[str, tuple[int, ...], str]:
        """What it has in common with pieces that differ in their sizes alone."""
        return self.kind, self.kernels, self.variant

    @property
    def costs(self) -> tuple[float, ...]:
        """What its latency is composed of, each at a rate of its own: 1 for the call of it, and then

        multiply-adds of its products with dense weights, of a depthwise conv, of attention between tokens; learned
        numbers that are read; numbers in the maps inside its MLP, and in those that enter and leave it.
        """
        tokens = self.side**2
        conv = tokens * self.dim * sum(side**2 for side in self.kernels) if self.hidden else 0
        between = 2 * tokens**2 * self.dim if self.kind == ATTENTION else 0
        dense = max(self.flops - conv - between, 0)
        return 1.0, dense, conv, between, self.params, tokens * self.hidden, tokens * (self.dim + self.out)


def network_pieces(spec: ModelSpec) -> list[Piece]:
    """The pieces of a classifier, from the stem to the head.

    Raises:
        InputError: it is another network than a classifier.
    """
    return [piece for _, piece in placed_pieces(spec)]


def piece_keys(spec: ModelSpec) -> list[tuple[Piece, bool]]:
    """The same, each with whether it opens its stage: what opens one takes a map, and what follows its tokens."""
    return [(piece, place[0] == "block" and place[2] == 0) for place, piece in placed_pieces(spec)]


def placed_pieces(spec: ModelSpec) -> Iterator[tuple[tuple[str | int, ...], Piece]]:
    """The same, each with its place: ("stem",), ("block", stage, block), ("downsample", stage) or ("head",)."""
    if spec.head != "classifier":
        raise InputError("must be classifier: no other head is cut into pieces", place="head", value=spec.head)
    sides, stages = spec.sides(), spec.stages
    stem = f"stride {spec.stem.stride}"
    yield ("stem",), _piece(
        tally_stem(spec, stages[0].dim), kind="stem", side=sides[0], dim=spec.in_chans, out=stages[0].dim,
        kernels=(spec.stem.kernel_size,), variant=stem,
    )  # fmt: skip
    for i, (stage, side) in enumerate(zip(stages, sides, strict=True)):
        for j, piece in enumerate(_blocks(canonical_stage(stage), side, spec.layer_scale)):
            yield ("block", i, j), piece
        if i + 1 < len(stages):
            yield ("downsample", i), _piece(
                tally_downsample(stage.dim, stages[i + 1].dim, sides[i + 1]),
                kind="downsample", side=sides[i + 1], dim=stage.dim, out=stages[i + 1].dim,
            )  # fmt: skip
    yield ("head",), _piece(
        tally_head(stages[-1].dim, sides[-1], spec.num_classes),
        kind="head", side=sides[-1], dim=stages[-1].dim, out=spec.num_classes,
    )  # fmt: skip


def _blocks(stage: StageSpec, side: int, layer_scale: float | None) -> Iterator[Piece]:
    default = StageSpec(dim=1, depth=1)
    words = [] if stage.context == default.context else ["context " + "+".join(stage.context)]
    words += [] if stage.fusion == default.fusion else [f"fusion {stage.fusion}"]
    words += [] if layer_scale is None else ["layer scale"]
    for ratio in stage.block_ratios():
        one = StageSpec(
            dim=stage.dim, depth=1, mlp_ratios=(ratio,), kernel_size=stage.kernel_size, block=stage.block,
            context=stage.context, fusion=stage.fusion,
        )  # fmt: skip
        yield _piece(
            tally_stage(one, side, layer_scale), kind=stage.block, side=side, dim=stage.dim, out=stage.dim,
            hidden=ratio * stage.dim, kernels=stage.kernel_size, variant=", ".join(words),
        )  # fmt: skip
    if not stage.attention_depth:
        return
    both = StageSpec(
        dim=stage.dim, depth=1, mlp_ratios=(1,), attention_depth=1, attention_mlp_ratio=stage.attention_mlp_ratio
    )
    alone = StageSpec(dim=stage.dim, depth=1, mlp_ratios=(1,))
    costs = zip(tally_stage(both, side, None).totals(), tally_stage(alone, side, None).totals(), strict=True)
    params, flops = (more - less for more, less in costs)
    piece = Piece(
        kind=ATTENTION, side=side, dim=stage.dim, out=stage.dim, hidden=stage.attention_hidden(), params=params,
        flops=flops,
    )  # fmt: skip
    for _ in range(stage.attention_depth):
        yield piece


def _piece(
    tally: Tally, *, kind: str, side: int, dim: int, out: int, hidden: int = 0, kernels: tuple[int, ...] = (),
    variant: str = "",
) -> Piece:  # fmt: skip
    params, flops = tally.totals()
    return Piece(
        kind=kind, side=side, dim=dim, out=out, hidden=hidden, kernels=kernels, variant=variant, params=params,
        flops=flops,
    )  # fmt: skip
