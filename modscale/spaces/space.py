"""The search space: YAML to typed parameters and constraints.

A scalar is a fixed value, a list a choice, `{low, high, step}` a range; nothing is guessed. A stage key whose value is
itself a list (`mlp_ratios`, `context`, a set of parallel kernels) is written as a list of lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, partial
from math import ceil, floor, prod
from typing import Any

from modscale.arrays import MAX_COUNT
from modscale.document import Section, check_choice, check_integer, check_number, key_places
from modscale.errors import InputError
from modscale.specs.counts import COUNT_METRICS
from modscale.specs.spec import (
    MAX_RATIO,
    MAX_STAGES,
    MODEL_KEYS,
    STAGE_KEYS,
    STAGE_RULES,
    STEM_KEYS,
    ModelSpec,
    Rule,
    StageSpec,
    check_attention_width,
    check_head_fits,
    parse_base,
    spec_to_dict,
)

SPACE_STAGE_KEYS = (*STAGE_KEYS[:2], "expansion", *STAGE_KEYS[2:])
RULES: Mapping[str, Rule] = {**STAGE_RULES, "expansion": partial(check_integer, high=MAX_RATIO)}
LIST_KEYS = ("mlp_ratios", "context")
RANGE_KEYS = ("dim", "depth", "expansion", "kernel_size", "attention_depth", "attention_mlp_ratio")
BASE_KEYS = tuple(key for key in MODEL_KEYS if key not in ("name", "stages"))
SPACE_KEYS = ("name", "base", "stages", "constraints")
SECTIONS = {
    "the top level": SPACE_KEYS,
    "base": BASE_KEYS,
    "base.stem": STEM_KEYS,
    "stages": SPACE_STAGE_KEYS,
    "constraints": (*COUNT_METRICS, "widths"),
}
"""Section to its keys."""
PLACES = key_places(SECTIONS)
DATA_KEYS = {"num_classes": "classes", "in_chans": "channels"}
"""Fields of `base` that a run takes from its data where the file leaves them out, and what of the data each is."""
MAX_OPTIONS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One key of one stage with the values it may take."""

    stage: int
    """Index of the stage."""
    key: str
    """A stage key of the model spec, or `expansion`."""
    options: tuple[Any, ...]
    """Its values, each as `StageSpec` holds it (`expansion`: the whole number)."""

    @property
    def name(self) -> str:
        """Its place in the file, as in `stages[2].depth`."""
        return f"stages[{self.stage}].{self.key}"

    def label(self, option: Any) -> int | float | str:
        """The option as a plain value: a number, or text such as `3+5` for a list."""
        if not isinstance(option, tuple):
            return option
        if self.key == "kernel_size" and all(len(sizes) == 1 for sizes in self.options):
            return int(option[0])
        return "+".join(str(item) for item in option)

    def option(self, label: int | float | str) -> Any:
        """The option that `label` stands for. Raises KeyError where there is none."""
        for option in self.options:
            if self.label(option) == label:
                return option
        raise KeyError(label)

    def field(self, option: Any) -> tuple[str, Any]:
        """The `StageSpec` field and value that `option` stands for."""
        return ("mlp_ratios", (1, option)) if self.key == "expansion" else (self.key, option)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """A closed interval; None leaves a side open."""

    min: float | None = None
    max: float | None = None

    def whole(self) -> tuple[int, int]:
        """The smallest and the largest whole number within, clipped to the range of counts."""
        low = 0 if self.min is None else min(max(ceil(self.min), 0), MAX_COUNT)
        high = MAX_COUNT - 1 if self.max is None else max(min(floor(self.max), MAX_COUNT - 1), -1)
        return low, high

    def allow(self, value: float) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """What a candidate must satisfy before anything is trained."""

    params: Bounds = field(default_factory=Bounds)
    flops: Bounds = field(default_factory=Bounds)
    nondecreasing_widths: bool = False
    """Whether no stage may be narrower than the one before it."""

    def allow(self, spec: ModelSpec, params: float, flops: float) -> bool:
        """Whether a network of these counts keeps them all; `SpaceTables.feasible` is the same for many at once."""
        widths = [stage.dim for stage in spec.stages]
        in_order = not self.nondecreasing_widths or widths == sorted(widths)
        return in_order and self.params.allow(params) and self.flops.allow(flops)


@dataclass(frozen=True, kw_only=True)
class Space:
    """A family of model specs."""

    name: str
    """The run's default folder is `reports/NAME`."""
    base: ModelSpec
    """The architecture of every parameter's first option; its fields other than `stages` are shared by all."""
    from_data: tuple[str, ...] = ()
    """Of `DATA_KEYS`, what the file leaves out: at its default here, and as the data have it in a run."""
    parameters: tuple[Parameter, ...]
    """Stage by stage, fixed ones (a single option) included."""
    constraints: Constraints

    @cached_property
    def num_stages(self) -> int:
        return len(self.base.stages)

    @cached_property
    def searched(self) -> tuple[Parameter, ...]:
        """The parameters with a choice."""
        return tuple(parameter for parameter in self.parameters if len(parameter.options) > 1)

    def size(self) -> int:
        """Number of architectures: combinations of options."""
        return prod(len(parameter.options) for parameter in self.parameters)

    @property
    def assumed(self) -> dict[str, int]:
        """What stands in `base` until there are data: the defaults of `from_data`."""
        return {key: getattr(self.base, key) for key in self.from_data}

    def fitted(self, data: Mapping[str, Any]) -> Space:
        """The space of a run on data of so many `classes` and `channels`: what the file leaves to them is filled in."""
        left: dict[str, Any] = {key: data[DATA_KEYS[key]] for key in self.from_data}
        return replace(self, base=replace(self.base, **left), from_data=())

    def stage_parameters(self, stage: int) -> tuple[Parameter, ...]:
        return tuple(parameter for parameter in self.parameters if parameter.stage == stage)

    def spec(self, choice: Mapping[str, Any], *, name: str | None = None) -> ModelSpec:
        """The architecture in which each searched parameter has the option `choice` gives for its name."""
        values: list[dict[str, Any]] = [{} for _ in self.base.stages]
        for parameter in self.parameters:
            option = choice[parameter.name] if len(parameter.options) > 1 else parameter.options[0]
            key, value = parameter.field(option)
            values[parameter.stage][key] = value
        return replace(self.base, name=name or self.name, stages=tuple(StageSpec(**stage) for stage in values))


def as_candidate(spec: ModelSpec, space: Space) -> ModelSpec:
    """A network as the space would make it: input, classes, head and drop path are its candidates'."""
    base = space.base
    return replace(
        spec,
        resolution=base.resolution,
        in_chans=base.in_chans,
        num_classes=base.num_classes,
        head=base.head,
        drop_path_rate=base.drop_path_rate,
    )


def parse_space(document: object, elsewhere: Mapping[str, str] = PLACES) -> Space:
    """A space from the plain values of a YAML document; `elsewhere` as in `Section`. Raises InputError."""
    top = Section(document, SPACE_KEYS, what="a search space", elsewhere=elsewhere)
    name = top.text("name", "space")
    if set(name) & set('/\\:*?"<>|') or name.startswith(".") or name != name.strip() or len(name.encode()) > 200:
        rule = (
            "must be fit for a folder's name: 200 bytes, none of / \\ : * ? \" < > |, no leading '.', no outer spaces"
        )
        raise InputError(rule, place="name", value=name)
    stages = top.sequence("stages", most=MAX_STAGES)
    parameters = tuple(p for i, stage in enumerate(stages) for p in _parse_stage(stage, i, elsewhere))
    first: list[dict[str, Any]] = [{} for _ in stages]
    for parameter in parameters:
        key, value = parameter.field(parameter.options[0])
        first[parameter.stage][key] = value
    stated = or_empty(top.raw("base"))
    base = parse_base(stated, "base", allowed=BASE_KEYS, elsewhere=elsewhere)
    spec = ModelSpec(**{**base, "name": name}, stages=tuple(StageSpec(**stage) for stage in first))
    check_head_fits(spec, "base.resolution")
    return Space(
        name=name,
        base=spec,
        from_data=tuple(key for key in DATA_KEYS if isinstance(stated, Mapping) and key not in stated),
        parameters=parameters,
        constraints=_parse_constraints(or_empty(top.raw("constraints")), elsewhere),
    )


def space_to_dict(space: Space) -> dict[str, Any]:
    """The space as plain values, every default but those of `from_data` filled in; `parse_space` reads it unchanged."""
    left_out = ("name", "stages", *space.from_data)
    base = {key: value for key, value in spec_to_dict(space.base).items() if key not in left_out}
    stages: list[dict[str, Any]] = [{} for _ in space.base.stages]
    for parameter in space.parameters:
        stages[parameter.stage][parameter.key] = _options_to_plain(parameter)
    constraints: dict[str, Any] = {
        key: limits for key in COUNT_METRICS if (limits := bounds_to_dict(getattr(space.constraints, key)))
    }
    if space.constraints.nondecreasing_widths:
        constraints["widths"] = "nondecreasing"
    return {
        "name": space.name,
        "base": base,
        "stages": stages,
        "constraints": constraints,
    }


def _options_to_plain(parameter: Parameter) -> Any:
    plain = [list(option) if isinstance(option, tuple) else option for option in parameter.options]
    return plain[0] if len(plain) == 1 and not isinstance(plain[0], list) else plain


def bounds_to_dict(bounds: Bounds) -> dict[str, float]:
    return {key: value for key in ("min", "max") if (value := getattr(bounds, key)) is not None}


def _parse_stage(document: object, index: int, elsewhere: Mapping[str, str]) -> list[Parameter]:
    section = Section(document, SPACE_STAGE_KEYS, place=f"stages[{index}]", what="a stage", elsewhere=elsewhere)
    if section.has("expansion") and section.has("mlp_ratios"):
        raise InputError("give expansion or mlp_ratios, not both", place=section.at("expansion"))
    for key in ("dim", "depth"):
        if not section.has(key):
            raise InputError("is required", place=section.at(key))
    options = {
        key: _parse_options(key, section.values[key], section.at(key)) for key in SPACE_STAGE_KEYS if section.has(key)
    }
    if "attention_mlp_ratio" in options:
        narrowest = {key: min(options[key]) for key in ("dim", "attention_mlp_ratio")}
        deepest = max(options.get("attention_depth", (0,)))
        check_attention_width(StageSpec(**narrowest, depth=1, attention_depth=deepest), section.place)
    return [Parameter(stage=index, key=key, options=values) for key, values in options.items()]


def _parse_options(key: str, value: object, place: str) -> tuple[Any, ...]:
    """The options of one stage key: a scalar, a list of choices or a range."""
    if isinstance(value, Mapping):
        values = _parse_range(key, value, place)
    elif isinstance(value, (list, tuple)):
        if not 1 <= len(value) <= MAX_OPTIONS:
            raise InputError(f"must be a list of 1 to {MAX_OPTIONS} options", place=place, value=value)
        values = value
        if key in LIST_KEYS and not all(isinstance(option, (list, tuple)) for option in value):
            raise InputError(
                "is a list of choices, each itself a list: write [[...]] for one fixed list", place=place, value=value
            )
    elif key in LIST_KEYS:
        raise InputError("is a list of choices, each itself a list", place=place, value=value)
    else:
        return (RULES[key](value, place),)
    options = tuple(RULES[key](option, f"{place}[{i}]") for i, option in enumerate(values))
    for i, option in enumerate(options):
        if option in options[:i]:
            raise InputError("must not repeat a choice", place=f"{place}[{i}]", value=values[i])
    return options


def _parse_range(key: str, value: Mapping[Any, Any], place: str) -> Sequence[float]:
    section = Section(value, ("low", "high", "step"), place=place, what="low, high and step")
    if key not in RANGE_KEYS:
        raise InputError("must be a choice: a range is for numbers", place=place, value=value)
    low, high = section.number("low", None), section.number("high", None)
    step = section.number("step", 1.0, above=0)
    if high < low:
        raise InputError(f"must be low ({low:g}) or more", place=section.at("high"), value=section.raw("high"))
    first, last, stride = (Decimal(repr(number)) for number in (low, high, step))  # 1 + 2 * 0.1 is 1.2, not 1.2000...02
    if last - first >= MAX_OPTIONS * stride:
        raise InputError(f"must hold at most {MAX_OPTIONS} values", place=place, value=value)
    missed = (last - first) % stride
    if missed:  # the end would never be tried
        below, above = (f"{float(end):.12g}" for end in (last - missed, last - missed + stride))
        rule = f"must be low + n * step, as {below} or {above} are"
        raise InputError(rule, place=section.at("high"), value=section.raw("high"))
    return [float(first + i * stride) for i in range(int((last - first) / stride) + 1)]


def or_empty(section: object) -> object:
    """A section that stands in the file without content has none."""
    return {} if section is None else section


def parse_bounds(document: object, place: str) -> Bounds:
    section = Section(document, ("min", "max"), place=place, what="min and max")
    low = check_number(section.raw("min"), section.at("min")) if section.has("min") else None
    high = check_number(section.raw("max"), section.at("max")) if section.has("max") else None
    if low is not None and high is not None and high < low:
        raise InputError(f"must be min ({low:g}) or more", place=section.at("max"), value=section.raw("max"))
    return Bounds(min=low, max=high)


def _parse_constraints(document: object, elsewhere: Mapping[str, str]) -> Constraints:
    keys = SECTIONS["constraints"]
    section = Section(document, keys, place="constraints", what="limits", elsewhere=elsewhere)
    widths = section.raw("widths")
    if widths is not None:
        check_choice(widths, section.at("widths"), ("nondecreasing",))
    return Constraints(
        params=parse_bounds(section.raw("params", {}), section.at("params")),
        flops=parse_bounds(section.raw("flops", {}), section.at("flops")),
        nondecreasing_widths=widths is not None,
    )
