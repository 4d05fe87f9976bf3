"""`modscale watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import DebugOption, JsonOption
from modscale.files import user_path


def watch(
    run: Annotated[Path, argument("RUN", "A run's folder.", parser=user_path)],
    once: Annotated[bool, option("Show it as it is now, and end.", "--once")] = False,
    every: Annotated[int, option("Seconds between two looks.", low=1, high=3600)] = 2,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Watch a run: its front so far, its pace, what failed."""
    from modscale.analysis.progress import progress_to_json, read_progress
    from modscale.cli.watching import follow, show_once
    from modscale.errors import RunError
    from modscale.kinds import naming_kind

    with naming_kind(run, "run"):
        progress = read_progress(run)
        if progress is None and (once or as_json):
            raise RunError("a search has begun here and measured nothing yet", file=run)
    if once or as_json:
        assert progress is not None  # noqa: S101  # raised above
        answer(progress_to_json(progress), as_json, lambda: show_once(progress))
        return
    follow(run, every)
