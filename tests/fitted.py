"""A network that is better than chance in a second: its body is drawn at random, its head fitted in closed form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modscale.datasets.dataset import Dataset, load_dataset
from modscale.document import dump_yaml
from modscale.models.checkpoint import save_weights
from modscale.models.efficientmod import EfficientMod, build_network
from modscale.specs.spec import ModelSpec, parse_spec, spec_to_yaml

NAMES = ("ant", "bee", "cat", "dog", "émeu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FITTED = parse_spec({
    "name": "fitted", "resolution": 32, "num_classes": 5, "layer_scale": None, "stem": {"kernel_size": 7, "stride": 4},
    "stages": [{"dim": 16, "depth": 1}, {"dim": 32, "depth": 1, "attention_depth": 1}],
})  # fmt: skip


def write_images(file: Path, *, train: int = 240, val: int = 200, names: tuple[str, ...] = NAMES) -> Path:
    """A .npz of photographs of nothing: each class has its colours in a coarse pattern, under much noise."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(60, 190, (len(names), 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    arrays = {}
    for split, count in (("train", train), ("val", val)):
        labels = np.arange(count) % len(names)
        noisy = patterns[labels] + rng.normal(0, 45, (count, 32, 32, 3))
        arrays[f"x_{split}"] = noisy.clip(0, 255).astype(np.uint8)
        arrays[f"y_{split}"] = np.array(names)[labels]
    np.savez(file, **arrays)
    return file


def read_images(file: Path) -> Dataset:
    """The images as an export reads them."""
    return load_dataset(str(file), resolution=32, train_images=None, val_images=None, seed=0)


def normalised(images: np.ndarray) -> torch.Tensor:
    """[N, R, R, C] bytes as a network takes them, [N, C, R, R]."""
    scaled = (torch.from_numpy(images).double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return scaled.permute(0, 3, 1, 2).float()


def fitted_network(data: Dataset, spec: ModelSpec = FITTED) -> EfficientMod:
    """Fresh from seed 0, linear layers ten times larger so that every branch counts, the head by ridge regression."""
    network = build_network(spec, seed=0).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and not name.startswith("head"):
                parameter.mul_(10)
        features = network.forward_features(normalised(data.x_train)).mean((2, 3)).double()
        centre = features.mean(0)
        targets = torch.nn.functional.one_hot(torch.from_numpy(data.y_train), spec.num_classes).double()
        moved = features - centre
        weight = torch.linalg.solve(
            moved.T @ moved + 0.1 * torch.eye(moved.shape[1]), moved.T @ (targets - targets.mean(0))
        )
        network.head.weight.copy_(weight.T)
        network.head.bias.copy_(targets.mean(0) - centre @ weight)
    return network


def write_training(folder: Path, images: Dataset, **changes: Any) -> EfficientMod:
    """A folder as `modscale train` leaves it, of a fitted network; `changes` replace keys of its `train.yaml`."""
    data, network = images, fitted_network(images)
    folder.mkdir(parents=True)
    save_weights(network, folder / "best.safetensors")
    (folder / "spec.yaml").write_text(spec_to_yaml(FITTED))
    with torch.inference_mode():
        right = (network(normalised(data.x_val)).argmax(1).numpy() == data.y_val).mean()
    document = {
        "preprocessing": {"resize": "centre square", "mean": list(MEAN), "std": list(STD)},
        "classes": list(data.class_names),
        "data": {"name": data.name, "val_images": len(data.y_val)},
    }
    (folder / "train.yaml").write_text(dump_yaml(document | changes))
    rows = [
        {"epoch": 1, "accuracy": 0.1, "ema_accuracy": 0.05},
        {"epoch": 2, "accuracy": 0.2, "ema_accuracy": float(right)},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return network
