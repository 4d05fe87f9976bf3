"""What a network is expected to reach: against the published accuracies, and worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import exp, hypot, log

import pytest

from modscale.specs.counts import count_model
from modscale.specs.known import published_networks
from modscale.specs.published import published
from modscale.training.estimate import (
    CENTRE_FLOPS,
    CENTRE_PARAMS,
    FITTED_FLOPS_PER_PARAM,
    FITTED_PARAMS,
    FLOPS_EXPONENT,
    WEIGHTS,
    estimate_accuracy,
    evidence_of,
    out_of_range,
    size_of,
    trust,
)


def test_the_fit_is_centred_on_s_conv() -> None:
    count = count_model(published("s_conv"))
    assert (count.params, count.flops) == (CENTRE_PARAMS, CENTRE_FLOPS)
    assert size_of(published("s_conv")) == 0.0
    sizes = [count_model(network.spec).params for network in published_networks()]
    assert (min(sizes), max(sizes)) == FITTED_PARAMS
    ratios = [count.flops / count.params for count in (count_model(network.spec) for network in published_networks())]
    assert (min(ratios), max(ratios)) == pytest.approx(FITTED_FLOPS_PER_PARAM, rel=1e-4)
    assert {out_of_range(network.spec) for network in published_networks()} == {0.0}


def test_on_paper_the_published_networks_stand_better_than_by_params() -> None:
    """Pairs in the published order, counted one by one; and each accuracy within three standard errors."""
    networks = published_networks()
    right = {"size": 0, "params": 0}
    for a, b in combinations(networks, 2):
        sign = a.top1 - b.top1
        right["size"] += (size_of(a.spec) - size_of(b.spec)) * sign > 0
        right["params"] += (count_model(a.spec).params - count_model(b.spec).params) * sign > 0
    assert right["size"] > right["params"] + 20
    for network in networks:
        estimate = estimate_accuracy(network.spec, method="thin", evidence=0.0)
        assert abs(100 * estimate.accuracy - network.top1) < 300 * estimate.standard_error


def test_what_never_sees_the_image_is_worth_less() -> None:
    """The same blocks without their depthwise conv see 63 of 224 pixels: by hand, ln(63 / 224) beside the counts."""
    blind, sound = published("s_conv/context-f"), published("s_conv")
    counts = [count_model(spec) for spec in (blind, sound)]
    params, flops = (log(getattr(counts[0], key) / getattr(counts[1], key)) for key in ("params", "flops"))
    assert size_of(blind) == pytest.approx(params + log(63 / 224) - FLOPS_EXPONENT * flops)


def test_few_flops_are_no_merit() -> None:
    """s at half its resolution: by hand, little more than a quarter of the FLOPs, for the same weights.

    Its size is that of s, which has the fewest FLOPs a param of all networks of known accuracy; the rest costs 0.1 a
    unit of the logarithm. (MobileNetV2 has 71.8 % at 224 px and 65.3 % at 128 px, by its authors.)
    """
    whole = replace(published("s"), resolution=224)
    half = replace(whole, resolution=112)
    counts = [count_model(spec) for spec in (whole, half)]
    fewer = log(counts[1].flops / counts[0].flops)
    assert -1.5 < fewer < -1.3
    assert out_of_range(half) == pytest.approx(fewer, abs=1e-4)
    assert size_of(half) == pytest.approx(size_of(whole), abs=1e-4)
    by, found = (estimate_accuracy(spec, method="thin", evidence=0.0) for spec in (whole, half))
    odds = [one.accuracy / (1 - one.accuracy) for one in (by, found)]
    assert log(odds[1] / odds[0]) == pytest.approx(WEIGHTS.lean * fewer, abs=1e-4)
    slope = found.accuracy * (1 - found.accuracy)
    assert found.standard_error == pytest.approx(
        slope * hypot(WEIGHTS.residual, WEIGHTS.size_error * size_of(half), WEIGHTS.range_error * fewer), rel=1e-4
    )


def test_evidence_moves_the_log_odds_by_its_weight() -> None:
    """By hand: a loss a tenth below the anchor's."""
    plain = estimate_accuracy(published("s"), method="thin", evidence=0.0)
    better = estimate_accuracy(published("s"), method="thin", evidence=evidence_of(0.9, 1.0))
    odds = plain.accuracy / (1 - plain.accuracy) * exp(WEIGHTS.evidence["thin"] * log(1 / 0.9))
    assert better.accuracy == pytest.approx(odds / (1 + odds))


@pytest.mark.parametrize(
    ("evidence", "added", "slope"),
    [(0.0, 0.0, 2.0), (0.1, 0.2, 2.0), (-0.1, -0.2, 2.0), (-0.3, -0.7, 3.0), (-0.5, -1.0, 0.0), (0.5, 0.8, 0.0)],
)
def test_falling_far_behind_weighs_more_than_a_lead(evidence: float, added: float, slope: float) -> None:
    """By hand: 2 an evidence, 3 below -0.2, nothing more beyond 0.4 either way."""
    weights = replace(WEIGHTS, evidence={"thin": 2.0}, behind={"thin": 3.0}, tolerance=0.2, largest=0.4)
    assert trust(evidence, "thin", weights) == pytest.approx((added, slope))


def test_the_full_width_training_is_not_trusted_at_all() -> None:
    assert [trust(evidence, "train") for evidence in (-1.0, -0.1, 0.1)] == [(0.0, 0.0)] * 3


def test_the_standard_error_grows_away_from_the_networks_of_the_fit() -> None:
    """By the error of the slope; near them it is what the fit misses, and the noise of the training beside it."""
    weights = replace(WEIGHTS, residual=0.1, size_error=0.05, evidence={"thin": 2.0})
    found = estimate_accuracy(published("xxs"), method="thin", evidence=0.2, evidence_error=0.01, weights=weights)
    slope = found.accuracy * (1 - found.accuracy)
    assert found.noise == pytest.approx(slope * 0.02)
    assert found.standard_error == pytest.approx(slope * hypot(0.1, 0.05 * size_of(published("xxs")), 0.02))


def test_a_loss_of_nothing_is_not_without_limit() -> None:
    assert evidence_of(0.0, 1.0) == pytest.approx(log(1e6))
