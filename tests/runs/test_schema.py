"""The schemas that editors use: held to the loaders, in what they take and in what they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fake_runs import SPACE

from modscale.cli.main import main
from modscale.document import parse_yaml, read_yaml
from modscale.errors import InputError
from modscale.runs.experiment import load_experiment, parse_experiment
from modscale.runs.schema import SCHEMAS, field_texts, space_schema, spec_schema
from modscale.settings import SETTINGS
from modscale.specs.published import published
from modscale.specs.spec import parse_spec, spec_to_dict

ROOT = Path(__file__).parents[2]
CHECKS = {kind: jsonschema.Draft202012Validator(make()) for kind, make in SCHEMAS.items()}
RICH: dict[str, Any] = {
    **SPACE,
    "latency": {
        "provider": "cpu", "threads": None, "calibration": None, "reference": False,
        "target": {"command": ["ssh", "pi", "python3", "-"], "cache_mib": 0},
        "targets": {"jetson": {"command": ["ssh", "j", "python3", "-"], "provider": "cuda", "threads": 2}},
    },
    "constraints": {"params": {"max": 14e6}, "latency_ms": {"max": 20}, "latency_jetson_ms": {"max": 9}},
    "objectives": {"accuracy": "maximize", "latency_jetson_ms": "minimize"},
    "bands": {"fast": {"latency_jetson_ms": {"max": 4.5}, "accuracy": {"min": 0.7}}, "any": {}},
    "search": {
        "references": ["xxs", "rival.onnx", "timm:mobilenetv2_100", {"onnx": "a.onnx", "accuracy": 0.7, "name": "R"},
                       {"spec": "mine.yaml"}, {"timm": "x", "resolution": 160}],
        "rungs": [0.25, 0.5], "keep": 0.4,
    },
    "proxy": {"val_split": 0.2, "train_images": None, "flip": False},
}  # fmt: skip


def loads(kind: str, document: object) -> bool:
    """Whether the loader takes it."""
    try:
        {"space": parse_experiment, "spec": parse_spec}[kind](deepcopy(document))
    except InputError:
        return False
    return True


def complaints(kind: str, document: object) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in CHECKS[kind].iter_errors(document)]


def test_the_committed_files_are_those_of_the_code() -> None:
    """`modscale schema KIND > docs/schema/KIND.json` writes them anew."""
    for kind, make in SCHEMAS.items():
        assert json.loads((ROOT / "docs" / "schema" / f"{kind}.json").read_text()) == make()
        jsonschema.Draft202012Validator.check_schema(make())


def spaces_in_documents() -> Iterator[tuple[str, object]]:
    """Every whole space in a YAML block of the README and the documents."""
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(r"```yaml\n(.*?)```", file.read_text(), flags=re.DOTALL):
            if re.search(r"^(stages|extends):", block, flags=re.MULTILINE) and "layer_scale:" not in block:
                yield file.name, parse_yaml(block)


def test_what_the_loader_takes_the_schema_takes(tmp_path: Path) -> None:
    """The spaces that come with modscale, those in the documents, and one with everything."""
    for file in (ROOT / "spaces").glob("*.yaml"):
        assert load_experiment(file)
        assert complaints("space", read_yaml(file)) == []
    found = list(spaces_in_documents())
    assert found
    for name, document in [*found, ("rich", RICH)]:
        file = tmp_path / "space.yaml"
        file.write_text(yaml.safe_dump(document))
        assert load_experiment(file), name
        assert complaints("space", document) == [], name


def test_specs_too() -> None:
    """The published ones, whole and as short as can be."""
    for name in ("xxs", "s", "s_conv", "s_conv/kernels-3-5-7", "isotropic-6m/mbconv"):
        assert complaints("spec", spec_to_dict(published(name))) == []
    assert complaints("spec", {"stages": [{"dim": 8, "depth": 1}]}) == []


def test_one_that_extends_another_may_leave_out_and_null_anything(tmp_path: Path) -> None:
    """Five lines are a whole file; but what is there is checked."""
    short = {"extends": "mobile", "name": "mine", "bands": {"s": None}, "search": None, "constraints": {"params": None}}
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(short))
    assert load_experiment(file)
    assert complaints("space", short) == []
    for wrong in ({"serach": {}}, {"search": {"trails": 3}}, {"proxy": {"epochs": 0}}, {"stages": [{"dim": 8}]}):
        file.write_text(yaml.safe_dump(short | wrong))
        with pytest.raises(InputError):
            load_experiment(file)
        assert complaints("space", short | wrong)


def limits(schema: dict[str, Any]) -> list[tuple[float, float]]:
    """Of each limit a value that is within it and one that is not."""
    if "anyOf" in schema:
        return [pair for form in schema["anyOf"] for pair in limits(form)]
    step = 1 if schema.get("type") == "integer" else 1e-6
    pairs = [
        (schema[key], schema[key] + sign * step) for key, sign in (("minimum", -1), ("maximum", 1)) if key in schema
    ]
    pairs += [
        (schema[key] + sign * 1e-6, schema[key])
        for key, sign in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1))
        if key in schema
    ]
    return pairs


def plain(schema: dict[str, Any], *path: str) -> dict[str, Any]:
    """What a section has for a key, without the null that it may be."""
    for key in path:
        forms = schema.get("anyOf", [schema])
        schema = next(form for form in forms if "properties" in form)["properties"][key]
    return schema


def bounded() -> Iterator[tuple[str, str, Callable[[object], dict[str, Any]], dict[str, Any]]]:
    """Every key with a limit: of which file, what it is called, how to put a value there, and its schema."""
    whole, stage = space_schema()["then"]["properties"], {"dim": 8, "depth": 1}
    for section, kind in SETTINGS.items():
        for key in field_texts(kind):
            yield (
                "space",
                f"{section}.{key}",
                lambda v, s=section, k=key: {**SPACE, s: {k: v}},
                plain(whole[section], key),
            )
    for key in plain(whole["base"], "stem")["properties"]:
        found = plain(whole["base"], "stem", key)
        yield "space", f"base.stem.{key}", lambda v, k=key: {
            **SPACE, "base": {"resolution": 8192, "stem": {"kernel_size": 1, k: v}},
        }, found  # fmt: skip
    target = {"command": ["a"]}
    for key in ("threads", "cache_mib"):
        found = plain(whole["latency"], "target", key)
        yield "space", f"target.{key}", lambda v, k=key: {**SPACE, "latency": {"target": {**target, k: v}}}, found
    spec = spec_schema()["properties"]
    for key in ("resolution", "in_chans", "num_classes", "layer_scale", "drop_path_rate"):
        stem = {"kernel_size": 1, "stride": 1}
        yield "spec", key, lambda v, k=key, s=stem: {"stem": s, "stages": [stage], k: v}, spec[key]
        yield (
            "space",
            f"base.{key}",
            lambda v, k=key, s=stem: {**SPACE, "base": {"stem": s, k: v}},
            plain(whole["base"], key),
        )
    for key, schema in spec["stages"]["items"]["properties"].items():
        yield "spec", key, lambda v, k=key: {"stages": [{**stage, k: v}]}, schema
        yield "space", f"stages.{key}", lambda v, k=key: {"stages": [{**stage, k: v}]}, schema


def test_every_limit_is_the_loaders_from_both_sides() -> None:
    """At a limit both take it, beyond it both refuse it; and a text, a list or a mapping where a number belongs."""
    tried = 0
    for kind, name, put, schema in bounded():
        for inside, outside in limits(schema):
            tried += 1
            assert loads(kind, put(inside)), (name, inside)
            assert complaints(kind, put(inside)) == [], (name, inside)
            assert not loads(kind, put(outside)), (name, outside)
            assert complaints(kind, put(outside)), (name, outside)
            for odd in ("many", {"a": 1}, True):
                assert not loads(kind, put(odd)), (name, odd)
                assert complaints(kind, put(odd)), (name, odd)
    assert tried > 70


BAD: list[tuple[str, dict[str, Any]]] = [
    ("no stages", {"stages": []}),
    ("a stage without depth", {"stages": [{"dim": 8}]}),
    ("an unknown key of a stage", {"stages": [{"dim": 8, "depth": 1, "widht": 3}]}),
    ("an even kernel", {"stages": [{"dim": 8, "depth": 1, "kernel_size": 4}]}),
    ("an empty choice", {"stages": [{"dim": [], "depth": 1}]}),
    ("a choice twice", {"stages": [{"dim": [8, 8], "depth": 1}]}),
    ("a range without its end", {"stages": [{"dim": {"low": 8}, "depth": 1}]}),
    ("a range that stands still", {"stages": [{"dim": {"low": 8, "high": 16, "step": 0}, "depth": 1}]}),
    ("a range of words", {"stages": [{"dim": 8, "depth": 1, "fusion": {"low": 1, "high": 2}}]}),
    ("a fixed list", {"stages": [{"dim": 8, "depth": 1, "mlp_ratios": [1, 6]}]}),
    ("an unknown block", {"stages": [{"dim": 8, "depth": 1, "block": "conv"}]}),
    ("a part of the context twice", {"stages": [{"dim": 8, "depth": 1, "context": [["f", "f"]]}]}),
    ("an unknown top key", {"constraint": {}}),
    ("an unknown constraint", {"constraints": {"latency": {"max": 3}}}),
    ("an accuracy as a constraint", {"constraints": {"accuracy": {"min": 0.7}}}),
    ("widths", {"constraints": {"widths": "increasing"}}),
    ("a limit that is no mapping", {"constraints": {"params": 14e6}}),
    ("the wrong way", {"objectives": {"accuracy": "minimize"}}),
    ("no objective", {"objectives": {}}),
    ("an unknown metric", {"bands": {"a": {"speed": {"max": 1}}}}),
    ("a band's name", {"bands": {"a b": {}}}),
    ("bands as a list", {"bands": ["xs"]}),
    ("a head of no kind", {"base": {"head": "detector"}}),
    ("the stages in base", {"base": {"stages": []}}),
    ("a sampler", {"search": {"sampler": "grid"}}),
    ("a flag in words", {"search": {"finals": "yes"}}),
    ("a reference by no kind", {"search": {"references": [{"name": "x"}]}}),
    ("a reference by two", {"search": {"references": [{"onnx": "a.onnx", "timm": "b"}]}}),
    ("a reference nobody knows", {"search": {"references": ["xxxl"]}}),
    ("a percentage", {"search": {"references": [{"onnx": "a.onnx", "accuracy": 75.2}]}}),
    ("a rung at the end", {"search": {"rungs": [0.5, 1.0]}}),
    ("a rung twice", {"search": {"rungs": [0.5, 0.5]}}),
    ("a provider", {"latency": {"provider": "gpu"}}),
    ("a target without a command", {"latency": {"target": {"name": "pi"}}}),
    ("a target's command in one line", {"latency": {"target": {"command": "ssh pi"}}}),
    ("a target's name", {"latency": {"targets": {"Pi 4": {"command": ["a"]}}}}),
    ("a method", {"proxy": {"method": "supernet"}}),
    ("a null where a number is", {"proxy": {"epochs": None}}),
]


@pytest.mark.parametrize(("what", "change"), BAD, ids=[what for what, _ in BAD])
def test_what_the_loader_refuses_the_schema_refuses(what: str, change: dict[str, Any]) -> None:
    """A file that is wrong in one place, each."""
    assert not loads("space", {**SPACE, **change})
    assert complaints("space", {**SPACE, **change})


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    """A space's where nothing is said; and no other kind."""
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == space_schema()
    assert main(["schema", "spec"]) == 0
    assert json.loads(capsys.readouterr().out) == spec_schema()
    assert main(["schema", "run"]) == 2
    assert "KIND: must be one of space, spec" in capsys.readouterr().err
