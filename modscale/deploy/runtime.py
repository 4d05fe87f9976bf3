"""ONNX Runtime: the one module that runs it, and the process in which a model is timed.

`latency/protocol.py` has `answer_timing` called in a fresh process for every timing, so that no thread pool but the
session's own is alive: that process imports neither torch nor anything else that starts threads, and counts them
to be sure.

A provider is taken at its word only when ONNX Runtime has it, accepts it without a fallback for a single node, and
names it first in the finished session; anything else is a `ProviderError` and never a number. A model that such a
provider cannot take, for want of memory say, is that model's failure: a network of one node tells the two apart.
What another provider than the CPU computes is held against the CPU's logits before it is timed, to the accuracy of
TensorFloat-32, in which ONNX Runtime's CUDA provider multiplies by default.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modscale.errors import InputError, ModscaleError, ProviderError, TrialFailed

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
MASKS_NAME = "masks"
"""Logits of each class for every pixel, [B, K, R, R]: what a network under Semantic FPN answers."""

FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
"""NumPy's names of the inputs that can be drawn at random, by ONNX Runtime's."""

MAX_INPUT = 2**29
"""Numbers in one input: 2 GiB of float32."""

WARMUP_S = {"cpu": 0.0, "cuda": 0.5}
"""Seconds the warm-up lasts at least: a GPU raises its clocks only under load, and small models take under 1 ms."""

TOLERANCE = 0.02
"""Largest error of a logit against the CPU's, as a share of the largest logit: TensorFloat-32 keeps 10 bits."""

ONE_NODE = base64.b64decode(
    "CAgSADpHChUKBWltYWdlEgZsb2dpdHMiBFJlbHUSA29uZVoTCgVpbWFnZRIKCggIARIECgIIAWIUCgZsb2dpdHMSCgoICAESBAoCCAFCBAoAEBE="
)
"""A model of a single Relu: a provider that cannot run it can run nothing."""


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
    shape: tuple[int, ...] | None = None
    """Shape of the input; None where the file fixes it whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """What one worker saw."""

    times_ns: tuple[int, ...]
    """Wall time of each timed run, in order, nanoseconds."""
    preemptions: int
    """Times the system took a core away from the process during the timed runs; -1 where unknown."""
    cpu_ns: int = -1
    """Processor time of all threads during the timed runs, nanoseconds; -1 where unknown."""
    main_cpu_ns: int = -1
    """Of that, the thread's that asked for the runs; it waits by spinning, so an undisturbed one has all of them."""


def open_session(model: str | bytes, *, provider: str = "cpu", threads: int = 1) -> Any:
    """A session with every graph optimisation, sequential, on `provider` alone.

    Raises:
        ProviderError: the provider is not there or does not start.
        TrialFailed: it starts, and cannot take this model alone: too little memory, a node it would hand to the CPU.
    """
    _require_built_in(provider)
    try:
        session = _new_session(model, provider, threads)
    except Exception as error:  # ONNX Runtime raises a dozen kinds, one for each status code
        if provider == "cpu":
            raise
        try:
            check_provider(provider)
        except ProviderError as broken:
            if "memory" not in str(broken):  # a GPU that is full still starts when there is room again
                raise
        raise TrialFailed(f"{PROVIDERS[provider]} cannot run the model: {_first_line(error)}") from error
    check_session(session, provider)
    return session


def check_provider(provider: str) -> None:
    """Raises ProviderError unless ONNX Runtime has `provider` and runs a model of one node on it alone."""
    _require_built_in(provider)
    if provider == "cpu":
        return
    try:
        session = _new_session(ONE_NODE, provider, 1)
    except Exception as error:
        raise ProviderError(f"{PROVIDERS[provider]} does not start: {_first_line(error)}", place="provider") from error
    check_session(session, provider)


def check_session(session: Any, provider: str) -> None:
    """Raises ProviderError unless `provider` is the first of the session's own providers."""
    used = session.get_providers()
    if not used or used[0] != PROVIDERS[provider]:
        raise ProviderError(
            f"ONNX Runtime fell back from {PROVIDERS[provider]} to {used[0] if used else 'nothing'}: not timed",
            place="provider",
            value=provider,
        )


def _require_built_in(provider: str) -> None:
    """Raises ProviderError where this ONNX Runtime was built without `provider`."""
    import onnxruntime

    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output belongs to the answer
            onnxruntime.preload_dlls()
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise ProviderError(
            f"ONNX Runtime has no {PROVIDERS[provider]} here (it has {', '.join(available)})", place="provider"
        )


def _new_session(model: str | bytes, provider: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # enable_fallback=0: without it the Python class itself retries on the CPU when a provider fails to start.
    return onnxruntime.InferenceSession(model, options, providers=[PROVIDERS[provider]], enable_fallback=0)


def run_images(model: str | bytes, images: Mapping[str, Any]) -> dict[str, Any]:
    """The logits of each image (float32, [B, C, R, R]) by name, on the CPU, with the optimisations that are timed."""
    found = run_batches(model, list(images.values()))
    return {name: given[OUTPUT_NAME] for name, given in zip(images, found, strict=True)}


def run_batches(model: str | bytes, batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Every output by name for each batch of images (float32, [B, C, R, R]), one by one; see `run_images`."""
    session = open_session(model, threads=1)  # no pool beside the caller's own
    names = [output.name for output in session.get_outputs()]
    for images in batches:
        yield dict(zip(names, session.run(names, {INPUT_NAME: images}), strict=True))


def read_metadata(model: str | bytes) -> dict[str, Any]:
    """What a file of ours says of itself, by key; see `deploy/facts.py`."""
    held = open_session(model).get_modelmeta().custom_metadata_map
    return {key: json.loads(text) for key, text in held.items()}


def fixed_batch(model: str | bytes) -> int | None:
    """How many images a file of ours takes at once; None where that is open."""
    first = open_session(model).get_inputs()[0].shape[0]
    return first if isinstance(first, int) else None


def input_shape(onnx_file: str, resolution: int | None) -> tuple[int, ...]:
    """The shape of the one input that an ONNX file of any origin is timed with.

    Its fixed dimensions are kept. An open batch is 1; an open height and width are `resolution`.

    Raises:
        InputError: ONNX Runtime cannot load the file, or it does not take one image of real numbers, or a dimension is
            open and nothing says what it is to be, or fixed and not what `resolution` says.
    """
    if not Path(onnx_file).is_file():
        raise InputError("no such file", file=onnx_file)
    try:
        session = open_session(onnx_file)
    except Exception as error:  # a dozen kinds, one for each status code
        raise InputError(f"is no model that ONNX Runtime loads: {_first_line(error)}", file=onnx_file) from error
    feeds = session.get_inputs()
    if len(feeds) != 1:
        names = ", ".join(feed.name for feed in feeds[:5]) or "none"
        raise InputError(f"must have one input to be timed; it has {len(feeds)}: {names}", file=onnx_file)
    if feeds[0].type not in FLOATS:
        raise InputError(
            f"must take real numbers ({', '.join(FLOATS)}) to be timed", file=onnx_file, value=feeds[0].type
        )
    try:
        return fixed_shape(feeds[0].shape, resolution)
    except InputError as error:
        error.file = onnx_file
        raise


def fixed_shape(dims: Sequence[object], resolution: int | None) -> tuple[int, ...]:
    """`dims` of an image, [B, C, H, W] or [B, H, W, C], with its open ones filled in; see `input_shape`."""
    shape = [dim if isinstance(dim, int) and dim > 0 else 0 for dim in dims]  # 0: open
    told = f"[{', '.join(str(dim or 'open') for dim in shape)}]"
    if shape:
        shape[0] = shape[0] or 1
    sides: tuple[int, ...] = ()
    if len(shape) == 4:
        sides = (1, 2) if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) else (2, 3)
    if any(not dim for i, dim in enumerate(shape) if i not in sides):
        raise InputError(f"{told} may leave open only its batch, and height and width of an image", place="input")
    if resolution is None and not all(shape):
        raise InputError(f"{told} leaves height and width open: say --resolution", place="input")
    if resolution is not None and (not sides or any(shape[i] not in (0, resolution) for i in sides)):
        raise InputError(f"{told} is fixed, and not {resolution} x {resolution}", place="input")
    filled = tuple(dim or resolution or 1 for dim in shape)
    if math.prod(filled) > MAX_INPUT:
        raise InputError(f"{told} must be of at most {MAX_INPUT} numbers to be timed", place="input")
    return filled


def time_model(job: Job) -> Timings:
    """Times a model in this process: random input of fixed seed, batch 1, input and output on the device.

    Raises:
        ProviderError: see `open_session`.
        TrialFailed: see `open_session`; or the runs would take longer than the job's limit, or the logits are not the
            CPU's.
    """
    import numpy as np
    import onnxruntime

    parent = os.getppid()
    session = open_session(job.onnx_file, provider=job.provider, threads=job.threads)
    feed = session.get_inputs()[0]
    shape = feed.shape if job.shape is None else job.shape
    image = np.random.default_rng(job.seed).standard_normal(shape, dtype=np.float32).astype(FLOATS[feed.type])
    binding = session.io_binding()
    binding.bind_ortvalue_input(feed.name, onnxruntime.OrtValue.ortvalue_from_numpy(image, job.provider, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, job.provider, 0)

    def run() -> int:
        if os.getppid() != parent:
            sys.exit("the process that asked is gone")
        start = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return time.perf_counter_ns() - start

    run()  # the first run also allocates
    if job.provider != "cpu":
        expected = open_session(job.onnx_file).run(None, {feed.name: image})
        for found, wanted in zip(binding.copy_outputs_to_cpu(), expected, strict=True):
            check_logits(found, wanted, job.provider)
    expected_s = (job.warmup + job.runs) * run() / 1e9
    if expected_s > job.limit_s:
        raise TrialFailed(f"timing would take about {expected_s:.0f} s, more than the {job.limit_s:.0f} s allowed")
    warm_ns = done = 0
    while done < job.warmup or warm_ns < WARMUP_S[job.provider] * 1e9:
        warm_ns += run()
        done += 1
    preempted, cpu_ns, main_cpu_ns = _preemptions(), time.process_time_ns(), time.thread_time_ns()
    times = tuple(run() for _ in range(job.runs))
    return Timings(
        times_ns=times,
        main_cpu_ns=time.thread_time_ns() - main_cpu_ns,
        cpu_ns=time.process_time_ns() - cpu_ns,
        preemptions=_preemptions() - preempted if preempted >= 0 else -1,
    )


def check_logits(found: Any, expected: Any, provider: str) -> None:
    """Raises TrialFailed where logits [1, K] differ by more than `TOLERANCE` of the largest, or are not finite."""
    import numpy as np

    scale, error = float(np.abs(expected).max()), float(np.abs(found - expected).max())
    if not error <= TOLERANCE * scale:  # also when the error is not a number
        raise TrialFailed(
            f"{PROVIDERS[provider]} differs from the CPU by {error:.2g} where logits reach {scale:.2g}: not timed"
        )


def answer_provider(provider: str) -> None:
    """`check_provider` as a child process answers it: what ONNX Runtime raises is a TrialFailed."""
    with _in_one_line():
        check_provider(provider)


def answer_shape(onnx_file: str, resolution: int | None) -> tuple[int, ...]:
    """`input_shape` as a child process answers it."""
    with _in_one_line():
        return input_shape(onnx_file, resolution)


def answer_timing(job: Job) -> Timings:
    """`time_model` as a child process answers it, once it is sure to be alone. Raises ProviderError and TrialFailed."""
    with _in_one_line():
        _require_alone()
        return time_model(job)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except ModscaleError:
        raise
    except Exception as error:  # ONNX Runtime raises a dozen kinds, one for each status code
        raise TrialFailed(f"{type(error).__name__}: {_first_line(error)}") from error


def _require_alone() -> None:
    """Raises TrialFailed where a thread pool is alive that NumPy, or something loaded at start, has brought along."""
    import numpy as np  # noqa: F401  # its BLAS may start one

    tasks = Path("/proc/self/task")
    if tasks.is_dir() and (count := len(list(tasks.iterdir()))) > 1:
        raise TrialFailed(f"{count} threads are alive in the timing process before it begins: not timed")


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
