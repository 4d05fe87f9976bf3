"""The published networks: their sizes against the authors' own, and every published row against a named model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from modscale.errors import InputError
from modscale.specs.counts import count_model
from modscale.specs.published import NamedModel, list_models, models_to_json, published, resolve_model
from modscale.specs.sameness import network_key
from modscale.specs.spec import parse_spec, spec_to_dict, spec_to_yaml

GOLDEN = yaml.safe_load((Path(__file__).parents[1] / "golden" / "published.yaml").read_text())

NOT_NETWORKS = {"repeat_or_reshape", "training", "peers_table1"}
"""Sections without a configuration of their own: two ways to run one network, the recipe, other people's networks."""

PRINTED = {
    "top1": "top1",
    "distilled_top1": "distilled_top1",
    "gpu_ms": "gpu_ms",
    "cpu_ms": "cpu_ms",
    "params_m": "params_m",
    "flops": "flops_g",
}
"""Key of a golden row to key of `NamedModel.paper`."""

ROWS = [
    pytest.param(section, row, id=f"{section}[{i}]")
    for section, rows in GOLDEN.items()
    if section not in NOT_NETWORKS
    for i, row in enumerate(rows)
]

EXACT = {
    "xxs": (4_736_264, 583_012_608),
    "xs": (6_627_544, 778_381_344),
    "s": (12_897_184, 1_409_390_888),
    "s_conv": (12_872_336, 1_478_400_776),
}


@pytest.mark.parametrize("name", EXACT)
def test_published_networks_count_to_the_unit(name: str) -> None:
    """The four released networks have exactly the params and FLOPs of the authors' code."""
    count = count_model(published(name))
    assert (count.params, count.flops) == EXACT[name]


@pytest.mark.parametrize(("section", "row"), ROWS)
def test_every_published_row_is_a_named_model(section: str, row: dict[str, Any]) -> None:
    """Each row with a configuration has one named model, with its printed figures, and its size where one is given."""
    (model,) = [model for model in list_models() if describes(model, section, row)]
    count = count_model(model.spec)
    assert count.params == row.get("params", count.params)
    assert count.flops == row.get("flops_exact", count.flops)
    assert round(count.params / 1e6, 1) == row.get("params_m", round(count.params / 1e6, 1))
    assert round(count.flops / 1e9, 1) == row.get("flops", round(count.flops / 1e9, 1))


def describes(model: NamedModel, section: str, row: dict[str, Any]) -> bool:
    """Whether the model stands for the row: the same printed figures, nothing more or less, and its configuration."""
    figures = {PRINTED[key]: value for key, value in row.items() if key in PRINTED}
    if section == "networks":
        figures["params_m"] = round(row["params"] / 1e6, 1)
    first = model.spec.stages[0]
    for key, value in row.items():
        if key == "name":
            names = {model.name, model.same_as, model.name.replace("-4m", "@4m")}
            matches = value.lower() in names
        elif key == "kept":
            matches = list(first.context) == value
        elif key == "fused":
            matches = (first.block == "modulation") == value
        elif key == "layout":
            matches = (len(model.spec.stages) == 1) == (value == "isotropic")
        elif key == "kernel_size":
            matches = list(first.kernel_size) == (value if isinstance(value, list) else [value])
        elif key == "mlp_ratios":
            matches = list(first.mlp_ratios) == value
        elif key in ("fusion", "block", "dim", "depth"):
            matches = getattr(first, key) == value
        else:
            assert key in {*PRINTED, "params", "flops_exact", "note"}, f"a key the test does not know: {key}"
            matches = True
        if not matches:
            return False
    return dict(model.paper) == figures and model.table in TABLES[section]


TABLES = {
    "networks": {"Tables 1, 2 and 8"},
    "undisclosed": {"reported without a configuration"},
    "context_ablation": {"Table 5"},
    "kernel_sets": {"Appendix L, kernels"},
    "separate_mlp": {"Appendix L, separate MLP"},
    "mbconv": {"Table 6"},
    "modulation_models": {"Table 4"},
}


@pytest.mark.parametrize("size", ["xxs", "xs"])
def test_proposals_keep_the_habits_that_lead_from_s_to_s_conv(size: str) -> None:
    """A proposal has its hybrid's ratios and number of blocks, no attention, and widths between the two networks'."""
    hybrid, proposal, largest = (published(name).stages for name in (size, f"{size}_conv", "s_conv"))
    assert not any(stage.attention_depth for stage in proposal)
    assert sum(s.depth for s in proposal) == sum(s.depth + s.attention_depth for s in hybrid)
    assert [s.depth for s in proposal[:2]] == [s.depth for s in hybrid[:2]]
    assert all(a.dim <= b.dim <= c.dim for a, b, c in zip(hybrid, proposal, largest, strict=True))
    assert {s.mlp_ratios for s in proposal} == {s.mlp_ratios for s in hybrid}


def test_no_named_model_is_without_a_published_row() -> None:
    """There are as many named models as rows: nothing was made up beside them."""
    assert len(list_models()) == len(ROWS)


def test_rows_of_one_network_share_one_spec() -> None:
    """An alias is its first entry's network, and two entries that are no aliases are never the same network."""
    models = {model.name: model for model in list_models()}
    for model in models.values():
        if model.same_as:
            assert models[model.same_as].same_as is None
            assert network_key(model.spec) == network_key(models[model.same_as].spec)
    own = [network_key(model.spec) for model in models.values() if not model.same_as]
    assert len(set(own)) == len(own)


def test_every_named_model_survives_its_own_file() -> None:
    """Each published spec, written as plain values and read again, is itself, under its published name."""
    for model in list_models():
        assert parse_spec(spec_to_dict(model.spec)) == model.spec == resolve_model(model.name)
        assert model.spec.name == model.name


def test_the_list_prints_our_counts_beside_the_papers() -> None:
    """The JSON rows carry exact counts as whole numbers and the printed figures untouched."""
    rows = {row["name"]: row for row in models_to_json(list_models())}
    assert (rows["s"]["params"], rows["s"]["flops"]) == EXACT["s"]
    assert rows["s"]["paper"]["top1"] == 81.0
    assert rows["xxs/table-4"]["same_as"] == "xxs"


def test_a_published_name_wins_over_a_file_of_that_name(tmp_path, monkeypatch) -> None:
    """In a folder that happens to hold `xxs`, `xxs` is still the published network; `./xxs` is the file."""
    (tmp_path / "xxs").write_text("stages: [{dim: 8, depth: 1}]")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("xxs") == published("xxs")
    assert resolve_model("./xxs").stages[0].dim == 8


def test_a_spec_file_is_resolved_as_the_network_it_holds(tmp_path) -> None:
    """A spec written to a file and resolved by its path is the published spec again."""
    file = tmp_path / "mine.yaml"
    file.write_text(spec_to_yaml(published("s")))
    assert resolve_model(str(file)) == published("s")


@pytest.mark.parametrize(("model", "nearest"), [("xxss", "xxs"), ("s-conv", "s_conv")])
def test_an_unknown_name_is_told_the_nearest_one(model: str, nearest: str) -> None:
    """A misspelt name is one line with the name that was probably meant."""
    with pytest.raises(InputError, match=f"did you mean {nearest}\\?"):
        resolve_model(model)


@pytest.mark.parametrize("model", ["missing.yaml", "", "\0", "x" * 5000, "/tmp"])  # noqa: S108  # only looked at
def test_what_is_no_model_is_an_input_error(model: str) -> None:
    """A missing file, an empty or impossible name and a folder are the user's to mend."""
    with pytest.raises(InputError):
        resolve_model(model)
