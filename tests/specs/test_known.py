"""Networks of known accuracy: the published ones, and those of a user's own file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modscale.errors import InputError
from modscale.specs.known import known_networks, load_known, published_networks
from modscale.specs.published import published
from modscale.specs.spec import spec_to_yaml

GOLDEN = Path(__file__).parents[1] / "golden" / "published.yaml"
TINY = {"stages": [{"dim": 8, "depth": 1}]}


def test_every_published_network_with_a_top1_is_known_once() -> None:
    """27 networks, with the accuracies of the paper; a network that is printed in two tables counts once."""
    networks = published_networks()
    assert len(networks) == 27
    printed = {row["name"]: row["top1"] for row in yaml.safe_load(GOLDEN.read_text())["networks"]}
    found = {network.name: network.top1 for network in networks}
    assert {name: found[name] for name in printed} == printed
    assert (found["s_conv/context-f"], found["s_conv/context-g"]) == (72.7, 72.3)
    assert "s_conv/modulation" not in found
    assert known_networks([]) == known_networks(["published"]) == networks


def test_names_are_taken_in_their_order_and_once() -> None:
    """A second name of the same network is taken where it is asked for; the same name twice is a slip."""
    chosen = known_networks(["s", "xxs", "s_conv/modulation"])
    assert [(network.name, network.top1) for network in chosen] == [
        ("s", 81.0), ("xxs", 76.0), ("s_conv/modulation", 80.5)
    ]  # fmt: skip
    with pytest.raises(InputError, match="--models: must not name two networks alike, got 'xxs'"):
        known_networks(["xxs", "published"])
    with pytest.raises(InputError, match="did you mean xxs"):
        known_networks(["xxxs"])


def test_a_file_has_ones_own_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec as it stands, a path from the file's own folder whatever the current one, a published name."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.yaml").write_text(spec_to_yaml(published("xs")))
    file = tmp_path / "past.yaml"
    file.write_text(
        yaml.safe_dump(
            [
                {"spec": {"name": "tiny", **TINY}, "top1": 41.5},
                {"spec": TINY, "top1": 40, "name": "again"},
                {"spec": "runs/mine.yaml", "top1": 77.0},
                {"spec": "s_conv", "top1": 79.9},
            ]
        )
    )
    monkeypatch.chdir("/")
    networks = load_known(file)
    assert [(network.name, network.top1) for network in networks] == [
        ("tiny", 41.5), ("again", 40.0), ("xs", 77.0), ("s_conv", 79.9)
    ]  # fmt: skip
    assert networks[2].spec == published("xs")
    assert [network.name for network in known_networks([str(file), "xxs"])] == ["tiny", "again", "xs", "s_conv", "xxs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"past.yaml: must be a list of 1 to 1000 networks, each with its `spec` and its `top1` in %"),
        ("[]", "must be a list of 1 to 1000 networks"),
        ("[3]", r"past.yaml: \[0\]: must be a mapping"),
        ("[{spec: s}]", r"past.yaml: \[0\].top1: is required"),
        ("[{spec: s, top1: 0}]", r"\[0\].top1: must be more than 0, got 0"),
        ("[{spec: s, top1: 170}]", r"\[0\].top1: must be 100 or less, got 170"),
        ("[{spec: s, top1: high}]", r"\[0\].top1: must be a number, got 'high'"),
        ("[{top1: 70}]", r"\[0\].spec: must be a mapping"),
        ("[{spec: nowhere.yaml, top1: 70}]", r"\[0\].spec: must be a spec, its file, or a published name, got 'nowh"),
        ("[{spec: {stages: [{dim: 8}]}, top1: 70}]", r"\[0\].spec.stages\[0\].depth: is required"),
        ("[{spec: s, top1: 70, nam: a}]", r"\[0\].nam: unknown key; did you mean name"),
        ("[{spec: s, top1: 70}, {spec: s, top1: 71}]", "--models: must not name two networks alike, got 's'"),
        ("!!python/object/apply:os.system [id]", "not valid YAML"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    """File, place, rule and value."""
    file = tmp_path / "past.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        known_networks([str(file)])
    assert "\n" not in str(caught.value)


def test_a_broken_spec_that_a_file_points_to_is_named(tmp_path: Path) -> None:
    """By its own file, not by the list's."""
    (tmp_path / "bad.yaml").write_text("stages: [{dim: 0, depth: 1}]")
    (tmp_path / "past.yaml").write_text("[{spec: bad.yaml, top1: 70}]")
    with pytest.raises(InputError, match=r"bad.yaml: stages\[0\].dim: must be 1 or more, got 0"):
        load_known(tmp_path / "past.yaml")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 300)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["s", ".", "/"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(["spec", "top1", "name"]), value=VALUES)
def test_no_value_brings_a_traceback(tmp_path: Path, key: str, value: object) -> None:
    """Whatever stands under a key, it is a network or one line."""
    file = tmp_path / "past.yaml"
    file.write_text(yaml.safe_dump([{"spec": TINY, "top1": 50, key: value}]))
    with suppress(InputError):
        assert len(load_known(file)) == 1


def test_a_network_under_another_head_has_no_top1(tmp_path: Path) -> None:
    """The proxies score classifiers."""
    file = tmp_path / "mine.yaml"
    file.write_text("- {top1: 70, spec: {head: semantic_fpn, resolution: 32, stages: [{dim: 8, depth: 1}]}}")
    with pytest.raises(InputError, match=r"\[0\]\.spec\.head: must be classifier: .*, got 'semantic_fpn'"):
        load_known(file)
