"""A tiny network of every kind of block, for what is done to each of them."""

from __future__ import annotations

from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import ModelSpec, parse_spec


def small(*stages, **fields) -> ModelSpec:
    return parse_spec({"resolution": 32, "num_classes": 5, **fields, "stages": list(stages)})


SMALL = small({"dim": 8, "depth": 2}, {"dim": 12, "depth": 2, "attention_depth": 1})

SPECS = {
    **{block: small({"dim": 8, "depth": 2, "block": block}) for block in BLOCKS},
    "modulation": SMALL,
    "sum": small({"dim": 8, "depth": 2, "fusion": "sum"}),
    "context f": small({"dim": 8, "depth": 2, "context": ["f"]}),
    "context conv": small({"dim": 8, "depth": 2, "context": ["conv"], "kernel_size": [3, 5, 7]}),
    "context g": small({"dim": 8, "depth": 2, "context": ["g"]}),
    "mbconv": small({"dim": 8, "depth": 2, "block": "mbconv"}, {"dim": 8, "depth": 1, "block": "mbconv"}),
    "mbconv, two kernels": small({"dim": 8, "depth": 1, "block": "mbconv", "kernel_size": [3, 5]}),
    "no LayerScale": small({"dim": 8, "depth": 2}, layer_scale=None),
    "isotropic, odd side": small(
        {"dim": 10, "depth": 2, "mlp_ratios": [6]}, stem={"kernel_size": 14, "stride": 14}, resolution=98
    ),
    "one channel of everything": small({"dim": 1, "depth": 1}, in_chans=1, num_classes=1),
    "attention first": small({"dim": 8, "depth": 1, "attention_depth": 2, "attention_mlp_ratio": 2.5}, resolution=33),
}
