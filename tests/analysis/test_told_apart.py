"""What a budget can tell apart: against the normal distribution by hand, and against the record's own pairs."""

from __future__ import annotations

from dataclasses import replace
from math import erf, sqrt

import pytest

from modscale.analysis.told_apart import tell_apart
from modscale.settings import PROXIES, PUBLISHED

THIN = PROXIES["thin"]
TOP1 = {"xxs": 76.0, "xs": 78.3, "s": 81.0, "s_conv": 80.5}  # Table 1 of the paper


def test_pairs_are_ordered_with_the_chance_of_a_normal_error() -> None:
    """As worked by hand: 1.46 points of error, 2.3 points apart; 2.4 are told apart with 95 %."""
    told = tell_apart(THIN, "tiny-imagenet-20", 3000, PUBLISHED, accuracy=0.78)
    assert told is not None
    assert told.apart_points == pytest.approx(1.645 * 1.46, abs=0.01)
    found = {(pair.better, pair.worse): pair for pair in told.pairs}
    assert len(found) == 6
    for (better, worse), pair in found.items():
        points = TOP1[better] - TOP1[worse]
        assert pair.points == pytest.approx(points)
        assert pair.probability == pytest.approx((1 + erf(points / 1.46 / sqrt(2))) / 2, abs=0.002)
        assert pair.ties == (points < 2.39)
    assert found["xs", "xxs"].ties
    assert not found["s", "xs"].ties


def test_more_images_leave_less_noise_and_never_more_than_the_rest_stays() -> None:
    """The noise of images goes with the root of their number; what size cannot know is not bought down."""
    few, usual, many = (tell_apart(THIN, "synthetic", n, ["xxs", "s"], accuracy=0.78) for n in (20, 2000, 200_000))
    assert few is not None
    assert usual is not None
    assert many is not None
    assert few.noise.images_points == pytest.approx(10 * usual.noise.images_points)
    assert few.apart_points > usual.apart_points > many.apart_points > many.rest_points
    assert usual.rest_points == many.rest_points
    assert usual.noise.images_points == pytest.approx(100 * 0.78 * 0.22 * 0.1 * 0.3304 / sqrt(2000))
    assert usual.apart_points == pytest.approx(1.645 * 0.74, abs=0.01)


def test_nothing_is_told_of_a_proxy_without_a_record() -> None:
    """Other epochs are another proxy; threads are none."""
    assert tell_apart(replace(THIN, epochs=3), "synthetic", 2000, PUBLISHED, accuracy=0.78) is None
    assert tell_apart(replace(THIN, threads=1), "synthetic", 2000, PUBLISHED, accuracy=0.78) is not None
    assert tell_apart(PROXIES["train"], "synthetic", 2000, PUBLISHED, accuracy=0.78) is None
