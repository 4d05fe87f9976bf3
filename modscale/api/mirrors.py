"""Where the trials of a run stand besides its folder: its study, a storage of the user's, a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from modscale.runs.experiment import Experiment, experiment_to_dict
from modscale.runs.folder import STUDY_FILE, read_run, section, storage_study
from modscale.runs.trials import Trial
from modscale.searching.mirror import StudyMirror
from modscale.searching.trial_log import TrialLog

if TYPE_CHECKING:  # SQLAlchemy takes a while to import, and is there for whoever asks for a storage
    from modscale.searching.storage import Storage


def check_storage(url: str | None, folder: Path) -> Storage | None:
    """The storage of a URL, checked. Raises InputError."""
    if url is None:
        return None
    from modscale.searching.storage import Storage

    return Storage(url, folder / STUDY_FILE)


@contextmanager
def mirrored(
    folder: Path, experiment: Experiment, storage: Storage | None, log: str, say: Callable[[str], None]
) -> Iterator[Callable[[Sequence[Trial]], None]]:
    """Gives what takes the finished trials to `study.db`, and to a storage and a log where there is one."""
    takers: list[Callable[[Sequence[Trial]], None]] = [StudyMirror(folder / STUDY_FILE, experiment, say).update]
    if log != "none":
        takers.append(TrialLog(log, folder, say).update)

    def update(trials: Sequence[Trial]) -> None:
        for take in takers:
            take(trials)

    if storage is None:
        yield update
        return
    from modscale.searching.storage import StorageMirror

    run, study = read_run(folder), storage_study(folder, str(storage))
    data, machine = section(run, "data"), section(run, "machine")
    attributes = {
        "modscale": run.get("modscale"), "space": experiment.space.name, "run": str(folder.resolve()),
        "started": run.get("started"), "seed": experiment.search.seed, "trials": experiment.search.trials,
        "sampler": experiment.search.sampler, "data": data.get("source"), "proxy": experiment.proxy.method,
        "processor": machine.get("cpu"), "bands": experiment_to_dict(experiment)["bands"],
    }  # fmt: skip
    there = StorageMirror(storage, study, experiment, say, attributes=attributes)
    takers.append(there.update)
    try:
        yield update
    finally:
        there.close()
