"""Two thousand broken files thrown at the loaders: each is read or refused in one line, and nothing else happens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modscale.document import dump_yaml, parse_yaml, read_yaml
from modscale.errors import InputError
from modscale.runs.experiment import (
    EXPERIMENT_KEYS,
    Experiment,
    experiment_to_dict,
    load_experiment,
    parse_experiment,
)
from modscale.spaces.space import SPACE_STAGE_KEYS
from modscale.specs.counts import count_model
from modscale.specs.spec import MODEL_KEYS, ModelSpec, load_spec, parse_spec, spec_to_dict, spec_to_yaml

SPACE_TEXT = (Path(__file__).parents[1] / "spaces" / "mobile.yaml").read_bytes()
SPACE = {
    **parse_yaml(SPACE_TEXT),
    "proxy": {"epochs": 1, "learning_rate": 1e-3, "device": "cpu", "train_images": None},
    "latency": {"provider": "cpu", "runs": 10},
    "search": {"trials": 4, "seed": 0, "references": ["xxs"]},
}
SPEC = {
    "name": "all",
    "resolution": 64,
    "stem": {"kernel_size": 7, "stride": 4},
    "layer_scale": 1e-4,
    "drop_path_rate": 0.1,
    "stages": [
        {"dim": 8, "depth": 2, "mlp_ratios": [1, 6], "kernel_size": [3, 5], "context": ["f", "conv"], "fusion": "sum"},
        {"dim": 16, "depth": 1, "block": "van", "attention_depth": 2, "attention_mlp_ratio": 2.5},
    ],
}
SPEC_TEXT = dump_yaml(SPEC).encode()
WORDS = sorted(
    {*MODEL_KEYS, *EXPERIMENT_KEYS, *SPACE_STAGE_KEYS, "low", "high", "step", "min", "max", "van", "f", "mul"}
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 300),
    st.integers(),
    st.sampled_from((2**31, 2**63, 10**30, 10**400, -1)),
    st.just(5000).map(lambda digits: 16**digits),  # hypothesis cannot print it either
    st.floats(),
    st.sampled_from((1e308, -1e308, 1e-320, 0.1, 1e4)),
    st.text(max_size=8),
    st.sampled_from(WORDS),
    st.dates(),
    st.binary(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), SCALARS), inner, max_size=3),
        st.fixed_dictionaries({"low": inner, "high": inner}, optional={"step": inner}),
    ),
    max_leaves=8,
)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys or positions."""
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else []
    return [place for key in keys for place in ((document, key), *places(document[key]))]


@st.composite
def mutated(draw: Callable[..., Any], document: Any) -> Any:
    """`document` with one to four values replaced, deleted, inserted, moved under another key or repeated."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        everywhere = places(changed)
        if not everywhere:
            break
        container, key = everywhere[draw(st.integers(0, len(everywhere) - 1))]
        action = draw(st.sampled_from(("replace", "replace", "replace", "delete", "insert", "move", "repeat")))
        if action == "replace":
            container[key] = draw(VALUES)
        elif action == "delete":
            del container[key]
        elif isinstance(container, list):
            container.insert(key, draw(VALUES) if action == "insert" else copy.deepcopy(container[key]))
        else:
            name = draw(st.one_of(st.sampled_from(WORDS), SCALARS))
            container[name] = draw(VALUES) if action == "insert" else copy.deepcopy(container[key])
    return changed


@st.composite
def flipped(draw: Callable[..., Any], text: bytes) -> bytes:
    """`text` with bytes changed, cut out, or taken from another place."""
    data = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        action = draw(st.sampled_from(("change", "change", "cut", "copy", "write")))
        if action == "change":
            data[at] = draw(st.integers(0, 255))
        elif action == "cut":
            del data[at : at + draw(st.integers(1, 20))]
        elif action == "copy":
            start = draw(st.integers(0, len(data) - 1))
            data[at:at] = data[start : start + draw(st.integers(1, 40))]
        else:
            data[at:at] = draw(
                st.sampled_from(
                    (
                        b"&a ",
                        b"*a",
                        b"!!int ",
                        b"!!set ",
                        b"? ",
                        b"- ",
                        b"{",
                        b"[",
                        b"<<: ",
                        b"%",
                        b"|\n",
                        b"1e9",
                        b"\t",
                    )
                )
            )
        if not data:
            return b""
    return bytes(data)


SIGNS = [*"{}[]:,-?&*!|>%@'\"#\n\t ", "\n  ", "- ", ": ", "!!", "<<", "1e5", "~"]
MARKUP = st.lists(st.sampled_from([*SIGNS, *WORDS]) | st.text(max_size=3), max_size=30).map("".join)


def examples(number: int) -> Callable[[Any], Any]:
    return settings(max_examples=number, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def check_spec(load: Callable[[Any], ModelSpec], source: Any) -> None:
    """Reads a spec or refuses it in one line; what is read counts and comes back from its own file."""
    try:
        spec = load(source)
    except InputError as error:
        check_message(str(error))
        return
    count = count_model(spec)
    assert count.params > 0
    assert count.flops > 0
    assert parse_spec(parse_yaml(spec_to_yaml(spec))) == parse_spec(spec_to_dict(spec)) == spec


def check_space(load: Callable[[Any], Experiment], source: Any) -> None:
    """Reads a space or refuses it in one line; what is read has a size, a first network and comes back."""
    try:
        experiment = load(source)
    except InputError as error:
        check_message(str(error))
        return
    space = experiment.space
    assert space.size() >= 1
    first = space.spec({parameter.name: parameter.options[0] for parameter in space.searched})
    assert count_model(first).params > 0
    last = space.spec({parameter.name: parameter.options[-1] for parameter in space.searched})
    assert parse_spec(spec_to_dict(last)) == last
    assert parse_experiment(parse_yaml(dump_yaml(experiment_to_dict(experiment)))) == experiment


def check_loads_or_refuses(load: Callable[[Path], object], file: Path) -> None:
    try:
        load(file)
    except InputError as error:
        check_message(str(error))


def check_message(message: str) -> None:
    assert 0 < len(message) < 600
    assert "\n" not in message
    assert "object at 0x" not in message


@examples(600)
@given(mutated(SPEC))
def test_mutated_specs(document):
    """A spec with anything at any place is read or refused."""
    check_spec(parse_spec, document)


@examples(600)
@given(mutated(SPACE))
def test_mutated_spaces(document):
    """A space with anything at any place is read or refused."""
    check_space(parse_experiment, document)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A file to be written again and again."""
    return tmp_path_factory.mktemp("fuzz") / "any.yaml"


@examples(300)
@given(data=flipped(SPEC_TEXT))
def test_specs_with_flipped_bytes(file, data):
    """A damaged spec file is read or refused."""
    file.write_bytes(data)
    check_spec(load_spec, file)


@examples(300)
@given(data=flipped(SPACE_TEXT))
def test_spaces_with_flipped_bytes(file, data):
    """A damaged space file is read or refused."""
    file.write_bytes(data)
    check_space(load_experiment, file)


@examples(300)
@given(text=st.one_of(MARKUP, st.text(max_size=40), st.binary(max_size=40)))
def test_any_text(file, text):
    """Random markup, text and bytes are read or refused by each loader."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    for load in (read_yaml, load_spec, load_experiment):
        check_loads_or_refuses(load, file)
