"""The task of segmentation: its score by hand, its training whole, resumed, and from a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modscale.cli.main import main
from modscale.errors import InputError
from modscale.specs.spec import parse_spec
from modscale.training.full import FullTraining
from modscale.training.job import BEST_FILE, LAST_FILE, TrainJob, best_scores
from modscale.training.segmentation import MaskBatch, Segmentation
from modscale.training.settings import TrainSettings, parse_train, resolved

SPEC = parse_spec({
    "name": "tiny", "resolution": 16, "drop_path_rate": 0.2,
    "stages": [{"dim": 8, "depth": 1, "mlp_ratios": [2]}, {"dim": 8, "depth": 1, "mlp_ratios": [1]}],
})  # fmt: skip


def write_scenes(root: Path, train: int = 12, val: int = 6) -> Path:
    """Bright squares (class 2) on a dark ground (class 1), a column without labels."""
    rng = np.random.default_rng(0)
    for split, count in (("training", train), ("validation", val)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            numbers = np.ones((20, 28), dtype=np.uint8)
            top, left = rng.integers(0, 10, 2)
            numbers[top : top + 9, left : left + 12] = 2
            pixels = rng.integers(0, 60, (20, 28, 3)) + (numbers[..., None] - 1) * 150
            numbers[:, 27] = 0
            Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / split / f"{i}.png")
            Image.fromarray(numbers).save(root / "annotations" / split / f"{i}.png")
    return root


def make_job(place: Path, name: str = "out", **settings: Any) -> TrainJob:
    """Three epochs of three steps."""
    if not (place / "scenes").exists():
        write_scenes(place / "scenes")
    folder = place / name
    folder.mkdir()
    values: dict[str, Any] = {
        "task": "segmentation", "epochs": 3, "batch_size": 4, "threads": 1, "ema_decay": 0.5, "strength": 1.0,
        "learning_rate": 3e-3,
    }  # fmt: skip
    return TrainJob(
        spec=SPEC, source=str(place / "scenes"), settings=TrainSettings(**(values | settings)), seed=1, folder=folder
    )


def train(job: TrainJob) -> list[dict[str, Any]]:
    training = FullTraining(job)
    training.prepare()
    while not training.advance(1000.0).is_over:
        pass
    return [{key: value for key, value in row.items() if key != "seconds"} for row in training.rows]


def test_the_score_is_that_of_the_pixels_of_the_validation_images(tmp_path: Path) -> None:
    """An oracle that tells classes by brightness gets nearly all pixels; one that answers the ground, its share."""
    training = FullTraining(make_job(tmp_path))
    training.prepare()
    task = training.task
    assert isinstance(task, Segmentation)
    mean, std = task.settings.normalisation

    def oracle(images: torch.Tensor) -> torch.Tensor:
        red = images[:, 0] * std[0] + mean[0]
        return torch.stack([0.4 - red, red - 0.4], 1)

    def ground(images: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.ones_like(images[:, 0]), torch.zeros_like(images[:, 0])], 1)

    module = torch.nn.Module()
    module.forward = oracle
    assert task.evaluate(module)["miou"] > 0.85
    masks = np.concatenate([np.stack([mask for _, mask in scenes]) for scenes in task.scenes.read_val([np.arange(6)])])
    share = float((masks == 0).sum() / (masks >= 0).sum())
    module.forward = ground
    found = task.evaluate(module)
    assert found["accuracy"] == pytest.approx(share)
    assert found["miou"] == pytest.approx(share / 2)


def test_unlabelled_pixels_teach_nothing(tmp_path: Path) -> None:
    """The loss is the mean over labelled pixels by hand, and 0 where there are none."""
    training = FullTraining(make_job(tmp_path))
    training.prepare()
    logits = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    masks = torch.tensor([[[0, -1], [1, -1]]])
    probabilities = logits.softmax(1)
    expected = -(probabilities[0, 0, 0, 0].log() + probabilities[0, 1, 1, 0].log()) / 2
    assert training.task.loss(logits, MaskBatch(images=logits, masks=masks)) == pytest.approx(float(expected))
    assert float(training.task.loss(logits, MaskBatch(images=logits, masks=masks * 0 - 1))) == 0.0


@pytest.mark.parametrize("steps", [2, 5])
def test_a_training_goes_on_from_any_step_to_the_same_weights(tmp_path: Path, steps: int) -> None:
    """Bit for bit, dropout and crops included; and it learns: mIoU rises above what the ground alone gives."""
    straight = make_job(tmp_path, "straight")
    rows = train(straight)
    job = make_job(tmp_path, checkpoint_minutes=1e-9)
    training = FullTraining(job)
    training.prepare()
    for _ in range(steps):
        training.advance(0.0)
    torch.rand(3)
    assert train(replace(job, goes_on=True)) == rows
    for name in (BEST_FILE, LAST_FILE):
        assert (job.folder / name).read_bytes() == (straight.folder / name).read_bytes()
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_images_that_are_not_held_give_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read ahead from the folder, where memory would not hold them."""
    job = make_job(tmp_path)
    held = FullTraining(job)
    held.prepare()
    monkeypatch.setattr("modscale.training.images.HELD_SHARE", 1e-12)
    read = FullTraining(job)
    assert any("decoded as they are needed" in note for note in read.prepare().data["notes"])
    for one, two in zip(held.task.batches(1, 1), read.task.batches(1, 1), strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.masks, two.masks)


def test_the_best_scores_are_those_of_the_better_of_network_and_average() -> None:
    """By mIoU, whatever their accuracies are."""
    row = {"miou": 0.3, "accuracy": 0.9, "ema_miou": 0.4, "ema_accuracy": 0.8}
    assert best_scores(row) == {"miou": 0.4, "accuracy": 0.8}
    assert best_scores({"accuracy": 0.5, "ema_accuracy": 0.4}) == {"accuracy": 0.5}


def test_what_would_leave_a_mask_behind_is_not_done(tmp_path: Path) -> None:
    """Nothing but crops, flips and colours, and no smoothing; asked for, it is refused."""
    found = resolved(
        parse_train({"task": "segmentation"}), epochs=300, batch=8, train_images=100, channels=3, resolution=32
    )
    assert (found.randaugment_probability, found.erasing, found.mix_probability) == (0.0, 0.0, 0.0)
    assert (found.crop, found.label_smoothing, found.jitter, found.scales) == (1.0, 0.0, 0.4, (0.5, 2.0))
    short = {"epochs": 10, "batch": 8, "train_images": 100, "channels": 3, "resolution": 32}
    assert resolved(parse_train({"task": "segmentation"}), **short).scales == pytest.approx((2**-0.1, 2**0.1))
    assert resolved(parse_train({"task": "segmentation", "scales": [0.7, 2]}), **short).scales == (0.7, 2.0)
    for key, value in (("erasing", 0.2), ("mix_probability", 1), ("val_split", 0.1), ("crop", 0.5)):
        with pytest.raises(InputError, match=rf"{key}: is not for task: segmentation"):
            parse_train({"task": "segmentation", key: value})
    for value in ([2, 1], [1], 3):
        with pytest.raises(InputError, match=r"scales: must"):
            parse_train({"scales": value})


def test_the_command_trains_and_refuses_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mIoU and the accuracy of pixels in its document, the head in its spec; a teacher is refused with code 2."""
    write_scenes(tmp_path / "scenes")
    (tmp_path / "spec.yaml").write_text("resolution: 16\nstages: [{dim: 8, depth: 1}, {dim: 8, depth: 1}]\n")
    (tmp_path / "seg.yaml").write_text("task: segmentation\nepochs: 1\nbatch_size: 4\nthreads: 1\n")
    command = [
        "train", str(tmp_path / "spec.yaml"), "--data", str(tmp_path / "scenes"), "--settings",
        str(tmp_path / "seg.yaml"), "--json", "--out",
    ]  # fmt: skip
    assert main([*command, str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"accuracy", "miou", "epochs", "spec", "weights"} <= document.keys()
    assert "head: semantic_fpn" in Path(document["spec"]).read_text()
    assert main([*command, str(tmp_path / "other"), "--teacher", "teacher.onnx"]) == 2
    assert "--teacher: tells the classes of images, not of pixels" in capsys.readouterr().err
