"""What masks are worth, by hand and by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modscale.datasets.scenes import IGNORED
from modscale.training.mask_scores import mask_loss, mean_iou, miou_error, tally_pixels


def test_the_mean_of_intersection_by_union_by_hand() -> None:
    """Class 0: 2 of 4 pixels; class 1: 1 of 3; class 2 is nowhere; the unlabelled pixel counts for nothing."""
    masks = torch.tensor([[[0, 0, 0], [1, 1, IGNORED]]])
    answers = torch.tensor([[[0, 0, 1], [1, 0, 1]]])
    tally = tally_pixels(masks, answers, 3)
    assert tally.tolist() == [[[2, 1, 0], [3, 2, 0], [3, 2, 0]]]
    assert float(mean_iou(tally[0])) == pytest.approx((2 / 4 + 1 / 3) / 2)


def test_tallies_are_those_of_each_image() -> None:
    """Counted one pixel at a time, as the definition has it."""
    rng = np.random.default_rng(0)
    masks, answers = rng.integers(-1, 4, (5, 6, 6)), rng.integers(0, 4, (5, 6, 6))
    expected = np.zeros((5, 3, 4))
    for image, wanted, given in zip(np.repeat(np.arange(5), 36), masks.ravel(), answers.ravel(), strict=True):
        if wanted != IGNORED:
            expected[image, 1, wanted] += 1
            expected[image, 2, given] += 1
            expected[image, 0, wanted] += wanted == given
    found = tally_pixels(torch.from_numpy(masks), torch.from_numpy(answers), 4)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_standard_error_is_that_of_drawing_other_images() -> None:
    """Where every image has one of two accuracies, the mIoU of one class is their mean, whose error is binomial's."""
    right = torch.tensor([100.0, 0.0] * 50)
    tallies = torch.zeros(100, 3, 2, dtype=torch.float64)
    tallies[:, 0, 0], tallies[:, 1, 0] = right, 100
    tallies[:, 2, 0], tallies[:, 2, 1] = right, 100 - right
    union_of_one = 100.0  # labelled 100, answered as many as right: right / 100; the other class has no right pixel
    expected = 0.5 * math.sqrt(0.25 / 100) * union_of_one / 100
    assert miou_error(tallies) == pytest.approx(expected, rel=0.1)
    assert miou_error(tallies) == miou_error(tallies)
    assert miou_error(tallies[::2]) == pytest.approx(0.0, abs=1e-12)


def test_the_loss_of_nothing_is_nothing() -> None:
    """The mean over labelled pixels, smoothed ones too; 0 and no NaN where none is labelled."""
    logits = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    masks = torch.tensor([[[0, IGNORED], [1, IGNORED]]])
    logs = logits.log_softmax(1)
    plain = -(logs[0, 0, 0, 0] + logs[0, 1, 1, 0]) / 2
    even = -(logs[0, :, 0, 0].mean() + logs[0, :, 1, 0].mean()) / 2
    assert float(mask_loss(logits, masks, label_smoothing=0.2)) == pytest.approx(float(0.8 * plain + 0.2 * even))
    assert float(mask_loss(logits, masks * 0 + IGNORED)) == 0.0
