"""The proxy task: a short, real training of a candidate, scored on held-out images.

It can be scored on its way too, at rungs: shares of its steps at which it waits to be told to go on. The schedule is
that of the whole training, and scoring disturbs nothing, so the end is the same to the bit with rungs and without.

Same spec, data, settings, seed, thread count and machine give the same result bit for bit on CPU; so do other counts,
up to the number of the batch's slices, unless the network is large and has BatchNorm (`slices.py`).

Shapes: N images, B batch, C channels, R side in pixels.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.datasets.dataset import Dataset
from modscale.errors import ModscaleError, ProviderError, TrialFailed
from modscale.machine import available_cores
from modscale.models.efficientmod import build_network
from modscale.settings import ProxySettings
from modscale.specs.spec import ModelSpec, StageSpec
from modscale.training import recipe
from modscale.training.slices import Slices

EVAL_BATCH = 250
"""Validation images a forward pass."""
LEAST_WIDTH = 8
"""Channels below which no stage is thinned."""
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
    known: dict[Any, tuple[ProxyResult, ...]] = field(default_factory=dict)
    """Trainings on these data whose results are wanted again, see `proxies.py`."""

    @property
    def device(self) -> torch.device:
        return self.x_train.device

    def normalise(self, images: Tensor) -> Tensor:
        """Images [B, C, R, R], uint8, as float32: zero mean and unit deviation a channel over the training images."""
        return (images.float() - self.mean) / self.deviation


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyResult:
    """What one proxy training gave, so far or at its end."""

    accuracy: float
    """Share of the validation images classified correctly, 0 to 1."""
    correct: int
    """Validation images classified correctly."""
    val_images: int
    """Validation images."""
    val_loss: float
    """Mean cross-entropy over the validation images, nats; without label smoothing."""
    val_loss_error: float
    """Its standard error over the validation images, nats."""
    train_loss: float
    """Mean label-smoothed cross-entropy over the last `LAST_STEPS` steps."""
    steps: int
    """Optimiser steps."""
    seconds: float
    """Wall time of training and validation, without the pauses."""
    epoch_losses: tuple[float, ...]
    """Mean training loss of each epoch, of the last one as far as it has come."""


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
    (result,) = train_to_rungs(spec, data, settings, seed=seed)
    return result


def train_to_rungs(
    spec: ModelSpec, data: ProxyData, settings: ProxySettings, *, seed: int, rungs: Sequence[float] = (1.0,)
) -> Iterator[ProxyResult]:
    """As `train_proxy`, and gives what it has come to at each of `rungs`, rising shares of the steps that end in 1.

    It trains on only when the next result is asked for. In between it holds its memory, but neither the random state
    nor the threads.

    Raises:
        TrialFailed: see `train_proxy`.
    """
    spec = proxy_spec(spec, data, settings)
    random_state = _RandomState(seed, data.device)
    out_of_memory = TrialFailed("out of memory in the proxy training")
    start = time.perf_counter()
    with _threads(1), out_of_memory_as(out_of_memory):
        network = _started(spec, data, settings, seed)
    seconds = time.perf_counter() - start
    batch = min(settings.batch_size, len(data.y_train))
    with Slices(network, spec, items=batch, threads=settings.threads or available_cores()) as slices:
        legs = _legs(network, data, settings, seed, rungs, slices)
        for _ in rungs:
            start = time.perf_counter()
            with _threads(slices.own_threads), out_of_memory_as(out_of_memory), random_state.in_use():
                result = next(legs)
            seconds += time.perf_counter() - start
            yield replace(result, seconds=seconds)


def _started(spec: ModelSpec, data: ProxyData, settings: ProxySettings, seed: int) -> nn.Module:
    """The network before its first step."""
    network = build_network(spec, seed=seed)
    if settings.replace_batch_norm:
        recipe.replace_batch_norm(network)
    recipe.rescale_weights(network)
    recipe.damp_branches(network, settings.layer_scale)
    return network.to(data.device)


def _legs(
    network: nn.Module, data: ProxyData, settings: ProxySettings, seed: int, rungs: Sequence[float], slices: Slices
) -> Iterator[ProxyResult]:
    """What stands at each rung, its seconds left open; draws from the global random state."""
    for losses in _train(network, data, settings, seed, rungs, slices):
        correct, val_loss, val_loss_error = _evaluate(network, data, slices)
        total = len(data.y_val)
        yield ProxyResult(
            accuracy=correct / total,
            correct=correct,
            val_images=total,
            val_loss=val_loss,
            val_loss_error=val_loss_error,
            train_loss=torch.cat(losses)[-LAST_STEPS:].mean().item(),
            steps=sum(map(len, losses)),
            seconds=0.0,
            epoch_losses=tuple(torch.stack([epoch.mean() for epoch in losses]).tolist()),
        )


def proxy_spec(spec: ModelSpec, data: ProxyData, settings: ProxySettings) -> ModelSpec:
    """The network that is trained in place of `spec`: the task's input and classes, the proxy's widths and LayerScale.

    Raises:
        TrialFailed: the stem's kernel is larger than the proxy's images.
    """
    channels, side = data.x_train.shape[1:3]
    small = replace(
        spec,
        stages=tuple(_proxy_stage(stage, settings) for stage in spec.stages),
        resolution=side,
        in_chans=channels,
        num_classes=data.num_classes,
        layer_scale=None if spec.layer_scale is None else settings.layer_scale,
    )
    if small.sides()[0] < 1:
        raise TrialFailed(f"the stem's {spec.stem.kernel_size} px kernel does not fit the proxy's {side} px images")
    return small


def _proxy_stage(stage: StageSpec, settings: ProxySettings) -> StageSpec:
    thin = replace(stage, dim=min(stage.dim, max(LEAST_WIDTH, round(stage.dim * settings.width_factor))))
    if not settings.replace_attention:
        return thin
    return replace(thin, depth=stage.depth + stage.attention_depth, attention_depth=0)


def _train(
    network: nn.Module, data: ProxyData, settings: ProxySettings, seed: int, rungs: Sequence[float], slices: Slices
) -> Iterator[list[Tensor]]:
    """Trains in place; at each rung the loss of every step so far, [steps] for each epoch that has begun.

    Between two rungs the network may be put into evaluation mode, but not changed.
    """
    count, batch = len(data.y_train), slices.items
    per_epoch = count // batch  # the incomplete batch is dropped: BatchNorm cannot train on a single image
    steps = per_epoch * settings.epochs
    ends = [max(1, round(share * steps)) for share in rungs]
    optimiser = torch.optim.AdamW(recipe.parameter_groups(network, settings), fused=True)
    generator = torch.Generator().manual_seed(seed)
    losses = torch.zeros(settings.epochs, per_epoch, device=data.device)
    network.train()
    for epoch in range(settings.epochs):
        order = torch.randperm(count, generator=generator).to(data.device)
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            factor = recipe.learning_rate_factor(step, steps, settings.warmup)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * group["scale"] * factor
            rows = order[i * batch : (i + 1) * batch]
            images = data.normalise(data.x_train[rows])
            images = _flip(images, generator) if settings.flip else images
            mean_loss = partial(_loss, network, images, data.y_train[rows], settings.label_smoothing)
            losses[epoch, i] = slices.learn(mean_loss)
            optimiser.step()
            reached = ends.count(step + 1)  # several, where there are fewer steps than rungs
            if (reached or i + 1 == per_epoch) and not losses[epoch, : i + 1].isfinite().all():
                raise TrialFailed(f"training diverged: the loss is not finite in epoch {epoch + 1}")
            for _ in range(reached):
                yield [*losses[:epoch], losses[epoch, : i + 1]]
                network.train()


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the images [B, C, R, R] mirrored left to right with probability a half."""
    mirrored = torch.rand(len(images), generator=generator).lt(0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def _loss(network: nn.Module, images: Tensor, labels: Tensor, smoothing: float, rows: slice) -> Tensor:
    """Mean cross-entropy over these rows of a batch."""
    return F.cross_entropy(network(images[rows]), labels[rows], label_smoothing=smoothing)


def _evaluate(network: nn.Module, data: ProxyData, slices: Slices) -> tuple[int, float, float]:
    """How many validation images it gets right, the mean cross-entropy over them, and its standard error."""
    network.eval()
    batches = [slice(first, first + EVAL_BATCH) for first in range(0, len(data.y_val), EVAL_BATCH)]
    found = list(slices.each(partial(_score, network, data), batches))
    loss = torch.cat([losses for _, losses in found])
    correct = sum(number for number, _ in found)
    return correct, loss.mean().item(), (loss.std(correction=0) / math.sqrt(len(loss))).item()


@torch.inference_mode()
def _score(network: nn.Module, data: ProxyData, rows: slice) -> tuple[int, Tensor]:
    """How many of these validation images it gets right, and the cross-entropy of each, float64.

    Raises:
        TrialFailed: the logits are not finite.
    """
    logits = network(data.normalise(data.x_val[rows]))
    if not logits.isfinite().all():
        raise TrialFailed("training diverged: the logits are not finite")
    correct = int((logits.argmax(1) == data.y_val[rows]).sum())
    return correct, F.cross_entropy(logits, data.y_val[rows], reduction="none").double()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _RandomState:
    """A random state of its own for a training that pauses: drop path draws from the global generator."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.devices = [torch.cuda.current_device()] if device.type == "cuda" else []
        self.states: list[Tensor] = []

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """It is the global one, from where it was left; the global one is put back afterwards."""
        with torch.random.fork_rng(devices=self.devices):
            if self.states:
                torch.set_rng_state(self.states[0])
                for device, state in zip(self.devices, self.states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            else:
                torch.manual_seed(self.seed)
            yield
            self.states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.devices)]


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
