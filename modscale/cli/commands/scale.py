"""`modscale scale`: a MODEL scaled to one budget, or with --space all that a space has near several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from modscale.cli.app import answer, argument, naming_option, option
from modscale.cli.arguments import (
    MODEL_HELP,
    DebugOption,
    JsonOption,
    latency_settings,
    read_experiment,
    resolve_spec,
)
from modscale.cli.completion import complete_model
from modscale.document import read_count
from modscale.errors import InputError, UsageError
from modscale.files import user_path, user_text

if TYPE_CHECKING:
    from modscale.specs.spec import ModelSpec

read_budget = naming_option(read_count)


def scale(
    model: Annotated[str | None, argument("[MODEL]", MODEL_HELP, parser=user_text, completion=complete_model)] = None,
    params: Annotated[
        float | None, option("Budget: learned numbers, as in 6M.", metavar="N", parser=read_budget)
    ] = None,
    flops: Annotated[
        float | None, option("Budget: multiply-adds an image, as in 1.4G.", metavar="N", parser=read_budget)
    ] = None,
    latency_ms: Annotated[float | None, option("Budget: ONNX Runtime latency here, ms.")] = None,
    conv_only: Annotated[bool, option("Replace attention by convolutional blocks.", "--conv-only")] = False,
    resolution: Annotated[int | None, option("Fix the input's side; else it is scaled too.", low=1)] = None,
    rule: Annotated[
        str | None, option("efficientnet (depth, width, resolution; default) or efficientmod.", metavar="NAME")
    ] = None,
    tolerance: Annotated[float, option("Share of a budget by which it may be missed.")] = 0.01,
    space: Annotated[
        str | None,
        option("Instead of MODEL: all of this space near the budgets.", metavar="SPACE.yaml", parser=user_text),
    ] = None,
    best: Annotated[
        int | None, option("With --space: how many of the nearest to list [default: 10].", low=0, high=10_000)
    ] = None,
    provider: Annotated[
        str | None, option("For --latency-ms: cpu (default), openvino, cuda ...: see `latency`.", metavar="NAME")
    ] = None,
    threads: Annotated[int | None, option("For --latency-ms: threads.", low=1, high=1024)] = None,
    runs: Annotated[int | None, option("For --latency-ms: timed runs.", low=10, high=1_000_000)] = None,
    out: Annotated[Path | None, option("Write the scaled spec to this file.", metavar="PATH", parser=user_path)] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Scale a network to a budget along depth, width and resolution."""
    budgets = {"params": params, "flops": flops, "latency_ms": latency_ms}
    given = {metric: value for metric, value in budgets.items() if value is not None}
    if (model is None) == (space is None):
        raise InputError("give a MODEL to scale, or --space SPACE.yaml to look through", place="scale")
    of_timing = {"--provider": provider, "--threads": threads, "--runs": runs}
    of_model = {"--out": out, "--rule": rule, "--conv-only": conv_only or None, "--resolution": resolution}
    if space is not None:
        _refuse({**of_model, **of_timing}, "is for scaling a MODEL; --space only lists what the space has")
        _list_near(space, given, tolerance, 10 if best is None else best, as_json)
        return
    _refuse({"--best": best}, "goes with --space; a MODEL is scaled to one network")
    if len(given) != 1:
        number = len(given) or "none"
        raise UsageError(f"give one budget, --params, --flops or --latency-ms; got {number}", command="modscale scale")
    if latency_ms is None:
        _refuse(of_timing, "goes with --latency-ms; nothing is timed for a budget of params or FLOPs")
    from modscale.document import check_choice
    from modscale.scaling.compound import RULES
    from modscale.scaling.scale import require_met, scale_model, scaled_to_json

    def measure(candidate: ModelSpec) -> float:
        from modscale.cli.console import say
        from modscale.latency.protocol import measure_models

        return measure_models([candidate], latency_settings(provider, threads, runs), note=say)[0].quiet_ms

    (metric, target), *_ = given.items()
    scaled = scale_model(
        resolve_spec(str(model), None),
        metric,
        target,
        measure=measure,
        rule=RULES[check_choice(rule or "efficientnet", "--rule", tuple(RULES))],
        conv_only=conv_only,
        resolution=resolution,
        tolerance=tolerance,
    )
    require_met(scaled)
    if out is not None:
        from modscale.files import write_whole
        from modscale.specs.spec import spec_to_yaml

        write_whole(out, spec_to_yaml(scaled.spec))

    def show() -> None:
        from modscale.cli.tables import show_scaled

        show_scaled(scaled)

    answer(scaled_to_json(scaled), as_json, show)


def _list_near(space_file: str, budgets: dict[str, float], tolerance: float, best: int, as_json: bool) -> None:
    """All architectures of a space within the tolerance of every budget, the nearest first."""
    from modscale.cli.answers import matches_to_json
    from modscale.errors import naming_file
    from modscale.spaces.nearest import within_budgets

    if "latency_ms" in budgets:
        raise InputError("a space is looked through by --params and --flops", place="--latency-ms")
    with naming_file(space_file):
        loaded = read_experiment(space_file).space
        matches = within_budgets(loaded, budgets, tolerance, best=best)

    def show() -> None:
        from modscale.cli.tables import show_assumed, show_matches

        show_matches(matches)
        show_assumed(loaded.assumed)

    answer(matches_to_json(matches) | {"assumed": loaded.assumed}, as_json, show)


def _refuse(options: dict[str, Any], rule: str) -> None:
    """Raises InputError for the first of these options that was given: it would do nothing."""
    for name, value in options.items():
        if value is not None:
            raise InputError(rule, place=name)
