"""What a run's early stopping came to: how many trials it ended, and an estimate of the time that it spared."""

from __future__ import annotations

from collections.abc import Sequence

from modscale.runs.trials import Trial, complete_trials


def spared_seconds(trials: Sequence[Trial]) -> float | None:
    """Seconds that the stopped trials would have trained on, an estimate; None where nothing tells it.

    A trial stopped after s seconds at a rung at which the complete trials had, together, 40 % of their training's
    seconds behind them is taken for one that would have gone on for s * 60 / 40.
    """
    stopped = [trial.rungs[-1] for trial in trials if trial.state == "stopped" and trial.rungs]
    spared = 0.0
    for rung in stopped:
        pairs = [
            (here.seconds, trial.rungs[-1].seconds)
            for trial in complete_trials(trials)
            for here in trial.rungs
            if here.share == rung.share and trial.rungs[-1].share == 1
        ]
        before, whole = map(sum, zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
        if not before:
            return None
        spared += rung.seconds * (whole - before) / before
    return spared if stopped else None
