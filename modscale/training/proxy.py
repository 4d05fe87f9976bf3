"""The proxy task: a short, real training of a candidate, scored on held-out images.

It can be scored on its way too, at rungs: shares of its steps at which it waits to be told to go on. The schedule is
that of the whole training, and scoring disturbs nothing, so the end is the same to the bit with rungs and without.

Same spec, data, settings, seed, thread count and machine give the same result bit for bit on CPU; so do other counts,
up to the number of the batch's slices, unless the network is large and has BatchNorm (`slices.py`).

Shapes: N images, B batch, C channels, R side in pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.datasets.scenes import IGNORED
from modscale.errors import InputError, ModscaleError, TrialFailed
from modscale.machine import available_cores
from modscale.models.efficientmod import SegmentingEfficientMod, build_network
from modscale.settings import ProxySettings
from modscale.specs.spec import FPN_DIM, SEMANTIC_DIM, ModelSpec, StageSpec, check_head_fits
from modscale.training import recipe
from modscale.training.mask_scores import mask_loss, mean_iou, miou_error, tally_pixels
from modscale.training.proxy_data import ProxyData
from modscale.training.slices import Slices

EVAL_BATCH, EVAL_MASKS = 250, 25
"""Validation images a forward pass, classified and segmented."""
LEAST_WIDTH = 8
"""Channels below which no stage is thinned."""
LAST_STEPS = 50
"""Steps over which the final training loss is averaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyResult:
    """What one proxy training gave, so far or at its end."""

    accuracy: float
    """Share of the validation images, of masks of their labelled pixels, classified correctly, 0 to 1."""
    correct: int
    """Validation images, or pixels, classified correctly."""
    val_images: int
    """Validation images."""
    val_loss: float
    """Mean cross-entropy over the validation images or pixels, nats; without label smoothing."""
    val_loss_error: float
    """Its standard error over the validation images, nats."""
    miou: float | None = None
    """Of masks the mean intersection by union over the classes, 0 to 1; None where images are classified."""
    miou_error: float | None = None
    """Its standard error over the validation images."""
    train_loss: float = 0.0
    """Mean label-smoothed cross-entropy over the last `LAST_STEPS` steps."""
    steps: int = 0
    """Optimiser steps."""
    seconds: float = 0.0
    """Wall time of training and validation, without the pauses."""
    epoch_losses: tuple[float, ...] = ()
    """Mean training loss of each epoch, of the last one as far as it has come."""


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
    threads = settings.threads or available_cores()
    with Slices(network, spec, items=batch, threads=threads, cores=data.cores) as slices:
        legs = _legs(network, data, settings, seed, rungs, slices)
        for _ in rungs:
            start = time.perf_counter()
            with _threads(slices.own_threads), out_of_memory_as(out_of_memory), random_state.in_use():
                result = next(legs)
            seconds += time.perf_counter() - start
            yield replace(result, seconds=seconds)


def _started(spec: ModelSpec, data: ProxyData, settings: ProxySettings, seed: int) -> nn.Module:
    """The network before its first step."""
    network = _build(spec, settings, seed)
    if settings.replace_batch_norm:
        recipe.replace_batch_norm(network)
    recipe.rescale_weights(network)
    recipe.damp_branches(network, settings.layer_scale)
    if settings.kernels == "numba":
        from modscale.models.by_kernels import use_kernels  # Numba need not be there

        use_kernels(network)
    return network.to(data.device)


def _legs(
    network: nn.Module, data: ProxyData, settings: ProxySettings, seed: int, rungs: Sequence[float], slices: Slices
) -> Iterator[ProxyResult]:
    """What stands at each rung, its seconds left open; draws from the global random state."""
    for losses in _train(network, data, settings, seed, rungs, slices):
        yield replace(
            _evaluate(network, data, slices),
            train_loss=torch.cat(losses)[-LAST_STEPS:].mean().item(),
            steps=sum(map(len, losses)),
            epoch_losses=tuple(torch.stack([epoch.mean() for epoch in losses]).tolist()),
        )


def proxy_spec(spec: ModelSpec, data: ProxyData, settings: ProxySettings) -> ModelSpec:
    """The network that is trained in place of `spec`: the task's input, classes and head, the proxy's widths and scale.

    Raises:
        TrialFailed: the proxy's images are smaller than the stem's kernel, or do not fit Semantic FPN.
    """
    channels, side = data.x_train.shape[1:3]
    small = replace(
        spec,
        stages=tuple(_proxy_stage(stage, settings) for stage in spec.stages),
        resolution=side,
        in_chans=channels,
        num_classes=data.num_classes,
        head="semantic_fpn" if data.is_dense else "classifier",
        layer_scale=None if spec.layer_scale is None else settings.layer_scale,
    )
    if small.sides()[0] < 1:
        raise TrialFailed(f"the stem's {spec.stem.kernel_size} px kernel does not fit the proxy's {side} px images")
    try:
        check_head_fits(small, "proxy.resolution")
    except InputError as error:
        raise TrialFailed(str(error)) from error
    return small


def _build(spec: ModelSpec, settings: ProxySettings, seed: int) -> nn.Module:
    """The network of a proxy's spec; Semantic FPN is as thin as the stages."""
    if spec.head == "classifier":
        return build_network(spec, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentingEfficientMod(spec, *(_thin(dim, settings) for dim in (FPN_DIM, SEMANTIC_DIM)))


def _thin(dim: int, settings: ProxySettings) -> int:
    return min(dim, max(LEAST_WIDTH, round(dim * settings.width_factor)))


def _proxy_stage(stage: StageSpec, settings: ProxySettings) -> StageSpec:
    thin = replace(stage, dim=_thin(stage.dim, settings))
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
    optimiser = slices.adamw(recipe.parameter_groups(network, settings))
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
            images, answers = data.normalise(data.x_train[rows]), data.y_train[rows].long()
            if settings.flip:
                images, answers = _flip(images, answers, generator)
            mean_loss = partial(_loss, network, images, answers, settings.label_smoothing)
            losses[epoch, i] = slices.learn(mean_loss)
            optimiser.step()
            reached = ends.count(step + 1)  # several, where there are fewer steps than rungs
            if (reached or i + 1 == per_epoch) and not losses[epoch, : i + 1].isfinite().all():
                raise TrialFailed(f"training diverged: the loss is not finite in epoch {epoch + 1}")
            for _ in range(reached):
                yield [*losses[:epoch], losses[epoch, : i + 1]]
                network.train()


def _flip(images: Tensor, answers: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each of the images [B, C, R, R] mirrored left to right with probability a half, its mask [B, R, R] with it."""
    mirrored = torch.rand(len(images), generator=generator).lt(0.5).to(images.device)
    if answers.ndim == 3:
        answers = torch.where(mirrored[:, None, None], answers.flip(2), answers)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images), answers


def _loss(network: nn.Module, images: Tensor, answers: Tensor, smoothing: float, rows: slice) -> Tensor:
    """Mean cross-entropy over these rows of a batch, or their labelled pixels."""
    mean_loss = mask_loss if answers.ndim == 3 else F.cross_entropy
    return mean_loss(network(images[rows]), answers[rows], label_smoothing=smoothing)


def _evaluate(network: nn.Module, data: ProxyData, slices: Slices) -> ProxyResult:
    """What it is worth on the validation images."""
    network.eval()
    if data.is_dense:
        return _evaluate_masks(network, data)
    batches = [slice(first, first + EVAL_BATCH) for first in range(0, len(data.y_val), EVAL_BATCH)]
    found = list(slices.each(partial(_score, network, data), batches))
    loss, total = torch.cat([losses for _, losses in found]), len(data.y_val)
    correct = sum(number for number, _ in found)
    return ProxyResult(
        accuracy=correct / total,
        correct=correct,
        val_images=total,
        val_loss=loss.mean().item(),
        val_loss_error=(loss.std(correction=0) / math.sqrt(total)).item(),
    )


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


@torch.inference_mode()
def _evaluate_masks(network: nn.Module, data: ProxyData) -> ProxyResult:
    """As `_evaluate`; an image is what is drawn, its pixels are no draws of their own."""
    tallies, losses = [], []
    for first in range(0, len(data.y_val), EVAL_MASKS):
        batch = slice(first, first + EVAL_MASKS)
        masks = data.y_val[batch].long()
        logits = network(data.normalise(data.x_val[batch]))
        if not logits.isfinite().all():
            raise TrialFailed("training diverged: the logits are not finite")
        tallies.append(tally_pixels(masks, logits.argmax(1), data.num_classes))
        loss = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="none")
        losses.append(loss.double().sum((1, 2)))
    tally, loss = torch.cat(tallies), torch.cat(losses)
    right, labelled = tally[:, 0].sum(1), tally[:, 1].sum(1)
    mean = float(loss.sum() / labelled.sum())
    return ProxyResult(
        accuracy=float(right.sum() / labelled.sum()),
        correct=int(right.sum()),
        val_images=len(data.y_val),
        val_loss=mean,
        val_loss_error=float((loss - mean * labelled).square().sum().sqrt() / labelled.sum()),
        miou=float(mean_iou(tally.sum(0))),
        miou_error=miou_error(tally),
    )


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
