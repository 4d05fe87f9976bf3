"""What a person sees in the terminal: tables on standard output, progress on standard error.

Only this module knows rich, and takes no markup from any text: what is bold says so beside it.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from threading import Timer
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.text import Text

from modscale.cli.layout import Column, for_encoding, lay_out_table, wrap
from modscale.errors import one_line, printable
from modscale.machine import available_cores
from modscale.runs.metrics import LATENCY, METRICS, Metric, Results, doubts_text, is_doubtful, metric_text
from modscale.runs.trials import Trial
from modscale.settings import LatencySettings
from modscale.specs.counts import ModelCount, count_model, sum_by
from modscale.specs.spec import ModelSpec, architecture_text

if TYPE_CHECKING:  # these pull in numpy, or take their time, and `count` needs none of them
    from rich.progress import Progress

    from modscale.scaling.scale import ScaledModel
    from modscale.spaces.census import Census
    from modscale.spaces.nearest import Matches

ARCHITECTURE = Column(heading="dim × depth + attention", is_text=True, may_move=True)
PATIENCE_S = 0.25
"""After which a count shows that it is under way."""
UNKNOWN_WIDTH = 80
"""Columns of a terminal that does not tell."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError that is being handled, where rich would end the program with exit code 1."""
        raise


out = _Console(highlight=False, markup=False, emoji=False)
err = _Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """One message to the person, on standard error; a terminal that is gone stops nothing."""
    with suppress(OSError):
        _print_lines(err, wrap(_shown(err, text), screen_width(sys.stderr), indent="  "))


def note(text: str) -> None:
    """A sentence below a table, on standard output."""
    _print_lines(out, wrap(_shown(out, text), screen_width(sys.stdout)))


def screen_width(stream: TextIO | None) -> int | None:
    """Columns to lay text out for: COLUMNS where it is set, else the terminal's; None where there is no terminal."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with suppress(OSError, ValueError, AttributeError):  # closed, or no stream of the system's at all
        if stream is not None and stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns or UNKNOWN_WIDTH
    return None


def show_count(spec: ModelSpec, count: ModelCount, traced: tuple[int, int] | None) -> None:
    """Params and FLOPs by part and by operator."""
    title = f"{spec.name} at {spec.resolution} x {spec.resolution}"
    sizes = [_figures("params"), _figures("share", spare=1), _figures("FLOPs"), _figures("share", spare=2)]
    for key in ("part", "operator"):
        rows = [
            (name, f"{params:,}", f"{params / count.params:.1%}", f"{flops:,}", f"{flops / count.flops:.1%}")
            for name, (params, flops) in sum_by(count.parts, key).items()
        ]
        rows.append(("total", f"{count.params:,}", "", f"{count.flops:,}", ""))
        _show_table(title, [key, *sizes], rows, footer=True)
    note("FLOPs: 1 multiply-add = 1, one image.")
    if traced is not None:
        note(f"fvcore trace of the network, attention included: {traced[0]:,} params, {traced[1]:,} FLOPs: equal.")


def show_census(census: Census) -> None:
    """Size and feasibility of a space, what each constraint removes, the reach and the distribution of its counts."""
    rows = [("architectures", f"{census.size:,}", ""), ("networks among them", f"{census.distinct:,}", "")]
    for what, (low, high), whole in (
        ("feasible", census.feasible_interval, census.size),
        ("feasible networks", census.distinct_feasible_interval, census.distinct),
    ):
        if low == high:
            rows.append((what, f"{low:,}", _share_text(low / whole)))
        else:
            share = f"{_share_text(low / whole)} to {_share_text(high / whole)}"
            rows.append((f"{what}, 95 % interval", " to ".join(_bound_text(end) for end in (low, high)), share))
    for name, removed in (census.removed or {}).items():
        rows.append((f"removed by {name}", f"{removed.alone:,}", f"{removed.alone / census.size:.2%}"))
        rows.append((f"removed by {name} only", f"{removed.only:,}", f"{removed.only / census.size:.2%}"))
    _show_table(f"space {census.name}", ["", _figures("number"), _figures("share")], rows)
    reaches = []
    for kind, reach in (("all", census.reach), ("feasible", census.feasible_reach)):
        for metric, ends in (reach or {}).items():
            for end, spec in (("min", ends.min_spec), ("max", ends.max_spec)):
                reaches.append((f"{metric} {end}, {kind}", f"{getattr(ends, end):,}", architecture_text(spec)))
    attained = replace(ARCHITECTURE, heading=f"attained by ({ARCHITECTURE.heading})")
    _show_table("Reach, exact", ["count", _figures("value"), attained], reaches)
    for metric, bars in (census.histograms or {}).items():
        top = max(bars.all)
        bins = []
        for left, right, everything, feasible in zip(bars.edges, bars.edges[1:], bars.all, bars.feasible, strict=False):
            bar = "#" * round(24 * feasible / top) + "." * (round(24 * everything / top) - round(24 * feasible / top))
            between = f"{metric_text(metric, left)} to {metric_text(metric, right)}"
            bins.append((between, f"{everything:,}", f"{feasible:,}", bar))
        bars_column = Column(heading="# feasible, . all", is_text=True, spare=1)
        _show_table(f"Architectures by {metric}", [metric, _figures("all"), _figures("feasible"), bars_column], bins)
    for text in (census.rule, census.infeasible):
        if text:
            note(text)


def _share_text(share: float) -> str:
    """A share in percent, or where that would be 0.00 % of something, in digits that count."""
    return f"{share:.2%}" if share == 0 or share >= 1e-4 else f"{share:.2e}"


def _bound_text(bound: int) -> str:
    """A bound of an interval: of its many digits, only the first few mean anything."""
    return f"{bound:,}" if bound < 10**12 else f"{bound:.4g}"


def show_latency(rows: Iterable[Mapping[str, Any]]) -> None:
    """Latency with its confidence interval; what is in doubt has a question mark."""
    rows = list(rows)
    doubts = [{f"latency_{word}": bool(row.get(word)) for word in ("wide", "busy")} for row in rows]
    table = [
        (
            row["name"], row["provider"], str(row["threads"]), str(row["runs"]),
            f"{row['mean_ms']:.2f} ± {row['ci95_ms']:.2f}{' ?' if is_doubtful(LATENCY, doubt) else ''}",
            f"{row['median_ms']:.2f}",
        )
        for row, doubt in zip(rows, doubts, strict=True)
    ]  # fmt: skip
    columns: list[Column | str] = [
        "model", Column(heading="provider", is_text=True, spare=2), _figures("threads", spare=1),
        _figures("runs", spare=3), _figures("mean ms (95 % CI)"), _figures("median ms", spare=4),
    ]  # fmt: skip
    _show_table("ONNX Runtime latency, batch 1", columns, table)
    _show_doubts(LATENCY, doubts)


def show_models(rows: Iterable[Mapping[str, Any]]) -> None:
    """The named models: the paper's figures beside ours."""
    table = []
    for row in rows:
        paper = row["paper"]
        table.append((
            row["name"], _figure(paper.get("top1")),
            f"{row['params'] / 1e6:.3f}", _figure(paper.get("params_m")),
            f"{row['flops'] / 1e9:.3f}", _figure(paper.get("flops_g")),
            _figure(paper.get("gpu_ms")), _figure(paper.get("cpu_ms")), row["table"],
        ))  # fmt: skip
    columns: list[Column | str] = [
        "model", _figures("top-1", spare=1), _figures("params"), _figures("paper", spare=4), _figures("FLOPs"),
        _figures("paper", spare=5), _figures("GPU ms", spare=2), _figures("CPU ms", spare=3),
        Column(heading="where", is_text=True, spare=6),
    ]  # fmt: skip
    _show_table("Networks of the paper", columns, table)
    note("Params in M, FLOPs in G (1 multiply-add = 1). Top-1 in %, GPU ms and CPU ms are the paper's.")


def show_report(summary: Mapping[str, Any], trials: Sequence[Trial]) -> None:
    """The front, the picks and where the report lies."""
    number = {trial.number: trial for trial in trials}
    members = [number[n] for n in summary["front"]]
    columns = [metric for name, metric in METRICS.items() if any(name in trial.results for trial in members)]
    rows = []
    for chosen in members:
        bands = [band for band, pick in summary["bands"].items() if pick == chosen.number]
        probability = summary["front_probability"].get(str(chosen.number))
        rows.append((
            str(chosen.number), *(metric.short(chosen.results) for metric in columns),
            "" if probability is None else f"{probability:.0%}", ", ".join(bands),
        ))  # fmt: skip
    headings = [
        _figures("trial"), *(_figures(metric.heading, spare=metric.spare) for metric in columns),
        _figures("on front", spare=1), Column(heading="pick of", is_text=True, may_move=True),
    ]  # fmt: skip
    _show_table("Pareto front; accuracy is the proxy's, not ImageNet's", headings, rows)
    for metric in columns:
        _show_doubts(metric, [trial.results for trial in members])
    for band, pick in summary["bands"].items():
        if pick is None:
            note(f"{band}: none: {summary['reasons'][band]}")
    note(f"report: {summary['files']['html']} (opens in a browser, offline)")


def show_next(summary: Mapping[str, Any], *, searched: bool) -> None:
    """What to type next: how to export a pick, or a trial of the front, and after a search how to report it again."""
    run = summary["run"]
    picks = [(band, ["--pick", band]) for band, number in summary["bands"].items() if number is not None]
    picks += [(f"trial-{number}", ["--trial", str(number)]) for number in summary["front"]]
    commands = [["modscale", "export", run, *words, "--out", name] for name, words in picks[:1]]
    commands += [["modscale", "report", run]] if searched else []
    _print_lines(out, [_shown(out, f"next:   {shlex.join(words)}") for words in commands])


def show_scaled(scaled: ScaledModel) -> None:
    """The scaled network beside its source, and how near it is to the budget."""
    rows = []
    for spec in (scaled.source, scaled.spec):
        count = count_model(spec)
        rows.append((spec.name, str(spec.resolution), f"{count.params:,}", f"{count.flops:,}", architecture_text(spec)))
    target = f"{scaled.target:,.0f}" if scaled.metric != "latency_ms" else f"{scaled.target:g}"
    columns: list[Column | str] = ["network", _figures("px"), _figures("params"), _figures("FLOPs"), ARCHITECTURE]
    _show_table(f"{scaled.source.name} scaled to {target} {scaled.metric}", columns, rows)
    value = f"{scaled.value:,.2f}" if scaled.metric == "latency_ms" else f"{scaled.value:,.0f}"
    verdict = "within" if scaled.within_tolerance else "NOT within"
    note(
        f"{value} {scaled.metric}: {scaled.relative_error:+.2%} off the budget, {verdict} {scaled.tolerance:.1%};"
        f" phi {scaled.phi:.2f}, widths in steps of {scaled.width_step}"
    )
    if scaled.reason:
        note(scaled.reason)


def show_matches(matches: Matches) -> None:
    """The architectures of a space near several budgets, the nearest first."""
    low, high = matches.count
    number = f"{low:,}" if low == high else f"{low:,} to {high:,} (95 % interval of {matches.draws:,} draws)"
    budgets = ", ".join(f"{target:,.0f} {metric}" for metric, target in matches.budgets.items())
    note(f"{number} architectures of {matches.space} are within {matches.tolerance:.1%} of {budgets}")
    rows = [
        (f"{match.params:,}", f"{match.flops:,}", f"{match.distance:.3%}", architecture_text(match.spec))
        for match in matches.best or ((matches.nearest_miss,) if matches.nearest_miss else ())
    ]
    title = "The nearest" if matches.best else "A near miss"
    _show_table(title, [*map(_figures, ("params", "FLOPs", "total distance")), ARCHITECTURE], rows)
    if matches.best and not matches.complete:
        note("There may be nearer ones: not all pairs of halves were looked at.")


def show_assumed(assumed: Mapping[str, int]) -> None:
    """What the counts of a space take for granted, and a search takes from its data."""
    if assumed:
        values = " and ".join(f"{key} {value}" for key, value in assumed.items())
        note(f"Counted with {values}: the space leaves them to the data of a search.")


def show_export(spec: ModelSpec, result: Mapping[str, Any]) -> None:
    """The files of an export, and how far ONNX Runtime is from torch."""
    size = f"{result['params']:,} params, {result['flops']:,} FLOPs"
    note(f"{spec.name} at {spec.resolution} x {spec.resolution}: {size}")
    error = f"ONNX Runtime against torch: max abs error {result['max_abs_error']:.1e}"
    loaded = result["loaded"]
    weights = "initial, not trained; --weights FILE puts in a checkpoint" if loaded is None else _loaded_text(loaded)
    note(f"spec     {result['spec']}")
    note(f"ONNX     {result['onnx']} ({error})")
    note(f"weights  {result['weights']} ({weights})")


def _loaded_text(loaded: Mapping[str, Any]) -> str:
    """What was loaded from where, and what was not."""
    where = "" if loaded["key"] == "." else f" under {loaded['key']}"
    parts = [f"loaded from {loaded['file']}{where}"]
    if not loaded["trained"]:
        parts.append("initial, not trained")
    if loaded["averaged"]:
        parts.append("the averaged weights")
    if loaded["buffers_from"]:
        parts.append(f"BatchNorm's statistics from {loaded['buffers_from']}")
    if loaded["fresh"]:
        parts.append("the head is fresh, not trained")
    if passed := loaded["passed_over"]:
        more = f" and {len(passed) - 3} more" if len(passed) > 3 else ""
        parts.append(f"passed over: {', '.join(passed[:3])}{more}")
    return one_line("; ".join(parts))


@contextmanager
def latency_progress(settings: LatencySettings) -> Iterator[Callable[[int, int], None]]:
    """A bar of the timing processes where there is a terminal; gives what is to hear `(done, total)` of each.

    Says beforehand where threads outnumber cores.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    if settings.resolved_threads() > available_cores():
        say(f"note: {settings.resolved_threads()} threads on {available_cores()} cores slow each other down")
    # It must not draw while a model is timed, nor leave a blank line where there is no terminal.
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(),
        console=err, transient=True, auto_refresh=False, disable=not err.is_terminal,
    )  # fmt: skip
    task = bar.add_task("export", total=None)
    with _drawn(bar):
        yield lambda done, total: bar.update(task, description="latency", completed=done, total=total, refresh=True)


@contextmanager
def counting_progress(name: str) -> Iterator[Callable[[float], None]]:
    """How far a count is, once it takes a while: a bar where there is a terminal, a line elsewhere.

    Gives what is to hear the share that is done.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(20), TaskProgressColumn(), TimeElapsedColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    )  # fmt: skip
    task = bar.add_task(_shown(err, f"counting {name}"), total=1.0)

    def begin() -> None:
        with suppress(OSError):
            if err.is_terminal:
                bar.start()
            else:
                say(f"counting the architectures of {name} ...")

    timer = Timer(PATIENCE_S, begin)
    timer.daemon = True
    timer.start()
    try:
        yield lambda share: bar.update(task, completed=share)
    finally:
        timer.cancel()
        timer.join()
        if err.is_terminal:
            with suppress(OSError):
                bar.stop()


@contextmanager
def _drawn(bar: Progress) -> Iterator[None]:
    """Shows a bar; a terminal that is gone by the end stops nothing."""
    bar.start()
    try:
        yield
    finally:
        with suppress(OSError):
            bar.stop()


class Terminal:
    """Tells a search on standard error: lines, and a bar where there is a terminal."""

    def say(self, text: str) -> None:
        say(text)

    @contextmanager
    def searching(self, *, done: int, limit: int, references: int) -> Iterator[SearchProgress]:
        progress = SearchProgress(done=done, limit=limit, references=references)
        with progress.shown():
            yield progress


class SearchProgress:
    """Follows a search: a bar where there is a terminal, a line a finished trial everywhere."""

    def __init__(self, *, done: int, limit: int, references: int, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.limit = limit
        self.bar = Progress(
            TextColumn("{task.description}", markup=False, style="bold"), BarColumn(16), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[stage]}", markup=False), console=err, transient=True,
            refresh_per_second=1,  # drawing takes a core away from the model that is timed
            disable=not err.is_terminal,
        )  # fmt: skip
        self.to_do = max(limit - done, 0) + references
        self.task = self.bar.add_task("search", total=max(limit, done) + references, completed=done, stage="", left="")
        self.label = ""
        self.clock = clock
        self.began, self.finished_here = clock(), 0
        self.has_doubted = False

    def shown(self) -> AbstractContextManager[None]:
        """Draws the bar as long as the context lasts."""
        return _drawn(self.bar)

    def started(self, label: str, spec: ModelSpec) -> None:
        self.label = label
        self.stage("")

    def stage(self, name: str) -> None:
        text = f"{self.label}: {name}" if name else self.label
        self.bar.update(self.task, stage=_shown(err, text))

    def finished(self, label: str, trial: Trial) -> None:
        self.finished_here += 1
        self.bar.update(self.task, advance=1, left=self.time_left())
        say(describe_trial(label, trial))
        if not self.has_doubted and any(is_doubtful(metric, trial.results) for metric in METRICS.values()):
            self.has_doubted = True
            say("note: ? marks a latency whose interval stayed wide, or whose cores others had")

    def time_left(self) -> str:
        """How long the rest takes at the pace of what this start of the search has finished; empty before the first."""
        if not self.finished_here:
            return ""
        seconds = (self.clock() - self.began) / self.finished_here * max(self.to_do - self.finished_here, 0)
        return f"about {duration_text(seconds)} left"


def duration_text(seconds: float) -> str:
    """A duration in its two largest units: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def describe_trial(label: str, trial: Trial) -> str:
    """A finished trial in one line, at most 80 columns for a measured one."""
    known = [metric.brief(trial.results) for name, metric in METRICS.items() if name in trial.results]
    if trial.state == "complete":
        return f"{label:<9} {', '.join(known)}, {trial.seconds:.0f} s"
    return f"{label:<9} {trial.state}: {one_line(trial.reason or 'no reason recorded')} ({', '.join(known)})"


def _show_doubts(metric: Metric, measured: Sequence[Results]) -> None:
    if text := doubts_text(metric, measured):
        note(f"? {text}")


def _show_table(
    title: str, columns: Sequence[Column | str], rows: Sequence[Sequence[str]], *, footer: bool = False
) -> None:
    """Prints a table as wide as it needs, or as the terminal allows; a heading alone is that of a name."""
    whole = [Column(heading=column, is_text=True) if isinstance(column, str) else column for column in columns]
    lines = lay_out_table(
        _shown(out, title),
        [replace(column, heading=_shown(out, column.heading)) for column in whole],
        [[_shown(out, cell) for cell in row] for row in rows],
        width=screen_width(sys.stdout),
        rule=_shown(out, "─") if out.is_terminal else "-",
        footer=footer,
    )
    _print_lines(out, lines[:2], style="bold")
    _print_lines(out, [*lines[2:], ""])


def _figures(heading: str, *, spare: int = 0) -> Column:
    return Column(heading=heading, spare=spare)


def _shown(console: Console, text: str) -> str:
    """Text as this console can show it: nothing in it steers the terminal, and no sign is beyond its encoding."""
    return for_encoding(printable(text), console.encoding)


def _print_lines(console: Console, lines: Iterable[str], *, style: str = "") -> None:
    """Whole lines, folded by nothing but the terminal itself."""
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)


def _figure(value: object) -> str:
    return "" if value is None else str(value)
