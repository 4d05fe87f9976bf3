"""Params and FLOPs as a user asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from modscale.cli.main import main
from modscale.specs.published import published
from modscale.specs.spec import load_spec, spec_to_yaml

RunJson = Callable[..., dict[str, Any]]
PUBLISHED = yaml.safe_load((Path(__file__).parents[2] / "golden" / "published.yaml").read_text())


@pytest.mark.parametrize("row", PUBLISHED["networks"], ids=lambda row: row["name"])
def test_count_gives_the_published_figures(run_json: RunJson, row: dict[str, object]) -> None:
    """`count --json` has the contract's keys and the authors' exact counts."""
    document = run_json("count", str(row["name"]))
    assert document["name"] == row["name"]
    assert document["resolution"] == 224
    assert (document["params"], document["flops"]) == (row["params"], row["flops_exact"])
    for part in ("by_part", "by_operator"):
        assert sum(cost["params"] for cost in document[part].values()) == row["params"]
        assert sum(cost["flops"] for cost in document[part].values()) == row["flops_exact"]


def test_count_checks_itself_against_a_trace(run_json: RunJson) -> None:
    """`--check` traces the real network, here at another resolution."""
    document = run_json("count", "xxs", "--resolution", "64", "--check")
    assert document["resolution"] == 64
    assert document["check"] == {
        "tool": "fvcore", "params": document["params"], "flops": document["flops"], "equal": True
    }  # fmt: skip


def test_a_check_that_fails_is_an_error_and_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When closed form and trace disagree, nothing is printed but the fault."""
    monkeypatch.setattr("modscale.models.fvcore_trace.trace_model", lambda spec: (1, 2))
    assert main(["count", "xxs", "--check"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fvcore traced 1 and 2" in captured.err


def test_count_reads_a_spec_file(capsys: pytest.CaptureFixture[str], run_json: RunJson, tmp_path: Path) -> None:
    """A spec written out counts like the name it came from, as table and as JSON."""
    file = tmp_path / "xxs.yaml"
    file.write_text(spec_to_yaml(published("xxs")))
    assert load_spec(file) == published("xxs")
    assert run_json("count", str(file))["params"] == 4736264
    assert main(["count", str(file)]) == 0
    assert "4,736,264" in capsys.readouterr().out
