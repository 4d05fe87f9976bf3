"""A whole fidelity check, from networks of known accuracy to its report; and what `--proxy` stands for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from modscale.analysis.fidelity import Fidelity, find_fidelity
from modscale.errors import InputError, RunError
from modscale.files import path_text
from modscale.interrupts import check_stop, forget_stop, hearing_stops
from modscale.kinds import FIDELITY_FILE, YAML_SUFFIXES, naming_kind
from modscale.report.fidelity import write_fidelity
from modscale.runs.conditions import check_conditions, check_same_data, uses_gpu
from modscale.runs.experiment import load_experiment
from modscale.runs.fidelity_folder import (
    LATENCY_FILE,
    SCORES_FILE,
    FidelitySetup,
    check_setup,
    locked_fidelity,
    read_setup,
    write_setup,
)
from modscale.runs.scores import read_scored
from modscale.searching.bench import Bench
from modscale.searching.measures import Subject, answer_request, time_latency
from modscale.searching.scoring import Job, ScoringObserver, plan_jobs, run_jobs
from modscale.searching.steps import take_steps
from modscale.searching.worker import summary_to_dict
from modscale.settings import PROXIES, LatencySettings, SearchSettings, check_kernels
from modscale.specs.known import KnownNetwork
from modscale.specs.spec import ModelSpec


class Watcher(Protocol):
    """Who is told of a fidelity check: the terminal, say."""

    def say(self, text: str) -> None:
        """A line of what is going on."""

    def scoring(self, *, done: int, total: int) -> AbstractContextManager[ScoringObserver]:
        """So many of all measurements are done; gives who watches the others."""


def choose_setup(proxy: str) -> FidelitySetup:
    """How networks are scored by `--proxy`: a proxy's name, with its own settings, or the file of a search space.

    Of a space, the proxy, latency and seed are taken, and the drop path of its base, as its candidates have it.

    Raises:
        InputError: neither, or the file is broken.
    """
    if proxy in PROXIES:
        return FidelitySetup(
            proxy=PROXIES[proxy], latency=LatencySettings(), drop_path_rate=0.0, seed=SearchSettings().seed
        )
    if not (proxy.endswith(YAML_SUFFIXES) or "/" in proxy or Path(proxy).exists()):
        near = difflib.get_close_matches(proxy, PROXIES, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        rule = f"must be a proxy ({', '.join(PROXIES)}) or the file of a search space{guess}"
        raise InputError(rule, place="--proxy", value=proxy)
    with naming_kind(proxy, "space"):
        experiment = load_experiment(proxy)
    if experiment.proxy.task != "classification":
        rule = (
            "must be classification: networks are held against their published top-1, and the paper has the mIoU of two"
            " networks alone, which a search's references compare (s and s_conv)"
        )
        raise InputError(rule, file=proxy, place="proxy.task", value=experiment.proxy.task)
    return FidelitySetup(
        proxy=experiment.proxy,
        latency=experiment.latency,
        drop_path_rate=experiment.space.base.drop_path_rate,
        seed=experiment.search.seed,
    )


def check_fidelity(
    networks: Sequence[KnownNetwork],
    setup: FidelitySetup,
    *,
    source: str,
    seeds: int,
    times: bool,
    folder: Path,
    watcher: Watcher,
    debug: bool = False,
) -> tuple[Fidelity, dict[str, Any]]:
    """Scores the networks, or goes on with it, in `folder`; returns the fidelity, and what is in `fidelity.json`.

    Each is scored by `seeds` seeds, the first of them the setup's, and timed if `times`.

    Raises:
        InputError: the data, the provider or the folder cannot be used, or it holds scores of another setup or data.
        KeyboardInterrupt: after the report of what stands was written.
    """
    setup = setup.resolved()
    networks = [replace(n, spec=replace(n.spec, drop_path_rate=setup.drop_path_rate)) for n in networks]
    chosen = range(setup.seed, setup.seed + seeds)
    document = read_setup(folder)
    if document is not None:
        check_setup(document, setup, folder)
    check_kernels(setup.proxy)
    with locked_fidelity(folder), hearing_stops():
        jobs = plan_jobs(networks, chosen, times=times)
        stop: KeyboardInterrupt | None = None
        try:
            _measure(jobs, setup, source, folder, watcher, debug)
            check_stop()
        except KeyboardInterrupt as error:
            stop = error
            forget_stop()
        document = read_setup(folder)
        if document is None:
            if stop is not None:
                watcher.say("stopped before anything was measured; the same command begins again")
            raise stop or RunError("nothing was measured", file=folder)
        scored, timed = read_scored(folder / SCORES_FILE), read_scored(folder / LATENCY_FILE)
        fidelity = find_fidelity(networks, scored, timed, seeds=chosen)
        content = write_fidelity(folder, fidelity, document)
        if stop is not None:
            known = {row.key for row in (*scored, *timed)}
            done = sum(job.key in known for job in jobs)
            watcher.say(f"stopped: {done} of {len(jobs)} measurements done, reported in {folder}")
            raise stop
    return fidelity, content


def _measure(
    jobs: Sequence[Job], setup: FidelitySetup, source: str, folder: Path, watcher: Watcher, debug: bool
) -> None:
    """Takes the measurements that are missing; loads no data where none is."""
    document = read_setup(folder)
    known = {row.key for file in (SCORES_FILE, LATENCY_FILE) for row in read_scored(folder / file)}
    waiting = [job for job in jobs if job.key not in known]
    if document is not None:
        done = len(jobs) - len(waiting)
        watcher.say(f"resuming {folder}: {done} of {len(jobs)} measurements done")
        if not waiting and document["data"].get("source") == path_text(source):
            return
        on_gpu = uses_gpu(setup.latency.provider, document["data"].get("device"))
        for change in check_conditions(document, folder, on_gpu=on_gpu):
            watcher.say(f"note: {change} since this began; what is measured now may differ for it")
    if any(job.seed is None for job in waiting):
        from modscale.latency.device import Device

        Device(setup.latency).check()
    with Bench(source, setup.proxy, setup.latency, seed=setup.seed, debug=debug, note=watcher.say) as bench:
        data = summary_to_dict(bench.summary) | {"source": path_text(source)}
        for note in data["notes"]:
            watcher.say(f"note: {note}")
        if document is None:
            write_setup(folder, setup, data)
        else:
            check_same_data(document["data"], data, folder / FIDELITY_FILE)

        def score(spec: ModelSpec, seed: int) -> Any:
            return bench.ask("score", spec, seed)

        def time_one(spec: ModelSpec, announce: Callable[[str], None]) -> Any:
            return take_steps(
                time_latency(Subject(spec=spec)), lambda request: answer_request(bench, request, announce)
            )

        with watcher.scoring(done=len(jobs) - len(waiting), total=len(jobs)) as observer:
            run_jobs(
                waiting, score, time_one, observer,
                lambda job: folder / (LATENCY_FILE if job.seed is None else SCORES_FILE),
            )  # fmt: skip
