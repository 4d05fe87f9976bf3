"""An export as a user asks for it, and its folder as a MODEL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modscale.cli.main import main

RunJson = Callable[..., dict[str, Any]]


def test_a_published_name_is_exported_again_into_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`export xxs --out xxs` twice: the folder of the first is no run."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["export", "xxs", "--resolution", "64", "--out", "xxs", "--json", "--no-latency"]) == 0
    capsys.readouterr()
    assert main(["export", "xxs", "--trial", "0", "--out", "o"]) == 2
    assert "is no run's folder: it has no run.yaml" in capsys.readouterr().err


def test_an_exported_folder_is_a_model(capsys: pytest.CaptureFixture[str], run_json: RunJson, tmp_path: Path) -> None:
    """Every MODEL argument takes it; `export` loads its weights, and says that they are untrained where they are."""
    spec = tmp_path / "net.yaml"
    spec.write_text("name: net\nresolution: 32\nnum_classes: 3\nstages: [{dim: 8, depth: 1}]\n")
    folder, again, plain = (str(tmp_path / name) for name in ("a", "b", "c"))
    assert run_json("export", str(spec), "--seed", "5", "--out", folder, "--no-latency")["trained"] is False
    assert run_json("count", folder)["params"] == run_json("count", str(spec))["params"]
    assert run_json("scale", folder, "--params", "9k", "--tolerance", "0.2")["metric"] == "params"
    document = run_json("export", folder, "--out", again, "--no-latency")
    assert document["loaded"]["file"] == f"{folder}/model.safetensors"
    assert document["trained"] is False
    first, second = (Path(place, "model.safetensors").read_bytes() for place in (folder, again))
    assert first == second
    assert main(["export", folder, "--out", plain, "--no-latency"]) == 0
    assert "initial, not trained" in capsys.readouterr().out
    Path(folder, "model.safetensors").unlink()
    assert run_json("export", folder, "--out", plain, "--no-latency")["loaded"] is None
