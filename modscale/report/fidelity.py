"""What people see of a proxy's fidelity: `fidelity.json`, `fidelity.md` and `fidelity.png`, rebuilt from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from pathlib import Path
from typing import Any

import numpy as np

from modscale.analysis.fidelity import Fidelity, GroupFidelity, Measured, fidelity_to_json, is_hybrid, verdict
from modscale.errors import printable
from modscale.files import write_whole
from modscale.report.figures import COLOURS, open_figure, place_labels, render_figure
from modscale.report.pages import render_page, to_json
from modscale.runs.metrics import LATENCY, METRICS, Z95, doubts_text

KINDS = {"family": ("o", "#0b5fa5"), "conv": ("s", "#9aa4ae"), "hybrid": ("D", "#c2410c")}
"""Marks of networks: of the family of s_conv, others without attention, with attention."""
BASELINE_COLOURS = {"params": "#1f2933", "flops": "#7a8794", "latency_ms": "#b9a26a"}


def write_fidelity(folder: Path, fidelity: Fidelity, document: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the files of a fidelity into its folder; returns the content of `fidelity.json`.

    `document` is `fidelity.yaml`. Raises InputError where they cannot be written.
    """
    content = {
        "fidelity": str(folder),
        "proxy": document["setup"]["proxy"],
        "data": document["data"],
        **fidelity_to_json(fidelity),
    }
    write_whole(folder / "fidelity.png", draw_fidelity(fidelity))
    write_whole(folder / "fidelity.md", render_page("fidelity.md.j2", _context(fidelity, document), 0))
    write_whole(folder / "fidelity.json", to_json(content))
    return content


def headline(fidelity: Fidelity) -> str:
    """What was found, in a sentence."""
    whole = fidelity.whole
    if whole.proxy.tau is None:
        return f"{len(whole.networks)} networks have a score: there is no order to compare yet."
    text = f"The proxy orders these {len(whole.networks)} networks with tau {tau_text(whole)}"
    if "params" not in whole.baselines:
        return f"{text}."
    params = whole.baselines["params"]
    said = {
        "better": "better than the number of params does",
        "worse": "worse than the number of params does",
        "unclear": "which is not told apart from the number of params",
        "too few": "and so few networks cannot say whether that is better than the number of params",
    }[verdict(whole)]
    return f"{text}, {said} ({signed(params.agreement.tau)})."


def lead_text(fidelity: Fidelity) -> str:
    """How s stands against s_conv, in a sentence; empty where one of them has no score."""
    if fidelity.hybrid_lead is None:
        return ""
    difference, error, known = fidelity.hybrid_lead
    way = "behind" if difference < 0 else "ahead of"
    noise = f" (standard error of the difference {error:.2g})" if error else ""
    return f"The hybrid s scores {abs(difference):.2g} {way} s_conv{noise}; top-1 differs by {known:+.3g} points."


def tau_text(group: GroupFidelity) -> str:
    """The proxy's tau, with its interval where there is one."""
    interval = group.proxy.tau_ci95
    return signed(group.proxy.tau) + ("" if interval is None else f" [{interval[0]:+.2f}, {interval[1]:+.2f}]")


def signed(value: float | None) -> str:
    """A coefficient in two digits."""
    return "none" if value is None else f"{value:+.2f}"


def score_text(measured: Measured) -> str:
    """The score with its standard error."""
    if not measured.scores:
        return "failed" if measured.failure else "waiting"
    error = measured.standard_error
    if not error:
        return f"{measured.score:.4g}"
    digits = max(0, 1 - floor(log10(error)))
    return f"{measured.score:.{digits}f} ± {error:.{digits}f}"


def latency_notes(fidelity: Fidelity) -> list[str]:
    """What speaks against the latencies, in sentences."""
    timed = [m.latency for m in fidelity.measured if m.latency is not None]
    return [text for text in (doubts_text(LATENCY, timed),) if text]


def draw_fidelity(fidelity: Fidelity) -> bytes:
    """Left, the scores against the known accuracies; right, each group's tau beside the baselines'. A PNG."""
    with open_figure(11.0, 5.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        family = set(fidelity.groups["context_family"].networks if "context_family" in fidelity.groups else ())
        hybrid = {m.network.name for m in fidelity.measured if is_hybrid(m.network)}
        for kind, label in (("family", "s_conv's family"), ("conv", "without attention"), ("hybrid", "with attention")):
            shown = [m for m in fidelity.measured if _kind(m.network.name, family, hybrid) == kind]
            if shown:
                marker, colour = KINDS[kind]
                left.errorbar(
                    [m.network.top1 for m in shown], [m.score for m in shown],
                    yerr=[Z95 * (m.standard_error or 0.0) for m in shown], fmt=marker, color=colour, ms=6,
                    elinewidth=0.9, capsize=2, mec="white", mew=0.6, label=label,
                )  # fmt: skip
        left.set_xlabel("known top-1, %")
        left.set_ylabel("score of the proxy, 95 % intervals of its noise")
        left.grid(color=COLOURS["grid"], lw=0.8)
        left.margins(0.08)
        if fidelity.measured:
            left.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, fontsize=8.5, handletextpad=0.3)
        _draw_groups(right, [fidelity.whole, *fidelity.groups.values()])
        labels = [
            (m.network.top1, m.score, printable(m.network.name.removeprefix("s_conv/"))[:22], COLOURS["ink"])
            for m in fidelity.measured
        ]
        place_labels(figure, left, labels)
        return render_figure(figure).png


def _draw_groups(axes: Any, groups: Sequence[GroupFidelity]) -> None:
    rows = np.arange(len(groups))
    for i, (metric, colour) in enumerate(BASELINE_COLOURS.items()):
        known = [(row, g.baselines[metric].agreement.tau) for row, g in enumerate(groups) if metric in g.baselines]
        found = [(row, tau) for row, tau in known if tau is not None]
        if found:
            axes.scatter(
                [tau for _, tau in found], [row + 0.12 + 0.12 * i for row, _ in found], marker="|", s=70, lw=2,
                color=colour, label=METRICS[metric].noun, zorder=2,
            )  # fmt: skip
    labelled = False
    for row, group in zip(rows, groups, strict=True):
        if group.proxy.tau is None:
            continue
        low, high = group.proxy.tau_ci95 or (group.proxy.tau, group.proxy.tau)
        axes.plot([low, high], [row - 0.12] * 2, color=COLOURS["front"], lw=1.4)
        axes.plot(
            [group.proxy.tau], [row - 0.12], marker="o", ms=7, color=COLOURS["front"], ls="none",
            label=None if labelled else "the proxy, 95 % interval",
        )  # fmt: skip
        labelled = True
    axes.axvline(0, color=COLOURS["ink"], lw=0.8)
    axes.set_yticks(rows, [f"{printable(g.title)} ({len(g.networks)})" for g in groups], fontsize=8.5)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set_xlabel("Kendall's tau with the known accuracies")
    axes.grid(color=COLOURS["grid"], lw=0.8, axis="x")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.3, 1.0), ncols=4, fontsize=8.5, handletextpad=0.3)


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _kind(name: str, family: set[str], hybrid: set[str]) -> str:
    return "family" if name in family else "hybrid" if name in hybrid else "conv"


def _context(fidelity: Fidelity, document: Mapping[str, Any]) -> dict[str, Any]:
    """What the template of `fidelity.md` is filled with."""
    proxy, data = document["setup"]["proxy"], document["data"]
    json_rows = fidelity_to_json(fidelity)["models"]
    metrics = list(fidelity.whole.baselines)
    everything = (*fidelity.measured, *fidelity.unscored)
    notes = [f"{m.network.name} has no score: {m.failure}." for m in fidelity.unscored if m.failure]
    waiting = sum(not m.failure for m in fidelity.unscored)
    notes += [f"Not finished: {waiting} networks are still to be scored."] if waiting else []
    return {
        "headline": headline(fidelity),
        "conditions": (
            f"Proxy {proxy['method']} at {proxy['resolution']} px, {_several(proxy['epochs'], 'epoch')} of"
            f" {data.get('train_images')} images of {data.get('classes')} classes ({data.get('name')}), scored on"
            f" {data.get('val_images')}; {_several(fidelity.seeds, 'seed')} a network, on"
            f" {data.get('device')} with {_several(proxy['threads'], 'thread')}. All settings stand in fidelity.yaml."
        ),
        "notes": [*notes, *latency_notes(fidelity), *([lead] if (lead := lead_text(fidelity)) else [])],
        "plot_text": f"{len(fidelity.measured)} networks, the proxy's score against their known accuracy",
        "baselines": [METRICS[metric].noun for metric in metrics],
        "groups": [
            {
                "title": group.title,
                "n": len(group.networks),
                "tau": tau_text(group),
                "rho": signed(group.proxy.rho),
                "chance": "none" if group.chance is None else f"{group.chance:.2g}",
                "baselines": [
                    signed(group.baselines[m].agreement.tau) if m in group.baselines else "none" for m in metrics
                ],
                "verdict": verdict(group),
            }
            for group in (fidelity.whole, *fidelity.groups.values())
        ],
        "intervals": intervals_text(fidelity),
        "networks": [
            {
                "name": m.network.name,
                "top1": f"{m.network.top1:g} %",
                "top1_rank": row["top1_rank"] or "",
                "score": score_text(m),
                "rank": row["rank"] or "",
                "params": METRICS["params"].short(m.counts),
                "flops": METRICS["flops"].short(m.counts),
                "latency": LATENCY.cell(m.latency or {}),
                "seconds": "" if m.seconds is None else f"{m.seconds:.0f}",
            }
            for m, row in zip(everything, json_rows, strict=True)
        ],
        "scores": (
            "± after a score is its standard error, between seeds, or of a single seed as the proxy knows it, from"
            " the number of held-out images. Params, FLOPs and latency are those of the whole network, not of what the"
            " proxy makes of it."
        ),
    }


def intervals_text(fidelity: Fidelity) -> str:
    """What the intervals hold, and what they do not."""
    noise = (
        "networks and, within each, its seeds are drawn again"
        if fidelity.seeds > 1
        else "networks are drawn again; with one seed each, nothing of the noise between seeds is in them"
    )
    return f"Intervals: {noise}. Fewer than 8 networks have none: so few prove little, whatever their order."
