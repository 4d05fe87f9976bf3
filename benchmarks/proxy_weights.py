"""Fits the weights of `training/estimate.py` to the published networks, and how they do where they were not fitted.

    modscale fidelity --data FOLDER --no-latency --out reports/fidelity          (its rows are proxy_thin.jsonl)
    python benchmarks/proxy_weights.py [ROWS.jsonl [DATA]]

Of each row the held-out losses of the network and of the anchor are taken; its score does not matter. Prints:

- Least squares on the log-odds of the published top-1. `left out` is each network predicted by a fit in which its whole
  group had no part (kernel sets, context ablations, isotropic, mbconv, others' blocks, the paper's sizes).
- Sums with fixed weights, among them the one in use; `behind` is the weight of what lies below `-tolerance` where it
  is another. `halves`: on a random half of the networks the best of all sums that heed the training is chosen by tau,
  and ranks the other half; the mean over 400 of them, that of the sum in use and that of params there.
- The record of the weights in use for `analysis/proxy_records.yaml`, for DATA as the name of the data.
  In it `pair_error` is the standard error, points, of a difference between two networks under which so many pairs are
  ordered as published is likeliest; `seed_noise` comes from the second seed of `proxy_pilots.jsonl` (generated images
  alone), `LOSS_SPREAD` was measured by `training.proxy.train_proxy` of xxs with the settings of the record.
- Without arguments, what both trainings would give together, on photographs and on the generated images.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import log, sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from modscale.analysis.fidelity import GROUPS
from modscale.analysis.proxy_records import settings_of_record
from modscale.analysis.rank_correlation import DRAWS, agreement, interval, kendall_tau, resample, spearman_rho
from modscale.document import dump_yaml
from modscale.settings import PROXIES
from modscale.specs.counts import count_model
from modscale.specs.known import published_networks
from modscale.specs.receptive_field import share_seen
from modscale.training.estimate import (
    CENTRE_FLOPS,
    CENTRE_PARAMS,
    FLOPS_EXPONENT,
    WEIGHTS,
    Weights,
    evidence_of,
    trust,
)

Floats = npt.NDArray[np.float64]
PHOTOGRAPHS, GENERATED = "proxy_thin.jsonl", "proxy_thin_synthetic.jsonl"
SPLITS = 400
EXPONENTS = (0.0, 0.1, 0.2)
ONE_WEIGHT = (0.0, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0)
TWO_WEIGHTS = ((0.05, 0.7), (0.1, 0.5), (0.1, 0.7), (0.1, 1.0), (0.15, 0.7), (0.25, 0.7))
TOLERANCES = (0.02, 0.035, 0.05, 0.07, 0.1)
LOSS_SPREAD = {"tiny-imagenet-20": 0.2685, "synthetic": 0.3304}
"""`val_loss_error` of xxs times the square root of its validation images over `val_loss`, seed 0."""
RIDGE = 1e-3
"""Of the weights but the intercept, against their own variance: a few rows must not make a weight large."""


def pair_error(scores: Floats, truth: Floats) -> float:
    """The e under which the order of all pairs is likeliest, where a pair d apart is right with Phi(d / e)."""
    i, j = np.triu_indices(len(truth), 1)
    gaps, signs = np.abs(truth[i] - truth[j]), np.sign(truth[i] - truth[j])
    right = (scores[i] - scores[j]) * signs > 0
    likely = {}
    for error in np.arange(0.1, 10, 0.01):
        chances = np.array([NormalDist(0, error).cdf(gap) for gap in gaps[signs != 0]]).clip(1e-9, 1 - 1e-9)
        likely[float(error)] = float(np.where(right[signs != 0], np.log(chances), np.log(1 - chances)).sum())
    return max(likely, key=lambda error: likely[error])


def seed_noise(rows: Path) -> float | None:
    """Standard deviation of the logarithm of the held-out loss between the seeds of the pilots and those of `rows`."""
    if rows.name != GENERATED:
        return None
    one = {row["name"]: log(row["results"]["val_loss"]) for row in map(json.loads, rows.read_text().splitlines())}
    pilots = map(json.loads, (Path(__file__).parent / "proxy_pilots.jsonl").read_text().splitlines())
    wanted = ("synthetic", "plain", 1)
    two = {r["name"]: log(r["val_loss"]) for r in pilots if (r["data"], r["variant"], r["seed"]) == wanted}
    return float(np.std([one[name] - two[name] for name in one.keys() & two.keys()], ddof=1) / sqrt(2))


def group_of(name: str) -> str:
    if "kernels" in name:
        return "kernel sets"
    if "/context" in name or name.endswith("/sum"):
        return "context ablations"
    if name.startswith("isotropic"):
        return "isotropic"
    if name.endswith("/mbconv"):
        return "mbconv"
    return "others' blocks" if name in ("van-b0", "focalnet-4m") else "sizes"


def read_evidence(files: Sequence[Path]) -> Mapping[str, float]:
    """Mean over the seeds of each network's evidence."""
    found = defaultdict(list)
    for file in files:
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if row["state"] == "complete":
                found[row["name"]].append(evidence_of(row["results"]["val_loss"], row["results"]["anchor_loss"]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def fit(x: Floats, y: Floats) -> tuple[float, Floats]:
    """Intercept and weights."""
    middle, spread = x.mean(0), x.std(0) + 1e-12
    z = (x - middle) / spread
    weights = np.linalg.solve(z.T @ z / len(z) + RIDGE * np.eye(z.shape[1]), z.T @ (y - y.mean()) / len(z)) / spread
    return float(y.mean() - weights @ middle), weights


def trusted(evidence: Floats, weights: Weights = WEIGHTS) -> Floats:
    """What each evidence adds to the log-odds."""
    return np.array([trust(float(each), "thin", weights)[0] for each in evidence])


def weights_to_try() -> Mapping[str, Weights]:
    """By the words of the table."""
    found = {f"{w:g}": replace(WEIGHTS, evidence={"thin": w}, behind={"thin": w}) for w in ONE_WEIGHT}
    for near, behind in TWO_WEIGHTS:
        found[f"{near:g}, behind {behind:g}"] = replace(WEIGHTS, evidence={"thin": near}, behind={"thin": behind})
    for tolerance in TOLERANCES:
        if tolerance != WEIGHTS.tolerance:
            found[f"in use, tolerance {tolerance:g}"] = replace(WEIGHTS, tolerance=tolerance)
    return found


def left_out(x: Floats, y: Floats, groups: npt.NDArray[np.str_]) -> Floats:
    """Each network's prediction by the fit without its group."""
    predicted = np.empty(len(y))
    for group in set(groups):
        here = groups == group
        intercept, weights = fit(x[~here], y[~here])
        predicted[here] = intercept + x[here] @ weights
    return predicted


def text(scores: Floats, truth: Floats, which: npt.NDArray[np.bool_]) -> str:
    some = (scores[None, which], truth[None, which])
    return f"{kendall_tau(*some)[0]:+.2f} / {spearman_rho(*some)[0]:+.2f}"


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / PHOTOGRAPHS
    data = sys.argv[2] if len(sys.argv) > 2 else "tiny-imagenet-20"
    evidence_by_name = read_evidence([file])
    networks = [n for n in published_networks() if n.name in evidence_by_name]
    top1 = np.array([n.top1 for n in networks])
    y = np.log(top1 / (100 - top1))
    groups = np.array([group_of(n.name) for n in networks])
    counts = [count_model(n.spec) for n in networks]
    params = np.array([log(c.params / CENTRE_PARAMS) for c in counts])
    flops = np.array([log(c.flops / CENTRE_FLOPS) for c in counts])
    seen = np.array([log(share_seen(n.spec)) for n in networks])
    evidence = np.array([evidence_by_name[n.name] for n in networks])
    which = {"all": np.ones(len(networks), dtype=bool)}
    for name in ("context_family", "near_equal_size", "four_networks"):
        which[name] = np.array([GROUPS[name].side_of(n) is not None for n in networks])

    print(f"{len(networks)} networks, {file.name}; cells are tau / rho\n")
    heads = " | ".join(f"{k} ({v.sum()})" for k, v in which.items())
    print(f"| least squares on | {heads} | left out: all | error, log-odds | weights |")
    print("|---" * (len(which) + 4) + "|")
    for name, chosen in {
        "params": [params],
        "params x seen": [params + seen],
        "training": [evidence],
        "params, training": [params, evidence],
        "params x seen, training": [params + seen, evidence],
        "params x seen, FLOPs": [params + seen, flops],
        "params x seen, FLOPs, training": [params + seen, flops, evidence],
    }.items():
        x = np.stack(chosen, 1)
        intercept, weights = fit(x, y)
        out = left_out(x, y, groups)
        cells = [text(intercept + x @ weights, top1, w) for w in which.values()]
        error = float(np.sqrt(np.mean((out - y) ** 2)))
        shown = ", ".join(f"{w:.3f}" for w in weights)
        print(f"| {name} | {' | '.join(cells)} | {text(out, top1, which['all'])} | {error:.3f} | {shown} |")

    print(f"\n| {WEIGHTS.size} ln(P S / F^f) and w training | {heads} | tau's interval | s - s_conv, points |")
    print("|---" * (len(which) + 3) + "|")
    drawn = resample(len(networks), 1, None, draws=DRAWS)
    own, own_taus = agreement(params[:, None], top1, drawn, None)
    names = [n.name for n in networks]
    sums = {}
    for exponent, (label, weights) in product(EXPONENTS, weights_to_try().items()):
        score = WEIGHTS.size * (params + seen - exponent * flops) + trusted(evidence, weights)
        if weights.evidence["thin"]:
            sums[exponent, label] = score
        if exponent != FLOPS_EXPONENT and not same(weights):
            continue  # tried, but the table would be three times as long
        found, _ = agreement(score[:, None], top1, drawn, None)
        low, high = found.tau_ci95 or (0.0, 0.0)
        lead = 100 * 0.157 * (score[names.index("s")] - score[names.index("s_conv")]) if "s" in names else 0.0
        mark = "**" if exponent == FLOPS_EXPONENT and same(weights) else ""
        cells = " | ".join(text(score, top1, w) for w in which.values())
        print(f"| {mark}{exponent:g}; {label}{mark} | {cells} | {low:+.2f}, {high:+.2f} | {lead:+.2f} |")

    score = WEIGHTS.size * (params + seen - FLOPS_EXPONENT * flops) + trusted(evidence)
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(SPLITS):
        order = rng.permutation(len(networks))
        here, there = order[: len(order) // 2], order[len(order) // 2 :]
        best = max(sums.values(), key=lambda score: tau_of(score[here], top1[here]))
        halves.append([tau_of(each[there], top1[there]) for each in (best, score, params)])
    by_halves = np.mean(halves, axis=0)
    print("\nhalves: tau {:+.2f}, of the sum in use {:+.2f}, of params {:+.2f}".format(*by_halves))

    _, by = fit((score / WEIGHTS.size)[:, None], y)
    error = float(np.std(y - score))
    print(f"intercept {np.mean(y - score):.3f}; size by least squares {by[0]:.3f}; residual {error:.3f} log-odds\n")
    found, taus = agreement(score[:, None], top1, drawn, None)
    record = {
        "settings": settings_of_record(PROXIES["thin"]),
        "data": data,
        "networks": len(networks),
        "seeds": 1,
        "tau": found.tau,
        "tau_ci95": found.tau_ci95,
        "rho": found.rho,
        "params_tau": own.tau,
        "gain": (found.tau or 0.0) - (own.tau or 0.0),
        "gain_ci95": interval(taus - own_taus),
        "trained_tau": tau_of(evidence, top1),
        "halves_tau": float(by_halves[0]),
        "halves_params_tau": float(by_halves[2]),
        "measured": "2026-11-25",
        "pair_error": pair_error(1 / (1 + np.exp(-WEIGHTS.intercept - score)), top1),
        "val_images": json.loads(file.read_text().splitlines()[0])["results"]["val_images"],
        "loss_spread": LOSS_SPREAD[data],
        "seed_noise": seed_noise(file),
    }
    print(dump_yaml([{key: rounded(value) for key, value in record.items()}]))
    if len(sys.argv) == 1:
        print_together()


def print_together() -> None:
    """Sums of size and of the trainings on both data."""
    folder = Path(__file__).parent
    photographs, generated = (read_evidence([folder / name]) for name in (PHOTOGRAPHS, GENERATED))
    networks = published_networks()
    top1 = np.array([n.top1 for n in networks])
    counts = [count_model(n.spec) for n in networks]
    size = np.array([log(c.params * share_seen(n.spec) / CENTRE_PARAMS) for c, n in zip(counts, networks, strict=True)])
    flops = np.array([log(c.flops / CENTRE_FLOPS) for c in counts])
    sides = [np.array([group.side_of(n) is not None for n in networks]) for group in list(GROUPS.values())[:2]]
    both = [np.array([found[n.name] for n in networks]) for found in (photographs, generated)]
    for label, share in (("mean", 0.5), ("sum", 1.0)):
        score = WEIGHTS.size * (size - FLOPS_EXPONENT * flops) + share * sum(trusted(each) for each in both)
        cells = [text(score, top1, which) for which in (np.ones(len(networks), dtype=bool), *sides)]
        print(f"in use, {label} of both trainings: all {cells[0]}, family {cells[1]}, near size {cells[2]}")


def same(weights: Weights) -> bool:
    """Whether these are the ones in use, for the thin training."""
    ours = (WEIGHTS.evidence["thin"], WEIGHTS.behind["thin"], WEIGHTS.tolerance)
    return (weights.evidence["thin"], weights.behind["thin"], weights.tolerance) == ours


def tau_of(score: Floats, truth: Floats) -> float:
    return float(kendall_tau(score[None], truth[None])[0])


def rounded(value: object) -> object:
    if isinstance(value, tuple):
        return [rounded(each) for each in value]
    return round(float(value), 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
