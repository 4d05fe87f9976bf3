"""A space as a user asks for its size and reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modscale.cli.main import main

RunJson = Callable[..., dict[str, Any]]
SPACE = """
name: tiny
base: {resolution: 32}
stages: [{dim: [8, 16], depth: [1, 2]}, {dim: 16, depth: 1}]
"""


def test_space_has_the_keys_of_the_contract(
    capsys: pytest.CaptureFixture[str], run_json: RunJson, tmp_path: Path
) -> None:
    """`space --json` of a space counted by hand: 2 dims x 2 depths."""
    file = tmp_path / "tiny.yaml"
    file.write_text(SPACE)
    document = run_json("space", str(file))
    assert (document["size"], document["feasible"]) == (4, 4)
    assert document["params"]["min"] < document["params"]["max"]
    assert document["flops"]["min"] < document["flops"]["max"]
    assert main(["space", str(file)]) == 0
    assert "4" in capsys.readouterr().out


def test_counts_of_a_space_say_what_they_take_for_granted(
    capsys: pytest.CaptureFixture[str], run_json: RunJson, tmp_path: Path
) -> None:
    """What a space leaves to the data is counted at its default, by `space` and by `scale --space`."""
    file = tmp_path / "tiny.yaml"
    for base, assumed in (({}, {"num_classes": 1000, "in_chans": 3}), ({"num_classes": 10, "in_chans": 1}, {})):
        file.write_text(json.dumps({"base": base, "stages": [{"dim": [8, 12], "depth": 1}]}))
        for command in (["space", str(file)], ["scale", "--space", str(file), "--params", "9e3"]):
            assert run_json(*command)["assumed"] == assumed
            assert main(command) == 0
            said = "num_classes 1000 and in_chans 3: the space leaves them to the data" in capsys.readouterr().out
            assert said is bool(assumed)
