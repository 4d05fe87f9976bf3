"""The whole of a look at the context: the pixels as the training had them, a figure for each image, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitted import MEAN, STD, normalised
from PIL import Image
from tiny_specs import SMALL, small

from modscale.api import context
from modscale.api.context import figure_files
from modscale.cli.main import main
from modscale.document import dump_yaml
from modscale.errors import InputError
from modscale.models.checkpoint import save_weights
from modscale.models.context_maps import context_maps
from modscale.models.efficientmod import EfficientMod, build_network
from modscale.specs.spec import ModelSpec, spec_to_yaml

RunJson = Callable[..., dict[str, Any]]


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> RunJson:
    def run(*arguments: object) -> dict[str, Any]:
        assert main(["context", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def write_image(file: Path, *, side: int = 32, seed: int = 0) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file, pixels


def write_network(folder: Path, spec: ModelSpec = SMALL, *, trained: bool = True) -> EfficientMod:
    """A folder as a training leaves it."""
    network = build_network(spec, seed=4).eval()
    folder.mkdir()
    save_weights(network, folder / "best.safetensors", trained=trained)
    (folder / "spec.yaml").write_text(spec_to_yaml(spec))
    document = {
        "preprocessing": {"resize": "centre square", "mean": list(MEAN), "std": list(STD)},
        "classes": [f"class {i}" for i in range(spec.num_classes)],
        "data": {"name": "mine"},
    }
    (folder / "train.yaml").write_text(dump_yaml(document))
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "accuracy": 0.4}\n')
    return network


def test_the_maps_are_of_the_pixels_as_the_training_had_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A training's folder gives its weights and its normalisation; each image has its own figure."""
    network = write_network(tmp_path / "run")
    files, pixels = zip(*(write_image(tmp_path / f"{name}.png", seed=i) for i, name in enumerate("ab")), strict=True)
    drawn: list[Any] = []
    monkeypatch.setattr(context, "draw_context", lambda image, title: drawn.append(image) or b"figure")
    out = tmp_path / "new" / "out"
    assert main(["context", str(tmp_path / "run"), *map(str, files), "--out", str(out), "--json"]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert told.err == ""
    assert document["images"] == [str(out / "a.context.png"), str(out / "b.context.png")]
    assert document["trained"] is True
    assert document["loaded"]["file"] == str(tmp_path / "run" / "best.safetensors")
    for image, given in zip(drawn, pixels, strict=True):
        assert np.array_equal(image.pixels, given)
        expected = context_maps(network, normalised(given[None]))
        assert [one.name for one in image.maps] == ["stage 1, block 2", "stage 2, block 2"]
        assert [one.places for one in image.maps] == [(0.5, 4), (0.5, 8)]
        for seen, one in zip(image.maps, expected, strict=True):
            assert torch.allclose(torch.from_numpy(seen.values), one.values[0], atol=1e-6)
    assert {file.read_bytes() for file in out.iterdir()} == {b"figure"}


def test_figures_are_png_and_an_untrained_network_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of any spec; the same command again writes them anew."""
    spec = tmp_path / "net.yaml"
    spec.write_text(spec_to_yaml(SMALL))
    file, _ = write_image(tmp_path / "photo.jpg", side=50)
    for _ in range(2):
        assert main(["context", str(spec), str(file), "--out", str(tmp_path / "out"), "--json"]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out)["trained"] is False
        assert "was never trained (the weights are fresh" in told.err
    with Image.open(tmp_path / "out" / "photo.context.png") as figure:
        assert figure.format == "PNG"
        assert figure.height > 300


def test_a_file_that_says_it_is_untrained_is_told_too(
    capsys: pytest.CaptureFixture[str], run_json: RunJson, tmp_path: Path
) -> None:
    write_network(tmp_path / "run", trained=False)
    file, _ = write_image(tmp_path / "a.png")
    assert main(["context", str(tmp_path / "run"), str(file), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "never trained (so its file says)" in told.err
    assert str(tmp_path / "a.context.png") in told.out


def test_a_network_of_one_channel_sees_the_grey(
    monkeypatch: pytest.MonkeyPatch, run_json: RunJson, tmp_path: Path
) -> None:
    """Of a grey photograph its own values."""
    (tmp_path / "net.yaml").write_text(spec_to_yaml(replace(SMALL, in_chans=1)))
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    seen: list[np.ndarray] = []
    monkeypatch.setattr(context, "draw_context", lambda image, title: seen.append(image.pixels) or b"")
    run_json(tmp_path / "net.yaml", tmp_path / "grey.png", "--out", tmp_path)
    assert np.array_equal(seen[0], grey[..., None])


def test_images_of_one_name_are_numbered_and_no_image_is_written_over(tmp_path: Path) -> None:
    """`cat/1.jpg` and `dog/1.jpg` are two; a figure that would lie where an image does is refused."""
    images = [tmp_path / "cat" / "1.jpg", tmp_path / "dog" / "1.jpg", tmp_path / "1-2.png"]
    names = [file.name for file in figure_files(images, tmp_path)]
    assert names == ["1.context.png", "1-2.context.png", "1-2-2.context.png"]
    (tmp_path / "cat").mkdir()
    again = [tmp_path / "1.jpg", tmp_path / "1.context.png"]
    with pytest.raises(InputError, match="is one of the images"):
        figure_files(again, tmp_path / "cat" / "..")


@pytest.mark.parametrize(
    ("spec", "image", "extra", "message"),
    [
        (SMALL, "none.png", [], "none.png: "),
        (SMALL, "text.png", [], "text.png: not a readable image"),
        (SMALL, ".", [], "not a readable image"),
        (SMALL, "good.png", ["--weights", "text.png"], "text.png: "),
        (SMALL, "good.png", ["--weights", "other.safetensors"], "other.safetensors: does not fit the network"),
        (SMALL, "good.png", ["--key", "ema"], "--key: goes with --weights"),
        (small({"dim": 8, "depth": 1, "block": "mbconv"}), "good.png", [], "has no block with a context branch"),
        (replace(SMALL, in_chans=4), "good.png", [], "in_chans: must be 1 or 3 to look at images, got 4"),
        (SMALL, "good.png", ["--out", "text.png"], "text.png: --out: cannot be created"),
        (SMALL, "good.png", ["--resolution", "0"], "--resolution"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    spec: ModelSpec,
    image: str,
    extra: list[str],
    message: str,
) -> None:
    """An image that cannot be read is found before the first figure is drawn."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "first.png")
    write_image(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "net.yaml").write_text(spec_to_yaml(spec))
    save_weights(build_network(small({"dim": 8, "depth": 1}), seed=0), tmp_path / "other.safetensors")
    before = sorted(tmp_path.iterdir())
    assert main(["context", "net.yaml", "first.png", image, "--out", "out", *extra]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err.strip().splitlines()[-1]
    assert "Traceback" not in told.err
    assert sorted(tmp_path.iterdir()) == before


def test_weights_that_are_not_finite_in_use_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Finite weights may still overflow; a map of nothing is not drawn."""
    network = write_network(tmp_path / "run")
    with torch.no_grad():
        network.patch_embed.norm.weight.fill_(3e38)
        network.patch_embed.norm.bias.fill_(3e38)
    save_weights(network, tmp_path / "run" / "best.safetensors")
    file, _ = write_image(tmp_path / "a.png")
    assert main(["context", str(tmp_path / "run"), str(file), "--out", str(tmp_path)]) == 2
    assert "best.safetensors: stage 1: gives a context that is not finite" in capsys.readouterr().err
    assert not (tmp_path / "a.context.png").exists()
