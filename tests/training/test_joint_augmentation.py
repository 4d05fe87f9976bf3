"""Crops of an image and its mask: the same pixels of both, at every size and mirrored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modscale.training.joint_augmentation import crop_scene

FILL = (0.25, 0.5, 0.75)


def scene(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks of 8 pixels, each of a class of its own, whose red is the class."""
    classes = np.arange(height // 8 * (width // 8)).reshape(height // 8, width // 8)
    mask = classes.repeat(8, 0).repeat(8, 1).astype(np.int16)
    image = np.stack([mask, mask * 0 + 100, mask * 0 + 200], -1).astype(np.uint8)
    return torch.from_numpy(image), torch.from_numpy(mask)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.4, 0.6), (1.5, 3.0)])
def test_the_mask_stays_on_its_image(scales: tuple[float, float], flip: float) -> None:
    """Away from borders red tells the class; what lies outside of the scene is unlabelled and of the fill's colour."""
    image, mask = scene(48, 64)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = crop_scene(image, mask, 32, rng, scales=scales, flip=flip, fill=FILL)
        assert x.shape == (3, 32, 32)
        assert y.shape == (32, 32)
        known = y >= 0
        off = (x[0] * 255 - y).abs()[known]
        assert float((off < 0.01).float().mean()) > 0.5
        assert torch.equal(x[:, ~known], torch.tensor(FILL)[:, None].expand(3, int((~known).sum())))
        assert bool(known.all()) is (scales[0] >= 1.0)


def test_without_a_change_of_size_a_crop_is_a_part_of_the_scene() -> None:
    """Of a scene whose shorter side is the network's, a square that touches both long sides, mirrored or not."""
    image, mask = scene(32, 64)
    for flip in (0.0, 1.0):
        _, y = crop_scene(image, mask, 32, np.random.default_rng(2), scales=(1.0, 1.0), flip=flip, fill=FILL)
        parts = [mask[:, left : left + 32].long() for left in range(33)]
        parts = [part.flip(1) for part in parts] if flip else parts
        assert any(torch.equal(y, part) for part in parts)


def test_sizes_are_as_likely_to_halve_as_to_double() -> None:
    """Of 400 crops of one scene at 0.5 to 2, about half are smaller than it: only those see what is outside."""
    image, mask = scene(32, 32)
    rng = np.random.default_rng(0)
    crops = [crop_scene(image, mask, 32, rng, scales=(0.5, 2.0), flip=0.5, fill=FILL)[1] for _ in range(400)]
    assert 0.42 < np.mean([bool((crop < 0).any()) for crop in crops]) < 0.58
