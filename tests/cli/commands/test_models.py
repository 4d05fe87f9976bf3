"""The networks of the paper as a user lists them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from modscale.cli.main import main

RunJson = Callable[..., dict[str, Any]]
PUBLISHED = yaml.safe_load((Path(__file__).parents[2] / "golden" / "published.yaml").read_text())


def test_models_lists_every_network_of_table_1(capsys: pytest.CaptureFixture[str], run_json: RunJson) -> None:
    """The paper's figures stand beside ours."""
    rows = {row["name"]: row for row in run_json("models")["models"]}
    for row in PUBLISHED["networks"]:
        assert rows[row["name"]]["params"] == row["params"]
        assert rows[row["name"]]["paper"]["top1"] == row["top1"]
    assert main(["models"]) == 0
    assert "s_conv" in capsys.readouterr().out
