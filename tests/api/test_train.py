"""A training as a user runs it: killed in mid-epoch, gone on with, in two processes, and refused in a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_training import write_data

from modscale.cli.main import main
from modscale.models.checkpoint import load_weights
from modscale.models.efficientmod import build_network
from modscale.specs.published import resolve_model

pytestmark = pytest.mark.slow

SPEC = {"name": "tiny", "resolution": 16, "stages": [{"dim": 8, "depth": 1, "mlp_ratios": [2]}]}
SETTINGS = {
    "start": "authors",
    "batch_size": 12,
    "threads": 1,
    "strength": 1.0,
    "ema_decay": 0.5,
    "learning_rate": 3.0e-3,
}


def furnish(folder: Path) -> Path:
    """Puts a spec, data, and settings of a short training into a folder."""
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    write_data(folder / "data.npz")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return furnish(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder with a finished training in `out`, which nothing disturbed."""
    folder = furnish(tmp_path_factory.mktemp("trained"))
    assert main(command(folder)) == 0
    return folder


def command(place: Path, *more: str, out: str = "out") -> list[str]:
    return [
        "train", str(place / "spec.yaml"), "--data", str(place / "data.npz"), "--out", str(place / out),
        "--settings", str(place / "settings.yaml"), "--epochs", "3", *more,
    ]  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line with which a command is refused, after what it was doing."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()
    complaints = [line for line in said if line.startswith("modscale: ")]
    assert len(complaints) == 1
    assert not any("Traceback" in line for line in said)
    return complaints[0]


def test_killed_in_mid_epoch_it_goes_on_to_the_same_weights(
    place: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL after its first epoch; the same command ends with the files and lines of one that nothing disturbed."""
    slow = {**SETTINGS, "checkpoint_minutes": 1.0e-6}
    (place / "settings.yaml").write_text(yaml.safe_dump(slow))
    metrics = place / "out" / "metrics.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "modscale", *command(place)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as first:
        deadline = time.monotonic() + 120
        while not metrics.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        first.kill()
    capsys.readouterr()
    assert main(command(place, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 3
    assert rows(place / "out") == rows(trained / "out")
    for name in ("best.safetensors", "last.safetensors"):
        assert (place / "out" / name).read_bytes() == (trained / "out" / name).read_bytes()
    assert not (place / "out" / "state.pt").exists()


def test_a_training_is_a_model_for_other_commands(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights load into its spec, give the accuracy it reports, and are what `export` exports."""
    place = trained
    capsys.readouterr()
    assert main(command(place, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    spec = resolve_model(str(place / "out"))
    assert spec.num_classes == 4
    network = build_network(spec).eval()
    load_weights(network, result["weights"])
    with np.load(place / "data.npz") as data:
        images = torch.from_numpy(data["x_val"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(data["y_val"])
    how = yaml.safe_load((place / "out" / "train.yaml").read_text())["preprocessing"]
    mean, std = (torch.tensor(how[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        right = (network((images - mean) / std).argmax(1) == labels).float().mean()
    assert float(right) == pytest.approx(result["accuracy"])
    assert result["accuracy"] == max(max(row["accuracy"], row["ema_accuracy"]) for row in rows(place / "out"))
    assert main(["export", str(place / "out"), "--out", str(tmp_path / "exported"), "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported["trained"]
    assert exported["loaded"]["file"] == result["weights"]


def test_a_finished_training_is_told_again_without_its_data(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The data are gone, and another seed is another training: refused, and nothing is lost."""
    folder = trained / "out"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    data = (trained / "data.npz").read_bytes()
    (trained / "data.npz").unlink()
    capsys.readouterr()
    assert main(command(trained, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == str(folder / "best.safetensors")
    (trained / "data.npz").write_bytes(data)
    assert "its seed is 0, and 8 here; give another --out" in refused(capsys, command(trained, "--seed", "8"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_two_processes_learn_what_one_does(place: Path) -> None:
    """Under torchrun, with nothing drawn but the order of the images: half of each batch each, gradients averaged."""
    plain = {**SETTINGS, "strength": 0.0, "flip": 0.0, "ema_decay": 0.0, "weight_decay": 0.0}
    (place / "settings.yaml").write_text(yaml.safe_dump(plain))
    assert main(command(place)) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "modscale"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *torchrun, *command(place, out="two")], capture_output=True, text=True, env=environment,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_file(place / name / "last.safetensors") for name in ("out", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
    for here, there in zip(rows(place / "out"), rows(place / "two"), strict=True):
        assert there["train_loss"] == pytest.approx(here["train_loss"], rel=1e-4)
        assert there["accuracy"] == here["accuracy"]


def test_what_was_taken_over_is_told_and_written_down(
    place: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a training's folder, which teaches too, to a network of other width: a part of all that has a width."""
    wide = {**SPEC, "stages": [{"dim": 12, "depth": 1, "mlp_ratios": [2]}]}
    (place / "spec.yaml").write_text(yaml.safe_dump(wide))
    total = len(load_file(trained / "out" / "last.safetensors"))
    capsys.readouterr()
    assert main(command(place, "--from", str(trained / "out"), "--teacher", str(trained / "out"))) == 0
    said = " ".join(capsys.readouterr().err.split())
    document = yaml.safe_load((place / "out" / "train.yaml").read_text())
    assert (
        document["taken_over"] == f"{total} of {total} tensors taken over, {total - 1} in part"
    )  # not the head's bias
    assert document["taken_over"] in said
    assert document["teacher"] == f"tiny of {trained / 'out'}"
    assert document["asked"]["from"] == str(trained / "out" / "best.safetensors")


def test_bad_input_is_one_line_and_leaves_nothing_behind(
    place: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher of other classes, weights that are none, settings that are none, lengths twice."""
    with np.load(place / "data.npz") as data:
        few = {key: values % 3 if key.startswith("y") else values for key, values in data.items()}
    np.savez(place / "three.npz", **few)
    (place / "odd.yaml").write_text("learning_rat: 3\n")
    (place / "weights.pt").write_bytes(b"none")
    teacher = str(trained / "out")
    for more, words in (
        (["--data", str(place / "three.npz"), "--teacher", teacher], "has 4 classes, and the data have 3"),
        (["--from", str(place / "weights.pt")], "weights.pt: "),
        (["--settings", str(place / "odd.yaml")], "odd.yaml: learning_rat: unknown key; did you mean learning_rate?"),
        (["--hours", "1"], "--epochs: and --hours both say how long"),
    ):
        assert words in refused(capsys, command(place, *more))
        assert not [path for path in (place / "out").glob("*") if path.name != ".lock"]


def test_a_training_that_diverges_says_where_and_keeps_what_it_has(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of 10 without warm-up: the loss is soon no number."""
    wild = {**SETTINGS, "learning_rate": 10.0, "warmup_epochs": 0.0, "weight_decay": 10.0}
    (place / "settings.yaml").write_text(yaml.safe_dump(wild))
    line = refused(capsys, command(place, "--epochs", "400"))
    assert "not finite" in line
    assert "epoch" in line
    done = rows(place / "out") if (place / "out" / "metrics.jsonl").exists() else []
    assert (place / "out" / "best.safetensors").exists() == bool(done)


def test_the_report_has_what_the_kept_weights_answer_class_by_class(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted anew from the weights and the images; the figures stand in the page, which opens alone."""
    folder = trained / "out"
    network = build_network(resolve_model(str(folder))).eval()
    load_weights(network, folder / "best.safetensors")
    with np.load(trained / "data.npz") as data:
        images, labels = torch.from_numpy(data["x_val"]).permute(0, 3, 1, 2).float() / 255, data["y_val"]
    how = yaml.safe_load((folder / "train.yaml").read_text())["preprocessing"]
    mean, std = (torch.tensor(how[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        answers = network((images - mean) / std).argmax(1).tolist()
    pairs = list(zip(labels.tolist(), answers, strict=True))
    found = json.loads((folder / "validation.json").read_text())["confusion"]
    assert found == [[*pair, pairs.count(pair)] for pair in sorted(set(pairs))]
    right = sum(label == answer for label, answer in pairs)
    page = (folder / "report.html").read_text()
    assert f"right on {right} of {len(pairs)}" in page
    assert page.count("base64,") == 3  # the curves, and the photographs for a light page and a dark one
    assert "learning_rate</th><td" in page
    assert "http" not in page.replace("http-equiv", "")
    capsys.readouterr()
    assert main(["report", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["accuracy"] == right / len(pairs)
    assert document["files"]["context"] == str(folder / "context.png")
    assert (folder / "context.dark.png").exists()
    assert (folder / "report.html").read_text() == page


def test_a_training_killed_before_its_report_is_examined_by_the_same_command(
    place: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All epochs are over and the state is there still: nothing is trained again, and the report comes."""
    monkeypatch.setattr("modscale.api.train_report.write_examination", _stop)
    with pytest.raises(RuntimeError, match="killed"):
        main([*command(place), "--debug"])
    monkeypatch.undo()
    folder = place / "out"
    assert (folder / "state.pt").exists()
    before = (folder / "metrics.jsonl").read_bytes()
    assert main(command(place)) == 0
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert (folder / "validation.json").read_bytes() == (trained / "out" / "validation.json").read_bytes()
    assert (folder / "report.html").exists()
    assert not (folder / "state.pt").exists()


def _stop(*_: object) -> None:
    raise RuntimeError("killed")


def test_there_is_nothing_to_report_before_the_first_epoch(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.yaml").write_bytes((trained / "out" / "train.yaml").read_bytes())
    assert "no epoch of this training is over yet" in refused(capsys, ["report", str(tmp_path)])
    for line, words in (
        ('{"epoch": 1}', "line 1: lacks what a training writes: train_loss"),
        ("[1]", "line 1: must be"),
    ):
        (tmp_path / "metrics.jsonl").write_text(line + "\n")
        assert words in refused(capsys, ["report", str(tmp_path)])
