"""What masks are worth: the loss that is learnt by, and mIoU with its standard error.

Shapes: B images, R side, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modscale.datasets.scenes import IGNORED

DRAWS = 1000
"""Resamples behind a standard error."""


def mask_loss(logits: Tensor, masks: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits [B, K, R, R] over the pixels of masks [B, R, R] that are labelled; 0 without any."""
    total = F.cross_entropy(logits, masks, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum")
    return total / (masks != IGNORED).sum().clamp(min=1)


def tally_pixels(masks: Tensor, answers: Tensor, classes: int) -> Tensor:
    """[B, 3, K] pixels of each image by class: answered rightly, labelled, answered; unlabelled ones are left out.

    Of classes 0 0 0 1 1, answered as 0 0 1 1 0, rightly 2 and 1, labelled 3 and 2, answered 3 and 2.
    """
    known = masks != IGNORED
    cell = torch.arange(len(masks), device=masks.device)[:, None, None] * classes
    parts = [
        torch.bincount((cell + which)[where], minlength=len(masks) * classes)
        for which, where in ((masks, known & (masks == answers)), (masks, known), (answers, known))
    ]
    return torch.stack([part.reshape(len(masks), classes) for part in parts], 1).double()


def mean_iou(tally: Tensor) -> Tensor:
    """[...] of tallies [..., 3, K]: mean over the classes that are there, or were answered, of intersection by union.

    0 where there is no pixel at all.
    """
    right, labelled, answered = tally.unbind(-2)
    union = labelled + answered - right
    counts = union > 0
    return (right / union.clamp(min=1)).sum(-1) / counts.sum(-1).clamp(min=1)


def miou_error(tallies: Tensor) -> float:
    """Standard error of the mIoU of all of the images [B, 3, K] together, by a bootstrap over the images.

    The pixels of one image are alike: it is images that are drawn again, not pixels. The draws are always the same.
    """
    number = len(tallies)
    weights = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=DRAWS)
    sums = torch.from_numpy(weights).to(tallies) @ tallies.flatten(1)
    return float(mean_iou(sums.reshape(DRAWS, *tallies.shape[1:])).std())
