"""The bench: what crosses from the worker, and what it costs (`test_measures.py` has how a worker is lost)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modscale.searching.bench import Bench
from modscale.settings import LatencySettings, ProxySettings
from modscale.specs.spec import ModelSpec, StageSpec
from modscale.training.proxies import ProxyScore

SPEC = ModelSpec(resolution=32, stages=(StageSpec(dim=8, depth=1),))
PROXY = ProxySettings(resolution=16, epochs=1, train_images=100, val_images=60, threads=1)


@pytest.mark.slow
def test_a_score_comes_with_the_cpu_time_that_it_took() -> None:
    """By the seed it is asked for, and from whichever worker; no torch in the process that asked."""
    code = """
import sys
from tests.searching.test_bench import ask
ask()
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr


def ask() -> None:
    """The checks, in a process that has loaded nothing yet."""
    with Bench("synthetic", PROXY, LatencySettings(), seed=0, workers=2) as bench:
        assert (bench.summary.train_images, bench.summary.val_images) == (100, 60)
        first, cpu_seconds = bench.ask("score", SPEC, 0)
        again, other = (bench.ask("score", SPEC, seed)[0] for seed in (0, 7))
        assert isinstance(first, ProxyScore)
        assert cpu_seconds > 0
        assert first == again
        assert first.results["val_images"] == other.results["val_images"] == 60
        assert first != other
        (second,) = bench.loading
        assert second.finish() == bench.summary
        assert second.ask("score", SPEC, 0)[0] == first
    assert (bench.worker, bench.loading, second.is_running) == (None, [], False)
