"""`modscale export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import MODEL_HELP, DebugOption, JsonOption, ResolutionOption, at_resolution
from modscale.cli.completion import complete_model, complete_pick
from modscale.errors import InputError
from modscale.files import require_current_folder, user_path, user_text


def export(
    model: Annotated[
        str,
        argument("MODEL|RUN", f"{MODEL_HELP} Or a run's folder.", parser=user_text, completion=complete_model),
    ],
    out: Annotated[
        Path, option("Folder for spec.yaml, model.onnx and model.safetensors.", metavar="PATH", parser=user_path)
    ],
    pick: Annotated[
        str | None, option("The run's pick for this band.", metavar="BAND", completion=complete_pick)
    ] = None,
    trial: Annotated[int | None, option("The run's trial of this number.", low=0)] = None,
    weights: Annotated[
        Path | None, option("A checkpoint [default: that in MODEL's folder].", metavar="PATH", parser=user_path)
    ] = None,
    key: Annotated[str | None, option("Where in the checkpoint they lie, as in ema.module [default: found].")] = None,
    fresh_head: Annotated[bool, option("Start the classifier fresh; load the rest.", "--fresh-head")] = False,
    resolution: ResolutionOption = None,
    seed: Annotated[int, option("Seed of the initial weights, without --weights.", low=0, high=2**32 - 1)] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the spec, ONNX (checked against torch) and weights."""
    from modscale.api.session import choose_spec, choose_weights
    from modscale.kinds import naming_kind

    spec = at_resolution(choose_spec(model, pick=pick, trial=trial), resolution)
    weights = choose_weights(model, weights, chooses=pick is not None or trial is not None)
    if weights is None and (key is not None or fresh_head):
        raise InputError("goes with --weights", place="--fresh-head" if fresh_head else "--key")
    require_current_folder()
    from modscale.deploy.export import export_model
    from modscale.models.checkpoint import loaded_to_json

    with naming_kind(weights or "", "checkpoint"):
        result = export_model(spec, out, weights=weights, key=key, fresh_head=fresh_head, seed=seed)
    document: dict[str, Any] = {
        "spec": str(result.spec),
        "onnx": str(result.onnx),
        "weights": str(result.weights),
        "trained": result.loaded is not None and result.loaded.trained,
        "loaded": None if result.loaded is None else {"file": str(weights), **loaded_to_json(result.loaded)},
        "params": result.params,
        "flops": result.flops,
        "max_abs_error": result.max_abs_error,
    }

    def show() -> None:
        from modscale.cli.tables import show_export

        show_export(spec, document)

    answer(document, as_json, show)
