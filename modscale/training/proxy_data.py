"""The data of a proxy training as tensors on its device.

Shapes: N training and M held-out images, B batch, C channels, R side in pixels.
"""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modscale.datasets.dataset import Dataset
from modscale.errors import ProviderError
from modscale.settings import ProxySettings, check_kernels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProxyData:
    """A data set as tensors on one device, prepared once for all trials; bytes, a quarter of the memory of floats."""

    x_train: Tensor
    """[N, C, R, R], uint8, in channels-last memory."""
    y_train: Tensor
    """[N], int64; of masks [N, R, R], int16, 0 to K - 1 or `IGNORED`."""
    x_val: Tensor
    """[M, C, R, R], uint8, in channels-last memory."""
    y_val: Tensor
    """[M], or [M, R, R], as `y_train`."""
    mean: Tensor
    """[C, 1, 1], float32, over the training images."""
    deviation: Tensor
    """[C, 1, 1], float32, over the training images; at least 1, so that a constant channel stays finite."""
    num_classes: int
    """Outputs of the head."""
    cores: int | None = None
    """How many threads of a training run at once, at most; what they compute is that of the settings' threads."""
    known: dict[Any, Any] = field(default_factory=dict)
    """Trainings on these data whose results are wanted again, see `proxies.py`."""

    @property
    def is_dense(self) -> bool:
        """Whether every pixel has a class, and not only the image."""
        return self.y_train.ndim == 3

    @property
    def device(self) -> torch.device:
        return self.x_train.device

    def normalise(self, images: Tensor) -> Tensor:
        """Images [B, C, R, R], uint8, as float32: zero mean and unit deviation a channel over the training images."""
        return (images.float() - self.mean) / self.deviation


def resolve_device(settings: ProxySettings) -> torch.device:
    """The device to train on. Raises ProviderError where CUDA is asked for and absent."""
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise ProviderError("no CUDA device is available to torch", place="proxy.device", value="cuda")
    return torch.device("cuda" if available and settings.device != "cpu" else "cpu")


def describe_device(settings: ProxySettings) -> str:
    """The device to train on, as in `cpu` or `cuda (NVIDIA H200)`. Raises ProviderError, see `resolve_device`."""
    device = resolve_device(settings)
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def prepare(dataset: Dataset, settings: ProxySettings, *, cores: int | None = None) -> ProxyData:
    """The data set as tensors on the settings' device; `cores` as in `ProxyData`.

    Raises ProviderError, see `resolve_device`, and InputError, see `check_kernels`.
    """
    device = resolve_device(settings)
    check_kernels(settings)
    x_train, x_val = (
        torch.from_numpy(x).to(device).permute(0, 3, 1, 2)  # [N, H, W, C] to [N, C, H, W], the memory as it was
        for x in (dataset.x_train, dataset.x_val)
    )
    moments = [_moments(x_train[:, channel]) for channel in range(x_train.shape[1])]
    mean, deviation = torch.tensor(moments, device=device)[..., None, None].unbind(1)
    return ProxyData(
        x_train=x_train,
        y_train=torch.from_numpy(dataset.y_train).to(device),
        x_val=x_val,
        y_val=torch.from_numpy(dataset.y_val).to(device),
        mean=mean,
        deviation=deviation.clamp_min(1.0),
        num_classes=dataset.num_classes,
        cores=cores,
    )


def _moments(channel: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of bytes [N, R, R], from how often each occurs: exact, without a copy as floats."""
    counts = [0] * 256
    for images in torch.split(channel, 1024):
        found = torch.bincount(images.flatten(), minlength=256).tolist()
        counts = [count + more for count, more in zip(counts, found, strict=True)]
    total = sum(counts)
    first = sum(count * value for value, count in enumerate(counts))
    second = sum(count * value * value for value, count in enumerate(counts))
    return first / total, math.sqrt((second * total - first * first) / total / max(1, total - 1))


def release_memory(data: ProxyData) -> None:
    """Frees what a training that has returned left in reference cycles, and gives it back to the GPU.

    ONNX Runtime is timed there next.
    """
    gc.collect()
    if data.device.type == "cuda":
        torch.cuda.empty_cache()
