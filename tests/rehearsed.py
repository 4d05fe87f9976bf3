"""Rehearsals that never took place: what tests of a plan are worked out from by hand."""

from __future__ import annotations

from typing import Any

from modscale.deploy.timing_worker import Timings
from modscale.latency.device import Device
from modscale.latency.raw import Measurement
from modscale.latency.summary import Round
from modscale.searching.rehearsal import Rehearsal, Rehearsed
from modscale.searching.worker import DataSummary
from modscale.settings import LatencySettings
from modscale.specs.counts import count_model
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec
from modscale.training.pace import Pace

FACTS = {"processor": "one", "system": "Linux", "runtime": "1.0", "cores": 2, "threads": 1}
XXS, XS, S = (published(name) for name in ("xxs", "xs", "s"))
SUMMARY = DataSummary(
    source="synthetic", name="synthetic", classes=10, channels=3, train_images=4000, val_images=1000, resolution=64,
    fingerprint="0" * 64, leaked=0, device="cpu",
)  # fmt: skip


def taken(order: int, seconds: float, ms: float) -> Round:
    """A round of two runs, each of which had its core."""
    ns = round(ms * 1e6)
    timings = Timings(times_ns=(ns, ns), preemptions=0, cpu_ns=2 * ns, main_cpu_ns=2 * ns)
    return Round(order=order, at_s=float(order), seconds=seconds, timings=timings)


def session(
    seconds: tuple[float, ...], ms: tuple[float, ...], settings: LatencySettings, spread: float = 0.0
) -> Measurement:
    """Of each network five rounds that took so long, with runs of so many ms that differ by `spread`; and a quarter of
    a second of the reference, where the settings have it.
    """
    rounds = tuple(
        tuple(taken(2 * i + 1, each_s, each_ms * (1 + spread * (i - 2) / 2)) for i in range(5))
        for each_s, each_ms in zip(seconds, ms, strict=True)
    )
    references = tuple(taken(2 * i, 0.25, 10.0) for i in range(6)) if settings.reference else ()
    models = tuple({"name": str(i)} for i in range(len(seconds)))
    return Measurement(models=models, device=Device(settings, FACTS), rounds=rounds, references=references)


def rehearsal_of(measured: Measurement, specs: tuple[ModelSpec, ...] = (XXS, S), **changes: Any) -> Rehearsal:
    """Of xxs and s: 1.4 and 2.8 s for an export, 0.5 s and 0.01 and 0.03 s a step for a training, 1 ms an image."""
    networks = tuple(
        Rehearsed(
            spec=spec, flops=count_model(spec).flops, results={}, export_s=export_s,
            pace=Pace(start_s=0.5, step_s=step_s, score_image_s=0.001, steps_an_epoch=100, val_images=1000),
        )
        for spec, export_s, step_s in zip(specs, (1.4, 2.8), (0.01, 0.03), strict=False)
    )  # fmt: skip
    values: dict[str, Any] = {
        "networks": networks, "sessions": (measured,), "anchor": None, "reference_ms": 10.0, "workers_start_s": 0.0,
    }  # fmt: skip
    return Rehearsal(**values | changes)
