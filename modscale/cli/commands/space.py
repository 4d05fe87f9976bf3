"""`modscale space`."""

from __future__ import annotations

from modscale.cli.app import answer
from modscale.cli.arguments import DebugOption, JsonOption, SpaceArgument, read_experiment


def space(space_file: SpaceArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Size, reach and feasibility of a space."""
    from modscale.cli.answers import census_to_json
    from modscale.cli.progress import counting_progress, say_estimate
    from modscale.errors import naming_file
    from modscale.spaces.census import take_census

    with naming_file(space_file):
        loaded = read_experiment(space_file).space
        with counting_progress(loaded.name) as progress:
            census = take_census(loaded, progress=progress, estimate=say_estimate)

    def show() -> None:
        from modscale.cli.tables import show_assumed, show_census

        show_census(census)
        show_assumed(loaded.assumed)

    answer(census_to_json(census) | {"assumed": loaded.assumed}, as_json, show)
