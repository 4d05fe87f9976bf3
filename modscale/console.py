"""What a person sees in the terminal: tables on standard output, progress on standard error.

Only this module knows rich.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from modscale.counts import ModelCount, count_model, sum_by
from modscale.errors import one_line
from modscale.machine import available_cores
from modscale.settings import LatencySettings
from modscale.spec import ModelSpec, architecture_text
from modscale.trials import Trial, metric_text

if TYPE_CHECKING:  # these pull in numpy, or take their time, and `count` needs none of them
    from rich.progress import Progress

    from modscale.budgets import Matches
    from modscale.census import Census
    from modscale.scaling import ScaledModel

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line to the person, on standard error; a terminal that is gone stops nothing."""
    with suppress(OSError):
        err.print(escape(text), soft_wrap=True)


def show_count(spec: ModelSpec, count: ModelCount, traced: tuple[int, int] | None) -> None:
    """Params and FLOPs by part and by operator."""
    title = f"{spec.name} at {spec.resolution} x {spec.resolution}"
    for key in ("part", "operator"):
        rows = [
            (name, f"{params:,}", f"{params / count.params:.1%}", f"{flops:,}", f"{flops / count.flops:.1%}")
            for name, (params, flops) in sum_by(count.parts, key).items()
        ]
        rows.append(("total", f"{count.params:,}", "", f"{count.flops:,}", ""))
        out.print(make_table(title, [key, "params", "share", "FLOPs", "share"], rows, footer=True))
    out.print("FLOPs: 1 multiply-add = 1, one image.")
    if traced is not None:
        out.print(f"fvcore trace of the network, attention included: {traced[0]:,} params, {traced[1]:,} FLOPs: equal.")


def show_census(census: Census) -> None:
    """Size and feasibility of a space, what each constraint removes, the reach and the distribution of its counts."""
    rows = [("architectures", f"{census.size:,}", ""), ("networks among them", f"{census.distinct:,}", "")]
    low, high = census.feasible_interval
    share = f"{low / census.size:.2%}" if low == high else f"{low / census.size:.2%} to {high / census.size:.2%}"
    rows.append(("feasible", f"{low:,}" if low == high else f"{low:,} to {high:,}", share))
    if census.distinct_feasible is not None:
        rows.append(
            ("feasible networks", f"{census.distinct_feasible:,}", f"{census.distinct_feasible / census.distinct:.2%}")
        )
    for name, removed in (census.removed or {}).items():
        rows.append((f"removed by {name}", f"{removed.alone:,}", f"{removed.alone / census.size:.2%}"))
        rows.append((f"removed by {name} only", f"{removed.only:,}", f"{removed.only / census.size:.2%}"))
    out.print(make_table(f"space {census.name}", ["", "number", "share"], rows))
    reaches = []
    for kind, reach in (("all", census.reach), ("feasible", census.feasible_reach)):
        for metric, ends in (reach or {}).items():
            for end, spec in (("min", ends.min_spec), ("max", ends.max_spec)):
                reaches.append((f"{metric} {end}, {kind}", f"{getattr(ends, end):,}", architecture_text(spec)))
    out.print(make_table("Reach, exact", ["count", "value", "attained by (dim × depth + attention)"], reaches))
    for metric, bars in (census.histograms or {}).items():
        top = max(bars.all)
        bins = []
        for left, right, everything, feasible in zip(bars.edges, bars.edges[1:], bars.all, bars.feasible, strict=False):
            bar = "#" * round(24 * feasible / top) + "." * (round(24 * everything / top) - round(24 * feasible / top))
            bins.append(
                (
                    f"{metric_text(metric, left)} to {metric_text(metric, right)}",
                    f"{everything:,}",
                    f"{feasible:,}",
                    bar,
                )
            )
        table = make_table(f"Architectures by {metric}", [metric, "all", "feasible", "# feasible, . all"], bins)
        table.columns[-1].justify = "left"
        out.print(table)
    for note in (census.rule, census.infeasible):
        if note:
            out.print(escape(note), soft_wrap=True)


def show_latency(rows: Iterable[Mapping[str, Any]]) -> None:
    """Latency with its confidence interval."""
    table = [
        (
            row["name"], row["provider"], str(row["threads"]), str(row["runs"]),
            f"{row['mean_ms']:.2f} ± {row['ci95_ms']:.2f}", f"{row['median_ms']:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    headings = ["model", "provider", "threads", "runs", "mean ms (95 % CI)", "median ms"]
    out.print(make_table("ONNX Runtime latency, batch 1", headings, table))


def show_models(rows: Iterable[Mapping[str, Any]]) -> None:
    """The named models: the paper's figures beside ours."""
    table = []
    for row in rows:
        paper = row["paper"]
        table.append((
            row["name"], row["table"], _figure(paper.get("top1")),
            f"{row['params'] / 1e6:.3f}", _figure(paper.get("params_m")),
            f"{row['flops'] / 1e9:.3f}", _figure(paper.get("flops_g")),
            _figure(paper.get("gpu_ms")), _figure(paper.get("cpu_ms")),
        ))  # fmt: skip
    headings = ["model", "where", "top-1 %", "params M", "paper", "FLOPs G", "paper", "GPU ms", "CPU ms"]
    out.print(make_table("Networks of the paper; top-1 and latencies are the paper's", headings, table))


def show_report(summary: Mapping[str, Any], trials: Sequence[Trial]) -> None:
    """The front, the picks and where the report lies."""
    from modscale.front import metric_error

    number = {trial.number: trial for trial in trials}
    rows = []
    for chosen in (number[n] for n in summary["front"]):
        bands = [band for band, pick in summary["bands"].items() if pick == chosen.number]
        probability = summary["front_probability"].get(str(chosen.number))
        error = metric_error(chosen, "accuracy")
        rows.append((
            str(chosen.number),
            f"{_text(chosen, 'accuracy').removesuffix(' %')} ± {100 * error:.1f}",
            f"{_text(chosen, 'latency_ms').removesuffix(' ms')} ± {chosen.latency_ci95_ms or 0:.2g}",
            _text(chosen, "params"), _text(chosen, "flops"),
            "" if probability is None else f"{probability:.0%}", ", ".join(bands),
        ))  # fmt: skip
    headings = ["trial", "accuracy %", "latency ms", "params", "FLOPs", "on front", "pick of"]
    out.print(make_table("Pareto front; accuracy is the proxy's, not ImageNet's", headings, rows))
    for band, pick in summary["bands"].items():
        if pick is None:
            out.print(escape(f"{band}: none: {summary['reasons'][band]}"), soft_wrap=True)
    out.print(escape(f"report: {summary['files']['html']}"), soft_wrap=True)


def show_scaled(scaled: ScaledModel) -> None:
    """The scaled network beside its source, and how near it is to the budget."""
    rows = []
    for spec in (scaled.source, scaled.spec):
        count = count_model(spec)
        rows.append((spec.name, architecture_text(spec), str(spec.resolution), f"{count.params:,}", f"{count.flops:,}"))
    headings = ["network", "dim × depth + attention", "resolution", "params", "FLOPs"]
    target = f"{scaled.target:,.0f}" if scaled.metric != "latency_ms" else f"{scaled.target:g}"
    out.print(make_table(f"{scaled.source.name} scaled to {target} {scaled.metric}", headings, rows))
    value = f"{scaled.value:,.2f}" if scaled.metric == "latency_ms" else f"{scaled.value:,.0f}"
    verdict = "within" if scaled.within_tolerance else "NOT within"
    out.print(
        f"{value} {scaled.metric}: {scaled.relative_error:+.2%} off the budget, {verdict} {scaled.tolerance:.1%};"
        f" phi {scaled.phi:.2f}, widths in steps of {scaled.width_step}",
        soft_wrap=True,
    )
    if scaled.reason:
        out.print(escape(scaled.reason), soft_wrap=True)


def show_matches(matches: Matches) -> None:
    """The architectures of a space near several budgets, the nearest first."""
    low, high = matches.count
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    budgets = ", ".join(f"{target:,.0f} {metric}" for metric, target in matches.budgets.items())
    out.print(f"{number} architectures of {escape(matches.space)} are within {matches.tolerance:.1%} of {budgets}")
    rows = [
        (architecture_text(match.spec), f"{match.params:,}", f"{match.flops:,}", f"{match.distance:.3%}")
        for match in matches.best or ((matches.nearest_miss,) if matches.nearest_miss else ())
    ]
    title = "The nearest" if matches.best else "A near miss"
    out.print(make_table(title, ["dim × depth + attention", "params", "FLOPs", "total distance"], rows))
    if matches.best and not matches.complete:
        out.print("There may be nearer ones: not all pairs of halves were looked at.")


def show_export(spec: ModelSpec, result: Mapping[str, Any]) -> None:
    """The files of an export, and how far ONNX Runtime is from torch."""
    size = f"{result['params']:,} params, {result['flops']:,} FLOPs"
    out.print(f"[bold]{escape(spec.name)}[/] at {spec.resolution} x {spec.resolution}: {size}")
    error = f"ONNX Runtime against torch: max abs error {result['max_abs_error']:.1e}"
    loaded = result["loaded"]
    weights = "initial, not trained; --weights FILE puts in a checkpoint" if loaded is None else _loaded_text(loaded)
    out.print(f"spec     {result['spec']}", soft_wrap=True)
    out.print(f"ONNX     {result['onnx']} ({error})", soft_wrap=True)
    out.print(f"weights  {result['weights']} ({weights})", soft_wrap=True)


def _loaded_text(loaded: Mapping[str, Any]) -> str:
    """What was loaded from where, and what was not."""
    where = "" if loaded["key"] == "." else f" under {loaded['key']}"
    parts = [f"loaded from {loaded['file']}{where}"]
    if loaded["averaged"]:
        parts.append("the averaged weights")
    if loaded["buffers_from"]:
        parts.append(f"BatchNorm's statistics from {loaded['buffers_from']}")
    if loaded["fresh"]:
        parts.append("the head is fresh, not trained")
    if passed := loaded["passed_over"]:
        more = f" and {len(passed) - 3} more" if len(passed) > 3 else ""
        parts.append(f"passed over: {', '.join(passed[:3])}{more}")
    return escape(one_line("; ".join(parts)))


def make_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, footer: bool = False) -> Table:
    """A table whose first column is text and whose others are figures."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 else "right", overflow="fold")
    rows = list(rows)
    for i, row in enumerate(rows):
        if footer and i == len(rows) - 1:
            table.add_section()
        table.add_row(*(escape(cell) for cell in row))
    return table


@contextmanager
def latency_progress(settings: LatencySettings) -> Iterator[Callable[[int, int], None]]:
    """A bar of the timing processes where there is a terminal; gives what is to hear `(done, total)` of each.

    Says beforehand where threads outnumber cores.
    """
    from rich.progress import Progress

    if settings.resolved_threads() > available_cores():
        say(f"note: {settings.resolved_threads()} threads on {available_cores()} cores slow each other down")
    # It must not draw while a model is timed, nor leave a blank line where there is no terminal.
    bar = Progress(console=err, transient=True, auto_refresh=False, disable=not err.is_terminal)
    task = bar.add_task("export", total=None)
    with _drawn(bar):
        yield lambda done, total: bar.update(task, description="latency", completed=done, total=total, refresh=True)


@contextmanager
def _drawn(bar: Progress) -> Iterator[None]:
    """Shows a bar; a terminal that is gone by the end stops nothing."""
    bar.start()
    try:
        yield
    finally:
        with suppress(OSError):
            bar.stop()


class SearchProgress:
    """Follows a search: a bar where there is a terminal, a line a finished trial everywhere."""

    def __init__(self, *, done: int, limit: int, references: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.limit = limit
        self.bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[stage]}"), console=err, transient=True,
            refresh_per_second=1,  # drawing takes a core away from the model that is timed
            disable=not err.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("search", total=max(limit, done) + references, completed=done, stage="")
        self.label = ""

    def shown(self) -> AbstractContextManager[None]:
        """Draws the bar as long as the context lasts."""
        return _drawn(self.bar)

    def started(self, label: str, spec: ModelSpec) -> None:
        self.label = label
        self.stage("")

    def stage(self, name: str) -> None:
        self.bar.update(self.task, stage=escape(f"{self.label}: {name}" if name else self.label))

    def finished(self, label: str, trial: Trial) -> None:
        self.bar.advance(self.task)
        say(describe_trial(label, trial))


def describe_trial(label: str, trial: Trial) -> str:
    """A finished trial in one line."""
    size = f"{trial.params / 1e6:5.2f} M params, {trial.flops / 1e9:.3f} GFLOPs"
    if trial.state == "complete" and trial.accuracy is not None and trial.latency_ms is not None:
        interval = "" if trial.latency_ci95_ms is None else f" ± {trial.latency_ci95_ms:.2f}"
        return (
            f"{label:<10} accuracy {trial.accuracy:6.2%}, {trial.latency_ms:6.2f}{interval} ms,"
            f" {size} ({trial.seconds:.0f} s)"
        )
    return f"{label:<10} {trial.state}: {trial.reason} ({size})"


def _text(trial: Trial, metric: str) -> str:
    value = trial.value(metric)
    return "" if value is None else metric_text(metric, value)


def _figure(value: object) -> str:
    return "" if value is None else str(value)
