"""JSON Schemas of the files that people write: a search space and a model spec.

An editor completes and checks them by it. Keys, choices and what is said of each come from the code that reads them;
the ranges of the settings stand here, and the tests hold every one of them to the loader, from both sides. A schema
knows no sums: that a step reaches the end of its range, or that anything is feasible, the loader alone can tell.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from typing import Any

from modscale.providers import PROVIDERS
from modscale.rivals import KINDS, MOST_REFERENCES
from modscale.runs.experiment import BAND_NAME, FILE_KEYS
from modscale.runs.metrics import METRICS
from modscale.settings import (
    DEVICES,
    GRAPH_LEVELS,
    KERNELS,
    MAX_THREADS,
    MAX_WINDOW,
    PRECISIONS,
    PUBLISHED,
    SAMPLERS,
    TARGET_NAME,
    TASK_PROXIES,
    LatencySettings,
    ProxySettings,
    SearchSettings,
    Target,
)
from modscale.spaces.space import BASE_KEYS, MAX_OPTIONS, RANGE_KEYS, RULES, SPACE_STAGE_KEYS
from modscale.specs.counts import COUNT_METRICS
from modscale.specs.spec import (
    CONTEXT_PARTS,
    HEADS,
    MAX_DEPTH,
    MAX_KERNEL,
    MAX_RATIO,
    MAX_RESOLUTION,
    MAX_STAGES,
    ModelSpec,
    StageSpec,
    StemSpec,
)

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
TARGET_LATENCY = "^latency_[a-z][a-z0-9_]{0,29}_ms$"
FLAG: Schema = {"type": "boolean"}


def integer(low: int = 1, high: int = 2**31) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def number(
    *, low: float | None = None, high: float | None = None, above: float | None = None, below: float | None = None
) -> Schema:
    limits = {"minimum": low, "maximum": high, "exclusiveMinimum": above, "exclusiveMaximum": below}
    return {"type": "number", **{key: value for key, value in limits.items() if value is not None}}


def one_of(options: Sequence[str]) -> Schema:
    return {"type": "string", "enum": list(options)}


def optional(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Schema = {"type": "string", "minLength": 1}
SPEC_FIELDS: Mapping[str, Schema] = {
    "name": TEXT,
    "resolution": integer(high=MAX_RESOLUTION),
    "in_chans": integer(high=1024),
    "num_classes": integer(high=1_000_000),
    "head": one_of(HEADS),
    "layer_scale": optional(number(above=0, high=1000)),
    "drop_path_rate": number(low=0, below=1),
}
KERNEL: Schema = {"enum": list(range(1, MAX_KERNEL + 1, 2))}
PARTS: Schema = {"type": "array", "items": one_of(CONTEXT_PARTS), "minItems": 1, "uniqueItems": True}
PROXY: Mapping[str, Schema] = {
    "task": one_of(tuple(TASK_PROXIES)),
    "method": one_of(tuple(dict.fromkeys(name for proxies in TASK_PROXIES.values() for name in proxies))),
    "width_factor": number(above=0, high=1),
    "resolution": integer(8, 1024),
    "epochs": integer(high=10_000),
    "batch_size": integer(2, 65_536),
    "learning_rate": number(above=0, high=10),
    "weight_decay": number(low=0, high=10),
    "warmup": number(low=0, below=1),
    "label_smoothing": number(low=0, below=1),
    "layer_scale": number(above=0, high=10),
    "train_images": optional(integer()),
    "val_images": optional(integer()),
    "val_split": optional(number(above=0, below=1)),
    "device": one_of(DEVICES),
    "threads": optional(integer(high=MAX_THREADS)),
    "kernels": one_of(KERNELS),
}
TARGET: Mapping[str, Schema] = {
    "command": {"type": "array", "items": TEXT, "minItems": 1},
    "name": {"type": "string", "pattern": f"^({TARGET_NAME.pattern})?$"},
    "provider": optional(one_of(tuple(PROVIDERS))),
    "threads": optional(integer(high=MAX_THREADS)),
    "cache_mib": integer(0, 1 << 20),
}
LATENCY: Mapping[str, Schema] = {
    "provider": one_of(tuple(PROVIDERS)),
    "threads": optional(integer(high=MAX_THREADS)),
    "precision": one_of(PRECISIONS),
    "graph_level": one_of(GRAPH_LEVELS),
    "warmup": integer(high=100_000),
    "runs": integer(10, 1_000_000),
    "until_percent": number(above=0, high=100),
    "patience_s": number(low=0, high=86_400),
    "calibration": optional(TEXT),
}
REFERENCE: Schema = {
    "anyOf": [
        one_of(PUBLISHED),
        {"type": "string", "pattern": r"^timm:.|\.([oO][nN][nN][xX]|[yY][aA]?[mM][lL]|[jJ][sS][oO][nN])$"},
        {
            "type": "object",
            "properties": {
                **dict.fromkeys((*KINDS, "name"), TEXT),
                "accuracy": optional(number(above=0, high=1)),
                "resolution": optional(integer(high=MAX_RESOLUTION)),
            },
            "additionalProperties": False,
            "oneOf": [{"required": [kind]} for kind in KINDS],
        },
    ]
}  # fmt: skip
SEARCH: Mapping[str, Schema] = {
    "trials": integer(high=1_000_000),
    "startup_trials": integer(high=1_000_000),
    "sampler": one_of(SAMPLERS),
    "references": {"type": "array", "items": REFERENCE, "maxItems": MOST_REFERENCES},
    "rungs": {"type": "array", "items": number(above=0, below=1), "uniqueItems": True},
    "keep": number(above=0, high=1),
    "window": optional(integer(high=MAX_WINDOW)),
    "seed": integer(0, 2**32 - 1),
}
BOUNDS: Schema = {
    "type": "object",
    "properties": {"min": {"type": "number"}, "max": {"type": "number"}},
    "additionalProperties": False,
}


def spec_schema() -> Schema:
    """Of a model spec."""
    stage = described(StageSpec, {key: option_of(key) for key in SPACE_STAGE_KEYS if key != "expansion"})
    stages = {
        "type": "array",
        "items": {**closed(stage), "required": ["dim", "depth"]},
        "minItems": 1,
        "maxItems": MAX_STAGES,
        "description": field_texts(ModelSpec)["stages"],
    }
    top = described(ModelSpec, {**SPEC_FIELDS, "stem": stem_schema()})
    return {
        "$schema": DIALECT,
        "title": "A model spec of modscale",
        **closed({**top, "stages": stages}),
        "required": ["stages"],
    }


def space_schema() -> Schema:
    """Of a search space with the sections of its search; one that extends another may leave out and null anything."""
    whole = _sections()
    return {
        "$schema": DIALECT,
        "title": "A search space of modscale",
        **closed({key: _loose(schema) for key, schema in whole.items()}),
        "if": {"not": {"required": ["extends"]}},
        "then": {"properties": whole, "required": ["stages"]},
    }


def _sections() -> dict[str, Schema]:
    metrics = list(METRICS)
    device = {TARGET_LATENCY: BOUNDS}
    constraints = {
        **{key: {**BOUNDS, "description": f"Of {METRICS[key].name}."} for key in COUNT_METRICS},
        "widths": optional({"enum": ["nondecreasing"], "description": "No stage is narrower than the one before."}),
        "latency_ms": {**BOUNDS, "description": "A candidate beyond it fails before it trains."},
    }
    target = {**closed(described(Target, TARGET)), "required": ["command"]}
    latency = {
        **LATENCY,
        "reference": FLAG,
        "target": optional(target),
        "targets": optional(
            {
                "type": "object",
                "patternProperties": {f"^({TARGET_NAME.pattern})$": target},
                "additionalProperties": False,
            }
        ),
    }
    proxy = {**{field.name: FLAG for field in fields(ProxySettings) if isinstance(field.default, bool)}, **PROXY}
    search = {"finals": FLAG, **SEARCH}
    stage = described(StageSpec, {key: searched(key) for key in SPACE_STAGE_KEYS})
    stage["expansion"]["description"] = "Of every convolutional block: r stands for mlp_ratios: [1, r]."
    base = described(
        ModelSpec, {**{key: SPEC_FIELDS[key] for key in BASE_KEYS if key != "stem"}, "stem": stem_schema()}
    )
    band = {**closed(dict.fromkeys(metrics, BOUNDS)), "patternProperties": device}
    sections: dict[str, Schema] = {
        "extends": {**TEXT, "description": "The file or the space of modscale's that holds else."},
        "name": {**TEXT, "description": "What the run's folder is called."},
        "base": optional({**closed(base), "description": "What all networks share."}),
        "stages": {
            "type": "array",
            "items": {**closed(stage), "required": ["dim", "depth"]},
            "minItems": 1,
            "maxItems": MAX_STAGES,
            "description": "A scalar is fixed, a list a choice, {low, high, step} a range.",
        },
        "constraints": optional({**closed(constraints), "patternProperties": device, "description": "Limits of all."}),
        "objectives": {
            **closed({name: {"enum": [METRICS[name].direction]} for name in metrics}),
            "patternProperties": {TARGET_LATENCY: {"enum": ["minimize"]}},
            "minProperties": 1,
            "description": "What is sought.",
        },
        "bands": optional({
            "type": "object",
            "patternProperties": {f"^({BAND_NAME.pattern})$": band},
            "additionalProperties": False,
            "description": "What the report picks from the front, by name.",
        }),
        "proxy": optional(closed(described(ProxySettings, proxy))),
        "latency": optional(closed(described(LatencySettings, latency))),
        "search": optional(closed(described(SearchSettings, search))),
    }  # fmt: skip
    return {key: sections[key] for key in ("extends", *FILE_KEYS) if key in sections}


def stem_schema() -> Schema:
    keys = described(StemSpec, {field.name: integer(high=1024) for field in fields(StemSpec)})
    return {**closed(keys), "description": field_texts(ModelSpec)["stem"]}


def option_of(key: str) -> Schema:
    """One value of a stage's key: as its rule in `RULES` has it."""
    odd: dict[str, Schema] = {
        "mlp_ratios": {"type": "array", "items": integer(high=MAX_RATIO), "minItems": 1, "maxItems": MAX_DEPTH},
        "kernel_size": {"anyOf": [KERNEL, {"type": "array", "items": KERNEL, "minItems": 1, "maxItems": 16}]},
        "attention_mlp_ratio": number(above=0, high=MAX_RATIO),
        "context": PARTS,
    }
    if key in odd:
        return odd[key]
    rule = RULES[key]
    assert isinstance(rule, partial)  # noqa: S101  # what is none stands above
    if "options" in rule.keywords:
        return one_of(rule.keywords["options"])
    return integer(rule.keywords.get("low", 1), rule.keywords["high"])


def searched(key: str) -> Schema:
    """A stage's key in a space: one value, a list of choices, or a range."""
    one = option_of(key)
    choices = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_OPTIONS, "uniqueItems": True}
    if key in ("mlp_ratios", "context"):
        return {"anyOf": [choices]}
    forms: list[Schema] = [KERNEL if key == "kernel_size" else one, choices]
    if key in RANGE_KEYS:
        ends = {"low": {"type": "number"}, "high": {"type": "number"}, "step": number(above=0)}
        forms.append({**closed(ends), "required": ["low", "high"]})
    return {"anyOf": forms}


def closed(properties: Mapping[str, Schema]) -> Schema:
    """A mapping of these keys and no others."""
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def described(kind: type, properties: Mapping[str, Schema]) -> dict[str, Schema]:
    """The properties with what the fields of a dataclass say of themselves, and their defaults."""
    assert is_dataclass(kind)  # noqa: S101
    texts = field_texts(kind)
    defaults = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    found = {}
    for key, schema in properties.items():
        plain = {"default": defaults[key]} if isinstance(defaults.get(key), (str, int, float)) else {}
        found[key] = {**schema, **({"description": texts[key]} if key in texts else {}), **plain}
    return found


def field_texts(kind: type) -> dict[str, str]:
    """The line under each field of a dataclass."""
    (body,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            said = ast.literal_eval(text.value)
            texts[field.target.id] = re.sub(r"\s+", " ", said).strip()
    return texts


def _loose(schema: Schema) -> Schema:
    """The schema of a value in a file that extends another: null takes it away, and nothing is required."""
    loose = {key: value for key, value in schema.items() if key not in ("required", "minProperties")}
    for key in ("properties", "patternProperties"):
        if key in loose:
            loose[key] = {name: _loose(value) for name, value in loose[key].items()}
    kept: Schema = {key: loose.pop(key) for key in ("description", "default") if key in loose}
    forms = [_loose(form) for form in loose["anyOf"]] if list(loose) == ["anyOf"] else [loose, {"type": "null"}]
    flat = [form for one in forms for form in (one["anyOf"] if list(one) == ["anyOf"] else [one])]
    return {"anyOf": [form for i, form in enumerate(flat) if form not in flat[:i]], **kept}


SCHEMAS = {"space": space_schema, "spec": spec_schema}
"""What `modscale schema` prints, by name."""
