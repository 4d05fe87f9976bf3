"""Search spaces: what the file's words mean, what is refused and how, and what comes back from `run.yaml`."""

from __future__ import annotations

from itertools import product

import pytest

from modscale.document import dump_yaml, parse_yaml
from modscale.errors import InputError
from modscale.spaces.space import Bounds, parse_space, space_to_dict
from modscale.specs.spec import StageSpec, parse_spec, spec_to_dict


def space(**changes: object):
    """A small good space with top-level `changes`."""
    return parse_space({"stages": [{"dim": [16, 32], "depth": {"low": 1, "high": 3}}], **changes})


def options(key: str, value: object) -> tuple[object, ...]:
    """The options that `value` means for one stage key."""
    stage = {"dim": 16, "depth": 1, key: value}
    (parameter,) = (p for p in parse_space({"stages": [stage]}).parameters if p.key == key)
    return parameter.options


def refusal(**changes: object) -> str:
    with pytest.raises(InputError) as caught:
        space(**changes)
    return str(caught.value)


def stage_refusal(**changes: object) -> str:
    """The message for a good stage with `changes`."""
    return refusal(stages=[{"dim": 16, "depth": 1, **changes}])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dim", 24, (24,)),
        ("dim", [24, 48], (24, 48)),
        ("dim", [24], (24,)),
        ("dim", {"low": 96, "high": 192, "step": 48}, (96, 144, 192)),
        ("dim", {"low": 96, "high": 96, "step": 48}, (96,)),
        ("depth", {"low": 1, "high": 7, "step": 6}, (1, 7)),
        ("depth", {"low": 1, "high": 4}, (1, 2, 3, 4)),
        ("depth", {"low": 2, "high": 2}, (2,)),
        ("attention_depth", {"low": 0, "high": 2}, (0, 1, 2)),
        ("attention_mlp_ratio", {"low": 0.1, "high": 0.3, "step": 0.1}, (0.1, 0.2, 0.3)),
        ("attention_mlp_ratio", {"low": 0.7, "high": 1.3, "step": 0.15}, (0.7, 0.85, 1, 1.15, 1.3)),
        ("attention_mlp_ratio", [4, 2.5], (4, 2.5)),
        ("expansion", [4, 6], (4, 6)),
        ("mlp_ratios", [[1, 6]], ((1, 6),)),
        ("mlp_ratios", [[1, 4], [6]], ((1, 4), (6,))),
        ("kernel_size", 5, ((5,),)),
        ("kernel_size", [3, 5], ((3,), (5,))),
        ("kernel_size", [[3, 5]], ((3, 5),)),
        ("kernel_size", [7, [3, 5, 7]], ((7,), (3, 5, 7))),
        ("kernel_size", {"low": 3, "high": 7, "step": 2}, ((3,), (5,), (7,))),
        ("context", [["f"], ["g", "conv"]], (("f",), ("conv", "g"))),
        ("block", ["van", "modulation"], ("van", "modulation")),
        ("fusion", "sum", ("sum",)),
    ],
)
def test_what_a_value_means(key, value, expected):
    """A scalar is fixed, a list is a choice, low and high are a range; of a list-valued key the choices are lists."""
    got = options(key, value)
    assert got == expected
    assert [type(option) for option in got] == [type(option) for option in expected]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": []}, ".dim: must be a list of 1 to 4096 options, got []"),
        ({"dim": [24, 24]}, ".dim[1]: must not repeat a choice, got 24"),
        ({"dim": [24, 24.0]}, ".dim[1]: must not repeat a choice, got 24.0"),
        ({"kernel_size": [7, [7]]}, ".kernel_size[1]: must not repeat a choice, got [7]"),
        ({"context": [["f", "g"], ["g", "f"]]}, ".context[1]: must not repeat a choice, got ['g', 'f']"),
        ({"dim": [24, [48]]}, ".dim[1]: must be a whole number, got [48]"),
        ({"dim": [24, -1]}, ".dim[1]: must be 1 or more, got -1"),
        ({"dim": None}, ".dim: must be a whole number, got None"),
        ({"depth": [0, 1]}, ".depth[0]: must be 1 or more, got 0"),
        ({"depth": {"low": 0, "high": 2}}, ".depth[0]: must be 1 or more, got 0"),
        ({"depth": {"low": 3, "high": 2}}, ".depth.high: must be low (3) or more, got 2"),
        ({"depth": {"low": 1, "high": 6, "step": 2}}, ".depth.high: must be low + n * step, as 5 or 7 are, got 6"),
        ({"depth": {"low": 2, "high": 5, "step": 9}}, ".depth.high: must be low + n * step, as 2 or 11 are, got 5"),
        (
            {"dim": {"low": 96, "high": 190, "step": 48}},
            ".dim.high: must be low + n * step, as 144 or 192 are, got 190",
        ),
        (
            {"attention_mlp_ratio": {"low": 0.1, "high": 0.35, "step": 0.1}},
            ".attention_mlp_ratio.high: must be low + n * step, as 0.3 or 0.4 are, got 0.35",
        ),
        ({"depth": {"low": 1, "high": 3.5}}, ".depth.high: must be low + n * step, as 3 or 4 are, got 3.5"),
        ({"depth": {"low": 1}}, ".depth.high: is required"),
        ({"depth": {}}, ".depth.low: is required"),
        ({"depth": {"low": 1, "high": 4, "step": 0}}, ".depth.step: must be more than 0, got 0"),
        ({"depth": {"low": 1, "high": 4, "stepp": 1}}, ".depth.stepp: unknown key; did you mean step?"),
        ({"depth": {"low": 1, "high": 4, "step": 0.5}}, ".depth[1]: must be a whole number, got 1.5"),
        ({"dim": {"low": 1, "high": 1e4}}, ".dim: must hold at most 4096 values, got {"),
        ({"dim": {"low": -1e308, "high": 1e308}}, ".dim: must hold at most 4096 values, got {"),
        ({"dim": {"low": 0, "high": 1, "step": 1e-320}}, ".dim: must hold at most 4096 values, got {"),
        ({"dim": {"low": float("nan"), "high": 1}}, ".dim.low: must be a finite number, got nan"),
        ({"mlp_ratios": [1, 6]}, ".mlp_ratios: is a list of choices, each itself a list: write [[...]] for one"),
        ({"mlp_ratios": 6}, ".mlp_ratios: is a list of choices, each itself a list, got 6"),
        ({"context": ["f", "g"]}, ".context: is a list of choices, each itself a list: write [[...]] for one"),
        ({"context": "f"}, ".context: is a list of choices, each itself a list, got 'f'"),
        ({"block": {"low": 1, "high": 2}}, ".block: must be a choice: a range is for numbers, got {"),
        ({"expansion": 6, "mlp_ratios": [[1, 6]]}, ".expansion: give expansion or mlp_ratios, not both"),
        ({"expansion": 0}, ".expansion: must be 1 or more, got 0"),
        ({"expanson": 6}, ".expanson: unknown key; did you mean expansion?"),
        (
            {"attention_depth": [0, 1], "attention_mlp_ratio": [4, 0.05]},
            ".attention_mlp_ratio: times dim (16) must be 1 or more, got 0.05",
        ),
    ],
)
def test_refused_stage_values(changes, message):
    """Each rule of a stage's value has its line, with the place down to the choice."""
    assert stage_refusal(**changes).startswith(f"stages[0]{message}")


@pytest.mark.parametrize(
    ("base", "left"),
    [
        (None, {"num_classes": 1000, "in_chans": 3}),
        ({"resolution": 64}, {"num_classes": 1000, "in_chans": 3}),
        ({"num_classes": 1000}, {"in_chans": 3}),
        ({"in_chans": 1}, {"num_classes": 1000}),
        ({"in_chans": 3, "num_classes": 10}, {}),
    ],
)
def test_what_base_does_not_state_is_the_datas(base, left):
    """Classes and channels that the file leaves out are defaults without data, and the data's with them."""
    plain = space(base=base)
    assert plain.assumed == left
    fitted = plain.fitted({"classes": 7, "channels": 2})
    assert fitted.base.num_classes == (7 if "num_classes" in left else plain.base.num_classes)
    assert fitted.base.in_chans == (2 if "in_chans" in left else plain.base.in_chans)
    assert fitted.assumed == {}
    choice = {parameter.name: parameter.options[0] for parameter in fitted.searched}
    assert fitted.spec(choice).num_classes == fitted.base.num_classes
    assert parse_space(parse_yaml(dump_yaml(space_to_dict(plain)))) == plain
    assert parse_space(parse_yaml(dump_yaml(space_to_dict(fitted)))) == fitted


def test_bounds_hold_their_ends():
    """Both ends belong to the interval; an end that is not given is open."""
    bounds = Bounds(min=2, max=5)
    assert [bounds.allow(value) for value in (1.99, 2, 5, 5.01)] == [False, True, True, False]
    assert Bounds(max=5).allow(-1e300)
    assert Bounds(min=5).allow(1e300)


def test_size_and_specs_against_enumeration():
    """The size is the number of combinations, and each combination makes the spec that it says."""
    made = parse_space(
        {
            "name": "made",
            "base": {"resolution": 64, "num_classes": 7, "layer_scale": None},
            "stages": [
                {"dim": 16, "depth": [1, 3], "expansion": [2, 6]},
                {"dim": {"low": 16, "high": 24, "step": 4}, "depth": 2, "kernel_size": [[3, 5], 7], "block": ["van"]},
            ],
        }
    )
    assert [parameter.name for parameter in made.searched] == [
        "stages[0].depth",
        "stages[0].expansion",
        "stages[1].dim",
        "stages[1].kernel_size",
    ]
    choices = [
        dict(zip((p.name for p in made.searched), values, strict=True))
        for values in product(*(p.options for p in made.searched))
    ]
    specs = {made.spec(choice) for choice in choices}
    assert made.size() == len(choices) == len(specs) == 2 * 2 * 3 * 2
    spec = made.spec(
        {"stages[0].depth": 3, "stages[0].expansion": 2, "stages[1].dim": 20, "stages[1].kernel_size": (3, 5)}
    )
    assert spec.stages == (
        StageSpec(dim=16, depth=3, mlp_ratios=(1, 2)),
        StageSpec(dim=20, depth=2, kernel_size=(3, 5), block="van"),
    )
    assert (spec.name, spec.resolution, spec.num_classes, spec.layer_scale) == ("made", 64, 7, None)
    assert all(parse_spec(spec_to_dict(spec)) == spec for spec in specs)


def test_labels_name_each_option_apart():
    """The plain value that the study stores for an option leads back to it."""
    for key, value in {
        "kernel_size": [7, [3, 5], [3]],
        "context": [["f"], ["f", "conv"]],
        "mlp_ratios": [[1, 6], [16], [1, 6, 1]],
        "attention_mlp_ratio": [4, 2.5],
        "block": ["van", "focal"],
    }.items():
        (parameter,) = parse_space({"stages": [{"dim": 8, "depth": 1, key: value}]}).searched
        assert [parameter.option(parameter.label(option)) for option in parameter.options] == list(parameter.options)
        with pytest.raises(KeyError):
            parameter.option("no such")


def test_a_space_alone_has_no_sections_of_a_search():
    """What is searched knows nothing of how: the same keys stand in an experiment's file."""
    for key in ("objectives", "bands", "proxy", "latency", "search"):
        assert refusal(**{key: {}}).startswith(f"{key}: unknown key; ")


def test_every_field_comes_back():
    """A space that uses every kind of option is itself after its plain values."""
    full = parse_space(
        {
            "base": {"stem": {"kernel_size": 4, "stride": 4}, "drop_path_rate": 0.1, "in_chans": 1},
            "stages": [
                {"dim": [8, 9], "depth": 1, "mlp_ratios": [[1, 6]], "kernel_size": [[3, 5]], "context": [["f"], ["g"]]},
                {"dim": 8, "depth": {"low": 1, "high": 5, "step": 2}, "kernel_size": 5, "expansion": 3},
            ],
            "constraints": {"params": {"min": 1, "max": 2.5e6}, "widths": "nondecreasing"},
        }
    )
    assert parse_space(parse_yaml(dump_yaml(space_to_dict(full)))) == full
