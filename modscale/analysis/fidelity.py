"""Whether a proxy ranks networks as full training does: its scores against known accuracies, beside plain baselines.

A proxy is worth its time where it orders networks better than counting their params does. So params, FLOPs and latency
(more of each is taken for better) are held to the same test, on the same resamples of the same networks, and the
difference to each has its own interval. Networks are compared as a whole and in groups: a proxy that only tells large
networks from small ones is of no use among candidates of one size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import fmean, stdev
from typing import Any

import numpy as np

from modscale.analysis.rank_correlation import DRAWS, Agreement, agreement, chance, interval, resample
from modscale.runs.machine_speed import comparable
from modscale.runs.metrics import LATENCY, Results
from modscale.runs.scores import Scored
from modscale.settings import PUBLISHED
from modscale.specs.counts import COUNT_METRICS, count_model
from modscale.specs.known import KnownNetwork
from modscale.specs.published import published
from modscale.specs.sameness import network_key

LEAD_KEYS = ("difference", "standard_error", "top1_difference")
NEAR = 0.03
"""Share of s_conv's params by which networks of near-equal size may differ from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A network of known accuracy, and what was measured of it."""

    network: KnownNetwork
    """The network."""
    counts: Results
    """Its params and FLOPs."""
    latency: Results | None
    """Its latency as a trial of a run has it, put to one speed of the machine; None where it was not timed."""
    scores: tuple[float, ...]
    """The proxy's, one a seed; higher is better."""
    noise: float | None
    """Standard error of one of them, as far as the proxy itself knows it."""
    seconds: float | None
    """Mean wall time of a score."""
    cpu_seconds: float | None
    """Mean CPU time of a score, all threads."""
    failure: str | None
    """Why it has no score, where it was tried."""

    @property
    def score(self) -> float:
        """The mean over the seeds."""
        return fmean(self.scores)

    @property
    def standard_error(self) -> float | None:
        """Of the mean: between seeds, or of a single one as far as the proxy knows it."""
        if len(self.scores) > 1:
            return stdev(self.scores) / sqrt(len(self.scores))
        return self.noise

    def value(self, metric: str) -> float | None:
        """What it has for a baseline."""
        return (self.latency or {}).get(metric) if metric == LATENCY.name else self.counts[metric]


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """How well a plain figure of the networks orders them, and how much better the proxy does."""

    agreement: Agreement
    """Of the baseline."""
    gain: float | None
    """The proxy's tau less the baseline's."""
    gain_ci95: tuple[float, float] | None
    """95 % interval of that, both on the same resamples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupFidelity:
    """How well the proxy orders one group of networks."""

    title: str
    """What the group is, for people."""
    networks: tuple[str, ...]
    """Their names."""
    proxy: Agreement
    """Of the proxy's scores with the known accuracies."""
    chance: float | None
    """Probability that a random order has at least the proxy's tau."""
    baselines: Mapping[str, Baseline]
    """By the baseline's metric."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """How well a proxy orders networks of known accuracy."""

    measured: tuple[Measured, ...]
    """Those that have a score, the most accurate first."""
    unscored: tuple[Measured, ...]
    """Those that have none: they failed, or are still to be scored."""
    seeds: int
    """Seeds asked for."""
    whole: GroupFidelity
    """All that have a score."""
    groups: Mapping[str, GroupFidelity]
    """Groups of them, those of at least two."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be scored."""
        return all(m.failure for m in self.unscored) and all(len(m.scores) == self.seeds for m in self.measured)

    @property
    def hybrid_lead(self) -> tuple[float, float, float] | None:
        """The score of s less that of s_conv, its standard error, and the difference of their top-1; None without both.

        Of one size, the one with attention and the other without: short trainings tend to put convolutions first.
        """
        found = {m.network.name: m for m in self.measured if is_of_table_1(m.network)}
        if not {"s", "s_conv"} <= found.keys():
            return None
        hybrid, conv = found["s"], found["s_conv"]
        error = hypot(hybrid.standard_error or 0.0, conv.standard_error or 0.0)
        return hybrid.score - conv.score, error, hybrid.network.top1 - conv.network.top1


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Which networks are compared with which."""

    title: str
    """What it is, for people."""
    side_of: Callable[[KnownNetwork], int | None]
    """None for a network that is not in it. Where there are two sides, only pairs across them are compared."""


def is_of_table_1(network: KnownNetwork) -> bool:
    """Whether it is one of the four published sizes, and not another network of that name."""
    return network.name in PUBLISHED and network.spec.stages == published(network.name).stages


def is_hybrid(network: KnownNetwork) -> bool:
    """Whether any stage has attention."""
    return any(stage.attention_depth for stage in network.spec.stages)


def _has_layout_of_s_conv(network: KnownNetwork) -> bool:
    layout = [stage.dim for stage in published("s_conv").stages]
    return [stage.dim for stage in network.spec.stages] == layout and not is_hybrid(network)


def _has_size_of_s_conv(network: KnownNetwork) -> bool:
    target = count_model(published("s_conv")).params
    return abs(count_model(network.spec).params - target) <= NEAR * target


def _within(is_member: Callable[[KnownNetwork], bool]) -> Callable[[KnownNetwork], int | None]:
    return lambda network: 0 if is_member(network) else None


GROUPS: Mapping[str, Group] = {
    "context_family": Group(title="the family of s_conv", side_of=_within(_has_layout_of_s_conv)),
    "near_equal_size": Group(title=f"s_conv's size ±{100 * NEAR:g} %", side_of=_within(_has_size_of_s_conv)),
    "four_networks": Group(title=", ".join(PUBLISHED), side_of=_within(is_of_table_1)),
    "conv": Group(title="without attention", side_of=_within(lambda network: not is_hybrid(network))),
    "hybrid": Group(title="with attention", side_of=_within(is_hybrid)),
    "conv_against_hybrid": Group(title="attention against none", side_of=lambda network: int(is_hybrid(network))),
}
"""By their names in `fidelity.json`. The family of s_conv has its widths and no attention, whatever else differs."""


def find_fidelity(
    networks: Sequence[KnownNetwork],
    scored: Sequence[Scored],
    timed: Sequence[Scored],
    *,
    seeds: Sequence[int],
    draws: int = DRAWS,
) -> Fidelity:
    """The fidelity of the proxy that gave these scores; rows of other networks and seeds are passed over.

    `draws` is the number of resamples behind each interval.
    """
    scores_of: dict[Any, list[Scored]] = {}
    for row in scored:
        if row.seed in seeds:
            scores_of.setdefault(row.key[0], []).append(row)
    complete = [row for row in timed if row.state == "complete"]
    at_one_level = comparable([row.results for row in complete])  # each was timed at another moment
    latency_of = {row.key[0]: results for row, results in zip(complete, at_one_level, strict=True)}
    everything = [_join(network, scores_of, latency_of) for network in networks]
    measured = tuple(sorted((m for m in everything if m.scores), key=lambda m: -m.network.top1))
    groups = {}
    for name, group in GROUPS.items():
        sides = [(m, side) for m in measured if (side := group.side_of(m.network)) is not None]
        if len(sides) > 1 and (name != "conv_against_hybrid" or len({side for _, side in sides}) == 2):
            groups[name] = _compare(group.title, [m for m, _ in sides], [side for _, side in sides], draws)
    return Fidelity(
        measured=measured,
        unscored=tuple(m for m in everything if not m.scores),
        seeds=len(seeds),
        whole=_compare("all", measured, [0] * len(measured), draws),
        groups=groups,
    )


def verdict(group: GroupFidelity, metric: str = "params") -> str:
    """Whether the proxy orders a group better than a baseline: `better`, `worse`, `unclear`, or `too few` networks."""
    if metric not in group.baselines or (gain := group.baselines[metric].gain_ci95) is None:
        return "too few"
    low, high = gain
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _join(
    network: KnownNetwork, scores_of: Mapping[Any, Sequence[Scored]], latency_of: Mapping[Any, Results]
) -> Measured:
    key = network_key(network.spec)
    rows = scores_of.get(key, [])
    complete = [row for row in rows if row.score is not None]
    counted = count_model(network.spec)
    cpu_seconds = [row.cpu_seconds for row in complete if row.cpu_seconds is not None]
    return Measured(
        network=network,
        counts={metric: getattr(counted, metric) for metric in COUNT_METRICS},
        latency=latency_of.get(key),
        scores=tuple(row.score for row in complete if row.score is not None),
        noise=complete[0].standard_error if complete else None,
        seconds=fmean(row.seconds for row in complete) if complete else None,
        cpu_seconds=fmean(cpu_seconds) if cpu_seconds else None,
        failure=next((row.reason for row in rows if row.state == "failed"), None),
    )


def _compare(title: str, members: Sequence[Measured], side_of: Sequence[int], draws: int) -> GroupFidelity:
    """The proxy and every baseline that all members have, on the same resamples."""
    names = tuple(m.network.name for m in members)
    if not members:
        nothing = Agreement(tau=None, rho=None, tau_ci95=None, rho_ci95=None)
        return GroupFidelity(title=title, networks=names, proxy=nothing, chance=None, baselines={})
    truth = np.array([m.network.top1 for m in members])
    sides = np.array(side_of) if len(set(side_of)) > 1 else None
    width = max(len(m.scores) for m in members)
    scores = np.array([[*m.scores, *[np.nan] * (width - len(m.scores))] for m in members])
    drawn = resample(len(members), width, sides, draws=draws)
    proxy, taus = agreement(scores, truth, drawn, sides)
    baselines = {}
    for metric in (*COUNT_METRICS, LATENCY.name):
        values = [value for m in members if (value := m.value(metric)) is not None]
        if len(values) < len(members):
            continue
        column = np.array(values, dtype=np.float64)[:, None]
        own, own_taus = agreement(column, truth, drawn, sides)
        baselines[metric] = Baseline(
            agreement=own,
            gain=None if proxy.tau is None or own.tau is None else proxy.tau - own.tau,
            gain_ci95=None if proxy.tau_ci95 is None else interval(taus - own_taus),
        )
    return GroupFidelity(
        title=title,
        networks=names,
        proxy=proxy,
        chance=chance(np.nanmean(scores, 1), truth, sides),
        baselines=baselines,
    )


def fidelity_to_json(fidelity: Fidelity) -> dict[str, Any]:
    """The fidelity as plain values; what cannot be said is null."""
    ranks = _ranks([m.score for m in fidelity.measured])
    known_ranks = _ranks([m.network.top1 for m in fidelity.measured])
    lead = fidelity.hybrid_lead
    return {
        **_group_to_json(fidelity.whole),
        "against_params": verdict(fidelity.whole),
        "groups": {name: _group_to_json(group) for name, group in fidelity.groups.items()},
        "s_against_s_conv": None if lead is None else dict(zip(LEAD_KEYS, lead, strict=True)),
        "seeds": fidelity.seeds,
        "complete": fidelity.complete,
        "models": [
            {
                "name": m.network.name,
                "top1": m.network.top1,
                "score": m.score if m.scores else None,
                "standard_error": m.standard_error if m.scores else None,
                "seconds": m.seconds,
                "cpu_seconds": m.cpu_seconds,
                "scores": list(m.scores),
                "top1_rank": known_rank,
                "rank": rank,
                **m.counts,
                "latency_ms": m.value(LATENCY.name),
                "failed": m.failure,
            }
            for m, known_rank, rank in zip(
                (*fidelity.measured, *fidelity.unscored),
                [*known_ranks, *[None] * len(fidelity.unscored)],
                [*ranks, *[None] * len(fidelity.unscored)],
                strict=True,
            )
        ],
    }


def _group_to_json(group: GroupFidelity) -> dict[str, Any]:
    return {
        "networks": len(group.networks),
        **_agreement_to_json(group.proxy),
        "chance": group.chance,
        "baselines": {
            metric: {
                **_agreement_to_json(baseline.agreement),
                "tau_gain": baseline.gain,
                "tau_gain_ci95": None if baseline.gain_ci95 is None else list(baseline.gain_ci95),
            }
            for metric, baseline in group.baselines.items()
        },
    }


def _agreement_to_json(found: Agreement) -> dict[str, Any]:
    return {
        "tau": found.tau,
        "rho": found.rho,
        "tau_ci95": None if found.tau_ci95 is None else list(found.tau_ci95),
        "rho_ci95": None if found.rho_ci95 is None else list(found.rho_ci95),
    }


def _ranks(values: Sequence[float]) -> list[int]:
    """1 for the highest; equal ones share the rank of the first."""
    return [1 + sum(other > value for other in values) for value in values]
