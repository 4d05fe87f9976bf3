"""Search spaces: what the file's words mean, what is refused and how, and what comes back from `run.yaml`."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from modscale.document import dump_yaml, parse_yaml
from modscale.errors import InputError
from modscale.settings import LatencySettings, ProxySettings, SearchSettings
from modscale.space import Bounds, load_space, mismatch_note, parse_space, space_to_dict
from modscale.spec import StageSpec, parse_spec, spec_to_dict

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "spaces").glob("*.yaml"))
README = ROOT / "README.md"


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
    ("changes", "message"),
    [
        ({"stages": []}, "stages: must be a list of 1 to 16 items, got []"),
        ({"stages": {}}, "stages: must be a list of 1 to 16 items, got {}"),
        ({"stages": [{"dim": 16}]}, "stages[0].depth: is required"),
        ({"stages": [{"depth": 1}]}, "stages[0].dim: is required"),
        ({"stages": [[16, 1]]}, "stages[0]: must be a mapping (a stage), got [16, 1]"),
        ({"name": "a/b"}, "name: must be fit for a folder's name"),
        ({"name": ".."}, "name: must be fit for a folder's name"),
        ({"name": " x"}, "name: must be fit for a folder's name"),
        ({"name": "a\\b"}, "name: must be fit for a folder's name"),
        ({"name": "é" * 101}, "name: must be fit for a folder's name"),
        ({"name": "a\nb"}, "name: must be a line of text"),
        ({"base": {"name": "x"}}, "base.name: unknown key;"),
        ({"base": {"stages": []}}, "base.stages: unknown key;"),
        ({"base": {"resolution": 0}}, "base.resolution: must be 1 or more, got 0"),
        ({"base": [224]}, "base: must be a mapping (fields of a model spec), got [224]"),
        ({"constraints": 0}, "constraints: must be a mapping (limits), got 0"),
        ({"constraints": []}, "constraints: must be a mapping (limits), got []"),
        ({"constraints": {"param": {"max": 1}}}, "constraints.param: unknown key; did you mean params?"),
        ({"constraints": {"params": 5e6}}, "constraints.params: must be a mapping (min and max), got 5000000.0"),
        ({"constraints": {"params": {"max": "5M"}}}, "constraints.params.max: must be a number, got '5M'"),
        ({"constraints": {"params": {"max": [1]}}}, "constraints.params.max: must be a number, got [1]"),
        ({"constraints": {"flops": {"min": 2, "max": 1}}}, "constraints.flops.max: must be min (2) or more, got 1"),
        ({"constraints": {"flops": {"max": float("inf")}}}, "constraints.flops.max: must be a finite number, got inf"),
        ({"constraints": {"widths": "increasing"}}, "constraints.widths: must be one of nondecreasing"),
        (
            {"constraints": {"latency_ms": {"max": 3}}},
            "constraints.latency_ms: unknown key; latency_ms is measured, not counted, and leaves no candidate out"
            " beforehand; it is a key of objectives and bands.NAME; allowed: params, flops, widths",
        ),
        ({"constraints": {"accuracy": {"min": 0.5}}}, "constraints.accuracy: unknown key; accuracy is measured, not"),
        ({"constraints": {"latency": 3}}, "constraints.latency: unknown key; latency_ms is measured, not counted, and"),
        ({"search": {"bands": {}}}, "search.bands: unknown key; it is a key of the top level; allowed: trials,"),
        (
            {"proxy": {"num_classes": 3}},
            "proxy.num_classes: unknown key; it is a key of base",
        ),
        ({"base": {"epochs": 3}}, "base.epochs: unknown key; it is a key of proxy; allowed: resolution"),
        (
            {"base": {"stem": {"dim": 3}}},
            "base.stem.dim: unknown key; it is a key of stages; allowed: kernel_size, stri",
        ),
        (
            {"params": {"max": 3}},
            "params: unknown key; it is a key of constraints, objectives and bands.NAME; allowed: n",
        ),
        ({"trials": 3}, "trials: unknown key; it is a key of search; allowed: name"),
        ({"threads": 3}, "threads: unknown key; it is a key of proxy and latency; allowed: name, base"),
        (
            {"objectives": {"widths": 3}},
            "objectives.widths: unknown key; it is a key of constraints; allowed: accuracy",
        ),
        ({"bands": {"xs": {"seed": 3}}}, "bands.xs.seed: unknown key; it is a key of search; allowed: accuracy"),
        ({"stages": [{"stride": 3}]}, "stages[0].stride: unknown key; it is a key of base.stem; allowed: dim, depth"),
        ({"objectives": {}}, "objectives: must name at least one of accuracy, latency_ms, params, flops"),
        ({"objectives": None}, "objectives: must be a mapping (metric to direction), got None"),
        ({"objectives": ["accuracy"]}, "objectives: must be a mapping (metric to direction), got ['accuracy']"),
        ({"objectives": {"accuracy": "minimize"}}, "objectives.accuracy: must be one of maximize, got 'minimize'"),
        (
            {"objectives": {"latency": "minimize"}},
            "objectives.latency: unknown key; did you mean latency_ms? it is a key of the top level; allowed: accuracy",
        ),
        ({"bands": []}, "bands: must be a mapping (band to limits), got []"),
        ({"bands": {"a/b": {}}}, "bands: a band's name is 1 to 60 letters, digits, - and _, got 'a/b'"),
        ({"bands": {".": {}}}, "bands: a band's name is 1 to 60 letters, digits, - and _, got '.'"),
        ({"bands": {"a\n": {}}}, "bands: a band's name is 1 to 60 letters, digits, - and _, got 'a\\n'"),
        ({"bands": {1: {}}}, "bands: a band's name is 1 to 60 letters, digits, - and _, got 1"),
        ({"bands": {"xs": None}}, "bands.xs: must be a mapping (metric to limits), got None"),
        ({"bands": {"xs": {"params": [1, 2]}}}, "bands.xs.params: must be a mapping (min and max), got [1, 2]"),
        ({"bands": {"xs": {"parms": {"max": 1}}}}, "bands.xs.parms: unknown key; did you mean params?"),
        (
            {"proxy": {"resolution": 16}, "base": {"stem": {"kernel_size": 32, "stride": 32}}},
            "proxy.resolution: must be",
        ),
        ({"search": {"trials": 0}}, "search.trials: must be 1 or more, got 0"),
        ({"constraint": {}}, "constraint: unknown key; did you mean constraints?"),
    ],
)
def test_refused_sections(changes, message):
    """Each rule of a section has its line."""
    assert refusal(**changes).startswith(message)


@pytest.mark.parametrize("document", [None, [], "mobile", 3, {}])
def test_a_document_that_is_no_space(document):
    """An empty file, a list or a word is refused for what it is."""
    with pytest.raises(InputError, match=r"must be a mapping|stages: is required"):
        parse_space(document)


def test_a_file_is_named_in_the_message(tmp_path):
    """File, place, rule and value stand in one line."""
    file = tmp_path / "my.yaml"
    file.write_text("stages:\n  - {dim: 16, depth: {low: 0, high: 3}}\n")
    with pytest.raises(InputError) as caught:
        load_space(file)
    assert str(caught.value) == f"{file}: stages[0].depth[0]: must be 1 or more, got 0"


def test_defaults():
    """Without sections: accuracy against latency, no constraint, no band, and each section's defaults."""
    plain = space()
    assert plain.objectives == {"accuracy": "maximize", "latency_ms": "minimize"}
    assert plain.constraints.params == Bounds()
    assert not plain.constraints.nondecreasing_widths
    assert plain.bands == {}
    assert (plain.proxy, plain.latency, plain.search) == (ProxySettings(), LatencySettings(), SearchSettings())
    assert space(base=None, constraints=None, bands=None, proxy=None, latency=None, search=None) == plain


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


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ({"classes": 10, "channels": 3}, None),
        ({"classes": 10}, None),
        ({"classes": 2, "channels": 3}, "the space states num_classes 10, and the data have 2 classes: networks for"),
        ({"classes": 10, "channels": 1}, "the space states in_chans 3, and the data have 1 channel: networks for the"),
        (
            {"classes": 2, "channels": 1},
            "the space states num_classes 10 and in_chans 3, and the data have 2 classes and 1 channel: networks for",
        ),
    ],
)
def test_what_is_said_where_space_and_data_differ(data, note):
    """Only what differs is named; what is not known of the data is no difference."""
    base = space(base={"num_classes": 10, "in_chans": 3}).base
    assert mismatch_note(base, data) is None if note is None else str(mismatch_note(base, data)).startswith(note)


def test_bounds_hold_their_ends():
    """Both ends belong to the interval; an end that is not given is open."""
    bounds = Bounds(min=2, max=5)
    assert [bounds.allow(value) for value in (1.99, 2, 5, 5.01)] == [False, True, True, False]
    assert Bounds(max=5).allow(-1e300)
    assert Bounds(min=5).allow(1e300)


def test_the_order_of_objectives_and_bands_is_kept():
    """Reports list them as the file does."""
    document = parse_yaml(
        "{stages: [{dim: 8, depth: 1}], objectives: {flops: minimize, accuracy: maximize}, bands: {b: {}, a: {}}}"
    )
    assert list(parse_space(document).objectives) == ["flops", "accuracy"]
    assert list(parse_space(document).bands) == ["b", "a"]


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


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_shipped_spaces_load_and_come_back(file):
    """Every space under spaces/ loads, is named like its file, and is itself after run.yaml."""
    shipped = load_space(file)
    assert shipped.name == file.stem
    assert parse_space(parse_yaml(dump_yaml(space_to_dict(shipped)))) == shipped


def test_spaces_in_the_readme_load():
    """What a newcomer copies out of the README is a space."""
    examples = re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert examples
    for example in examples:
        assert parse_space(parse_yaml(example)).size() > 1


def test_every_field_comes_back():
    """A space that uses every kind of option is itself after run.yaml, awkward names included."""
    full = parse_space(
        {
            "name": "1e4",
            "base": {"stem": {"kernel_size": 4, "stride": 4}, "drop_path_rate": 0.1},
            "stages": [
                {"dim": [8, 9], "depth": 1, "mlp_ratios": [[1, 6]], "kernel_size": [[3, 5]], "context": [["f"], ["g"]]},
                {
                    "dim": 8,
                    "depth": {"low": 1, "high": 5, "step": 2},
                    "attention_mlp_ratio": {"low": 1, "high": 2, "step": 0.1},
                },
                {"dim": 8, "depth": 1, "kernel_size": 5, "block": ["van", "focal"], "fusion": "sum", "expansion": 3},
            ],
            "constraints": {"params": {"min": 1, "max": 2.5e6}, "widths": "nondecreasing"},
            "objectives": {"params": "minimize", "accuracy": "maximize"},
            "bands": {"yes": {"latency_ms": {"max": 3.5}}, "1e4": {}},
            "proxy": {"train_images": None, "flip": False},
            "latency": {"provider": "cuda"},
            "search": {"references": []},
        }
    )
    assert parse_space(parse_yaml(dump_yaml(space_to_dict(full)))) == full
