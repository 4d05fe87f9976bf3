"""`modscale train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modscale.cli.app import answer, argument, option
from modscale.cli.arguments import MODEL_HELP, DebugOption, JsonOption, ResolutionOption, at_resolution
from modscale.cli.completion import complete_model, complete_pick
from modscale.files import user_path, user_text


def train(
    model: Annotated[
        str,
        argument("MODEL|RUN", f"{MODEL_HELP} Or a run's folder.", parser=user_text, completion=complete_model),
    ],
    out: Annotated[Path, option("Folder for weights, metrics and settings.", metavar="PATH", parser=user_path)],
    data: Annotated[
        str, option("`synthetic`, a folder of images or a .npz, as for `search`.", metavar="DATA", parser=user_text)
    ] = "synthetic",
    pick: Annotated[
        str | None, option("The run's pick for this band.", metavar="BAND", completion=complete_pick)
    ] = None,
    trial: Annotated[int | None, option("The run's trial of this number.", low=0)] = None,
    epochs: Annotated[int | None, option("Passes over the training images.", low=1, high=100_000)] = None,
    hours: Annotated[
        float | None, option("Time for the whole training; timed steps tell the epochs [default: 1].")
    ] = None,
    teacher: Annotated[
        str | None,
        option(
            "Learn from it too: a folder of `train` or `export`, an .onnx, or a name of timm's.",
            metavar="MODEL",
            parser=user_text,
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        option(
            "Weights to start from, also a like network's of other widths or classes: a checkpoint or a folder.",
            "--from",
            metavar="PATH",
            parser=user_path,
        ),
    ] = None,
    settings: Annotated[
        Path | None, option("A YAML of settings: rate, batch, augmentation, ...", metavar="PATH", parser=user_path)
    ] = None,
    resolution: ResolutionOption = None,
    seed: Annotated[int, option("Seed of all that is drawn.", low=0, high=2**32 - 1)] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a network in full, by the paper's recipe. The same command again resumes."""
    from modscale.api.finished import choose_spec
    from modscale.api.train import choose_settings, choose_start, train_network
    from modscale.cli.progress import Terminal
    from modscale.document import check_number
    from modscale.training.job import TrainJob

    if hours is not None:
        check_number(hours, "--hours", above=0, high=100_000)
    spec = at_resolution(choose_spec(model, pick=pick, trial=trial), resolution)
    job = TrainJob(
        spec=spec,
        source=data,
        settings=choose_settings(settings, epochs=epochs, hours=hours, head=spec.head),
        seed=seed,
        folder=out,
        teacher=teacher,
        start_from=choose_start(start_from),
    )
    result = train_network(job, watcher=Terminal(), debug=debug)
    if not result:  # one of torchrun's processes that only trains
        return

    def show() -> None:
        from modscale.cli.tables import show_training

        show_training(job.spec.name, result)

    answer(result, as_json, show)
