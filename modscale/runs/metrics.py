"""The metrics of a candidate: what each is called, which way is better, how it is written, drawn and limited.

One row a metric. Spaces, trials, the front, plots and reports ask the table, so that one more metric is one more row
here and one measure in `searching/measures.py`; each device of `latency.targets` has a metric of its own. A candidate's
results are a mapping of metric names, and of the further keys that belong to a metric (its interval, say), to numbers;
what was not measured is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import Literal

from modscale.arrays import MAX_COUNT
from modscale.document import check_flag, check_integer, check_number
from modscale.settings import RESERVED

Results = Mapping[str, float]
Rule = Callable[[object, str], float]
"""Takes a value and its place; gives the number, or raises InputError."""

Z95 = 1.959964
"""Half the width of a normal 95 % interval, in standard errors."""


def _no_error(results: Results) -> float:
    return 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One thing that is known of a candidate."""

    name: str
    """Its key in a space and in `trials.jsonl`, with the unit."""
    direction: Literal["maximize", "minimize"]
    """Which way is better."""
    noun: str
    """Its name in a sentence and over a column."""
    limit: str
    """A limit in a sentence, with `{}` for the value."""
    axis: str
    """Label of a plot's axis, with the unit there."""
    axis_factor: float = 1.0
    """From the stored unit to the axis's."""
    is_count: bool = False
    """A whole number that follows from the spec alone; the others are measured."""
    rule: Rule
    """What a value is held to when it is read."""
    details: Mapping[str, Rule] = field(default_factory=dict)
    """Further keys of a trial that belong to it, each with its rule."""
    doubts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Of its details those that, where true, speak against its value; each a word, and a clause after a number."""
    text: Callable[[float, bool], str]
    """A value with its unit, to a few digits or, where True, to the last one."""
    short: Callable[[Results], str]
    """The measured value with its noise, for a narrow column whose heading names the unit."""
    full: Callable[[Results], str]
    """The measured value with its noise and unit."""
    brief: Callable[[Results], str]
    """The measured value where many stand in one line, and so that it is known what it is."""
    spare: int = 0
    """How gladly a narrow table leaves its column out; 0: never."""
    standard_error: Callable[[Results], float] = _no_error
    """In its own unit; 0 where it is exact or its noise is not known."""
    half_width: Callable[[Results], float] = _no_error
    """Half of the 95 % interval, in its own unit; 0 where it is exact or its noise is not known."""
    unit: str = ""
    """The unit of `short`."""
    task: str = ""
    """The task whose proxy tells it, see `settings.TASK_PROXIES`; empty where no training does."""
    superlative: str = ""
    """Of a learnt metric, what the best of some networks is, before the word."""
    plural: str = ""
    """Of a learnt metric, several values."""
    meaning: str = ""
    """Of a learnt metric, what it is, in a clause."""

    @property
    def heading(self) -> str:
        """Over a column of `short`."""
        return f"{self.noun} {self.unit}".strip()

    def cell(self, results: Results) -> str:
        """`full`, also of a candidate that has no value for it."""
        return self.full(results) if self.name in results else "not measured"


def _accuracy_error(results: Results) -> float | None:
    """That of the estimate, or in older runs binomial; None where accuracy or images are unknown.

    None or all of the n images right counts as half an image off, since an error of exactly 0 would claim certainty.
    """
    if "accuracy_standard_error" in results:
        return results["accuracy_standard_error"]
    if "accuracy" not in results or "val_images" not in results:
        return None
    images = results["val_images"]
    share = min(max(results["accuracy"], 0.5 / images), 1 - 0.5 / images)
    return sqrt(share * (1 - share) / images)


def _percent(value: float, exact: bool) -> str:
    return f"{100 * value:.10g} %" if exact else f"{100 * value:.1f} %"


def _full_accuracy(results: Results) -> str:
    """With its standard error."""
    error = _accuracy_error(results)
    value = f"{100 * results['accuracy']:.1f}"
    return f"{value} %" if error is None else f"{value} ± {100 * error:.1f} %"


def _short_accuracy(results: Results) -> str:
    return f"{100 * results['accuracy']:.1f} ± {100 * (_accuracy_error(results) or 0.0):.1f}"


_OF_HELD_OUT: dict[str, Rule] = {"val_images": partial(check_integer, low=1), "val_loss": partial(check_number, low=0)}
"""What every short training tells besides its score."""

ACCURACY = Metric(
    name="accuracy",
    direction="maximize",
    noun="accuracy",
    unit="%",
    task="classification",
    superlative="most accurate",
    plural="accuracies",
    meaning="accuracy is the ImageNet top-1 expected of full training",
    limit="an accuracy of {}",
    axis="expected top-1, %",
    axis_factor=100.0,
    rule=partial(check_number, low=0, high=1),
    details={
        "accuracy_standard_error": partial(check_number, low=0),
        "trained_accuracy": partial(check_number, low=0, high=1),
        **_OF_HELD_OUT,
        "anchor_loss": partial(check_number, low=0),
    },
    text=_percent,
    short=_short_accuracy,
    full=_full_accuracy,
    brief=lambda results: f"accuracy {results['accuracy']:.1%}",
    standard_error=lambda results: _accuracy_error(results) or 0.0,
    half_width=lambda results: Z95 * (_accuracy_error(results) or 0.0),
)


def _miou_error(results: Results) -> float:
    return results.get("miou_standard_error", 0.0)


MIOU = Metric(
    name="miou",
    direction="maximize",
    noun="mIoU",
    unit="%",
    task="segmentation",
    superlative="best segmenting",
    plural="mIoUs",
    meaning="mIoU is that of a short training of a thin copy",
    limit="a mIoU of {}",
    axis="mIoU after the short training, %",
    axis_factor=100.0,
    rule=partial(check_number, low=0, high=1),
    details={
        "miou_standard_error": partial(check_number, low=0),
        "pixel_accuracy": partial(check_number, low=0, high=1),
        **_OF_HELD_OUT,
    },
    text=_percent,
    short=lambda results: f"{100 * results['miou']:.1f} ± {100 * _miou_error(results):.1f}",
    full=lambda results: f"{100 * results['miou']:.1f} ± {100 * _miou_error(results):.1f} %",
    brief=lambda results: f"mIoU {results['miou']:.1%}",
    standard_error=_miou_error,
    half_width=lambda results: Z95 * _miou_error(results),
)


def _milliseconds(value: float, exact: bool) -> str:
    return f"{value:.10g} ms" if exact else f"{value:.3g} ms"


LATENCY_DOUBTS = {
    "wide": ("wide", "with an interval that stayed wider than asked"),
    "busy": ("busy", "taken while the machine was busy and other processes had the cores"),
    "slow": ("slow", "taken while the machine itself was slower than at other times of the run"),
}
"""What may speak against a latency: a word, and a clause after a number."""
TOLD_BY_THE_RUN = ("slow",)
"""Of these what only the other measurements of a run tell: worked out when it is read, and written nowhere."""

PREDICTED = ("predicted_latency_ms", "predicted_latency_low_ms", "predicted_latency_high_ms")
"""What the calibration of a search foretold, and the ends of its 90 % interval; a device of `targets` has none."""

TARGET_METRIC = re.compile(r"latency_([a-z][a-z0-9_]*)_ms")
"""The latency on a device of `latency.targets`, by its name."""


def decimals(latency_ms: float) -> int:
    """Of a latency as it is told."""
    return 3 if latency_ms < 1 else 2 if latency_ms < 100 else 1


def _digits(value: float, digits: int) -> str:
    """So many digits that count, zeros at the end among them: 12.0."""
    return f"{value:#.{digits}g}".rstrip(".")


def _latency_metric(device: str = "") -> Metric:
    """The latency on a device of `latency.targets`, or of what `latency` itself is about."""
    prefix = f"latency_{device}" if device else "latency"
    name, interval, error = f"{prefix}_ms", f"{prefix}_ci95_ms", f"{prefix}_standard_error_ms"
    measured, slow = f"{prefix}_measured_ms", f"{prefix}_slow"  # only in what is read of a run, see `machine_speed.py`
    doubts = {f"{prefix}_{key}": told for key, told in LATENCY_DOUBTS.items()}
    where = f" on {device}" if device else ""

    def half_width(results: Results) -> float:
        return results.get(interval, 0.0)

    def mark(results: Results) -> str:
        return " ?" if any(results.get(key) for key in doubts) else ""

    def with_interval(results: Results, digits: int) -> str:
        half = f" ± {results[interval]:.{digits}f}" if interval in results else ""
        return f"{results[name]:.{digits}f}{half}"

    def full(results: Results) -> str:
        value = results[name]
        words = ", ".join(word for key, (word, _) in doubts.items() if results.get(key))
        digits = decimals(value)
        words += f", {results[measured]:.{digits}f} as measured" if results.get(slow) and measured in results else ""
        return f"{with_interval(results, digits)} ms{f' ({words})' if words else ''}"

    def brief(results: Results) -> str:
        return f"{with_interval(results, decimals(results[name]))}{mark(results).strip()} ms{where}"

    return Metric(
        name=name,
        direction="minimize",
        noun=f"latency{where}",
        unit="ms",
        limit=f"a latency{where} of {{}}",
        axis=f"latency{where}, ms",
        rule=partial(check_number, above=0),
        details={
            interval: partial(check_number, low=0),
            error: partial(check_number, low=0),
            f"{prefix}_reference_ms": partial(check_number, above=0),
            f"{prefix}_relative": partial(check_number, above=0),
            f"{prefix}_relative_ci95": partial(check_number, low=0),
            f"{prefix}_relative_standard_error": partial(check_number, low=0),
            **{f"{prefix}_{key}": check_flag for key in LATENCY_DOUBTS if key not in TOLD_BY_THE_RUN},
            **({} if device else dict.fromkeys(PREDICTED, partial(check_number, low=0))),
        },
        doubts=doubts,
        text=_milliseconds,
        short=lambda results: f"{_digits(results[name], 3)} ± {_digits(half_width(results), 2)}{mark(results)}",
        full=full,
        brief=brief,
        # From a line without the standard error too much rather than too little.
        standard_error=lambda results: results.get(error, half_width(results) / Z95),
        half_width=half_width,
    )


LATENCY = _latency_metric()


def _count_text(value: float, exact: bool) -> str:
    return f"{value:,.0f}" if exact or value < 1e4 else f"{value / 1e6:.4g} M"


def _flops_text(value: float, exact: bool) -> str:
    return f"{value / 1e9:.4g} G" if value >= 1e8 and not exact else _count_text(value, exact)


def _count_metric(
    name: str, noun: str, text: Callable[[float, bool], str], *, axis: str, axis_factor: float, brief: str, spare: int
) -> Metric:
    """A metric that is counted exactly; `brief` has its unit after `{}`, in the axis's scale."""

    def rounded(results: Results) -> str:
        return text(results[name], False)

    def scaled(results: Results) -> str:
        value = results[name] * axis_factor
        return brief.format(f"{value:.{3 if value >= 0.01 else 1}g}")  # a tiny network's line is to fit, too

    return Metric(
        name=name,
        direction="minimize",
        noun=noun,
        limit=f"{{}} {noun}",
        axis=axis,
        axis_factor=axis_factor,
        is_count=True,
        rule=partial(check_integer, low=0, high=MAX_COUNT),
        text=text,
        short=rounded,
        full=rounded,
        brief=scaled,
        spare=spare,
    )


PARAMS = _count_metric(
    "params", "params", _count_text, axis="params, M", axis_factor=1e-6, brief="{} M params", spare=2
)
FLOPS = _count_metric(
    "flops", "FLOPs", _flops_text, axis="FLOPs, G (1 multiply-add = 1)", axis_factor=1e-9, brief="{} GFLOPs", spare=3
)


class _Metrics(dict[str, Metric]):
    """The metrics by name; the latency on a device is made when it is asked for, since its name is the user's."""

    def __missing__(self, name: str) -> Metric:
        if not is_target_metric(name):
            raise KeyError(name)
        return _latency_metric(name.removeprefix("latency_").removesuffix("_ms"))


METRICS: dict[str, Metric] = _Metrics({metric.name: metric for metric in (ACCURACY, MIOU, LATENCY, PARAMS, FLOPS)})
"""Every metric that any experiment has by its name, in the order in which tables show them."""
LEARNT = {metric.task: metric for metric in METRICS.values() if metric.task}
"""Of each task of the proxies the metric that the short training tells."""


def metrics_among(keys: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics whose names are among `keys`, in the order of tables: latencies on devices stand after the first."""
    names = dict.fromkeys(keys)
    order = list(METRICS)
    behind = order.index(LATENCY.name) + 1
    order[behind:behind] = [name for name in names if name not in METRICS and is_target_metric(name)]
    return tuple(METRICS[name] for name in order if name in names)


def is_target_metric(name: str) -> bool:
    """Whether it is the latency on a device of `latency.targets`."""
    found = TARGET_METRIC.fullmatch(name)
    return found is not None and not found[1].endswith(RESERVED)


def target_metric(device: str) -> Metric:
    """The latency on a device of `latency.targets`, or of what `latency` itself is about where that has no name."""
    return METRICS[f"latency_{device}_ms"] if device else LATENCY


def learnt_of(names: Iterable[str]) -> Metric | None:
    """The first of these metrics that a training tells; None where none does. Other keys are passed over."""
    return next((METRICS[name] for name in names if name in METRICS and METRICS[name].task), None)


def metric_text(metric: str, value: float, *, exact: bool = False) -> str:
    """`value` with its unit, to a few significant digits or, `exact`, to the last; counts below 10,000 are whole."""
    return METRICS[metric].text(value, exact)


def is_doubtful(metric: Metric, results: Results) -> bool:
    """Whether something speaks against the value of a metric."""
    return any(results.get(key) for key in metric.doubts)


def doubts_text(metric: Metric, measured: Sequence[Results]) -> str:
    """Of how many networks the metric is in doubt, and why, in a sentence; empty where of none."""
    doubtful = sum(is_doubtful(metric, results) for results in measured)
    counts = {clause: sum(bool(each.get(key)) for each in measured) for key, (_, clause) in metric.doubts.items()}
    reasons = ", ".join(f"{count} {clause}" for clause, count in counts.items() if count)
    return f"The {metric.noun} of {doubtful} of {len(measured)} networks is in doubt: {reasons}." if doubtful else ""


def result_rules(keys: Iterable[str] = ()) -> dict[str, Rule]:
    """Every key that a candidate's results may have, metric by metric, with the rule its value is held to.

    With those of the latencies on devices that are among `keys`.
    """
    metrics = metrics_among([*METRICS, *keys])
    return {key: rule for m in metrics for key, rule in {m.name: m.rule, **m.details}.items()}
