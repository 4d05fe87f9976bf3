"""Scores that nothing was trained for: what the tests of a proxy's fidelity read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modscale.runs.scores import Scored
from modscale.specs.counts import count_model
from modscale.specs.known import KnownNetwork, published_networks

PROXY = {"method": "train", "resolution": 32, "epochs": 2, "threads": 1}
DOCUMENT = {
    "setup": {"proxy": PROXY},
    "data": {"name": "fake", "classes": 20, "train_images": 3000, "val_images": 1000, "device": "cpu"},
}


def fake_scores(
    score: Callable[[KnownNetwork, int], float], *, networks: Sequence[KnownNetwork] = (), seeds: int = 1
) -> list[Scored]:
    """A row a network, all published ones unless there are others, and a seed."""
    return [
        Scored(
            name=network.name, spec=network.spec, seed=seed, state="complete", score=score(network, seed),
            standard_error=0.01, seconds=10.0 + seed, cpu_seconds=20.0,
        )
        for seed in range(seeds)
        for network in networks or published_networks()
    ]  # fmt: skip


def fake_timings(*, networks: Sequence[KnownNetwork] = ()) -> list[Scored]:
    """Latency follows FLOPs."""
    return [
        Scored(
            name=network.name, spec=network.spec, seed=None, state="complete", seconds=5.0,
            results={
                "latency_ms": count_model(network.spec).flops / 1e8, "latency_ci95_ms": 0.5, "latency_wide": False,
                "latency_busy": False,
            },
        )
        for network in networks or published_networks()
    ]  # fmt: skip
