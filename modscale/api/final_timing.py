"""The end of a search: its front and its picks are timed again, in turns and to a narrower interval.

By the new figures others may join the front. They are timed alone, since every latency stands in units of the reference
beside it, which agrees between two sessions to about a percent (`benchmarks/latency.md`), and as long as they are not
told apart from each other or from whom they join; where a device has no such unit, all are timed once more together.
Networks do not slow down alike, so that what was timed while the machine was slow is timed anew, in the hope that it is
not any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from modscale.analysis.front import find_front
from modscale.analysis.results import load_run
from modscale.errors import TrialFailed
from modscale.interrupts import check_stop
from modscale.runs.experiment import Experiment
from modscale.runs.finals import read_finals, write_finals
from modscale.runs.metrics import LATENCY, Results, is_target_metric
from modscale.runs.trials import Trial, complete_trials
from modscale.searching.engine import Engine
from modscale.searching.exports import Exports
from modscale.searching.loop import Observer
from modscale.searching.measures import time_again

MOST_SLOW = 2
"""How often what was timed on a slow machine is timed anew."""


def time_front_again(
    folder: Path,
    experiment: Experiment,
    engine: Engine,
    exports: Exports,
    progress: Observer,
    say: Callable[[str], None],
) -> None:
    """Times the front and the picks of a run, then whoever joins them by what that gives, until nobody does.

    Then those anew that were timed on a slow machine, and so on, `MOST_SLOW` times at most.
    """
    slow = 0
    while True:
        finalists, before = final_candidates(folder, experiment), read_finals(folder)
        if is_slow := not finalists and bool(before) and experiment.search.finals and slow < MOST_SLOW:
            finalists, slow = _slow_finals(folder, experiment), slow + 1
        if not finalists:
            return
        check_stop()
        before = {number: results for number, results in before.items() if number not in finalists}
        progress.stage("timed again", "the front")
        say(_what_is_timed(len(finalists), joins=bool(before), is_slow=is_slow))
        try:
            specs = [trial.spec for trial in finalists.values()]
            again = time_again(engine, specs, exports, beside=list(before.values()))
        except TrialFailed as error:
            check_stop()  # what was stopped has not failed
            say(f"note: not timed again: {error}")
            return
        write_finals(folder, before | dict(zip(finalists, again, strict=True)))


def final_candidates(folder: Path, experiment: Experiment) -> dict[int, Trial]:
    """What is to be timed again next, by trial number: the front and the picks of a run, less those that were.

    Where the latencies of those are no multiples of a reference's, and one is missing, all of them once more.
    """
    finals = read_finals(folder)
    trials = complete_trials(load_run(folder).trials)
    if not experiment.search.finals or not all(LATENCY.name in trial.results for trial in trials):
        return {}
    wanted = {trial.number for trial in _front_and_picks(trials, experiment)}
    missing = wanted - finals.keys()
    if missing and not _have_units(finals.values()):
        missing = wanted | finals.keys()
    return {trial.number: trial for trial in trials if trial.number in missing}


def _slow_finals(folder: Path, experiment: Experiment) -> dict[int, Trial]:
    """Of the front and the picks those that were timed last on a slow machine; none where it was slow for all."""
    finals = _front_and_picks(complete_trials(load_run(folder).trials), experiment)
    slow = [trial for trial in finals if any(key.endswith("_slow") for key in trial.results)]
    return {trial.number: trial for trial in slow} if len(slow) < len(finals) else {}


def _front_and_picks(trials: Sequence[Trial], experiment: Experiment) -> list[Trial]:
    """What of the trials a report shows as found."""
    front = find_front(trials, experiment.objectives, experiment.bands)
    found = {trial.number for trial in front.members}
    found |= {pick.trial.number for pick in front.picks.values() if pick.trial is not None}
    return [trial for trial in trials if trial.number in found]


def _have_units(finals: Iterable[Results]) -> bool:
    """Whether each latency stands in units of the reference, too, so that sessions compare."""
    return all(
        f"{name.removesuffix('_ms')}_relative" in results
        for results in finals
        for name in results
        if name == LATENCY.name or is_target_metric(name)
    )


def _what_is_timed(networks: int, *, joins: bool, is_slow: bool) -> str:
    many = f"{networks} network{'s' * (networks != 1)}"
    if is_slow:
        return f"timing {many} again beside which the machine was slow"
    if joins:
        return f"timing {many} again that joined the front by that"
    return f"timing the {networks} networks of the front and the picks again, in turns"
