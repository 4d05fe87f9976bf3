"""`modscale context`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import DebugOption, JsonOption, ModelArgument, ResolutionOption, resolve_spec
from modscale.files import require_current_folder, user_path


def context(
    model: ModelArgument,
    images: Annotated[list[Path], argument("IMAGES...", "Image files of any kind.", parser=user_path)],
    out: Annotated[Path, option("Folder for a PNG for each image.", metavar="PATH", parser=user_path)],
    weights: Annotated[
        Path | None, option("A checkpoint [default: that in MODEL's folder].", metavar="PATH", parser=user_path)
    ] = None,
    key: Annotated[str | None, option("Where in the checkpoint they lie, as in ema.module [default: found].")] = None,
    resolution: ResolutionOption = None,
    seed: Annotated[int, option("Seed of the initial weights, without --weights.", low=0, high=2**32 - 1)] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw what the context branch sees in images."""
    spec = resolve_spec(model, resolution)
    require_current_folder()
    from modscale.api.context import ContextOrder, draw_contexts
    from modscale.api.finished import choose_weights
    from modscale.cli.console import note, say
    from modscale.errors import InputError

    chosen = choose_weights(model, weights, chooses=False)
    if chosen is None and key is not None:
        raise InputError("goes with --weights", place="--key")
    order = ContextOrder(spec=spec, images=tuple(images), out=out, weights=chosen, key=key, seed=seed)
    document = draw_contexts(order, say=say)

    def show() -> None:
        note(f"Drawn: {document['drawn']}.")
        for file in document["images"]:
            note(file)

    answer(document, as_json, show)
