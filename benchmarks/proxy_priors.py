"""What can be known of a network's rank on paper: counts, and how much of the image it sees, against published top-1.

    python benchmarks/proxy_priors.py

Prints the tables of `proxy.md`. Nothing is trained; a search that trains must do better than these.

`seen` is the share of the image's side that the theoretical receptive field of the last stage spans (1 where a block
looks at the whole image). It is 1 for every sound network at 224 px, and 0.28 for one whose blocks see no neighbour.
The exponents of the combined scores are chosen on one half of the networks and tried on the other, over many halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import numpy as np

from modscale.analysis.fidelity import GROUPS
from modscale.analysis.rank_correlation import kendall_tau, spearman_rho
from modscale.specs.counts import count_model
from modscale.specs.known import KnownNetwork, published_networks
from modscale.specs.receptive_field import share_seen

SPLITS = 400
EXPONENTS = (0.0, 0.1, 0.2, 0.3, 0.5)


def combined(flops_exponent: float, seen_exponent: float) -> Callable[[KnownNetwork], float]:
    """log of params x seen^s / FLOPs^f"""

    def score(network: KnownNetwork) -> float:
        count = count_model(network.spec)
        return log(count.params) + seen_exponent * log(share_seen(network.spec)) - flops_exponent * log(count.flops)

    return score


def tau_of(scores: Sequence[float], truth: Sequence[float]) -> float:
    return float(kendall_tau(np.array([scores]), np.array([truth]))[0])


def main() -> None:
    networks = published_networks()
    top1 = np.array([network.top1 for network in networks])
    rows = {
        "FLOPs": [log(count_model(n.spec).flops) for n in networks],
        "blocks": [float(sum(s.depth + s.attention_depth for s in n.spec.stages)) for n in networks],
        "params": [combined(0, 0)(n) for n in networks],
        "params x seen": [combined(0, 1)(n) for n in networks],
        **{f"params / FLOPs^{f:g}": [combined(f, 0)(n) for n in networks] for f in EXPONENTS[1:]},
        **{f"params x seen / FLOPs^{f:g}": [combined(f, 1)(n) for n in networks] for f in EXPONENTS[1:]},
    }
    groups = {"all": range(len(networks))} | {
        name: [i for i, n in enumerate(networks) if GROUPS[name].side_of(n) is not None]
        for name in ("context_family", "near_equal_size", "four_networks")
    }
    print("| score | " + " | ".join(f"{name} ({len(which)})" for name, which in groups.items()) + " |")
    print("|---" * (len(groups) + 1) + "|")
    for name, scores in rows.items():
        cells = []
        for which in groups.values():
            some, truth = np.array(scores)[None, which], top1[None, which]
            cells.append(f"{kendall_tau(some, truth)[0]:+.2f} / {spearman_rho(some, truth)[0]:+.2f}")
        print(f"| {name} | {' | '.join(cells)} |")

    rng = np.random.default_rng(0)
    options = [(f, s) for f in EXPONENTS for s in (0.0, 1.0)]
    table = {option: np.array([combined(*option)(n) for n in networks]) for option in options}
    won, gains, chosen = [], [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(networks))
        here, there = order[: len(order) // 2], order[len(order) // 2 :]
        best = max(options, key=lambda option: tau_of(table[option][here], top1[here]))
        chosen.append(best)
        won.append(tau_of(table[best][there], top1[there]))
        gains.append(won[-1] - tau_of(table[0.0, 0.0][there], top1[there]))
    print(
        f"\nChosen on one half, tried on the other, {SPLITS} times: tau {np.mean(won):+.2f}, "
        f"{np.mean(gains):+.2f} more than params (middle 90 % {np.quantile(gains, 0.05):+.2f} to "
        f"{np.quantile(gains, 0.95):+.2f}); seen was chosen in {np.mean([s for _, s in chosen]):.0%}, "
        f"FLOPs' exponent was {np.mean([f for f, _ in chosen]):.2f} on average."
    )


if __name__ == "__main__":
    main()
