"""Our networks under the names of timm's registry; only this module knows timm, and nothing of ours imports it.

>>> import timm, modscale.integrations.timm_entry
>>> timm.create_model("modscale_xxs", features_only=True).feature_info.channels()
[32, 64, 128, 256]

Every published name is there, `modscale_` before it and `_` for `-` and `/`; `register` adds others. timm knows of no
weights for them: `checkpoint_path=`, or `pretrained=True` with `pretrained_cfg_overlay={"file": ...}`, load a file, the
authors' too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model

from modscale.deploy.facts import Facts, untrained_facts
from modscale.errors import InputError
from modscale.models.efficientmod import EfficientMod
from modscale.specs.published import list_models
from modscale.specs.spec import ModelSpec

PREFIX = "modscale_"
"""What a name begins with, so that it is never one of timm's own."""

default_cfgs: dict[str, Any] = {}
"""Where timm looks, as it registers a name, for what it must know of that network's input."""


def register(name: str, spec: ModelSpec, facts: Facts | None = None) -> str:
    """Has `timm.create_model` know `spec`; returns the name, `modscale_` before the one that is given.

    `facts` has the mean and deviation that it was trained with, ImageNet's by default.

    Raises:
        InputError: the name is taken, or has a dot, by which timm parts a name from a tag.
    """
    variant = PREFIX + name.replace("-", "_").replace("/", "_")
    if "." in variant or is_model(variant):
        raise InputError("must be a new name without a dot", place="name", value=name)
    facts = facts or untrained_facts(spec)
    default_cfgs.update(generate_default_cfgs({variant: _config(spec, facts)}))
    register_model(_entrypoint(variant, spec))
    return variant


def _entrypoint(variant: str, spec: ModelSpec) -> Callable[..., Any]:
    def create(pretrained: bool = False, **options: Any) -> Any:
        stages = tuple(range(len(spec.stages)))
        return build_model_with_cfg(
            _build,
            variant,
            pretrained,
            feature_cfg={"out_indices": stages, "feature_cls": "getter"},
            spec=spec,
            **options,
        )

    create.__name__ = create.__qualname__ = variant
    create.__doc__ = f"The network {spec.name}."
    return create


def _build(
    spec: ModelSpec,
    num_classes: int = 1000,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> EfficientMod:
    """The network as timm asks for it: other classes (0 for none), channels, pooling and drop path than the spec's.

    Raises:
        InputError: a dropout is asked for, which timm's scripts do by 0 where they mean none.
    """
    if drop_rate:
        raise InputError("must be 0: the network has no dropout, drop_path_rate is what it has", place="drop_rate")
    rate = spec.drop_path_rate if drop_path_rate is None else drop_path_rate
    network = EfficientMod(replace(spec, num_classes=max(num_classes, 1), in_chans=in_chans, drop_path_rate=rate))
    if num_classes == 0 or global_pool != network.global_pool:
        network.reset_classifier(num_classes, global_pool)
    return network.to(device=device, dtype=dtype)


def _config(spec: ModelSpec, facts: Facts) -> dict[str, Any]:
    side = spec.sides()[-1]
    return {
        "url": "",
        "num_classes": spec.num_classes,
        "input_size": (spec.in_chans, spec.resolution, spec.resolution),
        "pool_size": (side, side),
        "crop_pct": 1.0,  # the centre square, whole, as modscale takes it
        "interpolation": "bicubic",
        "mean": facts.mean,
        "std": facts.std,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


for _model in list_models():
    register(_model.name, _model.spec)
