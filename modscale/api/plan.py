"""A whole plan of a search: what it would take on this machine, and what it could tell apart. No run is begun.

The data are loaded and a few networks rehearsed (`searching/rehearsal.py`) in the process that a search would use; its
report is written in a temporary folder, of networks that are as large as its own would be. The run's folder is looked
at, where there is one, and left as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modscale.analysis.told_apart import ToldApart, tell_apart
from modscale.api.rehearsed_report import imagined_trials, rehearse_report
from modscale.api.session import Silence, Watcher, check_references, join_run, load_run_predictor, reference_network
from modscale.errors import naming_file
from modscale.files import path_text, scratch_folder
from modscale.interrupts import hearing_stops
from modscale.latency.raw import read_measurements
from modscale.machine import largest_child, memory_in_use
from modscale.rivals import Rival
from modscale.runs.experiment import Experiment
from modscale.runs.folder import REFERENCES_FILE, TIMINGS_FILE, TRIALS_FILE
from modscale.runs.metrics import LATENCY
from modscale.runs.references import read_references
from modscale.runs.trials import read_trials
from modscale.searching.measures import Evaluator
from modscale.searching.rehearsal import Costs, choose_networks, draw_candidates, rehearse
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

REFERENCE_KEY = "latency_reference_ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a search would take."""

    parts_s: Mapping[str, float]
    """Seconds of each part; their sum is the whole."""
    trials: int
    """That would be measured, those of the run that stand already left out."""
    references: int
    """The same of the networks that it is compared with."""
    finals: int
    """Networks that would be timed again at the end, about."""
    seconds_per_trial: float
    """Of an average candidate."""
    reference_ms: float | None
    """Latency of the reference network while this was measured: how fast the machine was."""
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


def plan_search(
    experiment: Experiment,
    *,
    space_file: str,
    source: str,
    folder: Path,
    watcher: Watcher | None = None,
    debug: bool = False,
) -> tuple[Experiment, Plan]:
    """What `session.search_space` would take, beginning or going on in `folder`; and the experiment with its data.

    Raises:
        InputError: as the search does before its first trial.
        TrialFailed: a network could not be exported, timed or trained.
    """
    watcher = watcher or Silence()
    began = time.monotonic()
    experiment, _ = join_run(experiment, folder, 1, space_file)
    predictor = load_run_predictor(experiment, folder)
    home = Path(space_file).parent
    known = read_references(folder / REFERENCES_FILE)
    waiting = [(i, one) for i, one in enumerate(experiment.search.references) if i not in known.numbers]
    check_references(experiment, known.numbers, space_file)
    watcher.say(f"loading the data ({source})")
    with scratch_folder() as scratch, hearing_stops():
        timings = scratch / TIMINGS_FILE
        with Evaluator(experiment, source, debug=debug, note=watcher.say, timings=timings) as evaluator:
            data = summary_to_dict(evaluator.summary) | {"source": path_text(source)}
            experiment = experiment.fitted(data)
            with naming_file(space_file):
                require_feasible(experiment.space)
            search = experiment.search
            allows = make_screen(predictor, experiment.limits)
            study = SearchStudy(experiment, build_tables(experiment.space), seed=search.seed, allows=allows)
            start_s = time.monotonic() - began
            done = len(read_trials(folder / TRIALS_FILE))
            candidates = draw_candidates(study, search.trials, search.startup_trials)
            drawn = [candidate.spec for candidate in candidates]
            rehearsed = []
            for spec in choose_networks(drawn):
                watcher.say(f"rehearsing {spec.name}: export, timing, some steps of its training")
                rehearsed.append(rehearse(evaluator.bench, spec))
            anchor_s = _anchor_seconds(evaluator, experiment)
            memory = _memory(evaluator)
        costs = Costs(rehearsed, read_measurements(timings))
        watcher.say("rehearsing the report")
        trials = imagined_trials(experiment, costs, candidates)
        report = rehearse_report(scratch / "run", experiment, data, trials, space_file)
        bytes_a_round = timings.stat().st_size / costs.rounds()
        bytes_a_network = timings.stat().st_size / len(rehearsed)
    left = max(0, min(search.trials, experiment.space.size()) - done)
    networks = [reference_network(one, home, experiment.space) for _, one in waiting]
    finals = report.finals if search.finals and (left or waiting) else 0

    def parts(epochs: int, val_images: int | None) -> dict[str, float]:
        each = [_trial_s(costs, spec, epochs, val_images) for spec in drawn]
        first = each[done:][: min(left, max(0, search.startup_trials - done))]
        return {
            "start": start_s,
            "trials": sum(first) + (left - len(first)) * float(np.mean(each)),
            "anchor": anchor_s(epochs, val_images) if left or networks else 0.0,
            "references": sum(_reference_s(costs, one, epochs, val_images) for one in networks),
            "finals": costs.finals_s(finals) if finals else 0.0,
            "report": report.seconds,
        }

    epochs, images = experiment.proxy.epochs, int(data["val_images"])
    told, standard_error = _told(experiment, data, drawn)
    reference_ms = [one.results[REFERENCE_KEY] for one in rehearsed if REFERENCE_KEY in one.results]
    disk = report.fixed_bytes + report.trial_bytes * search.trials
    disk += bytes_a_network * (search.trials + len(search.references)) + costs.finals_bytes(finals, bytes_a_round)
    model_bytes = [4 * count_model(one.spec).params for one in rehearsed]
    plan = Plan(
        parts_s=parts(epochs, None),
        trials=left,
        references=len(waiting),
        finals=finals,
        seconds_per_trial=float(np.mean([_trial_s(costs, spec, epochs, None) for spec in drawn])),
        reference_ms=float(np.median(reference_ms)) if reference_ms else None,
        memory_bytes=memory,
        disk_bytes=round(disk),
        scratch_bytes=round(max(max(model_bytes), finals * float(np.mean(model_bytes)))),
        networks=tuple(
            {
                "name": one.spec.name,
                "flops": one.flops,
                "export_seconds": one.export_s,
                "latency_seconds": one.latency_s,
                "step_seconds": one.pace.step_s,
                "training_seconds": one.pace.seconds(epochs),
                **{key: value for key, value in one.results.items() if key == LATENCY.name},
            }
            for one in costs.rehearsed
        ),
        standard_error=standard_error,
        told_apart=told,
        more={
            "val_images": 4 * images,
            "epochs": 2 * epochs,
            "seconds": sum(parts(2 * epochs, 4 * images).values()),
        },
    )
    return experiment, plan


def plan_to_json(experiment: Experiment, plan: Plan) -> dict[str, Any]:
    """The answer of `search --dry-run --json`."""
    told = plan.told_apart
    return {
        "seconds_per_trial": plan.seconds_per_trial,
        "seconds": plan.seconds,
        "memory_bytes": plan.memory_bytes,
        "disk_bytes": plan.disk_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "trials": plan.trials,
        "references": plan.references,
        "finals": plan.finals,
        "parts_seconds": dict(plan.parts_s),
        "reference_ms": plan.reference_ms,
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
        "early_stopping_counted": False if experiment.search.rungs else None,
    }


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


def _trial_s(costs: Costs, spec: ModelSpec, epochs: int, val_images: int | None) -> float:
    flops = count_model(spec).flops
    return costs.timing_s(flops) + costs.training_s(flops, epochs, val_images)


def _reference_s(costs: Costs, one: ModelSpec | Rival, epochs: int, val_images: int | None) -> float:
    """A rival is timed alone, taken to be a middling network; what the anchor learned is known."""
    if isinstance(one, Rival):
        return costs.timing_s(costs.rehearsed[len(costs.rehearsed) // 2].flops)
    flops = count_model(one).flops
    is_anchor = one.stages == published(ANCHOR).stages
    return costs.timing_s(flops) + (0.0 if is_anchor else costs.training_s(flops, epochs, val_images))


def _anchor_seconds(evaluator: Evaluator, experiment: Experiment) -> Any:
    """By epochs and validation images what training the anchor takes, which is done once where classes are learnt."""
    if experiment.proxy.task != "classification":
        return lambda epochs, val_images: 0.0
    pace = evaluator.bench.ask("take_pace", published(ANCHOR), experiment.search.seed)
    return pace.seconds


def _memory(evaluator: Evaluator) -> int | None:
    """Bytes of all processes at the worst moment: one trains, or it waits while another is timed."""
    ours, theirs, timing = memory_in_use(), evaluator.bench.ask("memory"), largest_child()
    if ours is None or theirs is None:
        return None
    most, now = theirs
    return ours[0] + max(most, now + (timing or 0))
