"""What early stopping came to: worked out by hand."""

from __future__ import annotations

import pytest

from modscale.analysis.early_stopping import spared_seconds
from modscale.runs.trials import Rung, Trial
from modscale.specs.spec import ModelSpec, StageSpec

SPEC = ModelSpec(stages=(StageSpec(dim=8, depth=1),))


def trial(state: str, **seconds: float) -> Trial:
    """Seconds by the rung, in percent: `at_50=3.0`."""
    rungs = tuple(Rung(share=int(key[3:]) / 100, value=0.0, seconds=value) for key, value in seconds.items())
    return Trial(number=0, state=state, spec=SPEC, results={}, seconds=99.0, rungs=rungs)


def test_the_time_spared_goes_by_the_complete_trials() -> None:
    """They had 2 of 10 and 4 of 20 seconds behind them at a quarter, 10 of 30 together at half."""
    complete = [trial("complete", at_25=2, at_50=3, at_100=10), trial("complete", at_25=4, at_50=7, at_100=20)]
    assert spared_seconds([*complete, trial("stopped", at_25=3)]) == pytest.approx(3 * 24 / 6)
    both = [*complete, trial("stopped", at_25=3), trial("stopped", at_25=2, at_50=5)]
    assert spared_seconds(both) == pytest.approx(12 + 5 * 20 / 10)


def test_where_nothing_tells_there_is_no_estimate() -> None:
    """Nothing stopped, stopped before the training, or no complete trial that had come through the rung."""
    complete = trial("complete", at_25=2, at_100=10)
    assert spared_seconds([complete]) is None
    assert spared_seconds([complete, trial("stopped")]) is None
    assert spared_seconds([trial("stopped", at_25=3), trial("failed", at_25=3, at_100=9)]) is None
    assert spared_seconds([complete, trial("stopped", at_50=3)]) is None
