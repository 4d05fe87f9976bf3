"""The proxy task: a short, real training of a candidate, scored on held-out images.

Same spec, data, settings, seed, thread count and machine give the same result bit for bit on CPU.

Shapes: N images, B batch, C channels, R side in pixels.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.datasets.dataset import Dataset
from modscale.errors import ModscaleError, ProviderError, TrialFailed
from modscale.machine import available_cores
from modscale.models.efficientmod import build_network
from modscale.settings import ProxySettings
from modscale.specs.spec import ModelSpec
from modscale.training import recipe

EVAL_BATCH = 250
"""Validation images a forward pass."""
LAST_STEPS = 50
"""Steps over which the final training loss is averaged."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProxyData:
    """A data set as tensors on one device, prepared once for all trials; bytes, a quarter of the memory of floats."""

    x_train: Tensor
    """[N, C, R, R], uint8, in channels-last memory."""
    y_train: Tensor
    """[N], int64."""
    x_val: Tensor
    """[M, C, R, R], uint8, in channels-last memory."""
    y_val: Tensor
    """[M], int64."""
    mean: Tensor
    """[C, 1, 1], float32, over the training images."""
    deviation: Tensor
    """[C, 1, 1], float32, over the training images; at least 1, so that a constant channel stays finite."""
    num_classes: int
    """Outputs of the head."""

    @property
    def device(self) -> torch.device:
        return self.x_train.device

    def normalise(self, images: Tensor) -> Tensor:
        """Images [B, C, R, R], uint8, as float32: zero mean and unit deviation a channel over the training images."""
        return (images.float() - self.mean) / self.deviation


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyResult:
    """What one proxy training gave."""

    accuracy: float
    """Share of the validation images classified correctly, 0 to 1."""
    correct: int
    """Validation images classified correctly."""
    val_images: int
    """Validation images."""
    train_loss: float
    """Mean label-smoothed cross-entropy over the last `LAST_STEPS` steps."""
    steps: int
    """Optimiser steps."""
    seconds: float
    """Wall time of training and validation."""
    epoch_losses: tuple[float, ...]
    """Mean training loss of each epoch."""


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


def prepare(dataset: Dataset, settings: ProxySettings) -> ProxyData:
    """The data set as tensors on the settings' device. Raises ProviderError, see `resolve_device`."""
    device = resolve_device(settings)
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


def train_proxy(spec: ModelSpec, data: ProxyData, settings: ProxySettings, *, seed: int) -> ProxyResult:
    """Trains the network of `spec` from scratch on the proxy task and scores it on the held-out images.

    The seed sets the initial weights, the order of the images, the flips and drop path; torch's global random state
    and number of threads are left as they were.

    Raises:
        TrialFailed: the training diverged, ran out of memory, or the stem does not fit the proxy's images.
    """
    start = time.perf_counter()
    spec = proxy_spec(spec, data, settings)
    out_of_memory = TrialFailed("out of memory in the proxy training")
    with _threads(settings.threads or available_cores()), out_of_memory_as(out_of_memory), _seeded(seed, data.device):
        network = build_network(spec, seed=seed)
        recipe.rescale_weights(network)
        recipe.damp_branches(network, settings.layer_scale)
        network.to(data.device)
        losses = _train(network, data, settings, seed)
        correct = _count_correct(network, data)
    total = len(data.y_val)
    return ProxyResult(
        accuracy=correct / total,
        correct=correct,
        val_images=total,
        train_loss=losses.flatten()[-LAST_STEPS:].mean().item(),
        steps=losses.numel(),
        seconds=time.perf_counter() - start,
        epoch_losses=tuple(losses.mean(1).tolist()),
    )


def proxy_spec(spec: ModelSpec, data: ProxyData, settings: ProxySettings) -> ModelSpec:
    """The network that is trained in place of `spec`: the task's input and classes, and the proxy's LayerScale.

    Raises:
        TrialFailed: the stem's kernel is larger than the proxy's images.
    """
    channels, side = data.x_train.shape[1:3]
    small = replace(
        spec,
        resolution=side,
        in_chans=channels,
        num_classes=data.num_classes,
        layer_scale=None if spec.layer_scale is None else settings.layer_scale,
    )
    if small.sides()[0] < 1:
        raise TrialFailed(f"the stem's {spec.stem.kernel_size} px kernel does not fit the proxy's {side} px images")
    return small


def _train(network: nn.Module, data: ProxyData, settings: ProxySettings, seed: int) -> Tensor:
    """Trains in place; the loss of every step, [epochs, steps an epoch]."""
    network.train()
    count = len(data.y_train)
    batch = min(settings.batch_size, count)
    per_epoch = count // batch  # the incomplete batch is dropped: BatchNorm cannot train on a single image
    steps = per_epoch * settings.epochs
    optimiser = torch.optim.AdamW(recipe.parameter_groups(network, settings), fused=True)
    generator = torch.Generator().manual_seed(seed)
    losses = torch.zeros(settings.epochs, per_epoch, device=data.device)
    for epoch in range(settings.epochs):
        order = torch.randperm(count, generator=generator).to(data.device)
        for i in range(per_epoch):
            factor = recipe.learning_rate_factor(epoch * per_epoch + i, steps, settings.warmup)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * group["scale"] * factor
            rows = order[i * batch : (i + 1) * batch]
            images = data.normalise(data.x_train[rows])
            images = _flip(images, generator) if settings.flip else images
            loss = F.cross_entropy(network(images), data.y_train[rows], label_smoothing=settings.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            optimiser.step()
            losses[epoch, i] = loss.detach()
        if not losses[epoch].isfinite().all():
            raise TrialFailed(f"training diverged: the loss is not finite in epoch {epoch + 1}")
    return losses


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the images [B, C, R, R] mirrored left to right with probability a half."""
    mirrored = torch.rand(len(images), generator=generator).lt(0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@torch.inference_mode()
def _count_correct(network: nn.Module, data: ProxyData) -> int:
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.device)
    for first in range(0, len(data.y_val), EVAL_BATCH):
        batch = slice(first, first + EVAL_BATCH)
        logits = network(data.normalise(data.x_val[batch]))
        if not logits.isfinite().all():
            raise TrialFailed("training diverged: the logits are not finite")
        correct += (logits.argmax(1) == data.y_val[batch]).sum()
    return int(correct)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Drop path draws from the global generator: seeded here, and put back afterwards."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def out_of_memory_as(failure: ModscaleError) -> Iterator[None]:
    """Raises `failure` in place of torch's, or Python's, errors of having no memory left, on either device."""
    texts = ("not enough memory", "can't allocate memory", "out of memory")
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in texts):
            raise failure from error
        raise
