"""What the rows of `proxy_pilots.py` say: seeds, curves, and one thing different at a time, against published top-1.

    python benchmarks/proxy_pilots_read.py [ROWS.jsonl]

Seed 0 is in `proxy_thin*.jsonl`, later seeds are in the rows. The right half of a table is the sum in use
(`training/estimate.py`) with that score, less the anchor's, as its evidence. Once thin, `s_conv/context-g` trains as
`context-f` to the bit, and is taken from there. Whatever is a loss is ranked by its negative.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from proxy_pilots import OUT, SHARES
from proxy_weights import GENERATED, PHOTOGRAPHS, read_evidence, tau_of, text, trusted

from modscale.analysis.fidelity import GROUPS
from modscale.analysis.rank_correlation import DRAWS, agreement, interval, resample
from modscale.lines import read_lines
from modscale.specs.counts import count_model
from modscale.specs.known import published_networks
from modscale.specs.receptive_field import share_seen
from modscale.training.estimate import ANCHOR, WEIGHTS, evidence_of, size_of

FIRST_SEED = {"synthetic": GENERATED, "tiny-imagenet-20": PHOTOGRAPHS}
TELLING = (
    ("s_conv", "s_conv/mbconv"),
    ("s_conv", "s_conv/context-f"),
    ("s_conv", "s_conv/sum"),
    ("s_conv/kernels-3-5-7", "s_conv/kernels-3-3"),
    ("s_conv", "isotropic-12m"),
    ("s_conv", "xxs"),
    ("isotropic-12m", "s_conv/context-f"),
)
"""The one published as better first."""
EXPONENTS = (0.25, 0.5, 1.0, 2.0)

Rows = dict[tuple[str, str, int], dict[str, Any]]


def read_rows(file: Path) -> Rows:
    """By data, variant and seed, then by network."""
    rows: Rows = defaultdict(dict)
    for _, row in read_lines(file):
        rows[row["data"], row["variant"], row["seed"]][row["name"]] = row
    for (_, variant, _), found in rows.items():
        if variant == "plain" and "s_conv/context-f" in found:
            found.setdefault("s_conv/context-g", found["s_conv/context-f"])
    return rows


def extrapolated(losses: np.ndarray, exponent: float | None) -> float:
    """Where the curve `a + b t^-c` through losses at `SHARES` goes at four times the steps; any c where it is None."""
    t = np.array(SHARES[-len(losses) :])
    best = (np.inf, 0.0)
    for c in EXPONENTS if exponent is None else (exponent,):
        x = np.column_stack([np.ones(len(t)), t**-c])
        (a, b), *_ = np.linalg.lstsq(x, losses, rcond=None)
        best = min(best, (float(((x @ [a, b] - losses) ** 2).sum()), float(a + b * 4.0**-c)))
    return best[1]


def main() -> None:
    rows = read_rows(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
    networks = published_networks()
    names = [n.name for n in networks]
    top1 = np.array([n.top1 for n in networks])
    size = np.array([size_of(n.spec) for n in networks])
    params = np.array([float(count_model(n.spec).params) for n in networks])
    groups = {"all": np.ones(len(networks), dtype=bool)}
    for name in ("context_family", "near_equal_size"):
        groups[name] = np.array([GROUPS[name].side_of(n) is not None for n in networks])
    heads = " | ".join(f"{name} ({which.sum()})" for name, which in groups.items())

    def line(label: str, score: np.ndarray) -> None:
        both = WEIGHTS.size * size + trusted(score - score[names.index(ANCHOR)])
        cells = [text(score, top1, which) for which in groups.values()]
        print(f"| {label} | {' | '.join(cells)} | {' | '.join(text(both, top1, w) for w in groups.values())} |")

    for data, file in FIRST_SEED.items():
        first = read_evidence([Path(__file__).parent / file])
        seeds = {0: np.array([first[name] for name in names])}
        for (of, variant, seed), found in rows.items():
            if of == data and variant == "plain" and seed and set(found) >= set(names):
                anchor = found[ANCHOR]["val_loss"]
                seeds[seed] = np.array([evidence_of(found[name]["val_loss"], anchor) for name in names])
        print(f"\n## {data}: the training alone, and the sum in use\n\n| score | {heads} | {heads} |")
        print("|---" * (1 + 2 * len(groups)) + "|")
        for seed, evidence in seeds.items():
            line(f"seed {seed}", evidence)
        drawn = resample(len(networks), 1, None, draws=DRAWS)
        _, by_params = agreement(params[:, None], top1, drawn, None)
        intervals = []
        for seed, evidence in seeds.items():
            found, taus = agreement((WEIGHTS.size * size + trusted(evidence))[:, None], top1, drawn, None)
            low, high = interval(taus - by_params)
            of_tau = "{:+.2f}, {:+.2f}".format(*(found.tau_ci95 or (0.0, 0.0)))
            intervals.append(f"in use, seed {seed}: tau's interval {of_tau}; lead on params {low:+.2f}, {high:+.2f}")
        if len(seeds) > 1:
            line("mean of the seeds", np.mean(list(seeds.values()), axis=0))
            a, b = seeds[0], seeds[1]
            apart = (a - a.mean()) - (b - b.mean())
            noise, spread = float(apart.std() / 2**0.5), float(np.std((a + b) / 2))
            near = groups["near_equal_size"]
            print(
                f"\ntau between seeds {tau_of(a, b):+.2f}, near-equal size {tau_of(a[near], b[near]):+.2f}; noise of a"
                f" seed {noise:.4f}, spread of the networks {spread:.4f},"
                f" at near-equal size {np.std((a + b)[near] / 2):.4f}\n"
            )
        print("\n" + "\n".join(intervals))
        for (of, variant, seed), found in rows.items():
            if of == data and variant == "plain" and set(found) >= set(names):
                print(f"\n| seed {seed}, curve | {heads} | {heads} |\n" + "|---" * (1 + 2 * len(groups)) + "|")
                curves = np.array([found[name]["rungs"] for name in names])
                logs = -np.log(curves)
                for i, share in enumerate(SHARES):
                    line(f"loss at {share:g}, every second image", logs[:, i])
                line("mean of the rungs", logs.mean(1))
                line("slope, three quarters to the end", logs[:, 3] - logs[:, 2])
                for c in (*EXPONENTS, None):
                    ends = np.array([extrapolated(curve, c) for curve in curves])
                    line(f"a + b t^-{c or 'c'} at four times the steps", -np.log(np.maximum(ends, 0.1)))
                ends = np.array([extrapolated(curve[1:], 1.0) for curve in curves])
                line("a + b / t through the last three", -np.log(np.maximum(ends, 0.1)))
                trained = np.array([found[name]["train_losses"] for name in names])
                line("area under the training loss", -np.log(trained.mean(1)))
                line("training loss of the last tenth", -np.log(trained[:, -1]))

    print("\n## One thing different, on the networks that all of these have\n")
    for data, file in FIRST_SEED.items():
        of_data = {(variant, seed): found for (of, variant, seed), found in rows.items() if of == data}
        plain = {name: loss_in(file, name) for name in names}
        tried = [by for (variant, _), by in of_data.items() if variant in ("rate-twice", "distil", "augment")]
        if not tried:
            continue
        some = sorted(set.intersection(*map(set, tried)), key=names.index)
        losses = {"plain, seed 0": plain}
        for (variant, seed), found in of_data.items():
            if variant not in ("zero-cost", "rate-half") and (variant, seed) != ("plain", 0):
                losses[f"{variant}, seed {seed}"] = {name: found[name]["val_loss"] for name in some}
            if variant == "distil":
                losses[f"{variant}, by the teacher"] = {name: found[name]["soft_loss"] for name in some}
        rates = [plain, *({n: r["val_loss"] for n, r in f.items()} for (v, _), f in of_data.items() if "rate-" in v)]
        losses["best rate of those tried"] = {name: min(by[name] for by in rates if name in by) for name in some}
        truth = np.array([top1[names.index(name)] for name in some])
        pairs = [(a, b) for a, b in TELLING if a in some and b in some]
        print(f"{data}, {len(some)} networks: {', '.join(some)}; differences of the logarithm of the loss\n")
        print(f"| training | tau | {' | '.join(f'{a} - {b}' for a, b in pairs)} |".replace("s_conv/", ""))
        print("|---" * (2 + len(pairs)) + "|")
        for label, by in losses.items():
            tau = tau_of(-np.array([by[name] for name in some]), truth)
            print(f"| {label} | {tau:+.2f} | {' | '.join(f'{log(by[b] / by[a]):+.3f}' for a, b in pairs)} |")

    fresh = {k: found for k, found in rows.items() if k[1] == "zero-cost" and set(found) >= set(names)}
    for (data, _, _), found in fresh.items():
        print(f"\n## fresh thin networks, {data}\n\n| score | {heads} |\n" + "|---" * (1 + len(groups)) + "|")
        prior = np.array([log(count_model(n.spec).params * share_seen(n.spec)) for n in networks])
        for kind in ("gradient_norm", "snip", "zico", "naswot"):
            score = np.array([found[name][kind] for name in names])
            print(f"| {kind} | {' | '.join(text(score, top1, w) for w in groups.values())} |")
            both = (score - score.mean()) / score.std() + 2 * (prior - prior.mean()) / prior.std()
            print(f"| {kind} + params x seen, 1 to 2 | {' | '.join(text(both, top1, w) for w in groups.values())} |")


def loss_in(file: str, name: str) -> float:
    """The held-out loss of a network in a file of `modscale fidelity`."""
    found = (json.loads(line) for line in (Path(__file__).parent / file).read_text().splitlines())
    return next(row["results"]["val_loss"] for row in found if row["name"] == name and row["state"] == "complete")


if __name__ == "__main__":
    main()
