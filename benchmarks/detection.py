"""The bridge to a detector: kornia's RT-DETR on the last three maps of an EfficientMod, trained on generated boxes.

    python benchmarks/detection.py [--model SPEC] [--steps 300] [--weights FILE]

kornia has the neck, the decoder and their outputs, and no loss: that is written here, the set loss of DETR (arXiv
2005.12872: boxes matched to queries by their cost, then classes, L1 and generalised IoU). Each image has one to three
figures of `modscale/datasets/synthetic.py` on a textured ground; the box of a kind is that of all its pixels. It prints
a JSON object: the loss at both ends, and on images that were held out the share of figures that a box of the right
class meets with an IoU of a half, before and after.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
import torch
from kornia.models.rt_detr.architecture.hybrid_encoder import HybridEncoder
from kornia.models.rt_detr.architecture.rtdetr_head import RTDETRHead
from kornia.models.rt_detr.model import RTDETR
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from modscale.datasets.scenes import SCENE_CLASSES, draw_scenes
from modscale.models.efficientmod import build_network
from modscale.models.transfer import take_over
from modscale.specs.published import resolve_model
from modscale.specs.spec import ModelSpec

MEAN, STD = 0.5, 0.25
LEAST_PIXELS = 12
"""A figure of which less is seen has no box."""


class Maps(nn.Module):
    """The last three maps of a network, as a detector takes them."""

    def __init__(self, spec: ModelSpec, weights: str | None) -> None:
        super().__init__()
        self.network = build_network(spec, seed=0)
        if weights:
            print(take_over(self.network, weights).describe())
        self.out_channels = [stage.dim for stage in spec.stages[-3:]]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.network.forward_maps(images)[1][-3:]


def draw(number: int, side: int, rng: np.random.Generator) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Images [n, 3, R, R], and of each the classes [m] and boxes [m, 4] (centre and size, shares of the side)."""
    images, masks = draw_scenes(number, side, rng)
    classes, boxes = [], []
    for mask in masks:
        kinds = [kind for kind in range(1, len(SCENE_CLASSES)) if (mask == kind).sum() >= LEAST_PIXELS]
        found = []
        for kind in kinds:
            rows, columns = np.nonzero(mask == kind)
            low, high = np.array([columns.min(), rows.min()]), np.array([columns.max() + 1, rows.max() + 1])
            found.append(np.concatenate([(low + high) / 2, high - low]) / side)
        classes.append(torch.tensor(kinds, dtype=torch.long) - 1)
        boxes.append(torch.tensor(np.array(found).reshape(-1, 4), dtype=torch.float32))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - MEAN) / STD, classes, boxes


def corners(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def overlaps(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU [n, m] of boxes [n, 4] and [m, 4]."""
    a, b = corners(ours)[:, None], corners(theirs)[None]
    both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = ours[:, 2:].prod(-1)[:, None] + theirs[:, 2:].prod(-1)[None] - both
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    iou = both / union
    return iou, iou - (around - union) / around


def set_loss(logits: Tensor, boxes: Tensor, wanted: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """DETR's loss of logits [B, Q, K] and boxes [B, Q, 4], with a sigmoid a class and focal weights."""
    total, number = logits.new_zeros(()), max(1, sum(map(len, wanted)))
    for scores, found, classes, truth in zip(logits, boxes, wanted, theirs, strict=True):
        targets = torch.zeros_like(scores)
        if len(classes):
            generalised = overlaps(found, truth)[1]
            cost = -2 * scores.sigmoid()[:, classes] + 5 * torch.cdist(found, truth, p=1) - 2 * generalised
            rows, columns = (torch.from_numpy(i) for i in linear_sum_assignment(cost.detach().numpy()))
            targets[rows, classes[columns]] = 1
            total = total + 5 * (found[rows] - truth[columns]).abs().sum()
            total = total + 2 * (1 - generalised[rows, columns]).sum()
        chance = scores.sigmoid()
        weight = torch.where(targets > 0, 0.25 * (1 - chance) ** 2, 0.75 * chance**2).detach()
        total = total + (weight * F.binary_cross_entropy_with_logits(scores, targets, reduction="none")).sum()
    return total / number


@torch.inference_mode()
def recall(detector: nn.Module, side: int, images: int) -> float:
    """Share of held-out figures met by one of the image's five surest boxes, of the same class, at an IoU of a half."""
    detector.eval()
    x, classes, boxes = draw(images, side, np.random.default_rng(99))
    logits, found = detector(x)
    met = total = 0
    for scores, own, wanted, truth in zip(logits, found, classes, boxes, strict=True):
        surest = scores.flatten().topk(5).indices
        iou = overlaps(own[surest // scores.shape[1]], truth)[0]
        same = (surest % scores.shape[1])[:, None] == wanted[None]
        met += int(((iou >= 0.5) & same).any(0).sum())
        total += len(wanted)
    return met / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="xxs")
    parser.add_argument("--weights")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=64)
    args = parser.parse_args()
    torch.manual_seed(0)
    spec = replace(resolve_model(args.model), resolution=args.resolution, layer_scale=0.1)
    backbone = Maps(spec, args.weights)
    detector = RTDETR(
        backbone,  # type: ignore[arg-type]  # it asks for one of its own, and uses its maps and out_channels alone
        HybridEncoder(backbone.out_channels, args.hidden, 2 * args.hidden, 0.5),
        RTDETRHead(
            num_classes=len(SCENE_CLASSES) - 1, hidden_dim=args.hidden, num_queries=60, in_channels=[args.hidden] * 3,
            num_decoder_layers=2,
        ),
    )  # fmt: skip
    for head in detector.decoder.dec_score_head:
        nn.init.constant_(head.bias, -4.0)  # few queries are a figure
    before = recall(detector, args.resolution, 64)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=args.steps, pct_start=0.1)
    rng, losses = np.random.default_rng(0), []
    detector.train()
    for _ in range(args.steps):
        x, classes, boxes = draw(args.batch, args.resolution, rng)
        loss = set_loss(*detector(x), classes, boxes)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    part = max(1, args.steps // 10)
    print(json.dumps({
        "model": args.model, "steps": args.steps, "params": sum(p.numel() for p in detector.parameters()),
        "loss_first": round(float(np.mean(losses[:part])), 3), "loss_last": round(float(np.mean(losses[-part:])), 3),
        "recall_before": round(before, 3), "recall_after": round(recall(detector, args.resolution, 64), 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
