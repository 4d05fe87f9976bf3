"""`modscale calibrate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, option
from modscale.cli.arguments import DebugOption, JsonOption, SpaceArgument, read_experiment, read_target
from modscale.files import user_path, user_text


def calibrate(
    space_file: SpaceArgument,
    out: Annotated[Path, option("The calibration's file.", "--out", metavar="FILE", parser=user_path)],
    threads: Annotated[int | None, option("Intra-op threads [default: the space's].", low=1, high=1024)] = None,
    target: Annotated[
        str | None,
        option("YAML of another device, command: [ssh, pi, python3, -].", metavar="FILE", parser=user_text),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Time a space's pieces, for predictions and searches.

    For 5 minutes at most, in which nothing else should run, networks put together of the pieces are timed, as the
    latency section of the space says. `latency --calibration` and `search` predict others by them.
    """
    from modscale.api.calibrate import calibrate as run
    from modscale.api.calibrate import device_clock
    from modscale.cli.console import say
    from modscale.cli.progress import latency_progress
    from modscale.cli.tables import assumed_text, show_calibration

    experiment = read_experiment(space_file)
    settings = replace(experiment.latency, targets=())
    if target is not None:
        settings = settings.at(read_target(target))
    if threads is not None:
        settings = replace(settings, threads=threads)
    if assumed := experiment.space.assumed:
        say(
            f"note: with {assumed_text(assumed)}, which the space leaves to the data of a search; predictions for other"
            f" data are wider, unless its base states {' and '.join(assumed)}"
        )
    with latency_progress(settings) as on_timed:
        summary = run(experiment, device_clock(settings), out, say=say, on_timed=on_timed)
    answer(summary | {"assumed": assumed}, as_json, lambda: show_calibration(summary))
