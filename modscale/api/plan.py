"""A whole plan of a search: what it would take on this machine, and what it could tell apart. No run is begun.

The data are loaded and a few networks rehearsed (`searching/rehearsal.py`) in the processes that a search would use;
then the search is gone through, by its own code and what these took, in a temporary folder (`imagined_search.py`), and
its report is written there. The run's folder is looked at, where there is one, and left as it is.

The seconds are those of a machine as fast as it is now. Runs in the same folder tell how fast and how slow this machine
has been: the range is from the one to the other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from modscale.analysis.told_apart import ToldApart, tell_apart
from modscale.api.comparisons import check_references, reference_network
from modscale.api.imagined_search import PARTS, Share, imagine_searches, mean_share, rehearse_report
from modscale.api.session import join_run, load_run_predictor
from modscale.api.watching import Silence, Watcher
from modscale.api.workers import Workers, cores_each
from modscale.errors import naming_file
from modscale.files import path_text, scratch_folder
from modscale.interrupts import hearing_stops
from modscale.memory import MemoryWatch
from modscale.runs.experiment import Experiment
from modscale.runs.folder import REFERENCES_FILE, TIMINGS_FILE
from modscale.runs.levels import levels_beside
from modscale.runs.metrics import LATENCY
from modscale.runs.references import read_references
from modscale.searching.costs import Costs
from modscale.searching.measures import Evaluator
from modscale.searching.rehearsal import MOST_AT_ONCE, Rehearsal, choose_networks, draw_candidates, rehearse
from modscale.searching.screen import make_screen
from modscale.searching.study import SearchStudy
from modscale.searching.worker import summary_to_dict
from modscale.settings import PUBLISHED
from modscale.spaces.feasibility import require_feasible
from modscale.spaces.tables import build_tables
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec
from modscale.training.estimate import ANCHOR, estimate_accuracy

OFF = 0.15
"""Share by which plans were off at the same speed of the machine where the front was as large as planned, see
benchmarks/dry_run.md: the range is so much wider on either side."""
COPIES = 12
"""Bytes that a worker comes to hold for each byte of a network's weights while it writes and checks its file: 11 to 12
were seen with networks of 19 to 52 MB, see benchmarks/dry_run.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """How fast the machine may be."""

    reference_ms: float
    """What the reference network takes then."""
    seconds: float
    """What the search takes."""
    run: str | None
    """The run that met it on the average; None: this plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a search would take."""

    parts_s: Mapping[str, float]
    """Seconds of each part; their sum is the whole."""
    workers: int
    """That it is planned for."""
    trials: int
    """That would be measured, those of the run that stand already left out."""
    references: int
    """The same of the networks that it is compared with."""
    finals: int
    """Networks that would be timed again at the end, about."""
    finals_range: tuple[int, int]
    """The fewest and the most in the searches that were imagined."""
    ended_early: int
    """Trials that its rungs or limits would end before their training is over, about."""
    chance: tuple[float, float]
    """What the shortest and the longest search that were imagined take, over the mean: who is on a front is chance."""
    seconds_per_trial: float
    """Of an average candidate."""
    reference_ms: float | None
    """Latency of the reference network while this was measured: how fast the machine was."""
    slower: Level | None
    """What it would be on this machine if that were slower by half; None where its speed is not known."""
    levels: tuple[Level, ...]
    """From the fastest to the slowest that this machine was in earlier runs or is now; empty where nothing tells."""
    memory_bytes: int | None
    """Of all processes at the worst moment."""
    disk_bytes: int
    """Of the run's folder at its end."""
    scratch_bytes: int
    """Of temporary files at the worst moment."""
    networks: tuple[Mapping[str, Any], ...]
    """What was rehearsed of which network."""
    standard_error: float | None
    """Of an estimated accuracy, as each trial has it; None where no accuracy is estimated."""
    told_apart: ToldApart | None
    """None: not known of this proxy, or not of this task."""
    more: Mapping[str, Any]
    """The same search with four times the validation images and twice the epochs: both, and its seconds."""

    @property
    def seconds(self) -> float:
        return sum(self.parts_s.values())

    @property
    def range_s(self) -> tuple[float, float]:
        """From the luckiest search at the fastest level to the unluckiest at the slowest, and what plans miss."""
        seconds = [self.seconds, *(level.seconds for level in self.levels)]
        low, high = self.chance
        return min(seconds) * low * (1 - OFF), max(seconds) * high * (1 + OFF)


def plan_search(
    experiment: Experiment,
    *,
    space_file: str,
    source: str,
    folder: Path,
    workers: Workers = 1,
    watcher: Watcher | None = None,
    debug: bool = False,
) -> tuple[Experiment, Plan]:
    """What `session.search_space` would take, beginning or going on in `folder`; and the experiment with its data.

    Of a Ray cluster that of one worker here.

    Raises:
        InputError: as the search does before its first trial.
        TrialFailed: a network could not be exported, timed or trained.
    """
    watcher = watcher or Silence()
    began = time.monotonic()
    team = workers if isinstance(workers, int) else 1
    experiment, _ = join_run(experiment, folder, team, space_file)
    predictor = load_run_predictor(experiment, folder)
    home = Path(space_file).parent
    known = read_references(folder / REFERENCES_FILE)
    check_references(experiment, known.numbers, space_file)
    with scratch_folder() as scratch, hearing_stops():
        timings = scratch / TIMINGS_FILE
        evaluator = Evaluator(
            experiment, source, workers=min(team, MOST_AT_ONCE), cores=cores_each(team),
            debug=debug, note=watcher.say, timings=timings,
        )  # fmt: skip
        with MemoryWatch(lambda: evaluator.bench.pids) as memory, evaluator:
            data = summary_to_dict(evaluator.summary) | {"source": path_text(source)}
            experiment = experiment.fitted(data)
            with naming_file(space_file):
                require_feasible(experiment.space)
            search, proxy = experiment.search, experiment.proxy
            allows = make_screen(predictor, experiment.limits)
            study = SearchStudy(experiment, build_tables(experiment.space), seed=search.seed, allows=allows)
            start_s = time.monotonic() - began
            drawn = [candidate.spec for candidate in draw_candidates(study, search.trials, search.startup_trials)]
            rehearsal = rehearse(
                evaluator.bench,
                choose_networks(drawn),
                anchor=published(ANCHOR) if proxy.task == "classification" else None,
                workers=team,
                timings=timings,
                say=watcher.say,
            )
        watcher.say("going through the search, and rehearsing its report")
        imagined = imagine_searches(
            experiment, rehearsal, evaluator.summary, folder, scratch,
            data=data, space_file=space_file, workers=team,
        )  # fmt: skip
        with MemoryWatch() as reporting:
            report_s, disk_bytes = rehearse_report(experiment, scratch / "0", folder, imagined[0].beyond)
    parts = {name: mean_share([one.parts[name] for one in imagined]) for name in PARTS}
    parts = {"start": Share(seconds=start_s), **parts, "report": Share(seconds=report_s)}
    costs = Costs(rehearsal)
    networks = [reference_network(one, home, experiment.space) for one in search.references]
    waiting = [one for i, one in enumerate(networks) if i not in known.numbers]
    finals = round(fmean(one.finals for one in imagined))
    epochs, images = proxy.epochs, int(data["val_images"])
    told, standard_error = _told(experiment, data, drawn)
    facts = rehearsal.sessions[0].device.facts
    beside = levels_beside(folder, facts, experiment.latency.provider) if rehearsal.reference_ms else {}
    rehearsed_bytes = [_weight_bytes(one.spec) for one in rehearsal.networks]
    exported = [*imagined[0].specs, *(one for one in waiting if isinstance(one, ModelSpec))]
    largest_bytes = max(map(_weight_bytes, exported), default=0)
    seconds, totals = sum(part.seconds for part in parts.values()), [one.seconds for one in imagined]
    plan = Plan(
        parts_s={name: part.seconds for name, part in parts.items()},
        workers=team,
        trials=imagined[0].trials,
        references=len(waiting),
        finals=finals,
        finals_range=(min(one.finals for one in imagined), max(one.finals for one in imagined)),
        ended_early=round(fmean(one.ended_early for one in imagined)),
        chance=(1 + (min(totals) - fmean(totals)) / seconds, 1 + (max(totals) - fmean(totals)) / seconds),
        seconds_per_trial=fmean(one.trial_s for one in imagined),
        reference_ms=rehearsal.reference_ms,
        slower=_at(parts, rehearsal, 1.5 * rehearsal.reference_ms) if rehearsal.reference_ms else None,
        levels=_levels(parts, rehearsal, beside),
        memory_bytes=_memory(
            memory.most_with(team), reporting.most(), COPIES * team * (largest_bytes - max(rehearsed_bytes))
        ),
        disk_bytes=disk_bytes,
        scratch_bytes=round(max(largest_bytes, finals * fmean(rehearsed_bytes))),
        networks=tuple(
            {
                "name": one.spec.name,
                "flops": one.flops,
                "export_seconds": one.export_s,
                "latency_seconds": rehearsal.timing_s(place),
                "step_seconds": one.pace.step_s,
                "training_seconds": one.pace.seconds(epochs),
                **{key: value for key, value in one.results.items() if key == LATENCY.name},
            }
            for place, one in enumerate(rehearsal.networks)
        ),
        standard_error=standard_error,
        told_apart=told,
        more={
            "val_images": 4 * images,
            "epochs": 2 * epochs,
            "seconds": seconds + fmean(one.more_s(costs, 2 * epochs, 4 * images, team) for one in imagined),
        },
    )
    return experiment, plan


def plan_to_json(experiment: Experiment, plan: Plan) -> dict[str, Any]:
    """The answer of `search --dry-run --json`."""
    told = plan.told_apart
    return {
        "seconds_per_trial": plan.seconds_per_trial,
        "seconds": plan.seconds,
        "seconds_range": list(plan.range_s),
        "memory_bytes": plan.memory_bytes,
        "disk_bytes": plan.disk_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "workers": plan.workers,
        "trials": plan.trials,
        "references": plan.references,
        "finals": plan.finals,
        "finals_range": list(plan.finals_range),
        "ended_early": plan.ended_early,
        "parts_seconds": dict(plan.parts_s),
        "reference_ms": plan.reference_ms,
        "slower": None if plan.slower is None else asdict(plan.slower),
        "levels": [asdict(level) for level in plan.levels],
        "networks": [dict(row) for row in plan.networks],
        "standard_error": plan.standard_error,
        "told_apart": None
        if told is None
        else {
            "data": told.record.data,
            "apart_points": told.apart_points,
            "without_noise_points": told.rest_points,
            **asdict(told.noise),
            "pairs": [asdict(pair) | {"ties": pair.ties} for pair in told.pairs],
        },
        "more": dict(plan.more),
        "early_stopping_counted": True if experiment.search.rungs else None,
    }


def _weight_bytes(spec: ModelSpec) -> int:
    return 4 * count_model(spec).params


def _memory(searching: int | None, reporting: int | None, more: int) -> int | None:
    """The most that is held at once: what was seen of the search, and what larger networks take more, or the report."""
    if searching is None or reporting is None:
        return None
    return max(searching + max(0, more), reporting)


def _levels(parts: Mapping[str, Share], rehearsal: Rehearsal, beside: Mapping[str, float]) -> tuple[Level, ...]:
    """What the search takes at the speed of now, and at the fastest and the slowest of the runs `beside`."""
    if (now_ms := rehearsal.reference_ms) is None:
        return ()
    runs = sorted(beside.items(), key=lambda one: one[1])
    found: list[tuple[str | None, float]] = [(None, now_ms), *dict.fromkeys((*runs[:1], *runs[-1:]))]
    return tuple(_at(parts, rehearsal, level_ms, name) for name, level_ms in sorted(found, key=lambda one: one[1]))


def _at(parts: Mapping[str, Share], rehearsal: Rehearsal, level_ms: float, run: str | None = None) -> Level:
    """What the search takes where the reference takes so long."""
    speed = level_ms / (rehearsal.reference_ms or level_ms)
    return Level(reference_ms=level_ms, seconds=sum(part.at(speed) for part in parts.values()), run=run)


def _told(
    experiment: Experiment, data: Mapping[str, Any], drawn: Sequence[ModelSpec]
) -> tuple[ToldApart | None, float | None]:
    """What is told apart of the published networks of the search, or of all; and the standard error of an estimate."""
    proxy = experiment.proxy
    if proxy.task != "classification":
        return None, None
    names = [one for one in experiment.search.references if isinstance(one, str)]
    chosen = choose_networks(drawn)
    estimate = estimate_accuracy(chosen[len(chosen) // 2], method=proxy.method, evidence=0.0)
    told = tell_apart(
        proxy,
        str(data["name"]),
        int(data["val_images"]),
        names if len(names) > 1 else PUBLISHED,
        accuracy=estimate.accuracy,
    )
    return told, estimate.standard_error
