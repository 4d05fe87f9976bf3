"""`modscale fidelity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import DebugOption, JsonOption
from modscale.cli.completion import complete_model, complete_proxy
from modscale.files import user_path, user_text


def fidelity(
    more: Annotated[
        list[str] | None, argument("[MODEL]...", "As --models.", parser=user_text, completion=complete_model)
    ] = None,
    data: Annotated[
        str,
        option("`synthetic`, a folder of images or a .npz, as for `search`.", metavar="DATA", parser=user_text),
    ] = "synthetic",
    proxy: Annotated[
        str,
        option(
            "A proxy's name, or a SPACE.yaml whose proxy section is taken.",
            metavar="NAME",
            parser=user_text,
            completion=complete_proxy,
        ),
    ] = "thin",
    models: Annotated[
        list[str] | None,
        option(
            "Published names, `published` for all (default), or a YAML of your own networks: a list of"
            " {spec, top1}. Several may follow.",
            metavar="MODEL...",
            parser=user_text,
            completion=complete_model,
        ),
    ] = None,
    seeds: Annotated[int, option("Seeds by which each network is scored.", low=1, high=1000)] = 1,
    no_latency: Annotated[bool, option("Time nothing: no latency as a baseline.", "--no-latency")] = False,
    out: Annotated[
        Path | None,
        option("The folder of what is measured [default: reports/fidelity].", metavar="PATH", parser=user_path),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check whether a proxy ranks networks of known accuracy. The same command again resumes."""
    from modscale.api.fidelity import check_fidelity, choose_setup
    from modscale.cli.progress import Terminal
    from modscale.specs.known import known_networks

    setup = choose_setup(proxy)
    folder = Path("reports/fidelity") if out is None else out
    networks = known_networks([*(models or []), *(more or [])])
    found, content = check_fidelity(
        networks,
        setup,
        source=data,
        seeds=seeds,
        times=not no_latency,
        folder=folder,
        watcher=Terminal(),
        debug=debug,
    )

    def show() -> None:
        from modscale.cli.tables import show_fidelity

        show_fidelity(found, folder)

    answer(content, as_json, show)
