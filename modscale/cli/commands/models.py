"""`modscale models`."""

from __future__ import annotations

from modscale.cli.app import answer
from modscale.cli.arguments import DebugOption, JsonOption


def models(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the networks of the paper with its figures beside ours."""
    from modscale.specs.published import list_models, models_to_json

    rows = models_to_json(list_models())

    def show() -> None:
        from modscale.cli.tables import show_models

        show_models(rows)

    answer({"models": rows}, as_json, show)
