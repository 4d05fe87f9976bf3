"""Look-ups in the wavelet matrix against masks."""

from __future__ import annotations

import numpy as np
import pytest

from modscale.spaces.wavelet_matrix import WaveletMatrix


@pytest.mark.parametrize("n", [1, 15, 16, 17, 255, 300, 5000])
def test_a_quadrant_holds_what_a_mask_finds(n: int) -> None:
    """Look-ups in a permutation of n ranks, corners and edges among them, against masks over all points."""
    rng = np.random.default_rng(n)
    rank, weight = rng.permutation(n), rng.integers(1, 10**12, n)
    first, second = np.r_[0, 0, n, n, rng.integers(0, n + 1, 60)], np.r_[0, n, 0, n, rng.integers(0, n + 1, 60)]
    expected = [int(weight[:i][rank[:i] < j].sum()) for i, j in zip(first, second, strict=True)]
    assert WaveletMatrix(rank, weight).weight(first, second).tolist() == expected
