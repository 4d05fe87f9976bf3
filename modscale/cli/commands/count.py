"""`modscale count`."""

from __future__ import annotations

from typing import Annotated, Any

from modscale.cli.app import answer, option
from modscale.cli.arguments import DebugOption, JsonOption, ModelArgument, ResolutionOption, resolve_spec
from modscale.files import require_current_folder


def count(
    model: ModelArgument,
    resolution: ResolutionOption = None,
    check: Annotated[bool, option("Compare with an fvcore trace of the network.", "--check")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Params and FLOPs by stage and by operator."""
    from modscale.errors import MismatchError
    from modscale.specs.counts import count_model, sum_by

    spec = resolve_spec(model, resolution)
    counted = count_model(spec)
    traced = None
    if check:
        require_current_folder()
        from modscale.models.fvcore_trace import trace_model

        traced = trace_model(spec)
        if traced != (counted.params, counted.flops):
            raise MismatchError(
                f"{spec.name}: counted {counted.params} params and {counted.flops} FLOPs,"
                f" fvcore traced {traced[0]} and {traced[1]}"
            )
    document: dict[str, Any] = {
        "name": spec.name,
        "resolution": spec.resolution,
        "params": counted.params,
        "flops": counted.flops,
    }
    for key, title in (("part", "by_part"), ("operator", "by_operator")):
        sums = sum_by(counted.parts, key)
        document[title] = {name: {"params": params, "flops": flops} for name, (params, flops) in sums.items()}
    if traced is not None:
        document["check"] = {"tool": "fvcore", "params": traced[0], "flops": traced[1], "equal": True}

    def show() -> None:
        from modscale.cli.tables import show_count

        show_count(spec, counted, traced)

    answer(document, as_json, show)
