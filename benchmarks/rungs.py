"""Replays early stopping on fully trained networks: what it spares, and what of the final front it loses.

    python benchmarks/rungs.py [--table FILE] [--orders 40] [--trials 100]

The table (`search_table.py`) has of every network what it had come to at a quarter, at half and at the end of its
training, and the CPU seconds up to there. Each replay draws so many networks in a random order and judges them by
`searching/rungs.py` as a search would, each among those before it; the front that all of them have at their end is what
may be lost. Printed for each set of rungs and each share to keep, as means over the orders:

- spared: CPU seconds of training that the stopped ones would have taken, as a share of all;
- stopped: share of the networks;
- front: share of the members of the final front that were stopped;
- front beyond noise: of them only those for which no network that went on is as small or smaller and within 1.96
  standard errors of the difference in accuracy (binomial);
- area: share of the final front's hypervolume that is lost, at the worst values made worse by a tenth of the range.

`--spread` breaks ties within a front by crowding distance; `--by accuracy` judges by accuracy, not by held-out loss.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modscale.pareto import hypervolume, pareto_front, reference_point
from modscale.runs.metrics import METRICS
from modscale.runs.trials import Rung, Trial
from modscale.searching import rungs as rule
from modscale.specs.spec import ModelSpec, StageSpec

TABLE = Path(__file__).with_name("search_table.jsonl")
SETS = ((0.5,), (0.25,), (0.25, 0.5))
KEEPS = (0.25, 0.3, 0.4, 0.5, 0.6, 0.75)
VAL_IMAGES = 2000
SPEC = ModelSpec(stages=(StageSpec(dim=8, depth=1),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--orders", type=int, default=40)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--by", choices=("loss", "accuracy"), default="loss")
    parser.add_argument("--spread", action="store_true")
    options = parser.parse_args()
    if options.spread:
        rule.domination_ranks = ranks_with_spread  # type: ignore[assignment]
    table = [trial_of(i, line, options.by) for i, line in enumerate(options.table.read_text().splitlines())]
    print(f"{len(table)} networks, {options.trials} a replay, {options.orders} orders, judged by {options.by}")
    print("| objectives | rungs | keep | spared | stopped | front | front beyond noise | area |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for other in ("flops", "params"):
        objectives = {"accuracy": "maximize", other: "minimize"}
        for shares in SETS:
            for keep in KEEPS:
                found = np.array([
                    replay(table, objectives, shares, keep, order=order, count=options.trials)
                    for order in range(options.orders)
                ])  # fmt: skip
                cells = " | ".join(f"{100 * mean:.1f} %" for mean in found.mean(axis=0))
                print(f"| accuracy, {other} | {', '.join(map(str, shares))} | {keep} | {cells} |", flush=True)


def trial_of(number: int, line: str, by: str) -> Trial:
    """A row of the table as a trial that went through all of its rungs."""
    row: dict[str, Any] = json.loads(line)
    return Trial(
        number=number,
        state="complete",
        spec=SPEC,
        results={"params": row["params"], "flops": row["flops"], "accuracy": row["rungs"][-1]["accuracy"]},
        seconds=row["cpu_seconds"],
        rungs=tuple(
            Rung(
                share=rung["share"],
                value=-rung["loss"] if by == "loss" else rung["accuracy"],
                seconds=rung["cpu_seconds"],
            )
            for rung in row["rungs"]
        ),
    )


def replay(
    table: list[Trial], objectives: Mapping[str, str], shares: tuple[float, ...], keep: float, *, order: int, count: int
) -> tuple[float, ...]:
    """Spared, stopped, front, front beyond noise and area, see above, of one order."""
    drawn = [table[i] for i in np.random.default_rng(order).permutation(len(table))[:count]]
    finished: list[Trial] = []
    went_on, spent = [], 0.0
    for trial in drawn:
        reached: tuple[Rung, ...] = ()
        stopped = False
        for rung in trial.rungs:
            reached = (*reached, rung)
            stopped = (
                rung.share in shares and rule.judge_rung(objectives, keep, finished, trial.results, reached) is not None
            )
            if stopped:
                break
        finished.append(Trial(**{**{key: getattr(trial, key) for key in Trial.__slots__}, "rungs": reached}))
        spent += reached[-1].seconds
        went_on.append(not stopped)
    values = np.array([[trial[metric] for metric in objectives] for trial in drawn])
    directions = list(objectives.values())
    front = pareto_front(values, directions)
    corner = reference_point(values, directions)
    areas = [hypervolume(values[kept], corner, directions) for kept in (np.ones(count, bool), np.array(went_on))]
    lost = [i for i in front if not went_on[i]]
    return (
        1 - spent / sum(trial.rungs[-1].seconds for trial in drawn),
        1 - float(np.mean(went_on)),
        len(lost) / len(front),
        sum(not has_stand_in(i, values, went_on) for i in lost) / len(front),
        max(0.0, 1 - areas[1] / areas[0]),  # summed in another order, it may be a last digit below
    )


def has_stand_in(i: int, values: np.ndarray[Any, Any], went_on: list[bool]) -> bool:
    """Whether one that went on is as small as this one or smaller, and within noise as accurate."""
    accuracy = METRICS["accuracy"]
    errors = [accuracy.standard_error({"accuracy": value, "val_images": VAL_IMAGES}) for value in values[:, 0]]
    return any(
        kept
        and values[j, 1] <= values[i, 1]
        and values[j, 0] >= values[i, 0] - 1.96 * (errors[i] ** 2 + errors[j] ** 2) ** 0.5
        for j, kept in enumerate(went_on)
    )


def ranks_with_spread(losses: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Places by front, then by crowding distance within it, the most isolated first; equals share a place."""
    fronts = by_front(losses)
    distance = np.zeros(len(losses))
    for front in np.unique(fronts):
        (members,) = np.nonzero(fronts == front)
        for column in losses[members].T:
            order = members[np.argsort(column, kind="stable")]
            sides = np.sort(column)
            distance[order[[0, -1]]] = np.inf
            if sides[-1] > sides[0]:
                distance[order[1:-1]] += (sides[2:] - sides[:-2]) / (sides[-1] - sides[0])
    keys = np.column_stack([fronts, -distance])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


by_front = rule.domination_ranks

if __name__ == "__main__":
    main()
