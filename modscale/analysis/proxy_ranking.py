"""The proxy's ranking against the paper's: are the published networks in the order of their ImageNet accuracies?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from modscale.analysis.front import metric_error
from modscale.analysis.rank_correlation import kendall_tau
from modscale.runs.metrics import Z95
from modscale.runs.trials import Trial
from modscale.specs.published import list_models


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingCheck:
    """Pairs of published networks, by proxy accuracy and by published ImageNet-1K top-1 (Table 2, no distillation)."""

    pairs: int
    """Pairs of networks with different published accuracies."""
    as_published: int
    """Of those, pairs that the proxy puts in the published order."""
    reversed: int
    """Pairs that the proxy puts the other way round; the rest it ties."""
    clear: int
    """Pairs whose proxy accuracies differ by more than 1.96 standard errors of the difference."""
    clear_as_published: int
    """Of those, pairs in the published order."""
    tau: float
    """Kendall's tau-b, -1 to 1; 0 where the proxy ties all."""

    def sentence(self) -> str:
        """What it says, for people."""
        told = f"{self.clear} are told apart by this run's validation images, {self.clear_as_published} as published"
        if not self.clear:
            told = "none is told apart by this run's validation images"
        return (
            f"Of the {self.pairs} pairs of these networks, the proxy puts {self.as_published} in the order of their"
            f" published ImageNet top-1 (Kendall's tau {self.tau:+.2f}); {told}. So few networks check the proxy; they"
            " do not prove it."
        )


def published_top1(trial: Trial) -> float | None:
    """The paper's ImageNet-1K top-1 of a reference, in %; None for a network it does not print one for."""
    return next((model.paper.get("top1") for model in list_models() if model.name == trial.spec.name), None)


def check_ranking(references: Sequence[Trial]) -> RankingCheck | None:
    """Compares the proxy with the paper; None without two complete references that have published accuracies."""
    known = [
        (t, top1) for t in references if t.value("accuracy") is not None and (top1 := published_top1(t)) is not None
    ]
    pairs = [(a, b, x - y) for (a, x), (b, y) in combinations(known, 2) if x != y]
    if not pairs:
        return None
    agreeing, clear = [], []
    for a, b, published in pairs:
        difference = a["accuracy"] - b["accuracy"]
        agreeing.append(np.sign(difference) * np.sign(published))
        error = np.hypot(metric_error(a, "accuracy"), metric_error(b, "accuracy"))
        clear.append(abs(difference) > Z95 * error)
    accuracies, published_accuracies = np.array([(trial["accuracy"], top1) for trial, top1 in known]).T
    tau = float(kendall_tau(accuracies[None], published_accuracies[None])[0])
    return RankingCheck(
        pairs=len(pairs),
        as_published=sum(sign > 0 for sign in agreeing),
        reversed=sum(sign < 0 for sign in agreeing),
        clear=sum(clear),
        clear_as_published=sum(sign > 0 and told for sign, told in zip(agreeing, clear, strict=True)),
        tau=0.0 if np.isnan(tau) else tau,
    )
