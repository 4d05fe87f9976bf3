"""Pilots for the proxy: the thin training of `training/proxy.py` with one thing different, scored at four rungs.

    python benchmarks/proxy_pilots.py --data synthetic --seed 1                   # 27 networks, as plain as the proxy's
    python benchmarks/proxy_pilots.py --data FOLDER --variant rate-half rate-twice --models s_conv s_conv/mbconv
    python benchmarks/proxy_pilots.py --zero-cost                                 # scores of fresh thin networks

One JSON line a finished training in `--out`; one that stands there is not repeated, so the command resumes. Conditions
are the proxy's own (`settings.py`), one thread, on CPU. `plain` with seed 0 gives the losses of `proxy_thin*.jsonl` to
the bit, by which the loop here is known to be the proxy's. What the rows say is printed by `proxy_pilots_read.py`.

`rungs` has the held-out loss of every second validation image at a quarter, half, three quarters and the end of the
steps; `train_losses` the mean training loss of each tenth of the steps. `distil` learns from one wider network that was
trained on the same images for longer; `soft_loss` is then the held-out cross-entropy with the teacher's answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.datasets.dataset import load_dataset
from modscale.lines import append_line, read_lines
from modscale.models.efficientmod import build_network
from modscale.settings import ProxySettings
from modscale.specs.known import published_networks
from modscale.specs.spec import ModelSpec
from modscale.training import recipe
from modscale.training.augmentation import augment_images, erase, mix
from modscale.training.proxy import EVAL_BATCH, ProxyData, prepare, proxy_spec
from modscale.training.settings import TrainSettings

OUT = Path(__file__).parent / "proxy_pilots.jsonl"
SHARES = (0.25, 0.5, 0.75, 1.0)
TEACHER = "s_conv/kernels-3-5-7"
TEACHER_WIDTH, TEACHER_EPOCHS = 0.25, 3
TEMPERATURE = 2.0
ACTIVATIONS = ("gelu", "relu6")
"""Of any block; what NASWOT looks at."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is different from the proxy's training."""

    rate: float = 1.0
    """Factor on the learning rate."""
    distil: float = 0.0
    """Share of the teacher's answers in the loss."""
    augment: TrainSettings | None = None
    """In place of mirroring."""


VARIANTS = {
    "plain": Variant(),
    "rate-half": Variant(rate=0.5),
    "rate-twice": Variant(rate=2.0),
    "distil": Variant(distil=0.7),
    "augment": Variant(
        augment=TrainSettings(
            crop=0.35, jitter=0.4, randaugment_probability=0.0, erasing=0.25, mix_probability=0.5, epochs=1
        )
    ),
}


def train(
    spec: ModelSpec, data: ProxyData, settings: ProxySettings, variant: Variant, seed: int, answers: Tensor | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The thin training of a published network; `answers` [2, N, K] are a teacher's to the images and their mirrors."""
    torch.manual_seed(seed)
    network = build_network(proxy_spec(replace(spec, drop_path_rate=0.0), data, settings), seed=seed)
    recipe.replace_batch_norm(network)
    recipe.rescale_weights(network)
    recipe.damp_branches(network, settings.layer_scale)
    optimiser = torch.optim.AdamW(recipe.parameter_groups(network, settings), fused=True)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    count = len(data.y_train)
    per_epoch = count // settings.batch_size
    steps = per_epoch * settings.epochs
    losses, rungs = [], []
    network.train()
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(count, generator=generator)
        for group in optimiser.param_groups:
            factor = recipe.learning_rate_factor(step, steps, settings.warmup)
            group["lr"] = variant.rate * settings.learning_rate * group["scale"] * factor
        first = step % per_epoch * settings.batch_size
        rows = order[first : first + settings.batch_size]
        images, targets = data.x_train[rows], data.y_train[rows]
        if variant.augment is None:
            mirrored = torch.rand(len(rows), generator=generator).lt(0.5)
            images = data.normalise(images)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        else:
            images, targets = augmented(images, targets, data, variant.augment, rng)
        logits = network(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        if answers is not None:
            told = F.softmax(answers[mirrored.long(), rows] / TEMPERATURE, 1)
            taught = F.cross_entropy(logits / TEMPERATURE, told) * TEMPERATURE**2
            loss = (1 - variant.distil) * loss + variant.distil * taught
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) in [round(share * steps) for share in SHARES[:-1]]:
            rungs.append(held_out(network, data, every=2).mean().item())
    found = held_out(network, data)
    rungs.append(found[::2].mean().item())
    tenths = [float(np.mean(part)) for part in np.array_split(losses, 10)]
    return network, {"val_loss": found.mean().item(), "rungs": rungs, "train_losses": tenths}


def augmented(
    images: Tensor, targets: Tensor, data: ProxyData, settings: TrainSettings, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Bytes [B, C, R, R] and labels [B] as normalised training images and targets [B, K]."""
    images = augment_images(images.float() / 255, settings, images.shape[-1], rng).clamp(0, 1) * 255
    images, soft = mix(
        (images - data.mean) / data.deviation, F.one_hot(targets, data.num_classes).float(), settings, rng
    )
    return erase(images, rng, settings.erasing or 0.0), soft


@torch.inference_mode()
def logits_of(network: nn.Module, images: Tensor, data: ProxyData) -> Tensor:
    """Answers [N, K] to bytes [N, C, R, R]."""
    network.eval()
    found = torch.cat([network(data.normalise(part)) for part in torch.split(images, EVAL_BATCH)])
    network.train()
    return found


def held_out(network: nn.Module, data: ProxyData, every: int = 1) -> Tensor:
    """The loss of each validation image, or of every second."""
    logits = logits_of(network, data.x_val[::every], data)
    return F.cross_entropy(logits, data.y_val[::every], reduction="none").double()


def teacher_answers(file: Path, data: ProxyData, settings: ProxySettings) -> tuple[Tensor, Tensor]:
    """Logits [2, N, K] of the training images and their mirrors, [M, K] of the validation images; kept in `file`."""
    if not file.exists():
        wide = replace(settings, width_factor=TEACHER_WIDTH, epochs=TEACHER_EPOCHS)
        spec = next(n.spec for n in published_networks() if n.name == TEACHER)
        network, found = train(spec, data, wide, Variant(), 0, None)
        right = (logits_of(network, data.x_val, data).argmax(1) == data.y_val).float().mean().item()
        print(f"teacher {TEACHER}: held-out loss {found['val_loss']:.3f}, accuracy {right:.3f}", flush=True)
        both = [logits_of(network, x, data) for x in (data.x_train, data.x_train.flip(3))]
        np.savez(file, train=torch.stack(both).numpy(), val=logits_of(network, data.x_val, data).numpy())
    with np.load(file) as known:
        return torch.from_numpy(known["train"]), torch.from_numpy(known["val"])


def zero_cost(spec: ModelSpec, data: ProxyData, settings: ProxySettings, batches: int = 4) -> dict[str, float]:
    """Scores of a fresh thin network: gradient norm, SNIP, ZiCo, NASWOT's log determinant, all at the proxy's start.

    Not SynFlow, which has no norms: what is multiplied with itself block after block then grows beyond any float.
    """
    network = build_network(proxy_spec(replace(spec, drop_path_rate=0.0), data, settings), seed=0)
    recipe.replace_batch_norm(network)
    recipe.rescale_weights(network)
    codes: list[Tensor] = []

    def noting(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def noted(x: Tensor) -> Tensor:
            codes.append((x.detach() > 0).flatten(1).float())
            return activation(x)

        return noted

    matrices = [p for p in network.parameters() if p.ndim > 1]
    order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(0))
    gradients: list[list[Tensor]] = []
    for i in range(batches):
        rows = order[32 * i : 32 * (i + 1)]
        watched = {name: noting(getattr(F, name)) for name in ACTIVATIONS if i == 0}
        with patch.multiple(F, **watched) if watched else nullcontext():
            loss = F.cross_entropy(network(data.normalise(data.x_train[rows])), data.y_train[rows])
        gradients.append(list(torch.autograd.grad(loss, matrices)))
    mean = [torch.stack(each).mean(0) for each in zip(*gradients, strict=True)]
    zico = 0.0
    for each in zip(*gradients, strict=True):
        all_of = torch.stack([g.abs() for g in each])
        zico += float(torch.log((all_of.mean(0) / (all_of.std(0) + 1e-9)).sum() + 1e-9))
    likeness = sum((c @ c.T + (1 - c) @ (1 - c).T) / c.shape[1] for c in codes) / len(codes)
    naswot = float(torch.linalg.slogdet(likeness.double())[1])
    return {
        "gradient_norm": sum(float((g**2).sum()) for g in mean) ** 0.5,
        "snip": sum(float((g * p).detach().abs().sum()) for g, p in zip(mean, matrices, strict=True)),
        "zico": zico,
        "naswot": naswot,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=["plain"])
    parser.add_argument("--models", nargs="+", help="published names; without it all 27")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", type=Path, default=Path("teacher.npz"), help="where its answers are kept")
    parser.add_argument("--zero-cost", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = ProxySettings(device="cpu", threads=1)
    images = {"train_images": settings.train_images, "val_images": settings.val_images}
    dataset = load_dataset(options.data, resolution=settings.resolution, seed=0, **images)
    data = prepare(dataset, settings)
    kinds = ["zero-cost"] if options.zero_cost else options.variant
    asked = [n for n in published_networks() if options.models is None or n.name in options.models]
    done = {(row["data"], row["variant"], row["seed"], row["name"]) for _, row in read_lines(options.out)}
    for kind in kinds:
        for network in asked:
            if (dataset.name, kind, options.seed, network.name) in done:
                continue
            row: dict[str, Any] = {"data": dataset.name, "variant": kind, "seed": options.seed, "name": network.name}
            start = time.process_time()
            if kind == "zero-cost":
                row |= zero_cost(network.spec, data, settings)
            else:
                variant, answers, told = VARIANTS[kind], None, None
                if variant.distil:
                    answers, told = teacher_answers(options.teacher, data, settings)
                    start = time.process_time()
                trained, found = train(network.spec, data, settings, variant, options.seed, answers)
                row |= found
                if told is not None:
                    logits = logits_of(trained, data.x_val, data)
                    row["soft_loss"] = F.cross_entropy(logits, F.softmax(told, 1)).item()
            row["cpu_seconds"] = round(time.process_time() - start, 1)
            append_line(options.out, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
