"""How long the rest of a search takes, by what is finished of it: its trials, its references, and the front once more.

What was finished took some wall time, that of the anchor's training taken off, which comes once. Half of what a network
takes is shared out alike, half by its number of blocks; a trial that is yet to come is taken to be of the mean size.
The published network that is the anchor is not trained again. Of what several workers have under way, half is done.

At the end the front is timed once more, to a narrower interval (`searching/measures.py`): each network of it takes
as much of a short timing, of the first rounds alone, as its own rounds have (the reference is shared). One that is not
told apart from another of the front takes more rounds until its interval would be narrow enough, or the patience of the
protocol is over. How the front grows, `front_size` tells.

Worked by hand: two trials of 10 blocks took 20 s each, and ten more and a reference of 20 blocks are to come; that
counts as 0.5 + 0.5 x 20 / 10 = 1.5 trials, so 11.5 x 20 = 230 s are left, and the front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from modscale.analysis.front import split_front
from modscale.latency.doubt import not_told_apart
from modscale.rivals import Rival
from modscale.runs.experiment import Experiment
from modscale.runs.metrics import LATENCY
from modscale.runs.references import MeasuredRival
from modscale.runs.trials import Trial, complete_trials
from modscale.searching.measures import FINAL_PERCENT
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec
from modscale.training.estimate import ANCHOR

EVEN = 0.5
"""Share of what a network takes that does not grow with it."""
UNTRAINED = 0.4
"""What a network that is not trained takes of one that is."""
OWN_ROUNDS = 0.6
"""Share of a timing that is not the reference's, which is shared at the end."""
RECORDS = 2.0
"""Networks on a front for each that is a record among random numbers, see `front_size`."""
NEAR = 0.7
"""Power of the trials with which a front grows in a long search."""


@dataclass(kw_only=True)
class Ahead:
    """What of a search is still ahead, and what was finished since it began or went on."""

    experiment: Experiment
    trials: list[Trial]
    """All that are finished."""
    references: list[ModelSpec | Rival]
    """That are still to be measured."""
    finished: list[tuple[bool, int]] = field(default_factory=list)
    """Of what was finished since then: whether it was trained, and its blocks; 0 of a rival."""

    @property
    def trials_left(self) -> int:
        return max(0, self.experiment.search.trials - len(self.trials))

    def take(self, measured: Trial | MeasuredRival, *, is_trial: bool) -> None:
        """Something was finished."""
        if isinstance(measured, MeasuredRival):
            self.finished.append((False, 0))
        else:
            self.finished.append((self._is_trained(measured.spec), measured.spec.num_blocks()))
        if is_trial and isinstance(measured, Trial):
            self.trials.append(measured)
        elif not is_trial and self.references:
            self.references.pop(0)

    def left_s(
        self, spent_s: float, stages_s: Mapping[str, Sequence[float]], *, pace_s: float | None, under_way: int = 0
    ) -> float | None:
        """Seconds for all that is ahead, where what was finished took `spent_s`; None while nothing tells.

        `stages_s` has how long each stage of a candidate took, by its name. `pace_s` is what a network took in an
        earlier start, by which the time left is told until one is finished. Of others that are `under_way`, half is
        done.
        """
        blocks = [count for trained, count in self.finished if trained] or [
            one.spec.num_blocks() for one in self.trials
        ]
        middle = fmean(blocks) if blocks else None
        done = sum(self._weight(trained, count, middle) for trained, count in self.finished)
        begun = 0.5 * min(under_way, self.trials_left + len(self.references))
        anchor_s = sum(stages_s.get("anchor", ()))
        if done:
            pace_s = max(0.0, spent_s - min(anchor_s, spent_s / 2)) / (done + begun)
        if pace_s is None:
            return None
        ahead = self.trials_left - begun
        for one in self.references:
            if isinstance(one, Rival):
                ahead += self._weight(False, 0, middle)
            else:
                ahead += self._weight(self._is_trained(one), one.num_blocks(), middle)
        return ahead * pace_s + self._finals_s(stages_s, pace_s)

    def _is_trained(self, spec: ModelSpec) -> bool:
        return spec.stages != published(ANCHOR).stages or self.experiment.proxy.task != "classification"

    @staticmethod
    def _weight(trained: bool, blocks: int, middle: float | None) -> float:
        size = blocks / middle if blocks and middle else 1.0
        return (EVEN + (1 - EVEN) * size) * (1.0 if trained else UNTRAINED)

    def _finals_s(self, stages_s: Mapping[str, Sequence[float]], pace_s: float) -> float:
        """What the front takes at the end."""
        complete = complete_trials(self.trials)
        if not (self.experiment.search.finals and complete and all(LATENCY.name in one.results for one in complete)):
            return 0.0
        front, _ = split_front(complete, self.experiment.objectives)
        records = front_size(self.experiment.search.trials) / front_size(len(self.trials))
        timings_s = sorted(stages_s.get("latency", ()))
        first_s = timings_s[(len(timings_s) - 1) // 4] if timings_s else UNTRAINED * pace_s
        own_s, latency = OWN_ROUNDS * first_s, self.experiment.latency
        most_s = latency.patience_s * len(latency.devices())
        wanted = min(FINAL_PERCENT, latency.until_percent)
        timed = [_timed(one) for one in front]
        more_s = sum(
            min(most_s, max(0.0, own_s * ((100 * half_width / value / wanted) ** 2 - 1)))
            for (value, half_width), ties in zip(timed, not_told_apart(timed), strict=True)
            if ties
        )
        return max(1.0, records) * (len(front) * own_s + more_s)


def _timed(trial: Trial) -> tuple[float, float]:
    """A trial's latency and the half-width of its interval, both in units of the reference where there is one."""
    results = trial.results
    if results.get("latency_relative") and "latency_relative_ci95" in results:
        return results["latency_relative"], results["latency_relative_ci95"]
    return results[LATENCY.name], results.get("latency_ci95_ms", 0.0)


def front_size(trials: int) -> float:
    """Networks that a front has after so many trials, about; at least 1.

    At first as many as there are records among random numbers, 1 + 1/2 + ... + 1/trials, times `RECORDS`, since the
    first trials are spread over the sizes; later trials^`NEAR`, since they are drawn near the front. Seven recorded
    searches had 3.7 after 4 trials, 5.0 after 6 and 5.7 after 9; this gives 4, 4.9 and 5.7. One of 150 trials had 6
    after 20, 13 after 40, 18 after 80 and 30 after 120; this gives 8, 13, 21 and 29.
    """
    records = RECORDS * sum(1 / n for n in range(1, trials + 1))
    return max(1.0, min(trials, max(records, trials**NEAR)))
