"""`modscale export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import MODEL_HELP, DebugOption, JsonOption, ResolutionOption, at_resolution
from modscale.cli.completion import complete_model, complete_pick
from modscale.errors import InputError
from modscale.files import require_current_folder, user_path, user_text

MAX_BATCH = 1024
"""Images at once, at most: PyTorch's answers to as many are compared."""


def export(
    model: Annotated[
        str,
        argument("MODEL|RUN", f"{MODEL_HELP} Or a run's folder.", parser=user_text, completion=complete_model),
    ],
    out: Annotated[
        Path,
        option("Folder for spec.yaml, model.onnx, model.safetensors, README.md.", metavar="PATH", parser=user_path),
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
    batch: Annotated[str, option("Images at once; `dynamic` leaves that open.", metavar="N|dynamic")] = "1",
    features: Annotated[bool, option("The map of each stage as outputs too: stage1, ...", "--features")] = False,
    no_logits: Annotated[bool, option("With --features: the maps alone.", "--no-logits")] = False,
    fold_normalisation: Annotated[
        bool, option("Take pixels scaled to 0..1: mean and std folded in.", "--fold-normalisation")
    ] = False,
    for_cpu: Annotated[
        bool,
        option(
            "Wide products in parts, attention as one operator: for ONNX Runtime's CPU provider alone.", "--for-cpu"
        ),
    ] = False,
    data: Annotated[
        str | None,
        option("Measure the accuracy on its validation images, as for `search`.", metavar="DATA", parser=user_text),
    ] = None,
    val_images: Annotated[int | None, option("On so many of them at most.", low=2)] = None,
    int8: Annotated[bool, option("An int8 file too, calibrated and judged on --data.", "--int8")] = False,
    no_latency: Annotated[bool, option("Time nothing.", "--no-latency")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a folder that stands alone: ONNX, weights, model card."""
    from modscale.api.finished import choose_spec, choose_weights

    spec = at_resolution(choose_spec(model, pick=pick, trial=trial), resolution)
    weights = choose_weights(model, weights, chooses=pick is not None or trial is not None)
    if weights is None and (key is not None or fresh_head):
        raise InputError("goes with --weights", place="--fresh-head" if fresh_head else "--key")
    require_current_folder()
    from modscale.api.exporting import ExportOrder, export_network, exported_to_json, require_good
    from modscale.cli.console import say
    from modscale.cli.progress import latency_progress
    from modscale.deploy.export import Form
    from modscale.settings import LatencySettings

    timing = LatencySettings()
    order = ExportOrder(
        spec=spec,
        out=out,
        weights=weights,
        key=key,
        fresh_head=fresh_head,
        seed=seed,
        form=Form(
            batch=_batch(batch),
            features=features,
            logits=not no_logits,
            folded=fold_normalisation,
            for_cpu=for_cpu,
        ),
        data=data,
        val_images=val_images,
        int8=int8,
        latency=None if no_latency else timing,
    )
    if no_latency:
        exported = export_network(order, say=say)
    else:
        with latency_progress(timing) as on_round:
            exported = export_network(order, say=say, on_round=on_round)
    document = exported_to_json(order, exported)

    def show() -> None:
        from modscale.cli.tables import show_export

        show_export(spec, document)

    answer(document, as_json, show)
    require_good(order, exported)


def _batch(text: str) -> int | None:
    """`--batch`: a number, or None for `dynamic`."""
    if text == "dynamic":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:5]) <= MAX_BATCH or len(text) > 5:
        raise InputError(f"must be 1 to {MAX_BATCH}, or `dynamic`", place="--batch", value=text)
    return int(text)
