"""A whole search for networks that segment: killed, resumed, stopped at rungs, reported, exported, trained on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from killed import kill_after
from masked_folders import furnish

from modscale.api.finished import choose_spec
from modscale.api.train import choose_settings
from modscale.cli.main import main
from modscale.specs.counts import count_model
from modscale.specs.spec import load_spec, parse_spec

SPACE = """
name: masks
base: {resolution: 16, layer_scale: null}
stages:
  - {dim: [8, 16], depth: [1, 2]}
  - {dim: [16, 24], depth: [1, 2]}
bands: {any: {miou: {min: 0.0}}}
proxy: {task: segmentation, resolution: 16, epochs: 2, batch_size: 2, threads: 1}
latency: {runs: 12, warmup: 1, threads: 1, patience_s: 0}
search: {trials: 2, startup_trials: 3, references: [], rungs: [0.5]}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was killed with SIGKILL after its first trial, and started again."""
    folder = tmp_path_factory.mktemp("dense")
    (folder / "space.yaml").write_text(SPACE)
    furnish(folder / "data", train=6, val=4)
    command = [
        sys.executable, "-m", "modscale", "search", str(folder / "space.yaml"),
        "--data", str(folder / "data"), "--out", str(folder / "run"),
    ]  # fmt: skip
    trials = folder / "run" / "trials.jsonl"
    before = kill_after(command, trials, lines=1, within_s=600)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert trials.read_bytes().startswith(before)
    return folder / "run"


def test_every_trial_has_its_miou_and_the_counts_of_the_whole_network(run: Path) -> None:
    """Three classes, Semantic FPN counted with it, what it had come to at the rung, and no accuracy."""
    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    assert [(line["number"], line["state"]) for line in lines] == [(i, "complete") for i in range(2)]
    for line in lines:
        spec = parse_spec(line["spec"])
        assert (spec.head, spec.num_classes) == ("semantic_fpn", 3)
        assert line["params"] == count_model(spec).params > 1_700_000
        assert 0 < line["miou"] <= 1
        assert line["miou_standard_error"] > 0
        assert line["accuracy"] is None
        assert [rung["share"] for rung in line["rungs"]] == [0.5, 1.0]
        assert line["rungs"][-1]["value"] == line["miou"]


def test_a_pick_is_exported_with_its_masks_or_as_a_backbone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Params are those of the run; with the maps alone Semantic FPN is not in the file."""
    out = run.parent / "file"
    command = ["export", str(run), "--pick", "any", "--out", str(out), "--no-latency", "--json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    number = json.loads((run / "front.json").read_text())["bands"]["any"]
    line = json.loads((run / "trials.jsonl").read_text().splitlines()[number])
    assert (document["params"], document["outputs"]) == (line["params"], ["masks"])
    assert load_spec(out / "spec.yaml").head == "semantic_fpn"
    whole = (out / "model.onnx").stat().st_size
    assert main([*command, "--features", "--no-logits"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["stage1", "stage2"]
    assert (out / "model.onnx").stat().st_size < whole / 10


def test_a_pick_is_trained_for_its_own_task(run: Path, tmp_path: Path) -> None:
    """No settings need to say it; those that say another task have their way."""
    head = choose_spec(str(run), pick="any").head
    assert choose_settings(None, epochs=1, hours=None, head=head).task == "segmentation"
    file = tmp_path / "train.yaml"
    for text, task in (
        ("batch_size: 4\n", "segmentation"),
        ("task: classification\n", "classification"),
        ("", "segmentation"),
    ):
        file.write_text(text)
        assert choose_settings(file, epochs=None, hours=None, head=head).task == task
    assert choose_settings(file, epochs=None, hours=None).task == "classification"


def test_fidelity_has_nothing_to_hold_masks_against(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and code 2."""
    assert main(["fidelity", "--proxy", str(run.parent / "space.yaml"), "--out", str(run.parent / "f")]) == 2
    told = capsys.readouterr().err.strip()
    assert "proxy.task: must be classification: networks are held against their published top-1" in told
    assert "\n" not in told


def test_a_search_goes_on_with_its_own_data_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other masks of the same images are other data; a folder of classes is none."""
    shutil.copytree(run, tmp_path / "run")
    more = (run.parent / "space.yaml").read_text().replace("{trials: 2", "{trials: 3")
    (tmp_path / "space.yaml").write_text(more)
    shutil.copytree(run.parent / "data", tmp_path / "data")
    masks = tmp_path / "data/annotations/training"
    (masks / "0.png").write_bytes((masks / "2.png").read_bytes())
    command = ["search", str(tmp_path / "space.yaml"), "--out", str(tmp_path / "run"), "--data"]
    assert main([*command, str(tmp_path / "data")]) == 2
    assert "belongs to other data: its fingerprint is" in capsys.readouterr().err
    (tmp_path / "photos/train/cat").mkdir(parents=True)
    assert main([*command, str(tmp_path / "photos")]) == 2
    assert "images by class are for task: classification" in capsys.readouterr().err
