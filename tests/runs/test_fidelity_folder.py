"""The folder of a fidelity check: what it records, and what it is held to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from modscale.errors import InputError, RunError
from modscale.runs.fidelity_folder import FidelitySetup, check_setup, locked_fidelity, read_setup, write_setup
from modscale.settings import LatencySettings, ProxySettings

SETUP = FidelitySetup(proxy=ProxySettings(), latency=LatencySettings(), drop_path_rate=0.0, seed=3)
DATA = {"source": "synthetic", "fingerprint": "abc", "device": "cpu"}


def test_a_setup_is_read_back(tmp_path: Path) -> None:
    """Plain YAML with data, machine and versions; settings of later versions have their defaults in it."""
    assert read_setup(tmp_path / "none") is None
    assert read_setup(tmp_path) is None
    write_setup(tmp_path, SETUP, DATA)
    document = read_setup(tmp_path)
    assert document == yaml.safe_load((tmp_path / "fidelity.yaml").read_text())
    assert document is not None
    assert document["data"] == DATA
    check_setup(document, SETUP, tmp_path)
    del document["setup"]["proxy"]["method"]
    check_setup(document, SETUP, tmp_path)
    resolved = SETUP.resolved()
    assert resolved.proxy.threads is not None
    assert resolved.latency.threads is not None


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (replace(SETUP, proxy=replace(SETUP.proxy, epochs=7)), "other settings: its proxy.epochs is 2, and 7 here"),
        (replace(SETUP, proxy=replace(SETUP.proxy, threads=7)), "other threads: its proxy.threads is not set, and 7"),
        (replace(SETUP, latency=replace(SETUP.latency, runs=70)), "its latency.runs is 100, and 70 here"),
        (replace(SETUP, seed=4), "its seed is 3, and 4 here; give another --out"),
        (replace(SETUP, drop_path_rate=0.1), "its drop_path_rate is 0.0, and 0.1 here"),
    ],
)
def test_scores_of_another_setup_are_not_gone_on_with(tmp_path: Path, setup: FidelitySetup, message: str) -> None:
    """They could not be compared."""
    write_setup(tmp_path, SETUP, DATA)
    document = read_setup(tmp_path)
    assert document is not None
    with pytest.raises(RunError, match=message):
        check_setup(document, setup, tmp_path)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    """A file, a folder of other things, and a broken fidelity.yaml, each in a line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="must be a folder, and is a file"):
        read_setup(tmp_path / "file")
    with pytest.raises(RunError, match=r"has file and no fidelity\.yaml"):
        read_setup(tmp_path)
    for text, message in (("[1]", "has no setup or no data"), ("setup: {", "not valid YAML")):
        (tmp_path / "fidelity.yaml").write_text(text)
        with pytest.raises(RunError, match=message):
            read_setup(tmp_path)
    with pytest.raises(InputError, match=r"fidelity.yaml: setup.proxy.epochs: must be 1 or more, got 0"):
        check_setup({"setup": {"proxy": {"epochs": 0}, "drop_path_rate": 0, "seed": 0}}, SETUP, tmp_path)


@pytest.mark.parametrize("name", ["fidelity.jsonl", "latency.jsonl"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    """A line that is appended stays in the folder."""
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"{name}: is a link"), locked_fidelity(tmp_path / "out"):
        pass
