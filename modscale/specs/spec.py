"""The nouns: a model spec, its stages and its stem, read from YAML and written back.

The paper is "Efficient Modulation for Vision Networks" (ICLR 2024, arXiv 2403.19963). Its terms and ours:

| paper | here |
|---|---|
| context modeling branch f, depthwise conv, g | `context`, any part of `f`, `conv`, `g` |
| modulation: element-wise multiplication | `fusion: mul` (`sum` is Table 5's last row) |
| expansion of the value projection, MLP ratio | `mlp_ratios`, repeated cyclically over a stage's blocks |
| conv blocks, attention blocks of a hybrid stage | `depth`, `attention_depth` |
| channels of a stage | `dim` |
| layer scale | `layer_scale` (its initial value) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from modscale.document import Section, check_choice, check_integer, check_number, dump_yaml, key_places, read_yaml
from modscale.errors import InputError, naming_file
from modscale.specs.block_kinds import BLOCKS

CONTEXT_PARTS = ("f", "conv", "g")
FUSIONS = ("mul", "sum")

ATTENTION_HEADS = 8

HEADS = ("classifier", "semantic_fpn")
FPN_DIM = 256
"""Channels of a feature pyramid's maps (Panoptic FPN, arXiv 1901.02446, section 3)."""
SEMANTIC_DIM = 128
"""Channels of its segmentation branch (the same)."""

MAX_DIM = 16_384
MAX_DEPTH = 1_000
MAX_STAGES = 16
MAX_RESOLUTION = 8_192
MAX_KERNEL = 63
MAX_RATIO = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class StemSpec:
    """The first conv: `kernel_size` at `stride`, then LayerNorm."""

    kernel_size: int = 7
    """Side of the square kernel, pixels."""
    stride: int = 4
    """Pixels between two outputs."""

    @property
    def padding(self) -> int:
        """Pixels added at each border: none where the kernel tiles the image as patches."""
        return 0 if self.kernel_size == self.stride else self.kernel_size // 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """One stage: `depth` convolutional blocks, then `attention_depth` attention blocks."""

    dim: int
    """Channels, 1 or more."""
    depth: int
    """Number of convolutional blocks, 1 or more."""
    mlp_ratios: tuple[int, ...] = (1, 6)
    """Expansion of each block, repeated cyclically over `depth`."""
    kernel_size: tuple[int, ...] = (7,)
    """Sides of the parallel depthwise kernels of the context branch, odd."""
    attention_depth: int = 0
    """Number of attention blocks after the convolutional ones."""
    attention_mlp_ratio: float = 4
    """Expansion of the attention blocks' MLP."""
    block: str = "modulation"
    """Kind of the convolutional blocks, one of `block_kinds.BLOCKS`."""
    context: tuple[str, ...] = CONTEXT_PARTS
    """Kept parts of the context branch, in the order f, conv, g (Table 5)."""
    fusion: str = "mul"
    """How the context meets the value: `mul`, or `sum` (Table 5)."""

    def block_ratios(self) -> tuple[int, ...]:
        """The expansion of each of the `depth` blocks."""
        return tuple(self.mlp_ratios[i % len(self.mlp_ratios)] for i in range(self.depth))

    def attention_hidden(self) -> int:
        """Hidden width of the attention blocks' MLP."""
        return int(self.dim * self.attention_mlp_ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A whole network, in the terms of the contract."""

    name: str = "model"
    """What reports call it."""
    resolution: int = 224
    """Side of the square input, pixels."""
    in_chans: int = 3
    """Channels of the input."""
    num_classes: int = 1000
    """Outputs of the head."""
    head: str = "classifier"
    """What answers: `classifier` (pooled features, one linear layer) or `semantic_fpn` (a class for every pixel)."""
    stem: StemSpec = field(default_factory=StemSpec)
    """The first conv."""
    layer_scale: float | None = 1e-4
    """Initial LayerScale of modulation blocks; None switches it off."""
    drop_path_rate: float = 0.0
    """Drop path of the last block; rises linearly from 0 over all blocks."""
    stages: tuple[StageSpec, ...]
    """The stages, first to last."""

    def sides(self) -> tuple[int, ...]:
        """Side of each stage's feature map at this resolution, in tokens."""
        stem = self.stem
        side = (self.resolution + 2 * stem.padding - stem.kernel_size) // stem.stride + 1
        sides = [side]
        for _ in self.stages[1:]:
            side = (side - 1) // 2 + 1
            sides.append(side)
        return tuple(sides)

    def num_blocks(self) -> int:
        """Convolutional and attention blocks together."""
        return sum(stage.depth + stage.attention_depth for stage in self.stages)


MODEL_KEYS = tuple(f.name for f in fields(ModelSpec))
STAGE_KEYS = tuple(f.name for f in fields(StageSpec))
STEM_KEYS = tuple(f.name for f in fields(StemSpec))
SPEC_PLACES = {
    **key_places({"the top level": MODEL_KEYS, "stem": STEM_KEYS, "stages": STAGE_KEYS}),
    "expansion": "it is a key of search spaces; in a spec, write mlp_ratios: [1, r]",
}


def load_spec(file: str | Path) -> ModelSpec:
    """Reads a model spec.

    >>> import modscale
    >>> modscale.load_spec("reports/example/models/xxs.yaml").resolution
    224

    Raises:
        InputError: with file, place, rule and value.
    """
    with naming_file(file):
        return parse_spec(read_yaml(file))


def parse_spec(document: object, place: str = "") -> ModelSpec:
    """A spec from the plain values of a YAML or JSON document. Raises InputError."""
    top = Section(document, MODEL_KEYS, place=place, what="a model spec", elsewhere=SPEC_PLACES)
    stages = top.sequence("stages", most=MAX_STAGES)
    base = parse_base(document, place, allowed=MODEL_KEYS)
    spec = ModelSpec(
        **base,
        stages=tuple(parse_stage(stage, f"{top.at('stages')}[{i}]") for i, stage in enumerate(stages)),
    )
    check_head_fits(spec, top.at("resolution"))
    return spec


def parse_base(
    document: object, place: str, *, allowed: tuple[str, ...], elsewhere: Mapping[str, str] = SPEC_PLACES
) -> dict[str, Any]:
    """The fields of a model spec other than its stages, each with its default. Raises InputError."""
    top = Section(document, allowed, place=place, what="fields of a model spec", elsewhere=elsewhere)
    what = "kernel_size and stride"
    stem_section = Section(top.raw("stem", {}), STEM_KEYS, place=top.at("stem"), what=what, elsewhere=elsewhere)
    stem = StemSpec(
        kernel_size=stem_section.integer("kernel_size", 7, high=1024),
        stride=stem_section.integer("stride", 4, high=1024),
    )
    layer_scale = top.raw("layer_scale", 1e-4)
    resolution = top.integer("resolution", 224, high=MAX_RESOLUTION)
    check_stem_fits(resolution, stem, top.at("resolution"))
    return {
        "name": top.text("name", "model"),
        "resolution": resolution,
        "in_chans": top.integer("in_chans", 3, high=1024),
        "num_classes": top.integer("num_classes", 1000, high=1_000_000),
        "head": top.choice("head", "classifier", HEADS),
        "stem": stem,
        "layer_scale": None
        if layer_scale is None
        else check_number(layer_scale, top.at("layer_scale"), above=0, high=1000),
        "drop_path_rate": top.number("drop_path_rate", 0.0, low=0, below=1),
    }


def parse_stage(document: object, place: str) -> StageSpec:
    """One stage from its mapping. Raises InputError."""
    stage = Section(document, STAGE_KEYS, place=place, what="a stage", elsewhere=SPEC_PLACES)
    values = {key: STAGE_RULES[key](stage.values[key], stage.at(key)) for key in stage.values}
    for key in ("dim", "depth"):
        if key not in values:
            raise InputError("is required", place=stage.at(key))
    spec = StageSpec(**values)
    check_attention_width(spec, place)
    return spec


def check_attention_width(stage: StageSpec, place: str) -> None:
    """Raises InputError for attention blocks whose MLP would have no hidden channel."""
    if stage.attention_depth and stage.attention_hidden() < 1:
        rule = f"times dim ({stage.dim}) must be 1 or more"
        raise InputError(rule, place=f"{place}.attention_mlp_ratio", value=stage.attention_mlp_ratio)


def check_stem_fits(resolution: int, stem: StemSpec, place: str) -> None:
    """Raises InputError for an image smaller than the stem's kernel."""
    if resolution + 2 * stem.padding < stem.kernel_size:
        raise InputError(f"must be at least the stem's kernel ({stem.kernel_size})", place=place, value=resolution)


def check_head_fits(spec: ModelSpec, place: str) -> None:
    """Raises InputError where a feature pyramid's maps are not each exactly twice as wide as the next."""
    stem, last = spec.stem, len(spec.stages) - 1
    exact = tuple(spec.resolution // stem.stride // 2**i for i in range(last + 1))
    if spec.head == "semantic_fpn" and (spec.sides() != exact or spec.resolution % (stem.stride * 2**last)):
        rule = f"must be a multiple of {stem.stride * 2**last} for head: semantic_fpn"
        raise InputError(rule, place=place, value=spec.resolution)


def spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain values, whole: `parse_spec` reads it back unchanged."""
    return {
        "name": spec.name,
        "resolution": spec.resolution,
        "in_chans": spec.in_chans,
        "num_classes": spec.num_classes,
        **({} if spec.head == "classifier" else {"head": spec.head}),
        "stem": {"kernel_size": spec.stem.kernel_size, "stride": spec.stem.stride},
        "layer_scale": spec.layer_scale,
        "drop_path_rate": spec.drop_path_rate,
        "stages": [_stage_to_dict(stage) for stage in spec.stages],
    }


def spec_to_yaml(spec: ModelSpec) -> str:
    """The spec as the text of a spec file: one stage a line, fields at their default left out of stages."""
    document = spec_to_dict(spec)
    stages = document.pop("stages")
    defaults = _stage_to_dict(StageSpec(dim=1, depth=1))
    lines = [dump_yaml(document, width=1000)]
    lines.append("stages:\n")
    for stage in stages:
        keep = {k: v for k, v in stage.items() if k in ("dim", "depth", "mlp_ratios") or v != defaults[k]}
        lines.append(f"  - {dump_yaml(keep, flow=True, width=10_000)}")
    return "".join(lines)


def architecture_text(spec: ModelSpec) -> str:
    """Width x blocks of each stage, attention blocks behind a plus, as in `32×2 64×2 128×6+1 256×2+2`."""
    return " ".join(
        f"{stage.dim}×{stage.depth}" + (f"+{stage.attention_depth}" if stage.attention_depth else "")
        for stage in spec.stages
    )


def attention_width(dim: int) -> int:
    """Channels of all heads of an attention block together: 8 heads of `max(dim // 8, 32)` (contract)."""
    return ATTENTION_HEADS * max(dim // ATTENTION_HEADS, 32)


def _stage_to_dict(stage: StageSpec) -> dict[str, Any]:
    document: dict[str, Any] = {key: getattr(stage, key) for key in STAGE_KEYS}
    document["mlp_ratios"] = list(stage.mlp_ratios)
    document["context"] = list(stage.context)
    sizes = list(stage.kernel_size)
    document["kernel_size"] = sizes[0] if len(sizes) == 1 else sizes
    return document


def _check_list(value: object, place: str, *, check: Rule, most: int) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= most:
        raise InputError(f"must be a list of 1 to {most} values", place=place, value=value)
    return tuple(check(item, f"{place}[{i}]") for i, item in enumerate(value))


def _check_kernel(value: object, place: str) -> int:
    size = check_integer(value, place, high=MAX_KERNEL)
    if size % 2 == 0:
        raise InputError("must be odd, so that the feature map keeps its size", place=place, value=value)
    return size


def _check_kernels(value: object, place: str) -> tuple[int, ...]:
    """One size, or a list of parallel ones."""
    sizes = value if isinstance(value, (list, tuple)) else [value]
    return _check_list(sizes, place, check=_check_kernel, most=16)


def _check_ratio(value: object, place: str) -> float:
    ratio = check_number(value, place, above=0, high=MAX_RATIO)
    return int(ratio) if ratio.is_integer() else ratio


def _check_context(value: object, place: str) -> tuple[str, ...]:
    parts = _check_list(value, place, check=partial(check_choice, options=CONTEXT_PARTS), most=3)
    if len(set(parts)) < len(parts):
        raise InputError("must name each part once", place=place, value=value)
    return tuple(part for part in CONTEXT_PARTS if part in parts)


Rule = Callable[[object, str], Any]
"""Takes a value and its place, returns what `StageSpec` holds, and raises InputError where the value breaks it."""

STAGE_RULES: Mapping[str, Rule] = {
    "dim": partial(check_integer, high=MAX_DIM),
    "depth": partial(check_integer, high=MAX_DEPTH),
    "mlp_ratios": partial(_check_list, check=partial(check_integer, high=MAX_RATIO), most=MAX_DEPTH),
    "kernel_size": _check_kernels,
    "attention_depth": partial(check_integer, low=0, high=MAX_DEPTH),
    "attention_mlp_ratio": _check_ratio,
    "block": partial(check_choice, options=tuple(BLOCKS)),
    "context": _check_context,
    "fusion": partial(check_choice, options=FUSIONS),
}
"""Stage key to the rule of its value."""
