"""A whole search, imagined: what it would come to and how long that would take, from its beginning or from where a run
stands, by the search's own code on a bench that only moves a clock on (`searching/imagined.py`).

A long search is imagined as far as `MOST` trials. What of it is beyond takes what those took that were chosen by what
was known; the front grows as `time_left.front_size` tells. Noise decides who is on a front: a short search is imagined
several times, and what it takes is the mean.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from modscale.analysis.results import load_run
from modscale.analysis.time_left import front_size
from modscale.api.comparisons import reference_network
from modscale.api.session import load_run_predictor, measure_all, open_study
from modscale.api.workers import make_engine
from modscale.errors import AllTrialsFailed
from modscale.files import path_text
from modscale.report.build import build_report
from modscale.rivals import Rival
from modscale.runs.experiment import Experiment
from modscale.runs.finals import FINALS_FILE, read_finals
from modscale.runs.folder import EARLIER_FILE, REFERENCES_FILE, STUDY_FILE, TIMINGS_FILE, TRIALS_FILE, write_run
from modscale.runs.references import MeasuredRival
from modscale.runs.trials import Trial, read_trials
from modscale.searching.costs import Costs
from modscale.searching.exports import Exports
from modscale.searching.imagined import ImaginedBench, ImaginedPool
from modscale.searching.imagined_device import Clock
from modscale.searching.measures import MEASURES, Evaluator
from modscale.searching.mirror import StudyMirror
from modscale.searching.prediction import with_prediction
from modscale.searching.rehearsal import Rehearsal
from modscale.searching.steps import Steps, Timing
from modscale.searching.worker import DataSummary
from modscale.specs.spec import ModelSpec

MOST = 100
"""Trials that are imagined one by one."""
TIMES = 5
"""Searches that are imagined at most: as many as have `MOST` trials together."""
PARTS = ("trials", "anchor", "references", "finals")
"""What a search takes its time for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a part of a search takes."""

    seconds: float = 0.0
    """On a machine of the speed of the rehearsal."""
    waited_s: float = 0.0
    """Of these what patience takes, which is as long on any machine."""

    def at(self, speed: float) -> float:
        """Seconds where all takes `speed` times as long."""
        return speed * (self.seconds - self.waited_s) + self.waited_s

    def __add__(self, other: Share) -> Share:
        return Share(seconds=self.seconds + other.seconds, waited_s=self.waited_s + other.waited_s)

    def times(self, factor: float) -> Share:
        return Share(seconds=factor * self.seconds, waited_s=factor * self.waited_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Imagined:
    """What is left of a search."""

    parts: Mapping[str, Share]
    """By the names of `PARTS`; of several workers all but the end is `trials`."""
    trials: int
    """That would be measured."""
    finals: int
    """Networks that are timed again at the end."""
    ended_early: int
    """Trials that fail by a limit or are stopped at a rung."""
    trial_s: float
    """What is done to an average trial."""
    specs: tuple[ModelSpec, ...]
    """Of the trials that were imagined."""
    trained: tuple[tuple[ModelSpec, float, int], ...]
    """What was trained of them and the references, to what share, and how often it was scored."""
    beyond: float
    """All trials that are left over those that were imagined."""

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(part.seconds for part in self.parts.values())

    def more_s(self, costs: Costs, epochs: int, val_images: int, workers: int) -> float:
        """What all trainings, and the anchor's, take more with so many epochs and validation images."""
        now = costs.rehearsal.networks[0].pace.val_images
        more = sum(
            costs.training_s(spec, epochs, val_images, share=share, scorings=scorings)
            - costs.training_s(spec, epochs // 2, now, share=share, scorings=scorings)
            for spec, share, scorings in self.trained
        )
        return self.beyond * more / workers + costs.anchor_s(epochs, val_images) - costs.anchor_s(epochs // 2, now)


@dataclass(kw_only=True)
class _Watch:
    """An observer that reads a clock."""

    clock: Clock
    parts: dict[str, Share] = field(default_factory=lambda: dict.fromkeys(PARTS, Share()))
    last: Share = field(default_factory=Share)
    done: list[float] = field(default_factory=list)
    """Seconds after which each trial was finished."""

    def read(self, part: str) -> None:
        """Everything since the last reading belongs to `part`."""
        now = Share(seconds=self.clock.now_s, waited_s=self.clock.waited_s)
        self.parts[part] += now + self.last.times(-1)
        self.last = now

    def started(self, label: str, spec: ModelSpec | None) -> None:
        """Nothing takes time before it."""

    def stage(self, name: str, label: str = "") -> None:
        if name == "timed again":
            self.read("finals")

    def finished(self, label: str, trial: Trial | MeasuredRival) -> None:
        is_trial = label.startswith("trial ")
        self.read("trials" if is_trial else "references")
        if is_trial:
            self.done.append(self.clock.now_s)


def imagine_searches(
    experiment: Experiment, rehearsal: Rehearsal, summary: DataSummary, folder: Path, scratch: Path, **settings: Any
) -> list[Imagined]:
    """The search some times, as if each had another noise; the run of the first lies in `scratch / "0"`.

    As `imagine_search`.
    """
    done = len(read_trials(folder / TRIALS_FILE))
    left = max(1, min(experiment.search.trials, experiment.space.size()) - done)
    return [
        imagine_search(experiment, rehearsal, summary, folder, scratch / str(seed), seed=seed, **settings)
        for seed in range(max(1, min(TIMES, MOST // left)))
    ]


def imagine_search(
    experiment: Experiment,
    rehearsal: Rehearsal,
    summary: DataSummary,
    folder: Path,
    out: Path,
    *,
    data: Mapping[str, Any],
    space_file: str,
    workers: int,
    seed: int,
) -> Imagined:
    """What a search beginning or going on in `folder` would come to, written to a new folder `out`."""
    out.mkdir(parents=True)
    done, left = _copy_run(experiment, folder, out)
    shown = min(left, MOST)
    experiment = replace(experiment, search=replace(experiment.search, trials=done + shown))
    write_run(out, experiment, path_text(space_file), data)
    predictor, home = load_run_predictor(experiment, folder), Path(space_file).parent
    evaluator = Evaluator(experiment, summary.source, measures=with_prediction(MEASURES, predictor))
    bench = ImaginedBench(experiment, rehearsal, summary, workers=workers, seed=seed, timings=out / TIMINGS_FILE)
    evaluator.bench, watch = bench, _Watch(clock=bench.clock)
    pool = partial(ImaginedPool, clock=bench.clock)
    before = read_finals(out)
    with (
        Exports() as evaluator.exports,
        make_engine(evaluator, workers, experiment.search.window or 1, pool) as engine,
        suppress(AllTrialsFailed),
    ):
        measure_all(
            out,
            experiment,
            open_study(out, experiment, predictor),
            evaluator.steps,
            engine,
            watch,
            references=[reference_network(one, home, experiment.space) for one in experiment.search.references],
            measure_rival=partial(_imagine_rival, rehearsal=rehearsal),
            exports=evaluator.exports,
            say=lambda text: None,
        )
    watch.read("finals")
    new = read_trials(out / TRIALS_FILE)[done:]
    parts = dict(watch.parts)
    if workers > 1:
        parts["trials"] += parts.pop("references")
    elif bench.anchor_s:
        whose = "trials" if new else "references"
        parts[whose] += Share(seconds=-bench.anchor_s)
        parts["anchor"] = Share(seconds=bench.anchor_s)
    finals = len(read_finals(out)) if read_finals(out) != before else 0
    if left > shown:
        grown = front_size(done + left) / front_size(done + shown)
        parts["finals"], finals = parts["finals"].times(grown), round(grown * finals)
        learnt = watch.done[experiment.search.startup_trials :]
        each_s = (learnt[-1] - learnt[0]) / (len(learnt) - 1)
        waited = parts["trials"].waited_s / parts["trials"].seconds
        parts["trials"] += Share(seconds=each_s, waited_s=waited * each_s).times(left - shown)
    beyond = left / shown if shown else 1.0
    early = sum(trial.state != "complete" for trial in new)
    return Imagined(
        parts={name: parts.get(name, Share()) for name in PARTS},
        trials=left,
        finals=finals,
        ended_early=round(beyond * early),
        trial_s=parts["trials"].seconds / left if workers == 1 and left else _mean_s(new),
        specs=tuple(trial.spec for trial in new),
        trained=tuple(bench.trained),
        beyond=beyond,
    )


def mean_share(shares: Sequence[Share]) -> Share:
    return sum(shares, Share()).times(1 / len(shares))


def rehearse_report(experiment: Experiment, out: Path, folder: Path, beyond: float) -> tuple[float, int]:
    """Writes the report of the run that was imagined in `out`: the seconds, and what all of the run in `folder` takes.

    Trials that are `beyond` those that were imagined take as many bytes.
    """
    began = time.monotonic()
    StudyMirror(out / STUDY_FILE, experiment, lambda text: None).update(read_trials(out / TRIALS_FILE))
    build_report(load_run(out))
    seconds = time.monotonic() - began
    sizes = {file.name: file.stat().st_size for file in out.rglob("*") if file.is_file()}
    grown = sum(sizes.get(name, 0) for name in (TRIALS_FILE, TIMINGS_FILE))
    stands = (folder / TIMINGS_FILE).stat().st_size if (folder / TIMINGS_FILE).exists() else 0
    return seconds, sum(sizes.values()) + round((beyond - 1) * grown) + stands


def _copy_run(experiment: Experiment, folder: Path, out: Path) -> tuple[int, int]:
    """Copies what a search reads of its run; the trials that stand, and those that are left."""
    for name in (TRIALS_FILE, REFERENCES_FILE, FINALS_FILE, EARLIER_FILE):
        if (folder / name).exists():
            shutil.copyfile(folder / name, out / name)
    done = len(read_trials(out / TRIALS_FILE))
    return done, max(0, min(experiment.search.trials, experiment.space.size()) - done)


def _imagine_rival(rival: Rival, number: int, *, rehearsal: Rehearsal) -> Steps[MeasuredRival]:
    """A network without a spec is timed, and taken to be a middling one."""
    middle = rehearsal.networks[len(rehearsal.networks) // 2]
    (timed,) = yield Timing(models=(Path(rival.name),), told=({"name": rival.name},))
    results = {"params": 1, "flops": middle.flops, **timed}
    side = middle.spec.resolution
    return MeasuredRival(
        number=number, state="complete", rival=rival, results=results, input=(1, 3, side, side), seconds=0.0
    )


def _mean_s(trials: Sequence[Trial]) -> float:
    return fmean(trial.seconds for trial in trials) if trials else 0.0
