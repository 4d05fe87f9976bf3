"""The export of a network that segments: its file equals PyTorch, and is scored as its training was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from modscale.cli.main import main

pytestmark = pytest.mark.slow


def write_scenes(root: Path) -> Path:
    """Bright squares (class 2) on a dark ground (class 1)."""
    rng = np.random.default_rng(0)
    for split, count in (("training", 12), ("validation", 5)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            numbers = np.ones((20, 28), dtype=np.uint8)
            top, left = rng.integers(0, 10, 2)
            numbers[top : top + 9, left : left + 12] = 2
            pixels = rng.integers(0, 60, (20, 28, 3)) + (numbers[..., None] - 1) * 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / split / f"{i}.png")
            Image.fromarray(numbers).save(root / "annotations" / split / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network in `out`, its data in `scenes`."""
    folder = tmp_path_factory.mktemp("masks")
    write_scenes(folder / "scenes")
    (folder / "scenes" / "classes.txt").write_text("ground\nsquare\n")
    (folder / "spec.yaml").write_text("resolution: 16\nstages: [{dim: 8, depth: 1}, {dim: 8, depth: 1}]\n")
    (folder / "seg.yaml").write_text("task: segmentation\nepochs: 4\nbatch_size: 4\nthreads: 1\n")
    command = ["train", str(folder / "spec.yaml"), "--data", str(folder / "scenes"), "--out", str(folder / "out")]
    assert main([*command, "--settings", str(folder / "seg.yaml")]) == 0
    return folder


def export(place: Path, name: str, *more: str) -> list[str]:
    return ["export", str(place / "out"), "--out", str(place / name), "--no-latency", "--json", *more]


def test_the_files_masks_score_what_the_training_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mIoU in ONNX Runtime is that of the best epoch to a thousandth; the card and the metadata name the classes."""
    assert main(export(place, "file", "--data", str(place / "scenes"))) == 0
    document = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (place / "out" / "metrics.jsonl").read_text().splitlines()]
    assert document["miou"] == pytest.approx(max(max(row["miou"], row.get("ema_miou", 0)) for row in rows), abs=2e-3)
    assert document["outputs"] == ["masks"]
    session = onnxruntime.InferenceSession(str(place / "file" / "model.onnx"))
    assert [(one.name, one.shape) for one in session.get_outputs()] == [("masks", [1, 2, 16, 16])]
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["ground", "square"]
    card = (place / "file" / "README.md").read_text()
    assert "2 classes for every pixel, by Semantic FPN" in card
    assert f"mIoU {document['miou']:.2%}" in card


def test_the_cards_script_tells_what_a_photograph_shows(place: Path) -> None:
    """Run as it stands, without modscale: shares of the classes that add up to the image."""
    if not (place / "file").exists():
        assert main(export(place, "file")) == 0
    script = (place / "file" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (place / "file" / "script.py").write_text(script)
    image = place / "scenes/images/validation/0.png"
    done = subprocess.run(
        [sys.executable, "script.py", str(image)], capture_output=True, text=True, cwd=place / "file", timeout=120,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shares = {line.split()[0]: float(line.split()[1].rstrip("%")) for line in done.stdout.splitlines()}
    assert set(shares) <= {"ground", "square"}
    assert sum(shares.values()) == pytest.approx(100, abs=0.2)


def test_any_batch_and_the_maps_beside_the_masks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three images at once give what each alone does; pixels are taken as they are where the normalisation is in."""
    assert main(export(place, "open", "--batch", "dynamic", "--features", "--fold-normalisation")) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["masks", "stage1", "stage2"]
    session = onnxruntime.InferenceSession(str(place / "open" / "model.onnx"))
    images = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    together = session.run(["masks"], {"image": images})[0]
    alone = np.concatenate([session.run(["masks"], {"image": image[None]})[0] for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_what_does_not_go_together_is_refused(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No int8 of masks yet; data of other classes."""
    assert main(export(place, "int8", "--int8", "--data", str(place / "scenes"))) == 2
    assert "--int8: is made of classifiers, and this network gives masks" in capsys.readouterr().err
    assert main(export(place, "other", "--data", "synthetic")) == 2
    assert "must have the network's 2 classes, got 6" in capsys.readouterr().err
    assert not (place / "int8").exists()
    assert not (place / "other").exists()
