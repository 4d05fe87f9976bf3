"""The proxy's order of the published networks against the paper's accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from fake_runs import fake_trials, remeasured

from modscale.analysis.proxy_ranking import check_ranking, published_figure
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial
from modscale.specs.published import published

TABLE_2 = {"xxs": 76.0, "xs": 78.3, "s": 81.0, "s_conv": 80.5}
"""ImageNet-1K top-1, Table 2 of the paper."""


def references(accuracies: Mapping[str, float], *, images: int = 1000) -> list[Trial]:
    trial = fake_trials(parse_experiment({"name": "one", "stages": [{"dim": [16, 24], "depth": 1}]}), 1)[0]
    return [
        remeasured(replace(trial, spec=published(name)), accuracy=accuracy, val_images=images)
        for name, accuracy in accuracies.items()
    ]


def test_the_papers_own_accuracies_agree_with_themselves() -> None:
    """Published figures as proxy accuracies: every pair in order; reversed, none."""
    for sign, agreeing, tau in ((1, 6, 1.0), (-1, 0, -1.0)):
        check = check_ranking(references({name: 0.5 + sign * (top1 - 78) / 100 for name, top1 in TABLE_2.items()}))
        assert check is not None
        assert (check.pairs, check.as_published, check.reversed, check.tau) == (6, agreeing, 6 - agreeing, tau)
    assert [published_figure(trial) for trial in references(dict.fromkeys(TABLE_2, 0.5))] == list(TABLE_2.values())


@pytest.mark.parametrize(("images", "clear"), [(100, 0), (1_000, 0), (10_000, 1), (1_000_000, 3)])
def test_only_what_the_images_tell_apart_is_clear(images: int, clear: int) -> None:
    """Binomial errors by hand: 0.40 and 0.42 differ by 1.96 errors from about 4,600 images on, 0.41 from 18,500."""
    check = check_ranking(references({"xxs": 0.40, "xs": 0.41, "s": 0.42}, images=images))
    assert check is not None
    assert (check.pairs, check.as_published, check.clear, check.clear_as_published) == (3, 3, clear, clear)


def test_failed_and_tied_references_count_for_nothing() -> None:
    """One complete reference makes no pair; two of equal accuracy make one that is in no order."""
    both = references({"xxs": 0.4, "s": 0.4})
    failed = remeasured(replace(both[1], state="failed", reason="x"), accuracy=None, val_images=None, latency_ms=None)
    assert check_ranking([both[0], failed]) is None
    assert check_ranking([]) is None
    check = check_ranking(both)
    assert check is not None
    assert (check.pairs, check.as_published, check.reversed, check.tau) == (1, 0, 0, 0.0)
