"""The front door's calls that are commands elsewhere: a search and a timing, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modscale.analysis.results import Run, load_run
from modscale.api.session import search_space
from modscale.api.watching import Silence
from modscale.document import check_choice
from modscale.files import user_path, user_text
from modscale.latency.protocol import measure_models
from modscale.latency.summary import Latency
from modscale.providers import PROVIDERS
from modscale.runs.experiment import Experiment, load_experiment
from modscale.settings import LatencySettings
from modscale.specs.published import resolve_model
from modscale.specs.spec import ModelSpec


def search(
    space: Experiment | str | Path,
    *,
    data: str | Path = "synthetic",
    out: str | Path | None = None,
    trials: int | None = None,
    seed: int | None = None,
    storage: str | None = None,
    workers: int = 1,
    start_from: Sequence[str | Path] = (),
) -> Run:
    """Runs or resumes a whole search, as `modscale search` does, and reads the run; nothing is printed.

    `space` is a space's file, or what `load_space` gave; `out` the run's folder, `reports/NAME` by default;
    `storage` the URL of an Optuna storage that is to have a copy of the study; so many `workers` evaluate candidates
    side by side; `start_from` are folders of runs to start from, as `--from` takes them.

    >>> import modscale
    >>> run = modscale.search(tiny_space, out=folder, trials=1)
    >>> [trial.state for trial in run.trials]
    ['complete']

    Raises:
        InputError: the space, the data, the provider or the folder cannot be used.
        AllTrialsFailed: trials were finished and none is complete.
    """
    experiment = space if isinstance(space, Experiment) else load_experiment(user_text(str(space)))
    settings = replace(
        experiment.search,
        trials=experiment.search.trials if trials is None else trials,
        seed=experiment.search.seed if seed is None else seed,
    )
    folder = Path("reports") / experiment.space.name if out is None else user_path(out)
    file = experiment.space.name if isinstance(space, Experiment) else str(space)
    search_space(
        replace(experiment, search=settings), space_file=file, source=str(data), folder=folder, watcher=Silence(),
        storage=storage, workers=workers, start_from=[user_path(run) for run in start_from],
    )  # fmt: skip
    return load_run(folder)


def measure_latency(
    model: ModelSpec | str | Path, *, provider: str = "cpu", threads: int | None = None, runs: int | None = None
) -> Latency:
    """ONNX Runtime latency of a network with fresh weights, batch 1, as `modscale latency` measures it.

    `model` is a spec, its file, or a published name. Where `runs` is given, so many are timed and no more.

    >>> import modscale
    >>> latency = modscale.measure_latency(tiny_spec, threads=1, runs=20)
    >>> latency.mean_ms > 0, latency.runs
    (True, 20)

    Raises:
        InputError: no such model or provider.
        TrialFailed: it could not be timed.
    """
    spec = model if isinstance(model, ModelSpec) else resolve_model(str(model))
    default = LatencySettings() if runs is None else LatencySettings(patience_s=0.0)  # so many runs, and no more
    settings = replace(
        default,
        provider=check_choice(provider, "provider", tuple(PROVIDERS)),
        threads=threads or default.threads,
        runs=runs or default.runs,
    )
    return measure_models([spec], settings)[0]
