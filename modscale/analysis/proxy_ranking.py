"""The proxy's ranking against the paper's: are the published networks in the order of their published figures?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from modscale.analysis.front import metric_error
from modscale.analysis.rank_correlation import kendall_tau
from modscale.runs.metrics import Z95
from modscale.runs.trials import Trial
from modscale.specs.published import NamedModel, list_models


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingCheck:
    """Pairs of published networks, by what the proxy gives and by what is published, see `PUBLISHED`."""

    figure: str
    """What is published, in words."""
    pairs: int
    """Pairs of networks with different published figures."""
    as_published: int
    """Of those, pairs that the proxy puts in the published order."""
    reversed: int
    """Pairs that the proxy puts the other way round; the rest it ties."""
    clear: int
    """Pairs that the proxy puts apart by more than 1.96 standard errors of the difference."""
    clear_as_published: int
    """Of those, pairs in the published order."""
    tau: float
    """Kendall's tau-b, -1 to 1; 0 where the proxy ties all."""

    def sentence(self) -> str:
        """What it says, for people."""
        verb = "is" if self.clear == 1 else "are"
        told = f"{self.clear} {verb} told apart by this run's validation images, {self.clear_as_published} as published"
        if not self.clear:
            told = "none is told apart by this run's validation images"
        all_pairs = "the one pair" if self.pairs == 1 else f"the {self.pairs} pairs"
        return (
            f"Of {all_pairs} of these networks, the proxy puts {self.as_published} in the order of their"
            f" published {self.figure} (Kendall's tau {self.tau:+.2f}); {told}. So few networks check the proxy; they"
            " do not prove it."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFigure:
    """What the paper prints that a metric of the proxies is held against."""

    words: str
    """In a sentence."""
    read: Callable[[NamedModel], float | None]
    """In %; None where the paper prints none."""


PUBLISHED = {
    "accuracy": PublishedFigure(words="ImageNet top-1", read=lambda model: model.paper.get("top1")),
    "miou": PublishedFigure(words="mIoU on ADE20K", read=lambda model: model.dense.get("miou")),
}
"""By metric: ImageNet-1K top-1 (Table 2, no distillation), mIoU under Semantic FPN (Table 7)."""


def published_figure(trial: Trial, metric: str = "accuracy") -> float | None:
    """The paper's figure of a reference, in %; None for a network it does not print one for."""
    return next((PUBLISHED[metric].read(model) for model in list_models() if model.name == trial.spec.name), None)


def check_ranking(references: Sequence[Trial], metric: str = "accuracy") -> RankingCheck | None:
    """Compares the proxy with the paper; None without two complete references that have published figures."""
    known = [
        (t, figure)
        for t in references
        if t.value(metric) is not None and (figure := published_figure(t, metric)) is not None
    ]
    pairs = [(a, b, x - y) for (a, x), (b, y) in combinations(known, 2) if x != y]
    if not pairs:
        return None
    agreeing, clear = [], []
    for a, b, published in pairs:
        difference = a[metric] - b[metric]
        agreeing.append(np.sign(difference) * np.sign(published))
        error = np.hypot(metric_error(a, metric), metric_error(b, metric))
        clear.append(abs(difference) > Z95 * error)
    ours, theirs = np.array([(trial[metric], figure) for trial, figure in known]).T
    tau = float(kendall_tau(ours[None], theirs[None])[0])
    return RankingCheck(
        figure=PUBLISHED[metric].words,
        pairs=len(pairs),
        as_published=sum(sign > 0 for sign in agreeing),
        reversed=sum(sign < 0 for sign in agreeing),
        clear=sum(clear),
        clear_as_published=sum(sign > 0 and told for sign, told in zip(agreeing, clear, strict=True)),
        tau=0.0 if np.isnan(tau) else tau,
    )
