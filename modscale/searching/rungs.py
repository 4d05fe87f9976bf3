"""Multi-objective early stopping: whether a candidate that has reached a rung of its training goes on.

At a rung the candidate is compared with all finished trials that had reached the same rung, with what each had come to
there: the trained objective by its value at the rung, the others (latency, params, FLOPs) as they are known before the
training. All are sorted by non-domination, and a candidate ends here where at least the share to keep lies on better
fronts. So at least that share of equally drawn candidates goes on, and whoever no other dominates always does.

As in MO-ASHA (Schmucker et al. 2021) nothing waits: the judgement is by whatever is finished at that moment, so that it
is the same after a kill, and that several workers may finish in any order. Unlike there, candidates of one front are
not told apart by how far they lie from others: a tie goes on. In a replay on fully trained networks
(`benchmarks/rungs.md`) that spread bought no more time for the members of the final front that it cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from modscale.arrays import FloatArray, IntArray
from modscale.runs.metrics import METRICS, Results, learnt_of
from modscale.runs.trials import Rung, Trial
from modscale.settings import SearchSettings

MIN_PEERS = 8
"""Trials that must have reached a rung before it stops any: the first few always go on."""


def make_judge(
    objectives: Mapping[str, str], search: SearchSettings
) -> Callable[[Sequence[Trial], Results, Sequence[Rung]], str | None] | None:
    """Who judges by the rungs of a search; None where it has none, or nothing that a training would tell is sought.

    The judge takes the finished trials, what is known of a candidate and the rungs that it has reached.
    """
    if not search.rungs or learnt_of(objectives) is None:
        return None
    return partial(judge_rung, dict(objectives), search.keep)  # it is sent to the process that trains


def judge_rung(
    objectives: Mapping[str, str], keep: float, trials: Sequence[Trial], results: Results, rungs: Sequence[Rung]
) -> str | None:
    """Why a candidate ends at the last of the `rungs` that it has reached, or None where it goes on.

    `objectives` are metric to direction, `results` what is known of the candidate by its metrics.

    With `keep` 0.5, accuracy alone, and eight trials that had 0.1 to 0.8 in steps of 0.1 at this rung, a candidate of
    0.35 ends here, since 5 of 9 are better, and one of 0.45 goes on, since 4 of 9 are.
    """
    if not rungs:
        return None
    here = rungs[-1]
    # What the training, or a later measure, is to tell is not known yet.
    known = [metric for metric in objectives if metric in results and not METRICS[metric].task]
    values = [[here.value, *(results[metric] for metric in known)]]
    values += [
        [rung.value, *(trial[metric] for metric in known)]
        for trial in trials
        for rung in trial.rungs
        if rung.share == here.share and all(metric in trial.results for metric in known)
    ]
    if len(values) - 1 < MIN_PEERS:
        return None
    signs = [1 if direction == "minimize" else -1 for direction in ("maximize", *(objectives[m] for m in known))]
    ranks = domination_ranks(np.array(values) * signs)
    better = int((ranks < ranks[0]).sum())
    if better < keep * len(values):
        return None
    return (
        f"after {here.share:.0%} of its training, {better} of the {len(values) - 1} trials that had come as far were on"
        " better fronts"
    )


def domination_ranks(losses: FloatArray) -> IntArray:
    """[points] the front that each of [points, objectives] lies on, lower being better in each objective.

    Front 0 are those that no other dominates, front 1 those that only front 0 dominates, and so on: (1, 1) and (0, 2)
    are on front 0, (1, 2) and (1, 3) on fronts 1 and 2. Points that stand twice are on one front.
    """
    points, inverse = np.unique(losses, axis=0, return_inverse=True)  # in an order in which only earlier ones dominate
    ranks = np.zeros(len(points), dtype=np.int64)
    for i, point in enumerate(points):
        dominating = (points[:i] <= point).all(axis=1)
        if dominating.any():
            ranks[i] = ranks[:i][dominating].max() + 1
    return ranks[inverse.reshape(-1)]
