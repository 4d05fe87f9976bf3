"""Closed-form params and FLOPs of a spec, by part of the network and by operator; torch is never imported.

Conventions (contract, section "Counts"; 1 multiply-add = 1 FLOP, batch 1):

- conv and linear: every multiply-add of the weights, biases free;
- attention: both products, query x key and weights x value, softmax free;
- LayerNorm 5 per element and inference BatchNorm 2 per element (fvcore's conventions for affine norms);
- adaptive average pooling: 1 per input element; upsampling: 1 per output element, 4 where it is bilinear
  (fvcore's conventions); activations, sums, products and means: free.

`params` counts every learned number, biases, norms and LayerScale included; BatchNorm's running statistics are not
learned. `models/fvcore_trace.py` holds these counts against an fvcore trace of the real network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modscale.specs.block_kinds import focal_kernels
from modscale.specs.spec import FPN_DIM, SEMANTIC_DIM, ModelSpec, StageSpec, attention_width

COUNT_METRICS = ("params", "flops")
"""What is counted, as objectives, constraints and budgets name it."""

OPERATORS = ("conv", "linear", "attention", "layer_norm", "batch_norm", "avg_pool", "upsample", "layer_scale")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartCount:
    """What one operator costs in one part of the network."""

    part: str
    """`stem`, `stages[i]`, `downsample[i]` (from stage i to the next), `fpn` or `head`."""
    operator: str
    """One of `OPERATORS`."""
    params: int
    """Learned numbers."""
    flops: int
    """Multiply-adds of one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCount:
    """Params and FLOPs of a whole network, with the parts they come from."""

    params: int
    flops: int
    parts: tuple[PartCount, ...]


class Tally:
    """Params and FLOPs of a piece of network, by operator, while its layers are walked through."""

    def __init__(self) -> None:
        self.by_operator: dict[str, tuple[int, int]] = {}

    def add(self, operator: str, params: int, flops: int) -> None:
        old_params, old_flops = self.by_operator.get(operator, (0, 0))
        self.by_operator[operator] = (old_params + params, old_flops + flops)

    def linear(self, tokens: int, fan_in: int, fan_out: int, *, bias: bool = True) -> None:
        self.add("linear", fan_in * fan_out + bias * fan_out, tokens * fan_in * fan_out)

    def conv(self, tokens: int, in_chans: int, out_chans: int, kernel_size: int, *, bias: bool = True) -> None:
        weights = in_chans * out_chans * kernel_size**2
        self.add("conv", weights + bias * out_chans, tokens * weights)

    def depthwise(self, tokens: int, dim: int, kernel_size: int, *, bias: bool = True) -> None:
        weights = dim * kernel_size**2
        self.add("conv", weights + bias * dim, tokens * weights)

    def layer_norm(self, tokens: int, dim: int) -> None:
        self.add("layer_norm", 2 * dim, 5 * tokens * dim)

    def batch_norm(self, tokens: int, dim: int) -> None:
        self.add("batch_norm", 2 * dim, 2 * tokens * dim)

    def mlp(self, tokens: int, dim: int, hidden: int) -> None:
        self.linear(tokens, dim, hidden)
        self.linear(tokens, hidden, dim)

    def layer_scale(self, dim: int, initial: float | None) -> None:
        if initial is not None:
            self.add("layer_scale", dim, 0)

    def totals(self) -> tuple[int, int]:
        """(params, flops) over all operators."""
        pairs = self.by_operator.values()
        return sum(params for params, _ in pairs), sum(flops for _, flops in pairs)


def count_model(spec: ModelSpec) -> ModelCount:
    """Exact params and FLOPs of the network of `spec`.

    >>> import modscale
    >>> count = modscale.count_model(modscale.published("xxs"))
    >>> count.params, count.flops
    (4736264, 583012608)
    """
    sides = spec.sides()
    pieces: list[tuple[str, Tally]] = [("stem", tally_stem(spec, spec.stages[0].dim))]
    for i, stage in enumerate(spec.stages):
        pieces.append((f"stages[{i}]", tally_stage(stage, sides[i], spec.layer_scale)))
        if i + 1 < len(sides):
            pieces.append((f"downsample[{i}]", tally_downsample(stage.dim, spec.stages[i + 1].dim, sides[i + 1])))
    if spec.head == "semantic_fpn":
        pieces += [("fpn", _tally_semantic_fpn(spec)), ("head", tally_masks(spec))]
    else:
        pieces.append(("head", tally_head(spec.stages[-1].dim, sides[-1], spec.num_classes)))
    parts = tuple(
        PartCount(part=part, operator=operator, params=params, flops=flops)
        for part, tally in pieces
        for operator, (params, flops) in tally.by_operator.items()
    )
    return ModelCount(params=sum(p.params for p in parts), flops=sum(p.flops for p in parts), parts=parts)


def tally_stem(base: ModelSpec, dim: int) -> Tally:
    """The stem of `base` with `dim` outputs. Reads of `base` only what all models of a space share."""
    tally = Tally()
    tokens = base.sides()[0] ** 2
    tally.conv(tokens, base.in_chans, dim, base.stem.kernel_size)
    tally.layer_norm(tokens, dim)
    return tally


def tally_downsample(dim: int, next_dim: int, next_side: int) -> Tally:
    """The 3x3, stride-2 conv and LayerNorm that lead to a stage of `next_dim` channels, `next_side` tokens a side."""
    tally = Tally()
    tally.conv(next_side**2, dim, next_dim, 3)
    tally.layer_norm(next_side**2, next_dim)
    return tally


def tally_head(dim: int, side: int, num_classes: int) -> Tally:
    """Final LayerNorm, average pooling and the linear head."""
    tally = Tally()
    tally.layer_norm(side**2, dim)
    tally.add("avg_pool", 0, side**2 * dim)
    tally.linear(1, dim, num_classes)
    return tally


def _tally_semantic_fpn(spec: ModelSpec) -> Tally:
    """All of Semantic FPN but its last layer, as `models/semantic_fpn.py` has it."""
    tally = tally_pyramid(spec)
    for stage, side in zip(spec.stages, spec.sides(), strict=True):
        tally.conv(side**2, stage.dim, FPN_DIM, 1)
    return tally


def tally_lateral(dim: int, side: int) -> Tally:
    """What leads a stage's map into Semantic FPN: the only part of it that depends on the stage's width."""
    tally = Tally()
    tally.conv(side**2, dim, FPN_DIM, 1)
    return tally


def tally_pyramid(base: ModelSpec) -> Tally:
    """Top-down path, output convs and the segmentation branch: what all models of a space share."""
    tally = Tally()
    sides = base.sides()
    for i, side in enumerate(sides):
        tally.conv(side**2, FPN_DIM, FPN_DIM, 3)
        if i:
            tally.add("upsample", 0, sides[i - 1] ** 2 * FPN_DIM)
        for step in range(max(i, 1)):
            at = sides[i - step] ** 2
            tally.conv(at, SEMANTIC_DIM if step else FPN_DIM, SEMANTIC_DIM, 3, bias=False)
            tally.batch_norm(at, SEMANTIC_DIM)
            if i:
                tally.add("upsample", 0, 4 * sides[i - step - 1] ** 2 * SEMANTIC_DIM)
    return tally


def tally_masks(base: ModelSpec) -> Tally:
    """A mask for each class at the first map's side, then at the input's size."""
    tally = Tally()
    tally.conv(base.sides()[0] ** 2, SEMANTIC_DIM, base.num_classes, 1)
    tally.add("upsample", 0, 4 * base.resolution**2 * base.num_classes)
    return tally


def tally_stage(stage: StageSpec, side: int, layer_scale: float | None) -> Tally:
    """All blocks of one stage on `side` x `side` tokens."""
    tally = Tally()
    tokens = side**2
    count_block = BLOCK_TALLIES[stage.block]
    for ratio in stage.block_ratios():
        count_block(tally, stage, ratio, tokens, layer_scale)
    for _ in range(stage.attention_depth):
        _tally_attention(tally, stage, tokens)
    return tally


def sum_by(parts: Iterable[PartCount], key: str) -> dict[str, tuple[int, int]]:
    """(params, flops) of the parts by `part` or by `operator`, in order of appearance."""
    sums: dict[str, tuple[int, int]] = {}
    for part in parts:
        params, flops = sums.get(getattr(part, key), (0, 0))
        sums[getattr(part, key)] = (params + part.params, flops + part.flops)
    return sums


def _tally_modulation_mlp(tally: Tally, stage: StageSpec, ratio: int, tokens: int) -> None:
    dim = stage.dim
    tally.mlp(tokens, dim, dim * ratio)
    if "f" in stage.context:
        tally.linear(tokens, dim, dim)
    if "conv" in stage.context:
        for size in stage.kernel_size:
            tally.depthwise(tokens, dim, size)
    if "g" in stage.context:
        tally.linear(tokens, dim, dim)


def _tally_modulation(tally: Tally, stage: StageSpec, ratio: int, tokens: int, layer_scale: float | None) -> None:
    tally.layer_norm(tokens, stage.dim)
    _tally_modulation_mlp(tally, stage, ratio, tokens)
    tally.layer_scale(stage.dim, layer_scale)


def _tally_separate_mlp(tally: Tally, stage: StageSpec, ratio: int, tokens: int, layer_scale: float | None) -> None:
    _tally_modulation(tally, stage, 1, tokens, layer_scale)
    tally.layer_norm(tokens, stage.dim)
    tally.mlp(tokens, stage.dim, stage.dim * ratio)
    tally.layer_scale(stage.dim, layer_scale)


def _tally_mbconv(tally: Tally, stage: StageSpec, ratio: int, tokens: int, layer_scale: float | None) -> None:
    dim, hidden = stage.dim, stage.dim * ratio
    tally.linear(tokens, dim, hidden, bias=False)
    for size in stage.kernel_size:
        tally.depthwise(tokens, hidden, size, bias=False)
    tally.linear(tokens, hidden, dim, bias=False)
    for width in (hidden, hidden, dim):
        tally.batch_norm(tokens, width)


def _tally_van(tally: Tally, stage: StageSpec, ratio: int, tokens: int, layer_scale: float | None) -> None:
    dim, hidden = stage.dim, stage.dim * ratio
    tally.batch_norm(tokens, dim)
    for _ in range(3):  # proj_1, conv1, proj_2
        tally.linear(tokens, dim, dim)
    tally.depthwise(tokens, dim, 5)
    tally.depthwise(tokens, dim, 7)
    tally.batch_norm(tokens, dim)
    tally.mlp(tokens, dim, hidden)
    tally.depthwise(tokens, hidden, 3)


def _tally_focal(tally: Tally, stage: StageSpec, ratio: int, tokens: int, layer_scale: float | None) -> None:
    dim, kernels = stage.dim, focal_kernels(stage.kernel_size)
    tally.layer_norm(tokens, dim)
    tally.linear(tokens, dim, 2 * dim + len(kernels) + 1)
    for size in kernels:
        tally.depthwise(tokens, dim, size, bias=False)
    tally.linear(tokens, dim, dim)
    tally.linear(tokens, dim, dim)
    tally.layer_norm(tokens, dim)
    tally.mlp(tokens, dim, dim * ratio)


def _tally_attention(tally: Tally, stage: StageSpec, tokens: int) -> None:
    dim, width = stage.dim, attention_width(stage.dim)
    tally.layer_norm(tokens, dim)
    tally.linear(tokens, dim, 3 * width, bias=False)
    tally.add("attention", 0, 2 * tokens**2 * width)
    tally.linear(tokens, width, dim)
    tally.layer_norm(tokens, dim)
    tally.mlp(tokens, dim, stage.attention_hidden())


BLOCK_TALLIES = {
    "modulation": _tally_modulation,
    "separate_mlp": _tally_separate_mlp,
    "mbconv": _tally_mbconv,
    "van": _tally_van,
    "focal": _tally_focal,
}
