"""Teachers of every kind, held to the data's classes, and what of their answers is learnt."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from tiny_training import make_job
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.deploy.export import export_model
from modscale.document import dump_yaml
from modscale.errors import InputError
from modscale.models.checkpoint import save_weights
from modscale.models.efficientmod import EfficientMod, build_network
from modscale.specs.spec import parse_spec, spec_to_yaml
from modscale.training.full import FullTraining
from modscale.training.settings import IMAGENET, DistillationSettings
from modscale.training.teacher import Teacher, distillation_loss, load_teacher

SPEC = parse_spec({"name": "master", "resolution": 16, "num_classes": 4, "stages": [{"dim": 8, "depth": 1}]})
NAMES = ("a", "b", "c", "d")
CPU = torch.device("cpu")


def images(side: int = 16, number: int = 3) -> Tensor:
    return torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(0))


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.fixture
def master(tmp_path: Path) -> tuple[Path, EfficientMod]:
    """A folder of a network as `export` leaves one, and the network."""
    network = build_network(SPEC, seed=5).eval()
    folder = tmp_path / "master"
    folder.mkdir()
    (folder / "spec.yaml").write_text(spec_to_yaml(SPEC))
    save_weights(network, folder / "model.safetensors")
    return folder, network


def load(name: Any, names: tuple[str, ...] = NAMES, channels: int = 3) -> Teacher:
    return load_teacher(str(name), class_names=names, channels=channels, device=CPU)


def test_a_folder_answers_as_its_network_with_imagenets_normalisation(master: tuple[Path, EfficientMod]) -> None:
    """Where nothing says with which one it was trained."""
    folder, network = master
    assert torch.equal(load(folder).logits(images()), network(normalised(images(), *IMAGENET[3])))


def test_a_folder_of_a_training_has_its_own_normalisation_and_classes(master: tuple[Path, EfficientMod]) -> None:
    """Classes of the same names in another order are others."""
    folder, network = master
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    document = {"classes": list(NAMES), "preprocessing": {"mean": list(mean), "std": list(std)}}
    (folder / "train.yaml").write_text(dump_yaml(document))
    assert torch.allclose(load(folder).logits(images()), network(normalised(images(), mean, std)), atol=1e-6)
    with pytest.raises(InputError, match="other classes than the data, or in another order: a where the data have b"):
        load(folder, ("b", "a", "c", "d"))


def test_images_of_another_size_are_brought_to_the_teachers(master: tuple[Path, EfficientMod]) -> None:
    folder, network = master
    small = F.interpolate(images(24), (16, 16), mode="bilinear", antialias=True)
    assert torch.equal(load(folder).logits(images(24)), network(normalised(small, *IMAGENET[3])))


def test_an_onnx_file_answers_as_the_network_it_was_made_from(
    tmp_path: Path, master: tuple[Path, EfficientMod]
) -> None:
    """Its batch is fixed to 1, and three images are three answers; its metadata are heeded."""
    folder, network = master
    export_model(SPEC, tmp_path / "export", weights=folder / "model.safetensors")
    file = tmp_path / "export" / "model.onnx"
    expected = network(normalised(images(), *IMAGENET[3]))
    assert torch.allclose(load(file).logits(images()), expected, atol=1e-5)
    model = onnx.load(file)
    told = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "classes": list(NAMES)}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in told.items()})
    onnx.save(model, tmp_path / "told.onnx")
    expected = network(normalised(images(), (0.5,) * 3, (0.2,) * 3))
    assert torch.allclose(load(tmp_path / "told.onnx").logits(images()), expected, atol=1e-5)
    with pytest.raises(InputError, match="in another order"):
        load(tmp_path / "told.onnx", NAMES[::-1])


class Stub(nn.Module):
    """What timm would make: a network with its own configuration."""

    num_classes = 4
    pretrained_cfg: dict[str, Any] = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3}  # noqa: RUF012

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("name", ["timm:regnety_160", "regnety_160"])
def test_a_name_of_timms_is_made_by_timm(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Pretrained, at its own size and normalisation."""
    made: list[Any] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        made.append((name, options))
        return Stub()

    timm = SimpleNamespace(
        is_model=lambda name: name == "regnety_160",
        create_model=create_model,
        list_models=lambda: ["regnety_160"],
        __version__="0",
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    teacher = load(name)
    assert made == [("regnety_160", {"pretrained": True, "in_chans": 3})]
    small = F.interpolate(images(), (8, 8), mode="bilinear", antialias=True)
    assert torch.allclose(teacher.logits(images()), Stub()((small - 0.5) / 0.25), atol=1e-5)
    with pytest.raises(InputError, match=r"no network that timm 0 knows.*, got 'resnet0'"):
        load("resnet0")


def test_what_is_no_teacher_is_refused_in_a_line(
    tmp_path: Path, master: tuple[Path, EfficientMod], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other classes, other channels, a bare checkpoint, a broken ONNX file, a name without timm, initial weights."""
    folder, network = master
    monkeypatch.setitem(sys.modules, "timm", None)
    (tmp_path / "broken.onnx").write_bytes(b"none")
    initial = tmp_path / "initial"
    initial.mkdir()
    (initial / "spec.yaml").write_text(spec_to_yaml(SPEC))
    save_weights(network, initial / "model.safetensors", trained=False)
    for name, options, words in (
        (folder, {"names": NAMES[:3]}, "has 4 classes, and the data have 3"),
        (folder, {"channels": 1}, "takes 3 channels, and the images have 1"),
        (folder / "model.safetensors", {}, "must be a folder of `modscale train`"),
        (tmp_path / "broken.onnx", {}, "is no model that ONNX Runtime loads"),
        (tmp_path / "gone.onnx", {}, "no such file"),
        ("regnety_160", {}, "timm is not installed"),
        (initial, {}, "was never trained"),
    ):
        with pytest.raises(InputError, match="--teacher") as caught:
            load(name, **options)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_hard_targets_are_the_teachers_first_choice() -> None:
    """By hand: minus the log of what the pupil gives the class of the largest logit."""
    pupil, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 1.0], [0.0, 5.0]])
    expected = (-math.log(math.e / (math.e + math.e**2)) - math.log(0.5)) / 2
    assert float(distillation_loss(pupil, teacher, DistillationSettings())) == pytest.approx(expected, rel=1e-5)


def test_soft_targets_are_its_probabilities_at_a_temperature() -> None:
    """By hand: the sum of p log(p / q) at the temperature, times its square."""
    pupil, teacher, t = [1.0, 2.0, 0.0], [3.0, 1.0, 2.0], 2.5
    q, p = ([math.exp(v / t) / sum(math.exp(w / t) for w in values) for v in values] for values in (pupil, teacher))
    expected = t * t * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    settings = DistillationSettings(kind="soft", temperature=t)
    found = distillation_loss(torch.tensor([pupil]), torch.tensor([teacher]), settings)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_a_pupil_that_learns_from_its_teacher_alone_comes_nearer_to_it(
    tmp_path: Path, master: tuple[Path, EfficientMod]
) -> None:
    """At a share of 1 the labels do not count: the loss falls though they are those of another order."""
    folder, _ = master
    soft = DistillationSettings(kind="soft", alpha=1.0)
    job = make_job(tmp_path, strength=0.0, distillation=soft, epochs=6, ema_decay=0.0)
    training = FullTraining(replace(job, teacher=str(folder)))
    assert training.prepare().teacher == f"master of {folder}"
    losses = [dict(training.advance(1000.0).row or {})["train_loss"] for _ in range(6)]
    assert losses[-1] < losses[0] * 0.8


def test_a_network_that_gives_masks_teaches_no_classes(tmp_path: Path) -> None:
    """Refused by its spec, before its weights are read."""
    document = {"head": "semantic_fpn", "resolution": 16, "num_classes": 4, "stages": [{"dim": 8, "depth": 1}]}
    (tmp_path / "spec.yaml").write_text(dump_yaml(document))
    (tmp_path / "best.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"spec\.yaml: head: must be of a classifier, got 'semantic_fpn'"):
        load_teacher(str(tmp_path), class_names=("a", "b", "c", "d"), channels=3, device=CPU)
