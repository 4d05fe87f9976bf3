"""What a file must say of itself to be used without us: its input, its classes, and what was done to get it.

An ONNX file carries it in `metadata_props`, each value a JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modscale import __version__
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec, spec_to_dict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""A channel, red, green, blue, of pixels scaled to 0..1: what published checkpoints were trained with."""

GRAPH_VERSION = 3
"""Of what an export makes of a network; one more whenever the operators of a graph change, so that a calibration of
other graphs is known for one."""

RESIZE = "the centre square, to the input's side by an antialiased bicubic filter"
"""How an image of another size becomes one of the network's, as `datasets/images.py` does it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a network beside its spec and weights."""

    mean: tuple[float, ...]
    """A channel, of pixels scaled to 0..1; what the network was trained with."""
    std: tuple[float, ...]
    """The same of the standard deviation, above 0."""
    classes: tuple[str, ...] | None = None
    """Names in the order of the logits; None where they are not known."""
    resize: str = RESIZE
    """How an image of another size becomes one of the network's."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What is known of it: `accuracy`, `epochs`, `data` and the like; empty where nothing is."""


def untrained_facts(spec: ModelSpec) -> Facts:
    """ImageNet's mean and deviation, their average in each channel where there are not three; no names of classes."""
    if spec.in_chans == 3:
        return Facts(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Facts(mean=(sum(IMAGENET_MEAN) / 3,) * spec.in_chans, std=(sum(IMAGENET_STD) / 3,) * spec.in_chans)


def metadata(spec: ModelSpec, facts: Facts, *, folded: bool) -> dict[str, object]:
    """What stands in the file, by key. With normalisation folded in, `mean` is 0 and `std` 1."""
    counted = count_model(spec)
    normalisation = {"mean": list(facts.mean), "std": list(facts.std)}
    taken = {"mean": [0.0] * spec.in_chans, "std": [1.0] * spec.in_chans} if folded else normalisation
    return {
        **taken,
        "input_size": [spec.in_chans, spec.resolution, spec.resolution],
        "resize": facts.resize,
        "classes": None if facts.classes is None else list(facts.classes),
        "spec": spec_to_dict(spec),
        "counts": {"params": counted.params, "flops": counted.flops},
        "training": dict(facts.training) or None,
        "modscale": __version__,
        **({"folded": normalisation} if folded else {}),
    }
