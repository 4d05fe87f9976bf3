"""Model specs: what is read, what is refused and how, what is written back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from drawn_specs import specs
from hypothesis import given

from modscale.document import parse_yaml
from modscale.errors import InputError
from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import (
    ModelSpec,
    StageSpec,
    StemSpec,
    attention_width,
    load_spec,
    parse_spec,
    spec_to_dict,
    spec_to_yaml,
)

STAGE = StageSpec(dim=32, depth=4)


def refusal(**changes: object) -> str:
    """The message for a good spec with top-level `changes`."""
    document = {"stages": [{"dim": 32, "depth": 2}], **changes}
    with pytest.raises(InputError) as caught:
        parse_spec(document)
    return str(caught.value)


def stage_refusal(**changes: object) -> str:
    """The message for a good spec with `changes` in its second stage."""
    return refusal(stages=[{"dim": 32, "depth": 2}, {"dim": 64, "depth": 2, **changes}])


def test_defaults_of_the_contract():
    """Every key but stages, dim and depth has the default that the contract names."""
    spec = parse_spec({"stages": [{"dim": 32, "depth": 2}]})
    assert (spec.resolution, spec.in_chans, spec.num_classes) == (224, 3, 1000)
    assert (spec.stem.kernel_size, spec.stem.stride, spec.stem.padding) == (7, 4, 3)
    assert (spec.layer_scale, spec.drop_path_rate) == (1e-4, 0.0)
    stage = spec.stages[0]
    assert (stage.mlp_ratios, stage.kernel_size, stage.attention_depth) == ((1, 6), (7,), 0)
    assert (stage.attention_mlp_ratio, stage.block, stage.context, stage.fusion) == (
        4,
        "modulation",
        ("f", "conv", "g"),
        "mul",
    )


def test_every_key_is_read(tmp_path):
    """A file with every key set gives a spec with every field set."""
    file = tmp_path / "all.yaml"
    file.write_text(
        "name: all\nresolution: 192\nin_chans: 1\nnum_classes: 10\nstem: {kernel_size: 14, stride: 14}\n"
        "layer_scale: null\ndrop_path_rate: 0.1\nstages:\n"
        "  - {dim: 8, depth: 3, mlp_ratios: [1, 4, 6], kernel_size: [3, 5], attention_depth: 2,\n"
        "     attention_mlp_ratio: 2.5, block: separate_mlp, context: [g, f], fusion: sum}\n"
    )
    assert load_spec(file) == ModelSpec(
        name="all",
        resolution=192,
        in_chans=1,
        num_classes=10,
        stem=StemSpec(kernel_size=14, stride=14),
        layer_scale=None,
        drop_path_rate=0.1,
        stages=(
            StageSpec(
                dim=8,
                depth=3,
                mlp_ratios=(1, 4, 6),
                kernel_size=(3, 5),
                attention_depth=2,
                attention_mlp_ratio=2.5,
                block="separate_mlp",
                context=("f", "g"),
                fusion="sum",
            ),
        ),
    )


def test_a_file_is_named_in_the_message(tmp_path):
    """File, place, rule and value stand in one line."""
    file = tmp_path / "broken.yaml"
    file.write_text("stages: [{dim: 32, depth: 0}]")
    with pytest.raises(InputError) as caught:
        load_spec(file)
    assert str(caught.value) == f"{file}: stages[0].depth: must be 1 or more, got 0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, "stages: must be a list of 1 to 16 items, got []"),
        ({"stages": {}}, "stages: must be a list of 1 to 16 items, got {}"),
        ({"stages": None}, "stages: must be a list of 1 to 16 items, got None"),
        ({"stages": [None]}, "stages[0]: must be a mapping (a stage), got None"),
        ({"stages": [{"dim": 1, "depth": 1}] * 17}, "stages: must be a list of 1 to 16 items, got [{"),
        ({"resolution": 8193}, "resolution: must be 8192 or less, got 8193"),
        (
            {"resolution": 3, "stem": {"kernel_size": 4, "stride": 4}},
            "resolution: must be at least the stem's kernel (4)",
        ),
        ({"stem": {"kernel_size": 0}}, "stem.kernel_size: must be 1 or more, got 0"),
        ({"stem": {"strid": 2}}, "stem.strid: unknown key; did you mean stride?"),
        ({"stem": [7, 4]}, "stem: must be a mapping (kernel_size and stride), got [7, 4]"),
        ({"layer_scale": 0}, "layer_scale: must be more than 0, got 0"),
        ({"layer_scale": "small"}, "layer_scale: must be a number, got 'small'"),
        ({"drop_path_rate": 1}, "drop_path_rate: must be less than 1, got 1"),
        ({"drop_path_rate": -0.1}, "drop_path_rate: must be 0 or more, got -0.1"),
        ({"num_classes": 0}, "num_classes: must be 1 or more, got 0"),
        ({"in_chans": True}, "in_chans: must be a whole number, got True"),
        ({"name": 7}, "name: must be a line of text of 1 to 200 characters, got 7"),
        ({"num_clases": 10}, "num_clases: unknown key; did you mean num_classes?"),
    ],
)
def test_refused_fields(changes, message):
    """Each rule of a field has its line."""
    assert refusal(**changes).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": -8}, ".dim: must be 1 or more, got -8"),
        ({"dim": 16385}, ".dim: must be 16384 or less, got 16385"),
        ({"dim": "wide"}, ".dim: must be a whole number, got 'wide'"),
        ({"dim": [32]}, ".dim: must be a whole number, got [32]"),
        ({"depth": 0}, ".depth: must be 1 or more, got 0"),
        ({"depth": 2.5}, ".depth: must be a whole number, got 2.5"),
        ({"attention_depth": -1}, ".attention_depth: must be 0 or more, got -1"),
        ({"attention_mlp_ratio": 0}, ".attention_mlp_ratio: must be more than 0, got 0"),
        (
            {"attention_mlp_ratio": 0.01, "attention_depth": 1},
            ".attention_mlp_ratio: times dim (64) must be 1 or more, got 0.01",
        ),
        ({"mlp_ratios": 6}, ".mlp_ratios: must be a list of 1 to 1000 values, got 6"),
        ({"mlp_ratios": []}, ".mlp_ratios: must be a list of 1 to 1000 values, got []"),
        ({"mlp_ratios": [1, 0]}, ".mlp_ratios[1]: must be 1 or more, got 0"),
        ({"mlp_ratios": [1, [6]]}, ".mlp_ratios[1]: must be a whole number, got [6]"),
        ({"mlp_ratios": [1, 2.5]}, ".mlp_ratios[1]: must be a whole number, got 2.5"),
        ({"kernel_size": 4}, ".kernel_size[0]: must be odd, so that the feature map keeps its size, got 4"),
        ({"kernel_size": [3, 65]}, ".kernel_size[1]: must be 63 or less, got 65"),
        ({"kernel_size": []}, ".kernel_size: must be a list of 1 to 16 values, got []"),
        ({"block": "resnet"}, f".block: must be one of {', '.join(BLOCKS)}, got 'resnet'"),
        ({"block": ["van"]}, f".block: must be one of {', '.join(BLOCKS)}, got ['van']"),
        ({"fusion": "concat"}, ".fusion: must be one of mul, sum, got 'concat'"),
        ({"context": []}, ".context: must be a list of 1 to 3 values, got []"),
        ({"context": "f"}, ".context: must be a list of 1 to 3 values, got 'f'"),
        ({"context": ["f", "f"]}, ".context: must name each part once, got ['f', 'f']"),
        ({"context": ["f", "h"]}, ".context[1]: must be one of f, conv, g, got 'h'"),
        ({"context": [["f"]]}, ".context[0]: must be one of f, conv, g, got ['f']"),
        (
            {"expansion": 6},
            ".expansion: unknown key; it is a key of search spaces; in a spec, write",
        ),
        ({"atention_depth": 1}, ".atention_depth: unknown key; did you mean attention_depth?"),
    ],
)
def test_refused_stage_keys(changes, message):
    """Each rule of a stage has its line, with the stage's number."""
    assert stage_refusal(**changes).startswith(f"stages[1]{message}")


@pytest.mark.parametrize("key", ["dim", "depth"])
def test_width_and_depth_are_required(key):
    """A stage without them is refused by name."""
    stage = {"dim": 8, "depth": 1}
    del stage[key]
    assert refusal(stages=[stage]) == f"stages[0].{key}: is required"


@pytest.mark.parametrize(
    ("resolution", "stem", "sides"),
    [
        (224, (7, 4), (56, 28, 14, 7)),
        (225, (7, 4), (57, 29, 15, 8)),
        (224, (14, 14), (16, 8, 4, 2)),
        (1, (7, 4), (1, 1, 1, 1)),
        (32, (4, 2), (17, 9, 5, 3)),
    ],
)
def test_sides_of_the_feature_maps(resolution, stem, sides):
    """The stem divides by its stride, each downsampling halves and rounds up, and nothing falls below 1."""
    kernel_size, stride = stem
    spec = ModelSpec(resolution=resolution, stem=StemSpec(kernel_size=kernel_size, stride=stride), stages=(STAGE,) * 4)
    assert spec.sides() == sides


def test_ratios_repeat_cyclically():
    """Over seven blocks 1, 4, 6 stands twice and begins again."""
    assert replace(STAGE, depth=7, mlp_ratios=(1, 4, 6)).block_ratios() == (1, 4, 6, 1, 4, 6, 1)


def test_attention_is_eight_heads():
    """Heads are max(dim // 8, 32) wide."""
    assert [attention_width(dim) for dim in (1, 128, 256, 263, 264, 312)] == [256, 256, 256, 256, 264, 312]


@given(specs())
def test_round_trip(spec):
    """Written as YAML or JSON and read back, every spec is itself, its name too, whatever the name looks like."""
    assert parse_spec(parse_yaml(spec_to_yaml(spec))) == spec
    assert parse_spec(json.loads(json.dumps(spec_to_dict(spec)))) == spec


@pytest.mark.parametrize("name", ["1e4", "yes", "null", "2001-01-01", "a: b", "- x", "#", "007", "é"])
def test_names_that_look_like_something_else(name):
    """A name is text even where YAML would take it for a number, a date or a comment."""
    spec = ModelSpec(name=name, stages=(STAGE,))
    assert parse_spec(parse_yaml(spec_to_yaml(spec))).name == name
