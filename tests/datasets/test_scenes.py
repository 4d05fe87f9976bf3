"""The generated scenes: their masks are where the figures are."""

from __future__ import annotations

import numpy as np

from modscale.datasets.scenes import SCENE_CLASSES, draw_scenes, make_scenes


def test_every_class_is_there_and_the_ground_is_the_most_of_it() -> None:
    """Six classes, of which the ground takes more than half of the pixels and each figure more than a hundredth."""
    _, masks = draw_scenes(200, 32, np.random.default_rng(0))
    shares = np.bincount(masks.ravel(), minlength=len(SCENE_CLASSES)) / masks.size
    assert len(shares) == len(SCENE_CLASSES)
    assert 0.5 < shares[0] < 0.95
    assert shares[1:].min() > 0.01


def test_figures_are_brighter_than_the_ground_within_their_mask() -> None:
    """As their rule has it: the mean over the figures' pixels is above that of the ground's by 0.2 of 1 and more."""
    images, masks = draw_scenes(200, 32, np.random.default_rng(1))
    figures = images[masks > 0].mean() / 255
    ground = images[masks == 0].mean() / 255
    assert figures - ground > 0.2


def test_training_and_validation_share_no_scene_and_follow_from_the_seed() -> None:
    """The same seed draws the same scenes, another one others."""
    first, again, other = (make_scenes(num_train=6, num_val=6, resolution=16, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not {image.tobytes() for image in first[0]} & {image.tobytes() for image in first[2]}
