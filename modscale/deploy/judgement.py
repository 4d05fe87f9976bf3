"""Whether a file that was made smaller still answers as its original does, told from validation images.

Its accuracy may fall by `TOLERANCE`, or by what chance explains. A network no better than chance proves nothing of its
file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

TOLERANCE = 0.01
"""Accuracy that int8 may cost, as a fraction of the images."""

Z95 = 1.959964
"""Standard errors within which a difference is put down to chance."""

Verdict = Literal["good", "broken", "unproven"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """How an int8 file does beside its float original, on the same images."""

    level: str
    """What is in int8, a key of `LEVELS`."""
    accuracy: float
    """Share of the images that the int8 file gets right."""
    fp32_accuracy: float
    """The same of the original."""
    agreement: float
    """Share of the images on which both give the same class."""
    noise: float
    """Half-width of the 95 % interval of the difference of the two accuracies."""
    verdict: Verdict
    """`good`; `broken`, where more is lost than tolerance and noise allow; `unproven`, at chance level or below."""
    reason: str
    """The verdict's, in a sentence."""


def judge(
    answers: npt.NDArray[np.int64], fp32_answers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], *, level: str
) -> Judgement:
    """Compares two files by the classes they give for the same images, all [N]."""
    total = len(labels)
    right, fp32_right = answers == labels, fp32_answers == labels
    accuracy, fp32_accuracy = float(right.mean()), float(fp32_right.mean())
    # The two are right and wrong on the same images: only those where they differ tell them apart (McNemar).
    gone, come = int((fp32_right & ~right).sum()), int((right & ~fp32_right).sum())
    lost = (gone - come) / total
    noise = Z95 * math.sqrt(max(gone + come - (gone - come) ** 2 / total, 0.0)) / total
    chance = float(np.bincount(labels).max()) / total
    verdict: Verdict = "good"
    what = f"{accuracy:.1%} of {total} images right in int8, {fp32_accuracy:.1%} in float32"
    if fp32_accuracy - chance <= Z95 * math.sqrt(fp32_accuracy * (1 - fp32_accuracy) / total):
        verdict = "unproven"
        what += f": always naming one class gives {chance:.1%}, so accuracy tells nothing of the file"
    elif lost > max(TOLERANCE, noise):
        verdict = "broken"
        what += f": more is lost than {TOLERANCE:.0%} and the noise of the difference, {noise:.1%}"
    return Judgement(
        level=level,
        accuracy=accuracy,
        fp32_accuracy=fp32_accuracy,
        agreement=float((answers == fp32_answers).mean()),
        noise=noise,
        verdict=verdict,
        reason=what,
    )
