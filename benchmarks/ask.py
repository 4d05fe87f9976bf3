"""How long a search waits for its next candidate, after 50 to 2,000 trials.

    python benchmarks/ask.py                                  # spaces/mobile.yaml, a table
    python benchmarks/ask.py --trials 2000 --asks 5 --profile # where the time goes
    python benchmarks/ask.py --window 16 300                  # with so many under way: the first ones, and after them

A study is told of trials drawn uniformly from the feasible ones, with made-up values that behave as measured ones do
(latency follows FLOPs, accuracy size, with noise), and then asked, and told of what it proposed, some times. With
`--window` nothing is told before W were asked for, which are drawn at random, and then one trial before each next one,
so that W are always under way. Seconds are CPU seconds of all threads, and wall seconds; both matter, since threads
that wait for each other spend CPU.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from modscale.runs.experiment import Experiment, load_experiment
from modscale.runs.trials import Trial
from modscale.searching.study import Candidate, SearchStudy
from modscale.spaces.tables import SpaceTables, build_tables
from modscale.specs.counts import count_model
from modscale.specs.sameness import network_key
from modscale.specs.spec import ModelSpec

SPACE = Path(__file__).parent.parent / "spaces" / "mobile.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=SPACE)
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 200, 500, 1000, 2000])
    parser.add_argument("--asks", type=int, default=9)
    parser.add_argument("--sampler", default="surrogate")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--window", type=int, nargs="+", metavar="W")
    options = parser.parse_args()
    experiment = load_experiment(options.space)
    experiment = replace(experiment, search=replace(experiment.search, sampler=options.sampler))
    tables = build_tables(experiment.space)
    if options.window:
        print_windows(experiment, tables, options.window, options.asks)
        return
    trials = made_up_trials(experiment, tables, max(options.trials))
    print("| trials | ask, median CPU s | most CPU s | median wall s | most wall s | replay at a start, wall s |")
    print("|--:|--:|--:|--:|--:|--:|")
    for count in options.trials:
        study = SearchStudy(experiment, tables, seed=0)
        start = time.perf_counter()
        study.replay(trials[:count])
        replayed = time.perf_counter() - start
        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        cpu, wall = zip(*(timed_ask(study, 10_000 + i) for i in range(options.asks)), strict=True)
        profile.disable()
        figures = np.median(cpu), max(cpu), np.median(wall), max(wall), replayed
        print(f"| {count:,} | {' | '.join(f'{value:.3f}' for value in figures)} |", flush=True)
        if options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def print_windows(experiment: Experiment, tables: SpaceTables, windows: list[int], asks: int) -> None:
    """What the first W trials of a search take to ask for, all together, and what the next ones take."""
    print("| W | the first W, wall s a trial | most | the next ones, CPU s, median | most | wall s, median | most |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for window in windows:
        study, rng = SearchStudy(experiment, tables, seed=0), np.random.default_rng(0)
        asked: list[Candidate] = []
        first, spent = list[float](), list[tuple[float, float]]()
        for _ in range(window):
            start = time.perf_counter()
            asked.append(next_candidate(study))
            first.append(time.perf_counter() - start)
        for number in range(asks + 1):
            study.tell(made_up(number, asked[number].spec, asked[number].choice, rng))
            cpu, wall = time.process_time(), time.perf_counter()
            asked.append(next_candidate(study))
            spent.append((time.process_time() - cpu, time.perf_counter() - wall))
        cpus, walls = zip(*spent[1:], strict=True)  # by the second trial that is told something is known
        figures = np.mean(first), max(first), np.median(cpus), max(cpus), np.median(walls), max(walls)
        print(f"| {window:,} | {' | '.join(f'{value:.4f}' for value in figures)} |", flush=True)


def next_candidate(study: SearchStudy) -> Candidate:
    candidate = study.ask()
    assert candidate is not None
    return candidate


def timed_ask(study: SearchStudy, seed: int) -> tuple[float, float]:
    """(CPU, wall) seconds of one ask, whose candidate the study is then told of."""
    cpu, wall = time.process_time(), time.perf_counter()
    candidate = next_candidate(study)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    study.tell(made_up(candidate.number, candidate.spec, candidate.choice, np.random.default_rng(seed)))
    return cpu, wall


def made_up_trials(experiment: Experiment, tables: SpaceTables, count: int) -> list[Trial]:
    """Distinct feasible networks in uniform order, each with values that nobody measured."""
    rng = np.random.default_rng(0)
    rows = tables.sample(rng, 40 * count)
    rows = rows[tables.feasible(rows)]
    trials, seen = list[Trial](), set()
    for row in rows:
        options = tables.choice(row)
        spec = experiment.space.spec(options, name=f"{experiment.space.name}-{len(trials)}")
        if network_key(spec) not in seen:
            seen.add(network_key(spec))
            choice = {p.name: p.label(options[p.name]) for p in experiment.space.searched}
            trials.append(made_up(len(trials), spec, choice, rng))
        if len(trials) == count:
            return trials
    raise SystemExit(f"only {len(trials)} feasible networks in {40 * count} draws")


def made_up(number: int, spec: ModelSpec, choice: dict[str, object], rng: np.random.Generator) -> Trial:
    """A complete trial; every twentieth failed, as some do."""
    found = count_model(spec)
    counts = {"params": found.params, "flops": found.flops}
    complete = number % 20 != 13
    accuracy = 0.6 + 0.05 * np.log(found.params / 4e6) + 0.02 * np.log(found.flops / 5e8) + rng.normal(0, 0.005)
    latency_ms = 1 + found.flops / 5e7 * np.exp(rng.normal(0, 0.15))
    measured = {"accuracy": float(np.clip(accuracy, 0, 1)), "latency_ms": float(latency_ms)} if complete else {}
    return Trial(
        number=number,
        state="complete" if complete else "failed",
        reason=None if complete else "made up",
        spec=spec,
        results=counts | measured,
        seconds=60.0,
        choice=choice,
    )


if __name__ == "__main__":
    main()
