"""The tables: what each command shows a person on standard output."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modscale.cli.console import as_shown, note, out, print_lines, show_table
from modscale.cli.layout import Column
from modscale.errors import one_line
from modscale.runs.metrics import (
    LATENCY,
    METRICS,
    Metric,
    Results,
    decimals,
    doubts_text,
    is_doubtful,
    learnt_of,
    metric_text,
    metrics_among,
)
from modscale.runs.trials import Trial
from modscale.specs.counts import ModelCount, count_model, sum_by
from modscale.specs.spec import ModelSpec, architecture_text
from modscale.training.job import SCORES

if TYPE_CHECKING:  # these pull in numpy, or take their time, and `count` needs none of them
    from modscale.analysis.fidelity import Fidelity
    from modscale.scaling.scale import ScaledModel
    from modscale.spaces.census import Census
    from modscale.spaces.nearest import Matches

ARCHITECTURE = Column(heading="dim × depth + attention", is_text=True, may_move=True)


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
        show_table(title, [key, *sizes], rows, footer=True)
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
            rows.append((f"{what}, 95 %", " to ".join(_bound_text(end) for end in (low, high)), share))
    for name, removed in (census.removed or {}).items():
        rows.append((f"removed by {name}", f"{removed.alone:,}", f"{removed.alone / census.size:.2%}"))
        rows.append((f"removed by {name} only", f"{removed.only:,}", f"{removed.only / census.size:.2%}"))
    show_table(f"space {census.name}", ["", _figures("number"), _figures("share", spare=1)], rows)
    reaches = []
    for kind, reach in (("all", census.reach), ("feasible", census.feasible_reach)):
        for metric, ends in (reach or {}).items():
            for end, spec in (("min", ends.min_spec), ("max", ends.max_spec)):
                reaches.append((f"{metric} {end}, {kind}", f"{getattr(ends, end):,}", architecture_text(spec)))
    attained = replace(ARCHITECTURE, heading=f"attained by ({ARCHITECTURE.heading})")
    show_table("Reach, exact", ["count", _figures("value"), attained], reaches)
    for metric, bars in (census.histograms or {}).items():
        top = max(bars.all)
        bins = []
        for left, right, everything, feasible in zip(bars.edges, bars.edges[1:], bars.all, bars.feasible, strict=False):
            bar = "#" * round(24 * feasible / top) + "." * (round(24 * everything / top) - round(24 * feasible / top))
            between = f"{metric_text(metric, left)} to {metric_text(metric, right)}"
            bins.append((between, f"{everything:,}", f"{feasible:,}", bar))
        bars_column = Column(heading="# feasible, . all", is_text=True, spare=1)
        show_table(f"Architectures by {metric}", [metric, _figures("all"), _figures("feasible"), bars_column], bins)
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
    """Latency while nothing disturbs, and as it was; what is in doubt has a question mark."""
    rows = list(rows)
    doubts = [{f"latency_{word}": bool(row.get(word)) for word in ("wide", "busy")} for row in rows]

    def figure(row: Mapping[str, Any], key: str, form: str) -> str:
        return "" if row.get(key) is None else format(row[key], form)

    table = [
        (
            row["name"],
            f"{_quiet_text(row)}{' ?' if is_doubtful(LATENCY, doubt) else ''}",
            *(figure(row, key, ".2f") for key in ("median_ms", "mean_ms", "p10_ms", "p90_ms")),
            figure(row, "relative", ".3f"),
            *(figure(row, key, "d") for key in ("rounds", "runs")), row.get("target") or "", row["provider"],
            str(row["threads"]),
        )
        for row, doubt in zip(rows, doubts, strict=True)
    ]  # fmt: skip
    columns: list[Column | str] = [
        "model", _figures("quiet ms (95 % CI)"), _figures("median", spare=1), _figures("mean", spare=3),
        _figures("p10", spare=7), _figures("p90", spare=4), _figures("x ref.", spare=2), _figures("rounds", spare=6),
        _figures("runs", spare=5),
        Column(heading="on", is_text=True, spare=8), Column(heading="provider", is_text=True, spare=9),
        _figures("threads", spare=10),
    ]  # fmt: skip
    show_table("ONNX Runtime latency, batch 1", columns, table)
    for line in dict.fromkeys(_conditions_text(row) for row in rows if "runtime" in row):
        note(line)
    _show_doubts(LATENCY, doubts)


def _quiet_text(row: Mapping[str, Any]) -> str:
    digits = max(decimals(row["quiet_ms"]), 2)
    return f"{row['quiet_ms']:.{digits}f} ± {row['quiet_ci95_ms']:.{digits}f}"


def show_predictions(rows: Iterable[Mapping[str, Any]]) -> None:
    """Latencies that a calibration predicts; what has a piece that it lacks has a question mark."""
    rows = list(rows)
    table = [
        (
            row["name"], row["provider"], str(row["threads"]),
            f"{row['predicted_ms']:.2f}{' ?' if row['unseen_pieces'] else ''}",
            " to ".join(f"{end:.2f}" for end in row["predicted_ci90_ms"]),
        )
        for row in rows
    ]  # fmt: skip
    columns: list[Column | str] = [
        "model", Column(heading="provider", is_text=True, spare=2), _figures("threads", spare=1),
        _figures("predicted ms"), _figures("90 % interval"),
    ]  # fmt: skip
    show_table("Latency as predicted by a calibration; nothing was timed", columns, table)
    if unseen := sum(bool(row["unseen_pieces"]) for row in rows):
        note(f"?: the calibration lacks a piece of {unseen} of {len(rows)} networks, and has ones like it.")


def show_calibration(summary: Mapping[str, Any]) -> None:
    """What a calibration found, and how well it predicts networks that it leaves out."""
    show_table(
        "Calibration",
        ["what", _figures("figure")],
        [
            ("pieces", str(summary["pieces"])),
            ("networks timed", str(summary["networks"] + summary["left_out"])),
            ("of these left out, disturbed or odd", str(summary["left_out"])),
            ("seconds", f"{summary['seconds']:.0f}"),
            ("mean error of a network left out", f"{summary['error_percent']:.1f} %"),
            ("19 of 20 are off by at most", f"{summary['error_percent_p95']:.1f} %"),
            ("half of a 90 % interval", f"{summary['ci90_percent']:.1f} %"),
        ],
    )
    note(f"{summary['processor']}; written to {summary['calibration']}")


def _conditions_text(row: Mapping[str, Any]) -> str:
    """What a latency was taken with, in a line."""
    threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
    parts = [row["provider"], threads, row["precision"], f"ONNX Runtime {row['runtime']}", row["processor"]]
    parts += [f"graph level {row['graph_level']}"] if row["graph_level"] != "all" else []
    parts += [f"on {row['target']}"] if row["target"] else []
    if row["reference_ms"] is not None:
        drift = "" if row["reference_drift_percent"] is None else f", drift {row['reference_drift_percent']:+.1f} %"
        parts.append(f"reference {row['reference_ms']:.2f} ms{drift}")
    return ", ".join(parts)


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
    show_table("Networks of the paper", columns, table)
    note("Params in M, FLOPs in G (1 multiply-add = 1). Top-1 in %, GPU ms and CPU ms are the paper's.")


def show_report(summary: Mapping[str, Any], trials: Sequence[Trial]) -> None:
    """The front, the picks and where the report lies."""
    number = {trial.number: trial for trial in trials}
    members = [number[n] for n in summary["front"]]
    columns = metrics_among(name for trial in members for name in trial.results)
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
    learnt = learnt_of([metric.name for metric in columns])
    show_table(f"Pareto front; {learnt.meaning}" if learnt else "Pareto front", headings, rows)
    told = [f"of {learnt.noun} its standard error"] if learnt else []
    if any("latency" in metric.name for metric in columns):
        told.append("of a latency half of its 95 % interval")
    if rows and told:
        note(f"\N{PLUS-MINUS SIGN}: {', '.join(told)}.")
    for metric in columns:
        _show_doubts(metric, [trial.results for trial in members])
    for band, pick in summary["bands"].items():
        if pick is None:
            note(f"{band}: none: {summary['reasons'][band]}")
    if summary["stopped"]:
        spared = summary["spared_seconds"]
        estimate = "" if spared is None else f", which spared about {spared:.0f} s of training (an estimate)"
        note(f"{summary['stopped']} of {summary['trials']} trials were stopped early{estimate}")
    if summary["proxy_fidelity"]:
        note(summary["proxy_fidelity"])
    note(f"report: {summary['files']['html']} (opens in a browser, offline)")


def show_overlay(summary: Mapping[str, Any]) -> None:
    """Runs laid over each other, a row each, and where the report lies."""
    joint = [member["run"] for member in summary["front"]]
    rows = []
    for run in summary["runs"]:
        share = run["hypervolume_share"]
        known = ("", "") if share is None else (str(joint.count(run["name"])), f"{share:.0%}")
        rows.append((run["name"], str(run["trials"]), str(len(run["front"])), *known))
    figures = ("trials", "own front", "on front of all", "hypervolume of all")
    headings: list[Column | str] = ["run", *map(_figures, figures)]
    show_table("Runs laid over each other", headings, rows)
    note(summary["headline"])
    for metric, why in summary["not_comparable"].items():
        note(f"{METRICS[metric].noun} is not comparable: {why}")
    note(f"report: {summary['files']['report.html']} (opens in a browser, offline)")


def show_next(summary: Mapping[str, Any], data: str) -> None:
    """What to type next: how to train a pick, or a trial of the front, on `data`, and how to export it untrained."""
    run = summary["run"]
    picks = [(band, ["--pick", band]) for band, number in summary["bands"].items() if number is not None]
    picks += [(f"trial-{number}", ["--trial", str(number)]) for number in summary["front"]]
    for name, words in picks[:1]:
        train = ["modscale", "train", run, *words, "--data", data, "--hours", "2", "--out", f"{name}-trained"]
        commands = [train, ["modscale", "export", run, *words, "--out", name]]
        print_lines(out, [as_shown(out, f"next:   {shlex.join(words)}") for words in commands])


def show_scaled(scaled: ScaledModel) -> None:
    """The scaled network beside its source, and how near it is to the budget."""
    rows = []
    for spec in (scaled.source, scaled.spec):
        count = count_model(spec)
        rows.append((spec.name, str(spec.resolution), f"{count.params:,}", f"{count.flops:,}", architecture_text(spec)))
    target = f"{scaled.target:,.0f}" if scaled.metric != "latency_ms" else f"{scaled.target:g}"
    columns: list[Column | str] = ["network", _figures("px"), _figures("params"), _figures("FLOPs"), ARCHITECTURE]
    show_table(f"{scaled.source.name} scaled to {target} {scaled.metric}", columns, rows)
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
    show_table(title, [*map(_figures, ("params", "FLOPs", "total distance")), ARCHITECTURE], rows)
    if matches.best and not matches.complete:
        note("There may be nearer ones: not all pairs of halves were looked at.")


def show_assumed(assumed: Mapping[str, int]) -> None:
    """What the counts of a space take for granted, and a search takes from its data."""
    if assumed:
        note(f"Counted with {assumed_text(assumed)}: the space leaves them to the data of a search.")


def assumed_text(assumed: Mapping[str, int]) -> str:
    """As in `num_classes 1000 and in_chans 3`."""
    return " and ".join(f"{key} {value}" for key, value in assumed.items())


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
    if result.get("accuracy") is not None:
        of = f"{result['val_images']} validation images, in ONNX Runtime"
        if result.get("miou") is None:
            note(f"accuracy {result['accuracy']:.2%} of {of}")
        else:
            note(f"mIoU     {result['miou']:.2%}, {result['accuracy']:.2%} of the pixels of {of}")
    if int8 := result.get("int8"):
        note(f"int8     {int8['onnx']} ({int8['verdict']}: {int8['reason']})")
    for name, timed in (("latency", result.get("latency")), ("in int8", (int8 or {}).get("latency"))):
        if timed:
            note(f"{name}  {_quiet_text(timed)} ms, {timed['threads']} thread{'s' if timed['threads'] != 1 else ''}")
    if result.get("card"):
        note(f"card     {result['card']}")


def show_training(name: str, result: Mapping[str, Any]) -> None:
    """What a training came to, and its files."""
    epochs = "1 epoch" if result["epochs"] == 1 else f"{result['epochs']} epochs"
    scores = ", ".join(f"{SCORES[key]} {100 * result[key]:.1f} %" for key in SCORES if key in result)
    note(f"{name}: {scores} after epoch {result['best_epoch']} of {epochs}")
    note(f"spec     {result['spec']}")
    note(f"weights  {result['weights']} (the best), {result['last']} (the last)")
    note(f"report   {result['report']}")


def show_training_report(result: Mapping[str, Any]) -> None:
    """What a training came to so far, and the files of its report."""
    scores = ", ".join(f"{SCORES[key]} {100 * result[key]:.1f} %" for key in SCORES if key in result)
    note(f"{result['training']}: {scores} after epoch {result['best_epoch']} of {result['epochs']} that are over")
    note(f"report   {result['files']['html']}")


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


def show_fidelity(fidelity: Fidelity, folder: Path) -> None:
    """The networks by known accuracy with their scores, and how alike the orders are, group by group."""
    from modscale.analysis.fidelity import fidelity_to_json, verdict
    from modscale.report.fidelity import headline, intervals_text, lead_text, score_text, signed, tau_text

    rows = []
    everything = (*fidelity.measured, *fidelity.unscored)
    is_timed = any(measured.latency is not None for measured in everything)
    for measured, plain in zip(everything, fidelity_to_json(fidelity)["models"], strict=True):
        rows.append((
            measured.network.name, f"{measured.network.top1:.1f}", _figure(plain["top1_rank"]), score_text(measured),
            _figure(plain["rank"]), *(METRICS[name].short(measured.counts) for name in ("params", "flops")),
            "" if measured.seconds is None else f"{measured.seconds:.0f}",
            "" if measured.cpu_seconds is None else f"{measured.cpu_seconds:.0f}",
            *(["" if measured.latency is None else LATENCY.short(measured.latency)] if is_timed else []),
        ))  # fmt: skip
    columns: list[Column | str] = [
        "network", _figures("top-1 %"), _figures("rank"), _figures("score"), _figures("rank"),
        _figures("params", spare=1), _figures("FLOPs", spare=3), _figures("s", spare=2), _figures("CPU-s", spare=5),
        *([_figures("latency ms", spare=4)] if is_timed else []),
    ]  # fmt: skip
    show_table("Networks of known accuracy", columns, rows)
    metrics = list(fidelity.whole.baselines)
    groups = [
        (
            group.title, str(len(group.networks)), tau_text(group), signed(group.proxy.rho),
            *(signed(group.baselines[m].agreement.tau) if m in group.baselines else "" for m in metrics),
            verdict(group),
        )
        for group in (fidelity.whole, *fidelity.groups.values())
    ]  # fmt: skip
    columns = [
        "networks", _figures("n"), Column(heading="tau of the proxy", is_text=True), _figures("rho"),
        *(_figures(METRICS[m].noun, spare=2 + i) for i, m in enumerate(metrics)),
        Column(heading="than params", is_text=True, spare=1),
    ]  # fmt: skip
    show_table("Kendall's tau with the known accuracies: of the proxy, and of plain figures", columns, groups)
    note(headline(fidelity))
    for text in (lead_text(fidelity), intervals_text(fidelity)):
        if text:
            note(text)
    _show_doubts(LATENCY, [m.latency for m in fidelity.measured if m.latency is not None])
    for failed in fidelity.unscored:
        if failed.failure:
            note(one_line(f"{failed.network.name} has no score: {failed.failure}"))
    note(f"report: {folder / 'fidelity.md'}")


def _show_doubts(metric: Metric, measured: Sequence[Results]) -> None:
    if text := doubts_text(metric, measured):
        note(f"? {text}")


def _figures(heading: str, *, spare: int = 0) -> Column:
    return Column(heading=heading, spare=spare)


def _figure(value: object) -> str:
    return "" if value is None else str(value)
