"""Replays searches on the table of `search_table.py`: how fast each sampler finds what random sampling finds.

    python benchmarks/search_replay.py --seeds 20                    # all samplers and scores; resumes
    python benchmarks/search_replay.py --summary                     # prints the tables and replays nothing
    python benchmarks/search_replay.py --scores estimate --samplers random surrogate --first-seed 100 --out other.jsonl

Every search is the real `SearchStudy`; only its proposals differ, and each is asked again until what it proposes is
feasible and new, as a search does. A trial's values are looked up. One JSON line a finished replay; one that stands in
the file is not repeated. Hypervolumes are shares of the whole table's, with its worst values plus a tenth of their
ranges as the reference point, after both objectives are scaled to their ranges in the table.

`estimate` is what a search ranks by, with the table's own training as its evidence; mostly known on paper, it is easy
for whoever models counts. `accuracy` and `loss` are what was trained alone.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from search_table import SPACE, TABLE, append, read_rows

from modscale.analysis.growth import prefix_areas
from modscale.runs.experiment import Experiment, load_experiment
from modscale.runs.trials import Trial
from modscale.searching.study import TPE_ATTEMPTS, SearchStudy, nearest_option
from modscale.spaces.tables import build_tables
from modscale.training.estimate import estimate_accuracy, evidence_of

OUT = Path(__file__).parent / "search_replay.jsonl"
BUDGET = 100
STARTUP = 8
RESAMPLES = 2000

Row = Mapping[str, Any]


@cache
def estimates() -> Mapping[str, float]:
    """What a search ranks by, by the choice: the anchor of the trainings is the middle one of the table."""
    table, space = read_rows(TABLE), load_experiment(SPACE).space
    losses = {key(row["choice"]): row["rungs"][-1]["loss"] for row in table}
    anchor = median(losses.values())
    return {
        of: estimate_accuracy(space.spec(json.loads(of)), method="thin", evidence=evidence_of(loss, anchor)).accuracy
        for of, loss in losses.items()
    }


SCORES: dict[str, Callable[[Row], float]] = {
    "estimate": lambda row: estimates()[key(row["choice"])],
    "loss": lambda row: -row["rungs"][-1]["loss"],
    "accuracy": lambda row: row["rungs"][-1]["accuracy"],
}
OPTUNA: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "optuna tpe, as it comes": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP),
    "optuna nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=10),
    "optuna nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=10),
    "optuna qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    "optuna gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP),
    "optuna cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
}
OURS = {  # the sampler of the settings, and the start-up trials
    "random": ("random", 1),
    "surrogate": ("surrogate", STARTUP),
    "surrogate, 4 to start": ("surrogate", 4),
    "tpe": ("tpe", STARTUP),
}
DEFAULT = ["random", "surrogate", "tpe", "surrogate, 4 to start", "optuna nsga2", "optuna nsga3", "optuna qmc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=list(SCORES))
    parser.add_argument("--samplers", nargs="+", choices=[*OURS, *OPTUNA], default=DEFAULT)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    experiment = load_experiment(SPACE)
    table = read_rows(options.table)
    if not options.summary:
        done = {(r["score"], r["sampler"], r["seed"]) for r in read_rows(options.out)}
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for score in options.scores:
                for sampler in options.samplers:
                    if (score, sampler, seed) not in done:
                        append(options.out, replay(experiment, table, score, sampler, seed, options.budget))
    print(summary(table, read_rows(options.out)))


def replay(
    experiment: Experiment, table: list[Row], score: str, sampler: str, seed: int, budget: int
) -> dict[str, Any]:
    """One search on the table: the rows in the order in which it took them, and its own time in CPU seconds."""
    kind, startup = OURS.get(sampler, ("tpe", STARTUP))
    space = experiment.space
    search = replace(experiment.search, sampler=kind, startup_trials=startup, seed=seed)
    study = SearchStudy(replace(experiment, search=search), build_tables(space), seed=seed)
    if sampler in OPTUNA:
        proposals = study.sampler.proposals
        proposals["tpe"] = proposal_of(OPTUNA[sampler](seed), study)
    place = {key(row["choice"]): i for i, row in enumerate(table)}
    order: list[int] = []
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        while len(order) < budget and (candidate := study.ask()) is not None:
            row = table[place[key(candidate.choice)]]
            order.append(place[key(candidate.choice)])
            results = {"params": row["params"], "flops": row["flops"], "accuracy": SCORES[score](row)}
            study.tell(
                Trial(
                    number=candidate.number, state="complete", spec=candidate.spec, results=results,
                    seconds=row["cpu_seconds"], choice=candidate.choice,
                )
            )  # fmt: skip
    spent = time.process_time() - start
    return {"score": score, "sampler": sampler, "seed": seed, "cpu_seconds": round(spent, 2), "order": order}


def key(choice: Mapping[str, Any]) -> str:
    return json.dumps(dict(choice), sort_keys=True)


def proposal_of(inner: optuna.samplers.BaseSampler, study: SearchStudy) -> Callable[..., dict[str, Any] | None]:
    """An Optuna sampler in the place of ours, asked again until it proposes something feasible and new."""
    space, draws = study.space, study.draws

    def propose(
        rng: np.random.Generator, optuna_study: optuna.Study, trial: optuna.trial.FrozenTrial, names: dict[str, Any]
    ) -> dict[str, Any] | None:
        for _ in range(TPE_ATTEMPTS):
            params = dict(inner.sample_relative(optuna_study, trial, names))
            for name, distribution in names.items():
                if name not in params:
                    params[name] = inner.sample_independent(optuna_study, trial, name, distribution)
            options = {p.name: nearest_option(p, params[p.name]) for p in space.searched}
            if draws.is_new(options) and draws.is_feasible(options):
                return options
        return None

    return propose


def curves_of(table: list[Row], replays: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """([seeds, trials] shares of the table's hypervolume, [seeds, trials] CPU seconds of training so far)."""
    score = SCORES[replays[0]["score"]]
    losses = np.array([[-score(row), float(row["flops"])] for row in table])
    losses = (losses - losses.min(axis=0)) / np.ptp(losses, axis=0)
    corner = np.array([1.1, 1.1])
    count = len(table)
    ((whole,),) = prefix_areas(np.arange(count)[None], losses, corner, np.array([count]))
    budget = min(len(r["order"]) for r in replays)
    places = np.full((len(replays), count), count)
    for line, r in zip(places, replays, strict=True):
        line[r["order"][:budget]] = np.arange(budget)
    seconds = np.array([row["cpu_seconds"] for row in table])
    spent = np.array([np.cumsum(seconds[r["order"][:budget]]) for r in replays])
    return prefix_areas(places, losses, corner, np.arange(1, budget + 1)) / whole, spent


def reached(curve: np.ndarray, target: float) -> float:
    """The first trial at which a mean curve [trials] has the target; infinite where it never has."""
    above = np.flatnonzero(curve >= target)
    return float(above[0] + 1) if len(above) else math.inf


def reached_after(areas: np.ndarray, spent: np.ndarray, target: float) -> float:
    """The seconds after which the mean over the seeds has the target: each seed's curve is a staircase over time."""
    for moment in np.linspace(0, spent[:, -1].max(), 400):
        done = (spent <= moment).sum(axis=1)
        mean = np.mean([areas[i, n - 1] if n else 0.0 for i, n in enumerate(done)])
        if mean >= target:
            return float(moment)
    return math.inf


def summary(table: list[Row], replays: list[Row]) -> str:
    """Markdown: for each score a line a sampler."""
    rng = np.random.default_rng(0)
    lines = []
    for score in SCORES:
        groups: dict[str, list[Row]] = {}
        for r in replays:
            if r["score"] == score:
                groups.setdefault(r["sampler"], []).append(r)
        if "random" not in groups:
            continue
        base, base_spent = curves_of(table, groups["random"])
        target, whole_time = base[:, -1].mean(), base_spent[:, -1].mean()
        lines += [
            f"\n`{score}`: random sampling ends at {target:.3f} of the table's hypervolume, after {base.shape[1]}.\n",
            "| sampler | seeds | after 10 | 20 | 30 | 50 | 100 | reaches random's end after | share of trials [95 %] "
            "| share of seconds | CPU-s a proposal |",
            "|---|--:" + "|--:" * 9 + "|",
        ]
        for sampler, group in groups.items():
            areas, spent = curves_of(table, group)
            n = len(areas)
            shares = []
            for _ in range(RESAMPLES):
                some = base[rng.integers(0, len(base), len(base)), -1].mean()
                shares.append(reached(areas[rng.integers(0, n, n)].mean(axis=0), some) / base.shape[1])
            low, high = np.quantile(shares, (0.025, 0.975), method="nearest")
            cells = []
            for at in (10, 20, 30, 50, 100):
                if at <= areas.shape[1]:
                    error = areas[:, at - 1].std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
                    cells.append(f"{areas[:, at - 1].mean():.3f} ± {error:.3f}")
                else:
                    cells.append("")
            when = reached(areas.mean(axis=0), target)
            time_share = reached_after(areas, spent, target) / whole_time
            ask = np.mean([r["cpu_seconds"] / len(r["order"]) for r in group])
            lines.append(
                f"| {sampler} | {n} | {' | '.join(cells)} | {when:g} trials "
                f"| {_share(when / base.shape[1])} [{_share(low)}, {_share(high)}] | {_share(time_share)} | {ask:.3f} |"
            )
    return "\n".join(lines).replace("inf trials", "never")


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "never"


if __name__ == "__main__":
    main()
