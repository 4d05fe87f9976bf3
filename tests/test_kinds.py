"""What a path is: each command that is given the wrong kind of file says what it is, and which command takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modscale.cli.main import main
from modscale.kinds import what_is

SPEC = "resolution: 32\nnum_classes: 3\nstages: [{dim: 8, depth: 1}]\n"
SPACE = "name: tiny\nbase: {resolution: 32}\nstages: [{dim: [8, 16], depth: 1}]\n"


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """A path of each kind."""
    made = {name: tmp_path / name for name in ("run", "network", "data", "fidelity", "training", "empty")}
    for folder in (*made.values(), made["data"] / "train" / "cat"):
        folder.mkdir(parents=True, exist_ok=True)
    (made["run"] / "run.yaml").write_text(f"space:\n  name: x\n{SPACE.partition('tiny')[2]}versions: {{}}\n")
    (made["fidelity"] / "fidelity.yaml").touch()
    for name, text in {"train.yaml": "", "spec.yaml": SPEC}.items():
        (made["training"] / name).write_text(text)
    (made["network"] / "spec.yaml").write_text(SPEC)
    (made["network"] / "model.onnx").touch()
    Image.new("RGB", (4, 4)).save(made["data"] / "train" / "cat" / "a.png")
    for name, text in {"spec.yaml": SPEC, "space.yaml": SPACE, "trials.jsonl": "{}\n", "notes.txt": "hello"}.items():
        (tmp_path / name).write_text(text)
    np.savez(tmp_path / "a.npz", x_train=np.zeros(3))
    (tmp_path / "m.onnx").write_bytes(b"\x08\x09")
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    Image.new("RGB", (4, 4)).save(tmp_path / "i.jpg")
    return made | {path.name: path for path in tmp_path.iterdir() if path.is_file()}


EXPECTED = {
    "run": "run", "network": "network", "data": "images", "fidelity": "fidelity",
    "training": "training", "empty": None,
    "spec.yaml": "spec", "space.yaml": "space", "trials.jsonl": "run file", "notes.txt": None,
    "a.npz": "arrays", "m.onnx": "onnx", "w.pth": "checkpoint",
    "old.pth": "checkpoint", "w.safetensors": "checkpoint", "i.jpg": "image",
}  # fmt: skip


def test_each_kind_is_known(places):
    """By its content where that tells, else by its suffix; an absent path is of no kind."""
    kinds = {name: what_is(place) for name, place in places.items()}
    assert {name: kind and kind.name for name, kind in kinds.items()} == EXPECTED
    assert what_is(places["run"] / "run.yaml").name == "run file"
    assert what_is("nowhere") is None
    (places["data"] / "trials.jsonl").touch()  # a run without its run.yaml has figures, too
    assert what_is(places["data"]) is None
    places["space.yaml"].write_text("extends: mobile\n")
    assert what_is(places["space.yaml"]).name == "space"


def test_no_path_is_of_no_kind(places, capsys, monkeypatch):
    """An empty argument is not the folder that one happens to be in, nor is an error without a file about it."""
    monkeypatch.chdir(places["network"])
    assert what_is("") is None
    for command in ("count", "space", "search"):
        assert main([command, ""]) == 2
        told = capsys.readouterr().err
        assert ("must be the path of a file, got ''" if command == "count" else "must be a space's file, or ") in told
    spec = "{resolution: 32, num_classes: 1000000, stages: [{dim: 1024, depth: 1}]}"
    places["spec.yaml"].write_text(spec)
    assert main(["export", str(places["spec.yaml"]), "--out", "o"]) == 2
    assert "an ONNX file holds at most 2 GiB of weights" in capsys.readouterr().err


WRONG = [
    (["count", "{run}"], "is a run's folder; `modscale report` takes it"),
    (["latency", "{run}"], "is a run's folder"),
    (["scale", "{run}", "--params", "1M"], "is a run's folder"),
    (["count", "{data}"], "is a folder of images; `modscale search SPACE.yaml --data` takes it"),
    (["export", "{data}", "--out", "{empty}/o"], "it looks like a folder of images"),
    (["count", "{space.yaml}"], "(it looks like a search space: `modscale search` and `modscale space` take it)"),
    (["search", "{spec.yaml}"], "`train`, `export` and `context` take it"),
    (["search", "{run}"], "is a run's folder"),
    (["space", "{network}"], "is the folder of one network"),
    (["space", "{trials.jsonl}"], "is a file of a run; `modscale report` takes the run's folder"),
    (["count", "{m.onnx}"], "is an ONNX model; `modscale latency` takes it"),
    (["export", "{m.onnx}", "--out", "{empty}/o"], "is an ONNX model"),
    (["latency", "{a.npz}"], "is a file of arrays; `modscale search SPACE.yaml --data` takes it"),
    (["count", "{w.pth}"], "is a checkpoint; `modscale export MODEL --weights` and `context` take it"),
    (["scale", "{w.safetensors}", "--params", "1M"], "is a checkpoint"),
    (["latency", "{i.jpg}"], "is an image"),
    (["report", "{network}"], "is no run's folder: it has no run.yaml (it looks like the folder of one network: "),
    (["report", "{data}"], "(it looks like a folder of images: `modscale search SPACE.yaml --data` takes it)"),
    (["report", "{run}/.."], "(it looks like a folder of runs: `modscale report`, `watch` and `export` take one"),
    (["watch", "{notes.txt}"], "{notes.txt}: is no folder, as a run is"),
    (["export", "{spec.yaml}", "--weights", "{m.onnx}", "--out", "{empty}/o"], "{m.onnx}: is an ONNX model"),
    (["export", "{spec.yaml}", "--weights", "{space.yaml}", "--out", "{empty}/o"], "{space.yaml}: is a search space"),
    (["report", "{fidelity}"], "(it looks like a folder of `modscale fidelity`: "),
    (["fidelity", "--models", "{run}"], "is a run's folder"),
    (["fidelity", "--proxy", "{spec.yaml}"], "(it looks like a model spec: "),
    (["export", "{spec.yaml}", "--weights", "{data}", "--out", "{empty}/o"], "{data}: is a folder of images"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_the_wrong_kind_of_file_is_named_with_the_command_that_takes_it(places, capsys, arguments, expected):
    """One line and exit code 2: what it is, and who takes it."""

    def filled(text: str) -> str:
        for name, place in places.items():
            text = text.replace(f"{{{name}}}", str(place))
        return text

    assert main([filled(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert filled(expected) in captured.err


def test_a_slip_in_a_file_of_the_right_kind_keeps_its_words(places, capsys):
    """A message of a wrong kind is no substitute for the place of a slip."""
    places["space.yaml"].write_text(SPACE + "bandz: {}\n")
    assert main(["space", str(places["space.yaml"])]) == 2
    assert "bandz: unknown key; did you mean bands?" in capsys.readouterr().err


def test_a_file_that_is_nothing_known_keeps_its_words(places, capsys):
    """Where the kind is not known, the error is the reader's."""
    assert main(["count", str(places["empty"])]) == 2
    assert "must be a plain file" in capsys.readouterr().err
