"""A network scaled to a budget: in params, in FLOPs, or in milliseconds of anything that measures.

The rule is the compound ray of `compound.py`. First phi: the largest whose rounded network keeps within the budget.
Then, since whole blocks and channels come in jumps, the networks around that point; of those within the tolerance the
one nearest to the ray is taken. Where none is, the nearest miss is given, with what it would take.

Without attention (`drop_attention`) each attention block becomes a convolutional block of its stage: the step that
the authors took from s to s_conv (depths 4, 4, 8 + 4, 4 + 4 to 4, 4, 12, 8), where they widened it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modscale.arrays import IntArray
from modscale.document import check_number
from modscale.errors import InputError
from modscale.scaling.compound import EFFICIENTNET, RULES, SMALLEST_PHI, Ray, ScalingRule, largest_phi_within
from modscale.scaling.latency_fit import fit_latency
from modscale.specs.counts import COUNT_METRICS, count_model
from modscale.specs.published import published
from modscale.specs.spec import MAX_DIM, ModelSpec, parse_spec, spec_to_dict

WIDTH_STEPS = (8, 4, 2, 1)
"""Width steps that are tried in turn until one holds the budget."""
TOLERANCE = 0.01
"""Share of the budget by which a network may miss it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledModel:
    """What scaling came to."""

    source: ModelSpec
    """The network that was scaled."""
    spec: ModelSpec
    """Of the networks within the tolerance the one nearest to the ray; without any, the one nearest to the budget."""
    metric: str
    """`params`, `flops` or `latency_ms`."""
    target: float
    """The budget."""
    value: float
    """What the network has of the metric."""
    tolerance: float
    """Share of the budget by which it may miss."""
    phi: float
    """Nearest point of the compound ray."""
    ray_distance: float
    """Distance from the ray, in the logarithms of widths, depths and resolution."""
    candidates: int
    """Networks that were counted, or measured for a latency."""
    width_step: int
    """Widths are multiples of this, unless the source is left as it is."""
    noise: float
    """Relative difference of two measurements of the network; 0 where it was counted or measured once."""
    reason: str
    """Why the budget is missed and what it would take; empty where it is met."""

    @property
    def relative_error(self) -> float:
        """How far the network is above (positive) or below the budget, as a share of it."""
        return self.value / self.target - 1

    @property
    def within_tolerance(self) -> bool:
        return abs(self.relative_error) <= self.tolerance


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedStep:
    """A step that the authors took, and the one that a rule takes to the same budget."""

    rule: str
    """A name of `RULES`."""
    scaled: ScaledModel
    """The source, scaled."""
    real: ModelSpec
    """The published network whose budget it is."""


def drop_attention(spec: ModelSpec) -> ModelSpec:
    """The network with each attention block replaced by one convolutional block of its stage."""
    stages = (replace(s, depth=s.depth + s.attention_depth, attention_depth=0) for s in spec.stages)
    return parse_spec(spec_to_dict(replace(spec, stages=tuple(stages))))


def scale_model(
    spec: ModelSpec,
    metric: str,
    target: float,
    *,
    measure: Callable[[ModelSpec], float] | None = None,
    rule: ScalingRule = EFFICIENTNET,
    conv_only: bool = False,
    resolution: int | None = None,
    width_step: int | None = None,
    tolerance: float = TOLERANCE,
) -> ScaledModel:
    """`spec` scaled to a budget.

    Args:
        spec: the network to scale.
        metric: `params`, `flops`, or `latency_ms`, which `measure` gives.
        target: the budget in units of the metric: numbers, multiply-adds or milliseconds.
        measure: milliseconds of a network; asked for at most 24 networks, some of them twice.
        rule: how much of a step is depth, width and resolution.
        conv_only: replace attention first, see `drop_attention`.
        resolution: fixes the input's side in pixels; None scales it too.
        width_step: widths become multiples of it; None takes the first of `WIDTH_STEPS` that holds the budget, and
            for a latency, where every trial is measured, the first.
        tolerance: share of the budget by which the network may miss it.

    Raises:
        InputError: a budget of 0 or less, a resolution that the stem does not fit, an unknown metric.
    """
    if metric not in (*COUNT_METRICS, "latency_ms"):
        raise InputError(f"must be one of {', '.join(COUNT_METRICS)}, latency_ms", place="metric", value=metric)
    if metric == "latency_ms" and measure is None:
        raise InputError("needs something that measures", place=metric, value=target)
    if spec.head != "classifier":  # few of the resolutions that a network grows through fit a pyramid
        raise InputError("must be classifier: scale its classifier, then set the head", place="head", value=spec.head)
    check_number(target, metric, above=0)
    check_number(tolerance, "tolerance", low=0, below=1)
    if width_step is not None and not 1 <= width_step <= MAX_DIM:
        raise InputError(f"must be 1 to {MAX_DIM}", place="width_step", value=width_step)
    start = drop_attention(spec) if conv_only else spec
    if resolution is not None:
        rule = replace(rule, resolution=1.0)
        start = parse_spec({**spec_to_dict(start), "resolution": resolution})
    best: ScaledModel | None = None
    for step in WIDTH_STEPS if width_step is None else (width_step,):
        ray = Ray(base=start, rule=rule, width_step=step)
        if metric == "latency_ms" and measure is not None:
            return _scale_to_latency(spec, ray, target, tolerance, measure)
        scaled = _scale_to_count(spec, ray, metric, target, tolerance)
        if best is None or abs(scaled.relative_error) <= abs(best.relative_error):
            best = scaled
        if best.within_tolerance:
            break
    assert best is not None  # noqa: S101  # there is at least one step
    return best


def published_steps() -> tuple[PublishedStep, ...]:
    """The steps between the published networks, by each rule, at 224 px, each beside the real network."""
    steps = []
    for source, goal in (("xxs", "xs"), ("xs", "s"), ("xxs", "s"), ("s", "s_conv")):
        real = published(goal)
        count = count_model(real)
        conv_only = not any(stage.attention_depth for stage in real.stages)
        for name, rule in RULES.items():
            for metric in COUNT_METRICS:
                scaled = scale_model(
                    published(source),
                    metric,
                    getattr(count, metric),
                    rule=rule,
                    conv_only=conv_only,
                    resolution=real.resolution,
                )
                steps.append(PublishedStep(rule=name, scaled=scaled, real=real))
    return tuple(steps)


def require_met(scaled: ScaledModel) -> None:
    """Raises InputError with the nearest miss and its reason where no network meets the budget."""
    if scaled.within_tolerance:
        return
    unit = " ms" if scaled.metric == "latency_ms" else f" {scaled.metric}"
    reason = f": {scaled.reason}" if scaled.reason else ""
    raise InputError(
        f"no network scaled from {scaled.source.name} is within {scaled.tolerance:.1%} of {scaled.target:,.10g}{unit};"
        f" the nearest has {scaled.value:,.10g} ({scaled.relative_error:+.2%}){reason}",
        place=f"--{scaled.metric.replace('_', '-')}",
    )


def scaled_to_json(scaled: ScaledModel) -> dict[str, Any]:
    """The outcome as plain values, the spec whole."""
    count = count_model(scaled.spec)
    return {
        "source": scaled.source.name,
        "metric": scaled.metric,
        "target": scaled.target,
        "value": int(scaled.value) if scaled.metric in COUNT_METRICS else scaled.value,
        "relative_error": scaled.relative_error,
        "tolerance": scaled.tolerance,
        "within_tolerance": scaled.within_tolerance,
        "reason": scaled.reason,
        "params": count.params,
        "flops": count.flops,
        "phi": scaled.phi,
        "ray_distance": scaled.ray_distance,
        "candidates": scaled.candidates,
        "width_step": scaled.width_step,
        "noise": scaled.noise,
        "spec": spec_to_dict(scaled.spec),
    }


def _scale_to_count(source: ModelSpec, ray: Ray, metric: str, target: float, tolerance: float) -> ScaledModel:
    def value(values: IntArray) -> float:
        return float(getattr(count_model(ray.spec(values, source.name)), metric))

    phi = largest_phi_within(ray, target, value)
    # The network itself comes first: a budget that it meets leaves it as it is, off the grid of widths or not.
    candidates = np.concatenate([ray.start[None], ray.around(ray.at(phi))])
    counts = ray.count(candidates)[COUNT_METRICS.index(metric)]
    error = np.abs(counts / target - 1)
    fits = np.flatnonzero(error <= tolerance)
    if len(fits):
        chosen = fits[np.lexsort((error[fits], ray.distance(candidates[fits])))[0]]
        reason = ""
    else:
        chosen = np.argmin(error)
        reason = _miss(ray, metric, target, float(counts[chosen]))
    return ScaledModel(
        source=source,
        spec=ray.spec(candidates[chosen], f"{source.name}-scaled"),
        metric=metric,
        target=target,
        value=float(counts[chosen]),
        tolerance=tolerance,
        phi=ray.phi(candidates[chosen]),
        ray_distance=float(ray.distance(candidates[chosen][None])[0]),
        candidates=len(candidates),
        width_step=ray.width_step,
        noise=0.0,
        reason=reason,
    )


def _scale_to_latency(
    source: ModelSpec, ray: Ray, target: float, tolerance: float, measure: Callable[[ModelSpec], float]
) -> ScaledModel:
    fit = fit_latency(ray, target, tolerance, measure)
    reason = ""
    if fit.at_limit:
        reason = f"even the smallest network at width step {ray.width_step} takes {fit.latency_ms:.3g} ms"
    elif abs(fit.latency_ms / target - 1) > tolerance:
        reason = f"{fit.measured} networks were measured; {_nearest(fit.latency_ms / target - 1)}"
    return ScaledModel(
        source=source,
        spec=ray.spec(fit.values, f"{source.name}-scaled"),
        metric="latency_ms",
        target=target,
        value=fit.latency_ms,
        tolerance=tolerance,
        phi=ray.phi(fit.values),
        ray_distance=float(ray.distance(fit.values[None])[0]),
        candidates=fit.measured,
        width_step=ray.width_step,
        noise=fit.noise,
        reason=reason,
    )


def _miss(ray: Ray, metric: str, target: float, value: float) -> str:
    """Why the nearest network misses a budget in counts, and what it would take."""
    smallest, largest = (
        getattr(count_model(ray.spec(ray.at(phi), "")), metric) for phi in (SMALLEST_PHI, ray.largest_phi)
    )
    if smallest > target:
        return (
            f"even the smallest network at width step {ray.width_step} has {smallest:,}; fewer classes, fewer stages "
            "or a smaller resolution would go lower"
        )
    if largest < target:
        return f"the ray ends, where a spec's limits do, at {largest:,}"
    return _nearest(value / target - 1)


def _nearest(error: float) -> str:
    return (
        f"the nearest is {abs(error):.2%} {'above' if error > 0 else 'below'} the budget: a tolerance of that much "
        "would take it, or another shape: MLP ratios, stages, a smaller width step"
    )
