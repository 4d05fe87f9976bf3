"""What of a search is still to be done, and how long that takes by what its networks cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from modscale.rivals import Rival
from modscale.runs.experiment import Experiment
from modscale.searching.costs import Costs
from modscale.searching.rungs import MIN_PEERS
from modscale.searching.side_by_side import Asked, seconds_of
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec
from modscale.training.estimate import ANCHOR


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A search, from here on."""

    experiment: Experiment
    drawn: Sequence[ModelSpec]
    """Networks as it would draw them, by the numbers of its trials as far as they go."""
    ends: Sequence[tuple[float, int]]
    """Of each of these how far it comes: its share of the training, and how often it is scored."""
    done: int
    """Trials that stand."""
    left: int
    """Trials that are to be measured."""
    references: Sequence[ModelSpec | Rival]
    """Networks that are to be compared with, and measured."""
    finals: int
    """Networks that are timed again at the end."""
    start_s: float
    """Until the first trial."""
    report_s: float
    """For the report."""
    workers: int

    def candidates(self, count: int, first: int = 0) -> list[ModelSpec]:
        """So many, as they would be drawn; where they are at an end they begin again."""
        return [self.drawn[place] for place in self._places(count, first)]

    def _places(self, count: int, first: int) -> list[int]:
        """Those of so many trials among the drawn ones, without the first that no rung would end if there are rungs."""
        most = len(self.drawn)
        again = min(MIN_PEERS, most - 1) if self.experiment.search.rungs else 0
        return [n if n < most else again + (n - most) % (most - again) for n in range(first, first + count)]

    @property
    def ended_early(self) -> int:
        """Trials that end before their training is over."""
        return sum(self.ends[place][0] < 1 for place in self._places(self.left, self.done))

    def seconds_per_trial(self, costs: Costs) -> float:
        """Of an average candidate, one after the other."""
        asked = [self._asked(costs, place, self.experiment.proxy.epochs, None) for place in range(len(self.drawn))]
        return fmean(one.export_s + costs.timing_s([one.spec]) + one.training_s for one in asked)

    def parts_s(self, costs: Costs, epochs: int | None = None, val_images: int | None = None) -> dict[str, float]:
        """Seconds of each part, with so many epochs and validation images, or those of the experiment."""
        epochs = self.experiment.proxy.epochs if epochs is None else epochs
        trials = [self._asked(costs, place, epochs, val_images) for place in self._places(self.left, self.done)]
        compared = [self._compared(costs, one, epochs, val_images) for one in self.references]
        scorings = len(self.experiment.search.rungs) + 1
        anchor_s = costs.anchor_s(epochs, val_images, scorings=scorings) if trials or compared else 0.0
        parts = {"start": costs.speed * self.start_s}
        if self.workers == 1:
            parts |= {
                name: sum(one.export_s + costs.timing_s([one.spec]) + one.training_s for one in some)
                for name, some in (("trials", trials), ("references", compared))
            }
            parts["anchor"] = anchor_s
        else:
            every = [*trials, *compared]
            parts |= {"references": 0.0, "anchor": 0.0}
            parts["trials"] = seconds_of(
                every,
                workers=self.workers,
                window=self.experiment.search.window or 1,
                anchor_s=anchor_s,
                timing_s=costs.timing_s,
                ready_s=costs.speed * costs.rehearsal.workers_start_s,
                stands_still=any(one.target is None for one in self.experiment.latency.devices()),
            )
        parts["finals"] = costs.finals_s(self.drawn, self.finals, self.workers)
        parts["report"] = costs.speed * self.report_s
        return {name: parts[name] for name in ("start", "trials", "anchor", "references", "finals", "report")}

    def _asked(self, costs: Costs, place: int, epochs: int, val_images: int | None) -> Asked:
        """What a trial asks for."""
        spec, (share, scorings) = self.drawn[place], self.ends[place]
        training_s = costs.training_s(spec, epochs, val_images, share=share, scorings=scorings) if share else 0.0
        return Asked(spec=spec, export_s=costs.export_s(spec), training_s=training_s)

    def _compared(self, costs: Costs, one: ModelSpec | Rival, epochs: int, val_images: int | None) -> Asked:
        """The same of a reference. A rival is timed alone, and taken to be a middling network; the anchor is known."""
        if isinstance(one, Rival):
            return Asked(spec=self.drawn[len(self.drawn) // 2], export_s=0.0, training_s=0.0)
        scorings = len(self.experiment.search.rungs) + 1
        is_anchor = one.stages == published(ANCHOR).stages and self.experiment.proxy.task == "classification"
        training_s = 0.0 if is_anchor else costs.training_s(one, epochs, val_images, scorings=scorings)
        return Asked(spec=one, export_s=costs.export_s(one), training_s=training_s)
