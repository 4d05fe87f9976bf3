"""Saved and loaded by huggingface_hub's mixin, as a folder that commands take; skipped where it is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_specs import SMALL

from modscale.cli.main import main
from modscale.deploy.facts import Facts
from modscale.errors import CheckpointError, InputError

hub = pytest.importorskip("modscale.integrations.hub", exc_type=ImportError)

FACTS = Facts(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), classes=("a", "b", "c", "d", "e"))


def test_a_folder_is_loaded_as_it_was_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights to the bit, spec and facts; a MODEL for the commands; nothing but YAML, JSON, safetensors and a card."""
    network = hub.HubEfficientMod(SMALL, FACTS).eval()
    network.save_pretrained(tmp_path / "net")
    names = {file.name for file in (tmp_path / "net").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "spec.yaml"}
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert (config["mean"], config["classes"], config["input_size"]) == ([0.1, 0.2, 0.3], list("abcde"), [3, 32, 32])
    again = hub.HubEfficientMod.from_pretrained(str(tmp_path / "net"))
    assert (again.spec, again.facts, again.training) == (SMALL, FACTS, False)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(x), again(x))
    assert main(["count", str(tmp_path / "net"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == sum(one.numel() for one in network.parameters())


def test_a_network_that_is_not_its_spec_is_not_saved(tmp_path: Path) -> None:
    network = hub.HubEfficientMod(SMALL)
    network.reset_classifier(3)
    with pytest.raises(CheckpointError, match=r"head.weight: is not as its spec says"):
        network.save_pretrained(tmp_path / "net")


def test_a_broken_folder_is_named(tmp_path: Path) -> None:
    """Facts of another network in `config.json`; no weights."""
    hub.HubEfficientMod(SMALL, FACTS).save_pretrained(tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps(config | {"mean": [0.5]}))
    with pytest.raises(InputError, match=r"config.json: mean, std: must be a number for each of the 3 channels"):
        hub.HubEfficientMod.from_pretrained(str(tmp_path / "net"))
    (tmp_path / "net" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        hub.HubEfficientMod.from_pretrained(str(tmp_path / "net"))
