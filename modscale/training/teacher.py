"""Distillation: another network's answers as a part of what is learnt (the paper's Table 3; its teacher RegNetY-160).

Source: "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531) for soft targets; DeiT (arXiv 2012.12877),
without its token, for hard ones. A teacher sees the very images that its pupil sees, brought to its own size and
normalisation.

Shapes: B batch, C channels, R the pupil's resolution, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.document import read_yaml
from modscale.errors import CheckpointError, InputError, naming_file
from modscale.kinds import SPEC_FILE, TRAIN_FILE, is_network_folder, weights_in
from modscale.models.checkpoint import load_weights
from modscale.models.efficientmod import build_network
from modscale.models.timm_networks import check_name, load_timm
from modscale.rivals import TIMM
from modscale.specs.spec import load_spec
from modscale.training.settings import IMAGENET, DistillationSettings, usual_normalisation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Teacher:
    """A network that is not trained, as a function of its own input."""

    text: str
    """What it is, for the record."""
    answer: Callable[[Tensor], Tensor]
    """Logits [B, K] of normalised images [B, C, S, S]."""
    side: int | None
    """S, pixels; None where it takes any."""
    channels: int | None
    """C; None where that is not known."""
    classes: int | None
    """K; None where that is not known before it has answered."""
    class_names: tuple[str, ...] | None
    """In the order of its logits, where it says so."""
    mean: tuple[float, ...]
    """A number a channel, of pixels from 0 to 1."""
    std: tuple[float, ...]
    """A number a channel."""

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Its answers [B, K] to images [B, C, R, R] whose pixels go from 0 to 1."""
        if self.side is not None and images.shape[-1] != self.side:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return self.answer((images - mean) / std).float()


def distillation_loss(pupil: Tensor, teacher: Tensor, settings: DistillationSettings) -> Tensor:
    """The teacher's part of the loss of logits [B, K]; soft targets' gradient keeps its size at any temperature."""
    if settings.kind == "hard":
        return F.cross_entropy(pupil, teacher.argmax(1))
    t = settings.temperature
    return F.kl_div(
        (pupil / t).log_softmax(1), (teacher / t).log_softmax(1), reduction="batchmean", log_target=True
    ) * (t * t)


def load_teacher(name: str, *, class_names: Sequence[str], channels: int, device: torch.device) -> Teacher:
    """The teacher that `--teacher` names: a folder of `train` or `export`, an ONNX file, or a name of timm's.

    Raises:
        InputError: none of these, or one of other classes or channels than the data.
    """
    place = Path(name)
    if is_network_folder(place):
        teacher = _of_folder(place, device)
    elif name.lower().endswith(".onnx"):
        teacher = _of_onnx(name, channels)
    elif place.exists():
        rule = "must be a folder of `modscale train` or `export` (spec.yaml and weights), an .onnx, or a name of timm's"
        raise InputError(rule, place="--teacher", value=name)
    else:
        teacher = _of_timm(name, channels, device)
    if teacher.channels not in (None, channels):
        rule = f"takes {teacher.channels} channels, and the images have {channels}"
        raise InputError(rule, file=name, place="--teacher")
    found = teacher.classes
    if found is None:
        found = teacher.logits(torch.zeros(1, channels, teacher.side or 32, teacher.side or 32, device=device)).shape[1]
    if found != len(class_names):
        raise InputError(f"has {found} classes, and the data have {len(class_names)}", file=name, place="--teacher")
    if teacher.class_names is not None and teacher.class_names != tuple(class_names):
        theirs, ours = next(
            pair for pair in zip(teacher.class_names, class_names, strict=True) if pair[0] != pair[1]
        )  # fmt: skip
        rule = f"has other classes than the data, or in another order: {theirs} where the data have {ours}"
        raise InputError(rule, file=name, place="--teacher")
    return teacher


def _of_folder(folder: Path, device: torch.device) -> Teacher:
    spec = load_spec(folder / SPEC_FILE)
    if spec.head != "classifier":
        raise InputError("must be of a classifier", file=folder / SPEC_FILE, place="head", value=spec.head)
    weights = weights_in(folder)
    if weights is None:
        raise CheckpointError("has no weights", file=folder, place="--teacher")
    network = build_network(spec, seed=0)
    loaded = load_weights(network, weights)
    if not loaded.trained:
        raise CheckpointError("was never trained: nothing can be learnt from it", file=weights, place="--teacher")
    mean, std = usual_normalisation(spec.in_chans)
    class_names = None
    if (folder / TRAIN_FILE).is_file():
        mean, std, class_names = read_preprocessing(folder / TRAIN_FILE)
    return Teacher(
        text=f"{spec.name} of {folder}",
        answer=_frozen(network, device),
        side=spec.resolution,
        channels=spec.in_chans,
        classes=spec.num_classes,
        class_names=class_names,
        mean=mean,
        std=std,
    )


def read_preprocessing(file: Path) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Mean, deviation and class names in a `train.yaml`. Raises InputError."""
    with naming_file(file):
        document = read_yaml(file)
        try:
            values: Any = document
            return (
                tuple(float(value) for value in values["preprocessing"]["mean"]),
                tuple(float(value) for value in values["preprocessing"]["std"]),
                tuple(str(name) for name in values["classes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("is not what `modscale train` writes: it lacks preprocessing or classes") from error


def _of_onnx(name: str, channels: int) -> Teacher:
    """A classifier in an ONNX file; what its metadata say of preprocessing and classes is heeded."""
    from modscale.deploy.runtime import open_session

    if not Path(name).is_file():
        raise InputError("no such file", place="--teacher", value=name)
    try:
        session = open_session(name, threads=torch.get_num_threads())
    except Exception as error:  # a dozen kinds, one for each status code
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"is no model that ONNX Runtime loads: {reason}", file=name, place="--teacher") from error
    feeds = session.get_inputs()
    dims = list(feeds[0].shape) if feeds else []
    if len(feeds) != 1 or len(dims) != 4 or feeds[0].type != "tensor(float)":
        rule = "must have one input, images [B, C, R, R] of float32"
        raise InputError(rule, file=name, place="--teacher", value=[(feed.type, feed.shape) for feed in feeds])
    outputs = [session.get_outputs()[0].name]
    metadata = {key: _json(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    mean, std = usual_normalisation(channels)
    classes = metadata.get("classes")
    batch = dims[0] if isinstance(dims[0], int) and dims[0] > 0 else None

    def answer(images: Tensor) -> Tensor:
        values = images.cpu().numpy()
        step = batch or len(values)
        parts = []
        for first in range(0, len(values), step):
            part = values[first : first + step]
            missing = step - len(part)  # a fixed batch is filled up, and what that gives is dropped
            filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
            parts.append(session.run(outputs, {feeds[0].name: filled})[0][: len(part)])
        return torch.from_numpy(np.concatenate(parts)).to(images.device)

    return Teacher(
        text=f"ONNX {Path(name).name}",
        answer=answer,
        side=dims[2] if isinstance(dims[2], int) else None,
        channels=dims[1] if isinstance(dims[1], int) else None,
        classes=None,
        class_names=tuple(map(str, classes)) if isinstance(classes, list) else None,
        mean=_numbers(metadata.get("mean"), mean),
        std=_numbers(metadata.get("std"), std),
    )


def _numbers(value: object, default: tuple[float, ...]) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(isinstance(item, (int, float)) for item in value):
        return default
    return tuple(map(float, value))


def _of_timm(name: str, channels: int, device: torch.device) -> Teacher:
    """A pretrained network of timm's, where that is installed and can be loaded."""
    plain = name.removeprefix(TIMM)
    try:
        check_name(plain, "--teacher")
    except InputError as error:
        error.rule = f"is no folder of `modscale train` or `export` and no .onnx; as a name, it {error.rule}"
        raise
    timm = load_timm(plain)
    try:
        network: nn.Module = timm.create_model(plain, pretrained=True, in_chans=channels)
    except Exception as error:
        raise InputError(f"timm cannot load it: {error}", place="--teacher", value=name) from error
    config: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    size = config.get("input_size")
    return Teacher(
        text=f"timm {plain}",
        answer=_frozen(network, device),
        side=int(size[-1]) if size else None,
        channels=channels,
        classes=int(getattr(network, "num_classes", 0)) or None,
        class_names=None,
        mean=tuple(config.get("mean") or IMAGENET[3][0]),
        std=tuple(config.get("std") or IMAGENET[3][1]),
    )


def _frozen(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    return network.to(device).eval().requires_grad_(False)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
