"""Whether an int8 file is good: told by counts of images, worked out by hand."""

import numpy as np
import pytest

from modscale.deploy.judgement import judge

LABELS = np.arange(1000) % 2


def answers(right: int, *, first: int = 0) -> np.ndarray:
    """Right on so many images from the first one on, wrong on the others."""
    found = 1 - LABELS
    found[first : first + right] = LABELS[first : first + right]
    return found


@pytest.mark.parametrize(
    ("right", "first", "verdict"),
    [
        (900, 0, "good"),
        (890, 0, "good"),  # 1.0 point lost: what is allowed
        (889, 0, "broken"),  # 1.1 points, all on images that the other gets right: noise of 0.64
        (880, 100, "good"),  # 2.0 points lost, and 220 images on which they differ: noise of 2.9
        (500, 0, "broken"),
    ],
)
def test_a_file_may_lose_a_point_or_what_is_noise(right, first, verdict):
    """Against 900 of 1,000 right; noise is that of the images on which the two differ."""
    found = judge(answers(right, first=first), answers(900), LABELS, level="x")
    assert found.verdict == verdict
    assert (found.accuracy, found.fp32_accuracy) == (right / 1000, 0.9)


def test_noise_is_mcnemars():
    """20 images lost and 10 won: 1.96 * sqrt(30 - 100 / 1000) / 1000."""
    found = judge(answers(890, first=20), answers(900), LABELS, level="x")
    assert found.noise == pytest.approx(1.959964 * (30 - 0.1) ** 0.5 / 1000)
    assert found.agreement == pytest.approx(0.97)


def test_at_chance_level_nothing_is_proved():
    """Half right of two classes, or less, is what naming one class gives: not good, whatever the int8 file does."""
    for right in (500, 400, 520):
        assert judge(answers(right), answers(right), LABELS, level="x").verdict == "unproven"
    assert judge(answers(540), answers(540), LABELS, level="x").verdict == "good"
