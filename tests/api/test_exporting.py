"""A whole export, from a training's folder to a folder that stands alone, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitted import FITTED, MEAN, NAMES, STD, normalised, read_images, write_images, write_training
from PIL import Image

from modscale import settings
from modscale.api import exporting
from modscale.cli.main import main
from modscale.datasets.dataset import load_dataset
from modscale.datasets.images import read_image
from modscale.deploy import judgement, quantize, runtime
from modscale.latency import summary
from modscale.runs.metrics import decimals
from modscale.settings import LatencySettings


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a latency is taken is no matter of these tests."""
    monkeypatch.setattr(summary, "PROCESSES", 1)
    monkeypatch.setattr(settings, "LatencySettings", partial(LatencySettings, runs=10, patience_s=0.0, reference=False))


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "few.npz")


@pytest.fixture(scope="module")
def training(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "run"
    write_training(folder, read_images(data_file))
    return folder


def export(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert main(["export", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["export", *map(str, arguments), "--no-latency"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    line = told.err.strip().splitlines()[-1]
    assert "Traceback" not in told.err
    return line


def card_script(folder: Path) -> str:
    (script,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    return script


def run_alone(script: str, folder: Path, *arguments: str) -> list[str]:
    """What a script prints in a folder, in a process that can import neither modscale nor torch."""
    wrapped = f"import sys; sys.modules['modscale'] = sys.modules['torch'] = None\n{script}"
    done = subprocess.run(
        [sys.executable, "-c", wrapped, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_training_becomes_a_folder_that_stands_alone(
    training: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its accuracy in ONNX Runtime is the training's; its int8 file is judged; the card tells what was measured."""
    data = read_images(data_file)
    document = export(capsys, training, "--int8", "--data", data_file, "--out", tmp_path / "out")
    rows = [json.loads(line) for line in (training / "metrics.jsonl").read_text().splitlines()]
    assert document["accuracy"] == rows[-1]["ema_accuracy"] > 0.6
    int8 = document["int8"]
    assert (int8["verdict"], int8["fp32_accuracy"]) == ("good", document["accuracy"])
    assert int8["onnx"] == str(tmp_path / "out" / "model.int8.onnx")
    given = runtime.run_batches(int8["onnx"], (normalised(image[None]).numpy() for image in data.x_val))
    answers = np.array([one["logits"].argmax() for one in given])
    assert int8["accuracy"] == (answers == data.y_val).mean()
    assert document["latency"]["mean_ms"] > 0 < int8["latency"]["mean_ms"]
    held = runtime.read_metadata(document["onnx"])
    assert (held["mean"], held["std"], held["classes"]) == (list(MEAN), list(STD), list(NAMES))
    assert held["training"] == {"accuracy": rows[-1]["ema_accuracy"], "epochs": 2, "data": "few.npz", "val_images": 200}
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{document['accuracy']:.2%} of the 200 validation images of few.npz, measured in ONNX Runtime" in card
    quiet_ms = document["latency"]["quiet_ms"]
    assert f"{quiet_ms:.{decimals(quiet_ms)}f} ±" in card
    assert f"Good: {int8['accuracy']:.1%} of 200 images right in int8" in card
    assert "on few.npz, 2 epochs" in card
    assert ", ".join(NAMES) in card


@pytest.mark.parametrize(
    "options", [[], ["--batch", "dynamic", "--fold-normalisation"], ["--batch", "3", "--features"]]
)
def test_the_script_of_the_card_classifies_a_jpeg_without_us(
    options: list[str], training: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder moved elsewhere; images larger, grey, in CMYK, lying down: what the network in PyTorch says."""
    document = export(capsys, training, *options, "--no-latency", "--out", tmp_path / "out")
    assert document["latency"] is None
    assert "| latency | not measured |" in (tmp_path / "out" / "README.md").read_text()
    alone = tmp_path / "elsewhere"
    shutil.move(tmp_path / "out", alone)
    image = Image.fromarray(read_images(data_file).x_val[7])
    image.save(tmp_path / "small.jpg", quality=95)
    odd = image.resize((61, 90), Image.Resampling.BICUBIC)
    odd.save(tmp_path / "large.jpg")
    odd.convert("L").save(tmp_path / "grey.jpg")
    odd.convert("CMYK").save(tmp_path / "cmyk.jpg")
    lying = Image.Exif()
    lying[0x0112] = 6  # to be turned by a quarter
    odd.save(tmp_path / "lying.jpg", exif=lying)
    network = write_training(tmp_path / "again", read_images(data_file))
    script = card_script(alone)
    assert len(script.strip().splitlines()) == 10
    for name in ("small.jpg", "large.jpg", "grey.jpg", "cmyk.jpg", "lying.jpg"):
        pixels = read_image(tmp_path / name, 32).copy()  # as a training reads it
        with torch.inference_mode():
            logits = network(normalised(pixels[None]))[0]
        printed = [line.split() for line in run_alone(script, alone, str(tmp_path / name))]
        assert [label for label, _ in printed] == [NAMES[i] for i in logits.argsort(descending=True)]
        assert [float(value) for _, value in printed] == pytest.approx(sorted(logits.tolist(), reverse=True), abs=1e-4)


def test_a_file_of_maps_alone_has_a_script_too(
    training: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the maps and their shapes."""
    document = export(capsys, training, "--features", "--no-logits", "--no-latency", "--out", tmp_path)
    assert document["outputs"] == ["stage1", "stage2"]
    Image.fromarray(read_images(data_file).x_val[0]).save(tmp_path / "a.jpg")
    assert run_alone(card_script(tmp_path), tmp_path, "a.jpg") == ["stage1 (1, 16, 8, 8)", "stage2 (1, 32, 4, 4)"]


def test_a_broken_int8_file_is_not_called_good(
    training: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept under a name that says so, after all levels were tried; exit code 2 and a line, the JSON whole."""
    feed = exporting.feed

    def dull(*arguments: Any) -> Any:  # calibrated on images without contrast: all that goes beyond is cut off
        return (images * 0.01 for images in feed(*arguments))

    monkeypatch.setattr(exporting, "feed", dull)
    levels = {"all": ("linear", "conv", "head"), "convs": ("conv",)}
    monkeypatch.setattr(quantize, "LEVELS", levels)  # without the one that has no conv, and so is not hurt
    arguments = [training, "--int8", "--data", data_file, "--no-latency", "--out", tmp_path]
    assert main(["export", *map(str, arguments), "--json"]) == 2
    told = capsys.readouterr()
    int8 = json.loads(told.out)["int8"]
    assert int8["verdict"] == "broken"
    assert [one["level"] for one in int8["tried"]] == list(levels)
    assert int8["accuracy"] == max(one["accuracy"] for one in int8["tried"])
    assert int8["onnx"].endswith("model.int8.broken.onnx")
    assert not (tmp_path / "model.int8.onnx").exists()
    assert "the int8 file is broken: " in told.err.splitlines()[-1]
    assert "BROKEN" in (tmp_path / "README.md").read_text()
    monkeypatch.undo()
    assert export(capsys, *arguments)["int8"]["verdict"] == "good"
    assert not (tmp_path / "model.int8.broken.onnx").exists()


def test_a_network_at_chance_proves_nothing(
    training: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An untrained network's int8 file is written, and called unproven."""
    spec, out = training / "spec.yaml", tmp_path / "out"
    document = export(capsys, spec, "--int8", "--data", data_file, "--no-latency", "--out", out)
    assert document["int8"]["verdict"] == "unproven"
    assert abs(document["accuracy"] - 0.2) < 0.1


def test_an_export_of_an_export_keeps_what_is_known(
    training: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes, training and the normalisation, also where that was folded in; a fresh head has none of the names."""
    export(capsys, training, "--fold-normalisation", "--no-latency", "--out", tmp_path / "a")
    document = export(capsys, tmp_path / "a", "--data", data_file, "--no-latency", "--out", tmp_path / "b")
    first, second = (runtime.read_metadata(str(tmp_path / name / "model.onnx")) for name in ("a", "b"))
    assert (first["mean"], second["mean"]) == ([0, 0, 0], list(MEAN))
    assert all(first[key] == second[key] for key in ("classes", "training", "spec", "resize"))
    assert document["accuracy"] == second["training"]["accuracy"]
    export(capsys, tmp_path / "a", "--fresh-head", "--no-latency", "--out", tmp_path / "c")
    held = runtime.read_metadata(str(tmp_path / "c" / "model.onnx"))
    assert (held["classes"], held["training"], held["mean"]) == (None, None, list(MEAN))


def test_what_the_training_set_aside_is_measured_where_there_is_no_validation_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same images by its seed and share, also for an export of the export; of other data it is refused."""
    known = dict(np.load(write_images(tmp_path / "all.npz")))
    file = tmp_path / "few.npz"
    np.savez(file, x_train=known["x_train"], y_train=known["y_train"])
    data = load_dataset(str(file), resolution=32, train_images=None, val_images=None, seed=3, val_split=0.25)
    sizes = {"train_images": len(data.y_train), "val_images": len(data.y_val)}
    assert sizes == {"train_images": 180, "val_images": 60}
    asked = {"seed": 3, "settings": {"val_split": 0.25}}
    write_training(tmp_path / "run", data, data={"name": "few.npz", **sizes}, asked=asked)
    scored = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["ema_accuracy"]
    for model, out in (("run", "first"), ("first", "second")):
        document = export(capsys, tmp_path / model, "--data", file, "--no-latency", "--out", tmp_path / out)
        assert (document["accuracy"], document["val_images"]) == (scored, 60)
    np.savez(file, x_train=known["x_train"][:200], y_train=known["y_train"][:200])
    line = refusal(capsys, tmp_path / "run", "--data", file, "--out", tmp_path / "third")
    assert "is not what the network was trained on: 180 images and 60 set aside, got '150 and 50'" in line
    assert not (tmp_path / "third").exists()


def test_no_training_image_is_measured_where_more_are_asked_for_than_there_are(
    training: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At most all 200 validation images; the training's accuracy, which is of these, is met."""
    document = export(capsys, training, "--data", data_file, "--val-images", 230, "--no-latency", "--out", tmp_path)
    scored = json.loads((training / "metrics.jsonl").read_text().splitlines()[-1])["ema_accuracy"]
    assert (document["accuracy"], document["val_images"]) == (scored, 200)


def test_data_of_another_network_are_refused(
    training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other classes, another number of them, other channels, no validation set: a line each, and nothing is written."""
    out = tmp_path / "out"
    others = write_images(tmp_path / "others.npz", names=("ant", "bee", "cat", "dog", "eel"))
    more = write_images(tmp_path / "more.npz", names=(*NAMES, "fox"))
    known = dict(np.load(write_images(tmp_path / "all.npz")))
    np.savez(tmp_path / "grey.npz", **known | {key: known[key][..., :1] for key in ("x_train", "x_val")})
    np.savez(tmp_path / "no-val.npz", x_train=known["x_train"], y_train=known["y_train"])
    for file, expected in (
        (others, "must have the classes that the network was trained on: number 4 is 'émeu', got 'eel'"),
        (more, "must have the network's 5 classes, got 6"),
        (tmp_path / "grey.npz", "must have the network's 3 channels, got 1"),
        (tmp_path / "no-val.npz", "has no validation set"),
        (tmp_path / "nothing", "no such file or folder"),
    ):
        line = refusal(capsys, training, "--data", file, "--int8", "--out", out)
        assert expected in line
        assert str(file) in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--int8"], "--int8: needs --data DATA"),
        (["--val-images", "10"], "--val-images: goes with --data"),
        (["--no-logits"], "--no-logits: goes with --features"),
        (["--features", "--no-logits", "--data", "synthetic"], "--data: measures the accuracy of logits"),
        (["--batch", "0"], "--batch: must be 1 to 1024, or `dynamic`, got '0'"),
        (["--batch", "-1"], "--batch: must be 1 to 1024"),
        (["--batch", "many"], "--batch: must be 1 to 1024"),
        (["--batch", "9" * 5000], "--batch: must be 1 to 1024"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], expected: str, training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, before anything is written."""
    assert expected in refusal(capsys, training, *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_written_into(
    training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training's folder, somebody's README.md, a file: what was there is there still."""
    before = {file.name: file.read_bytes() for file in training.iterdir()}
    assert "is a training's folder; an export takes a folder of its own" in refusal(capsys, training, "--out", training)
    assert before == {file.name: file.read_bytes() for file in training.iterdir()}
    (tmp_path / "README.md").write_text("# My project\n")
    assert "README.md: is there and no card of an export" in refusal(capsys, training, "--out", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    assert "cannot be created" in refusal(capsys, training, "--out", tmp_path / "README.md")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"preprocessing": {"mean": [0.5], "std": [0.2]}}, "mean, std: must be a number for each of the 3 channels"),
        ({"preprocessing": {"mean": [0.5] * 3, "std": [0.2, 0, 0.2]}}, "std: must be a list of numbers above 0"),
        ({"preprocessing": {"mean": "grey", "std": [0.2] * 3}}, "preprocessing.mean: must be a list of numbers"),
        ({"preprocessing": 3}, "preprocessing: must be a mapping"),
        ({"classes": ["a", "b"]}, "classes: must name the 5 classes of the network, got 2"),
        ({"classes": 5}, "classes: must be a list of the classes' names"),
        ({"data": []}, "data: must be a mapping"),
    ],
)  # fmt: skip
def test_a_train_yaml_that_is_broken_is_named(
    changes: dict[str, Any], expected: str, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file, the place, the rule and the value."""
    write_training(tmp_path / "run", read_images(data_file), **changes)
    line = refusal(capsys, tmp_path / "run", "--out", tmp_path / "out")
    assert str(tmp_path / "run" / "train.yaml") in line
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_a_training_is_a_model_for_other_commands(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its spec, by its folder."""
    assert main(["count", str(training), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == FITTED.name


def test_the_tolerance_is_a_point() -> None:
    """What the card and the issue say."""
    assert judgement.TOLERANCE == 0.01
