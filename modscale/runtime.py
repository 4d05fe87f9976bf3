"""ONNX Runtime: the one module that imports it, and the process in which a model is timed.

`latency.py` starts `python -m modscale.runtime` afresh for every timing, so that no thread pool but the session's own
is alive: the worker imports neither torch nor anything else that starts threads, and counts its threads to show it.
It reads one question as JSON on standard input, a `Job` or `{"available": provider}`, and answers with one JSON line.

A provider is taken at its word only when ONNX Runtime has it, accepts it without a fallback for a single node, and
names it first in the finished session; anything else is a `ProviderError` and never a number.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modscale.errors import ProviderError, TrialFailed

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

INPUT_NAME = "image"
OUTPUT_NAME = "logits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one worker is asked to time."""

    onnx_file: str
    """The model."""
    provider: str
    """`cpu` or `cuda`."""
    threads: int
    """Intra-op threads."""
    warmup: int
    """Runs before the first timed one."""
    runs: int
    """Timed runs."""
    limit_s: float
    """Seconds the runs may take; a model that would need more is given up after its first run."""
    seed: int = 0
    """Seed of the random input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """What one worker saw."""

    times_ns: tuple[int, ...]
    """Wall time of each timed run, in order, nanoseconds."""
    threads_before: int
    """Threads of the process just before ONNX Runtime was loaded (1: no other pool is alive); 0 where unknown."""
    preemptions: int
    """Times the system took a core away from the process during the timed runs; -1 where unknown."""


def open_session(model: str | bytes, *, provider: str = "cpu", threads: int = 1) -> Any:
    """A session with every graph optimisation, sequential, on `provider` alone.

    Raises:
        ProviderError: the provider is not there, or would hand a part of the model to another one.
    """
    import onnxruntime

    name = PROVIDERS[provider]
    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output belongs to the answer
            onnxruntime.preload_dlls()
    check_available(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        # enable_fallback=0: without it the Python class itself retries on the CPU when a provider fails to start.
        session = onnxruntime.InferenceSession(model, options, providers=[name], enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises a dozen kinds, one for each status code
        if provider == "cpu":
            raise
        raise ProviderError(f"{name} cannot run the model: {_first_line(error)}", place="provider") from error
    check_session(session, provider)
    return session


def check_available(provider: str) -> None:
    """Raises ProviderError where this ONNX Runtime was built without `provider`."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise ProviderError(
            f"ONNX Runtime has no {PROVIDERS[provider]} here (it has {', '.join(available)})", place="provider"
        )


def check_session(session: Any, provider: str) -> None:
    """Raises ProviderError unless `provider` is the first of the session's own providers."""
    used = session.get_providers()
    if not used or used[0] != PROVIDERS[provider]:
        raise ProviderError(
            f"ONNX Runtime fell back from {PROVIDERS[provider]} to {used[0] if used else 'nothing'}: not timed",
            place="provider",
            value=provider,
        )


def run_images(model: str | bytes, images: Mapping[str, Any]) -> dict[str, Any]:
    """The logits of each image (float32, [B, C, R, R]) by name, on the CPU, with the optimisations that are timed."""
    session = open_session(model, threads=1)  # no pool beside the caller's own
    return {name: session.run([OUTPUT_NAME], {INPUT_NAME: image})[0] for name, image in images.items()}


def time_model(job: Job) -> Timings:
    """Times a model in this process: random input of fixed seed, batch 1, input and output on the device.

    Raises:
        ProviderError: see `open_session`.
        TrialFailed: the runs would take longer than the job's limit.
    """
    import numpy as np

    threads_before = _thread_count()
    import onnxruntime

    session = open_session(job.onnx_file, provider=job.provider, threads=job.threads)
    shape = session.get_inputs()[0].shape
    image = np.random.default_rng(job.seed).standard_normal(shape, dtype=np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(image, job.provider, 0))
    binding.bind_output(OUTPUT_NAME, job.provider, 0)

    def run() -> int:
        start = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return time.perf_counter_ns() - start

    run()  # the first run also allocates
    expected_s = (job.warmup + job.runs) * run() / 1e9
    if expected_s > job.limit_s:
        raise TrialFailed(f"timing would take about {expected_s:.0f} s, more than the {job.limit_s:.0f} s allowed")
    for _ in range(job.warmup):
        run()
    preempted = _preemptions()
    times = tuple(run() for _ in range(job.runs))
    return Timings(
        times_ns=times,
        threads_before=threads_before,
        preemptions=_preemptions() - preempted if preempted >= 0 else -1,
    )


def main() -> int:
    """The worker: one question in, one line out; what the user can mend is part of the answer."""
    answer: dict[str, Any]
    try:
        question = json.load(sys.stdin)
        if "available" in question:
            check_available(question["available"])
            answer = {}
        else:
            answer = {"timings": asdict(time_model(Job(**question)))}
    except ProviderError as error:
        answer = {"provider_error": str(error)}
    except TrialFailed as error:
        answer = {"failed": str(error)}
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent must hear it in a line
        answer = {"failed": f"{type(error).__name__}: {_first_line(error)}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _thread_count() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


def _preemptions() -> int:
    """Involuntary context switches of all threads of this process so far; -1 where the system does not say."""
    try:
        import resource
    except ImportError:
        return -1
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


if __name__ == "__main__":
    # numpy's BLAS would otherwise start a pool of its own on import.
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
