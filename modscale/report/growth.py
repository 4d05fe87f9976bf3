"""How a report tells of a run's growing hypervolume: a figure and what it shows, and what it does not."""

from __future__ import annotations

from modscale.analysis.growth import Growth
from modscale.report.chart import Chart, Mark, lay_out
from modscale.report.figures import COLOURS, Picture, open_figure, render_figure
from modscale.report.front_chart import SIZES
from modscale.runs.metrics import METRICS

STEP_MARKS = 32
"""Points up to which each is marked with a dot."""


def draw_growth(growth: Growth) -> Picture:
    """The run's hypervolume after each complete trial, in front of the mean and the 90 % band of random orders."""
    with open_figure(8.4, 3.6) as figure:
        axes = figure.subplots()
        low, high, mean, run = (
            [100 * share for share in shares]
            for shares in (growth.random_low, growth.random_high, growth.random_mean, growth.run)
        )
        axes.fill_between(
            growth.trials, low, high, color=COLOURS["dominated"], alpha=0.3, lw=0, label="random orders of them, 90 %"
        )
        axes.plot(growth.trials, mean, color="#5d6873", lw=1.2, ls="--", label="their mean")
        marker = "o" if len(growth.trials) <= STEP_MARKS else None
        axes.plot(
            growth.trials,
            run,
            color=COLOURS["front"],
            lw=1.6,
            label="the trials as the search took them",
            marker=marker,
            ms=4,
        )
        axes.set_xlabel("complete trials")
        axes.set_ylabel("hypervolume, % of the final one")
        axes.locator_params(axis="x", integer=True)
        axes.set_ylim(0, 104)
        axes.grid(color=COLOURS["grid"], lw=0.8)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, fontsize=8.5,
            handletextpad=0.4,
        )  # fmt: skip
        return render_figure(figure)


def growth_charts(growth: Growth) -> dict[str, Chart]:
    """The same as charts of a page, a form for each of `SIZES`."""
    percent = {
        name: [(float(n), 100 * share) for n, share in zip(growth.trials, getattr(growth, name), strict=True)]
        for name in ("run", "random_mean", "random_low", "random_high")
    }
    band = [*percent["random_low"], *reversed(percent["random_high"])]
    dots = percent["run"] if len(growth.trials) <= STEP_MARKS else []
    return {
        name: lay_out(
            [Mark(kind="grown", x=x, y=y) for x, y in dots],
            x_label="complete trials", y_label="hypervolume, % of the final one", width=width,
            height=280, logs=(False, False), reach=[(float(growth.trials[0]), 0.0), *band, *percent["run"]],
            stairs=[("grown-band", band), ("grown-mean", percent["random_mean"]), ("grown", percent["run"])],
        )
        for name, (width, _) in SIZES.items()
    }  # fmt: skip


def growth_text(growth: Growth, objectives: int) -> str:
    """What the figure shows of a run with so many objectives, and what it does not."""
    middle = min(range(len(growth.trials)), key=lambda i: abs(2 * growth.trials[i] - growth.trials[-1]))
    some = ""
    if objectives > len(growth.objectives):
        some = f" in {' and '.join(METRICS[metric].noun for metric in growth.objectives)}, the first two objectives,"
    return (
        f"After {growth.trials[middle]} of {growth.trials[-1]} complete trials the search had"
        f" {_percent(growth.run[middle])} of its final hypervolume{some or ','} and a random order of the same"
        f" trials has {_percent(growth.random_mean[middle])} on average ({_percent(growth.random_low[middle])} to"
        f" {_percent(growth.random_high[middle])} in nine of ten, over {growth.orders} orders)."
        " This is no fair race: the random orders draw from what the search chose, the good trials of its end included,"
        " so they flatter random sampling, which draws from the whole space, and a search that learns may lie below"
        " them."
        " A curve that still climbs at its end says that more trials would help."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
