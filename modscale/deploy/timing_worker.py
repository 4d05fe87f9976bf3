"""The process in which a model is timed: one file of ONNX Runtime, NumPy and the standard library, Python 3.8 or later.

Its text, and a last line that calls `answer`, are a program which any Python reads from its standard input, here or at
the other end of `ssh pi python3 -`; so nothing of modscale is imported. A process answers one job and ends: a fresh
one for every round, since a process keeps for life the memory layout it happened to get, with no thread alive but the
session's own. The answer goes to standard output in short lines that each carry a mark and a checksum, so that what
a login shell or a library prints there does not matter.

A model comes with the job, or lies in a cache under its hash, or is a file of this machine. A provider is taken at its
word only when ONNX Runtime has it, accepts it without a fallback for a single node, names it first in the finished
session and reports in its own profile that every node ran there. A model that a provider cannot take is that
model's failure: a network of one node tells the two apart. What another provider than the CPU computes is held
against the CPU's answer before it is timed.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path[:1] == [""]:  # read from standard input: nothing of the current folder is run
    del sys.path[0]

import base64
import contextlib
import hashlib
import json
import math
import os
import platform
import re
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

MARK = "modscale-answer"
"""How a line of the answer begins."""
CHUNK = 900
"""Characters of the answer in one line: no pipe breaks a line so short, no terminal refuses it."""
HEARTBEAT_S = 1.0
"""Seconds between two empty lines while it runs: a write that fails tells that nobody listens any more."""
LEFT_FREE = 64 << 20
"""Bytes that the cache leaves free on its disk."""
FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
"""NumPy's names of the inputs that can be drawn at random, by ONNX Runtime's."""
ONE_NODE = base64.b64decode(
    "CAgSADpHChUKBWltYWdlEgZsb2dpdHMiBFJlbHUSA29uZVoTCgVpbWFnZRIKCggIARIECgIIAWIUCgZsb2dpdHMSCgoICAESBAoCCAFCBAoAEBE="
)
"""A model of a single Relu: a provider that cannot run it can run nothing."""
PROBE = base64.b64decode(
    "CAc68AYKNAoDYTFzEgJhMSIPQ29uc3RhbnRPZlNoYXBlKhgKBXZhbHVlKgwIARABIgQK1yM8QgCgAQQKNAoDYjFzEgJiMSIPQ29uc3RhbnRPZlNo"
    "YXBlKhgKBXZhbHVlKgwIARABIgQK1yM8QgCgAQQKNAoDYzFzEgJjMSIPQ29uc3RhbnRPZlNoYXBlKhgKBXZhbHVlKgwIARABIgQAAAA/QgCgAQQK"
    "NAoDYTJzEgJhMiIPQ29uc3RhbnRPZlNoYXBlKhgKBXZhbHVlKgwIARABIgQK1yM8QgCgAQQKNAoDYjJzEgJiMiIPQ29uc3RhbnRPZlNoYXBlKhgK"
    "BXZhbHVlKgwIARABIgQK1yM8QgCgAQQKNAoDYzJzEgJjMiIPQ29uc3RhbnRPZlNoYXBlKhgKBXZhbHVlKgwIARABIgQAAAA/QgCgAQQKEAoCYzEK"
    "AXgSAmQxIgNBZGQKFAoCZDEKAmExEgJlMSIGTWF0TXVsCg0KAmUxEgJmMSIDRXJmChEKAmUxCgJmMRICZzEiA011bAoUCgJnMQoCYjESAmgxIgZN"
    "YXRNdWwKJQoCaDESAnkxIgpSZWR1Y2VNZWFuKg8KCGtlZXBkaW1zGAGgAQIKEQoCYzIKAnkxEgJkMiIDQWRkChQKAmQyCgJhMhICZTIiBk1hdE11"
    "bAoNCgJlMhICZjIiA0VyZgoRCgJlMgoCZjISAmcyIgNNdWwKFAoCZzIKAmIyEgJoMiIGTWF0TXVsCiUKAmgyEgJ5MiIKUmVkdWNlTWVhbioPCghr"
    "ZWVwZGltcxgBoAECChEKAmgxCgJ5MhICZDMiA0FkZAoUCgJkMwoCYTESAmUzIgZNYXRNdWwKDQoCZTMSAmYzIgNFcmYKEQoCZTMKAmYzEgJnMyID"
    "TXVsChQKAmczCgJiMRICaDMiBk1hdE11bAokCgJoMxIBeSIKUmVkdWNlTWVhbioPCghrZWVwZGltcxgBoAECEgVwcm9iZSoPCAIQBzoEgAGABEID"
    "YTFzKg8IAhAHOgSABIABQgNiMXMqDwgCEAc6BMQBgAFCA2MxcyoPCAIQBzoEgAOADEIDYTJzKg8IAhAHOgSADIADQgNiMnMqDggCEAc6AzGAA0ID"
    "YzJzWhMKAXgSDgoMCAESCAoCCAEKAggBYhMKAXkSDgoMCAESCAoCCAEKAggBQgQKABAN"
)
"""A model of three dense layers one after the other, a sum, two products and an Erf each: 196 tokens of 128 and 512
channels, 49 of 384 and 1536, and the first again; two milliseconds of one core. Its weights, all equal, are made on
loading."""
FIRST = -20
"""The nice value of what comes before all others."""
PROBE_EVERY_NS = 5_000_000
"""Nanoseconds of timed runs between two probes, one run at the least. The probe leaves the caches full of its own
weights: right after it a network of 0.16 ms takes 0.2, 20 % more or less from one process to another, see
`benchmarks/short_runs.md`."""
MOST_RUNS = 600
"""Timed runs up to which a process goes on for `Job.least_s`."""
MAIN_SHARE = 0.9
"""Share of the time below which the thread that asks for the runs was kept from its core."""
ALL_SHARE = 0.8
"""The same of all threads together, which also rest where a network leaves them nothing to do."""
LOOK_NS = 20_000_000
"""Nanoseconds of timed runs after which it is seen whether others have the cores nevertheless."""
FIRST_RUNS = 2
"""Runs of a model that are never timed: one that asks for memory, and one that tells how long the others will take."""
SOURCE = re.compile(r"/onnxruntime(?:_src)?/\S+\.\w+:\d+ (?:[^()]*[\w>]\([^()]*\)(?: \[with [^]]*\])?(?: const)? )?")
"""The file, the line and the function with which ONNX Runtime begins what it says of an error."""
LEVELS = {"disabled": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}
"""ONNX Runtime's names of how far a graph is optimised."""


class Refused(Exception):  # the caller raises an error of its own kind for it
    """No figure is given out; `kind` is provider, failed, runtime, file or missing, the text says why."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Job:
    """What one process is asked to do."""

    provider: dict[str, Any]
    """A row of `modscale/providers.py`, as plain values."""
    threads: int = 0
    """Intra-op threads; 0 takes 4, or every core where there are fewer."""
    sha256: str = ""
    """Hash of the model, by which it is cached."""
    onnx_file: str = ""
    """Where the model lies on this machine; empty where it comes with the job or is cached."""
    warmup: int = 5
    """Runs before the first timed one; `FIRST_RUNS` at the least."""
    runs: int = 0
    """Timed runs; 0 only tries the provider."""
    least_s: float = 0.0
    """Seconds that they take at the least: of short ones more are timed, `MOST_RUNS` at most."""
    limit_s: float = math.inf
    """Seconds the runs may take; a model that would need more is given up after its first run."""
    seed: int = 0
    """Seed of the random input."""
    shape: Sequence[int] | None = None
    """Shape of the input; None where the file fixes it whole."""
    graph_level: str = "all"
    """A key of `LEVELS`."""
    min_runtime: Sequence[int] = ()
    """The oldest ONNX Runtime that will do, as in (1, 16)."""
    cache_bytes: int = 0
    """Bytes that the cache may take; the models used longest ago go first. 0: nothing is cached."""
    is_probed: bool = False
    """Whether the speed of the cores is taken before, between and after the timed runs, see `PROBE`."""


@dataclass(frozen=True)
class Timings:
    """What one process saw."""

    times_ns: tuple[int, ...]
    """Wall time of each timed run, in order, nanoseconds."""
    preemptions: int
    """Times the system took a core away from the process during the timed runs; -1 where unknown."""
    cpu_ns: int = -1
    """Processor time of all threads during the timed runs, nanoseconds; -1 where unknown."""
    main_cpu_ns: int = -1
    """Of that, the thread's that asked for the runs; it waits by spinning, so an undisturbed one has all of them."""
    probes_ns: tuple[int, ...] = ()
    """Wall time of `PROBE` before the first timed run, whenever `PROBE_EVERY_NS` of them are over, and after the last
    one, nanoseconds; empty where it was not asked."""
    probe_threads: int = 0
    """Threads that it ran on: the model's own where ONNX Runtime lets the two share them, else one; 0 without it."""

    # What a measurement asks of each process some hundred times: its intervals are by bootstrap.

    @cached_property
    def ordered_ns(self) -> tuple[int, ...]:
        """`times_ns`, the shortest first."""
        return tuple(sorted(self.times_ns))

    @cached_property
    def median_ms(self) -> float:
        """Median of the timed runs."""
        return median_of(self.ordered_ns) / 1e6

    @cached_property
    def probe_ms(self) -> float:
        """Median of the probe's runs."""
        return median_of(self.probes_ns) / 1e6

    @cached_property
    def is_short(self) -> bool:
        """Whether several runs lie between two probes."""
        groups = groups_of(self.times_ns)
        return 1 < len(groups) < len(self.times_ns) and len(groups) == len(self.probes_ns) - 1

    @cached_property
    def quick_ms(self) -> float:
        """Median of the timed runs, of short ones of those beside the quicker half of the probes."""
        if not self.is_short:
            return self.median_ms
        groups = groups_of(self.times_ns)
        beside = [before + after for before, after in zip(self.probes_ns, self.probes_ns[1:])]
        limit = median_of(beside)
        return median_of([ns for each, took in zip(groups, beside) if took <= limit for ns in each]) / 1e6


def groups_of(times_ns: Sequence[int]) -> list[list[int]]:
    """Timed runs, those between two probes together."""
    groups: list[list[int]] = []
    unprobed_ns = PROBE_EVERY_NS
    for time_ns in times_ns:
        if unprobed_ns >= PROBE_EVERY_NS:
            groups.append([])
            unprobed_ns = 0
        groups[-1].append(time_ns)
        unprobed_ns += time_ns
    return groups


def median_of(times_ns: Sequence[int]) -> float:
    from statistics import median  # no matter of the process that times

    return median(times_ns)


def answer(job: str, mark: str, model: Sequence[bytes] = ()) -> None:
    """Does what `job` (JSON) asks for and writes the answer, each line marked with `mark`; `model` in base64."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's BLAS would start a pool of its own on import
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    go_first()
    with contextlib.suppress(OSError):  # if memory runs out, it is this process that the kernel takes
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")
    try:
        found: dict[str, Any] = {"ok": carry_out(Job(**json.loads(job)), [base64.b64decode(part) for part in model])}
    except Refused as refused:
        found = {"refused": refused.kind, "text": str(refused)}
    except Exception as error:  # noqa: BLE001  # ONNX Runtime raises a dozen kinds, one for each status code
        found = {"refused": "failed", "text": f"{type(error).__name__}: {first_line(error)}"}
    packed = base64.b64encode(zlib.compress(json.dumps(found).encode())).decode()
    parts = [packed[i : i + CHUNK] for i in range(0, len(packed), CHUNK)]
    for number, part in enumerate(parts):
        line = f"{mark} {number} {len(parts)} {zlib.crc32(part.encode()):08x} {part}"
        os.write(1, f"\n{MARK} {line}\n".encode())


def go_first() -> None:
    """Puts this process, and all threads that it starts, before all others of the machine, where it may: as root, say.

    Threads that wait for each other by spinning have nearly all of their cores then, whoever else wants them. Linux
    divides these between sessions before it looks at the processes in them, so this one gets a session of its own.
    """
    with contextlib.suppress(OSError, AttributeError):  # an ordinary user may not, and Windows has no such value
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)
        if os.getsid(0) != os.getpid():
            os.setsid()
        Path("/proc/self/autogroup").write_text(str(FIRST), encoding="ascii")


def go_at_once() -> None:
    """Has this process's threads run before every one that is no real-time thread, where the system lets it.

    Between groups of processes, of a container or a service, it does not heed nice values. Only for where those did not
    help: of a real-time thread Linux may keep a twentieth of each second back.
    """
    with contextlib.suppress(OSError, AttributeError):
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))


def were_kept(main_share: float, all_share: float, preempted: int, runs: int) -> bool:
    """Whether others had the cores of threads that ran for these shares of the time, by what was counted over runs.

    Threads without work rest, which looks like being kept from a core, but is no reason for them to be preempted.
    """
    return main_share < MAIN_SHARE or (preempted > runs and all_share < ALL_SHARE)


def carry_out(job: Job, parts: Sequence[bytes]) -> dict[str, Any]:
    """The facts of this machine, and the timings where a model was to be timed. Raises Refused, or what a library does.

    `parts` are those of the model's bytes; none where it is a file, or cached.
    """
    require_alone()
    require_runtime(job.min_runtime)
    if not job.runs:
        check_provider(job.provider)
        return {"facts": describe(job)}
    model = job.onnx_file or find_model(job, b"".join(parts))
    timings = time_model(model, job)
    return {"facts": describe(job), "timings": asdict(timings)}


def threads_of(job: Job) -> int:
    return job.threads or min(4, available_cores())


def describe(job: Job) -> dict[str, Any]:
    """This machine and what computes on it, as far as they tell; what must not change while models are compared."""
    import onnxruntime

    return {
        "processor": processors(job.provider),
        "cores": available_cores(),
        "threads": threads_of(job),
        "system": f"{platform.system()} {platform.machine()}",
        "host": platform.node(),
        "runtime": onnxruntime.__version__,
        "python": platform.python_version(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0,
    }


def processors(provider: dict[str, Any]) -> str:
    """What a model is computed on: the processor, and before it the GPU where `provider` is one's."""
    names = [gpu_name() if provider["device"] == "cuda" else "", processor_name()]
    return ", ".join(name for name in names if name)


def gpu_name() -> str:
    """The first GPU that CUDA finds here, by its driver's name for it; empty where there is none."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if not any((driver.cuInit(0), driver.cuDeviceGet(ctypes.byref(device), 0))):
            driver.cuDeviceGetName(name, len(name), device)
        return name.value.decode("utf-8", "replace")
    return ""


def processor_name() -> str:
    """As /proc/cpuinfo has it; the board's, as device trees have it, or sysctl's where that says nothing."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        for key in ("model name", "Hardware", "Model"):
            if named.get(key):
                return named[key]
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores this process is bound to, or the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_alone() -> None:
    """Raises Refused where a thread pool is alive that NumPy, or something loaded at start, has brought along."""
    try:
        import numpy as np  # noqa: F401  # its BLAS may start one
    except ImportError as error:
        raise Refused("runtime", f"NumPy cannot be loaded ({first_line(error)}): pip install numpy") from error
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and (count := len(list(tasks.iterdir()))) > 1:
        raise Refused("failed", f"{count} threads are alive in the timing process before it begins: not timed")


def require_runtime(oldest: Sequence[int]) -> None:
    """Raises Refused where ONNX Runtime is not there, or older than `oldest`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Refused(
            "runtime", f"ONNX Runtime cannot be loaded ({first_line(error)}): pip install onnxruntime"
        ) from error
    found = onnxruntime.__version__
    if [int(part) for part in found.split(".")[:2] if part.isdigit()] < list(oldest):
        needed = ".".join(map(str, oldest))
        raise Refused("runtime", f"ONNX Runtime {found} is too old: {needed} or later is needed")


# The model: with the job, or in the cache


def find_model(job: Job, content: bytes) -> bytes:
    """The bytes of the model with the job's hash. Raises Refused where it neither came along nor is cached whole."""
    if content:
        if hashlib.sha256(content).hexdigest() != job.sha256:
            raise Refused("failed", "the model arrived damaged: its hash is another one")
        with contextlib.suppress(OSError):  # timed all the same, and sent again
            keep_model(job, content)
        return content
    for folder in cache_folders():
        with contextlib.suppress(OSError):
            file = folder / f"{job.sha256}.onnx"
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() == job.sha256:
                os.utime(file)
                return content
    raise Refused("missing", "the model is not cached here")


def cache_folders() -> list[Path]:
    """Where models may be kept, best first: the user's cache, or where that cannot be written a temporary folder."""
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    places = [os.environ.get("MODSCALE_CACHE", ""), os.environ.get("XDG_CACHE_HOME", "")]
    with contextlib.suppress(RuntimeError):
        places.append(str(Path.home() / ".cache"))
    folders = [Path(place) / "modscale" / "models" for place in places if place]
    return [*folders, Path(tempfile.gettempdir()) / f"modscale-{user}"]


def keep_model(job: Job, content: bytes) -> None:
    """Writes the model into the first folder that takes it, and removes those used longest ago. Raises OSError."""
    import shutil

    for folder in cache_folders() if len(content) <= job.cache_bytes else ():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                continue  # somebody else's, in a folder for all
            old = sorted(folder.glob("*.onnx"), key=lambda file: file.stat().st_mtime)
            held = sum(file.stat().st_size for file in old)
            while old and (held + len(content) > job.cache_bytes):
                held -= old[0].stat().st_size
                old.pop(0).unlink()
            if shutil.disk_usage(str(folder)).free < len(content) + LEFT_FREE:
                continue
            handle, name = tempfile.mkstemp(dir=str(folder))
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                os.replace(name, str(folder / f"{job.sha256}.onnx"))  # noqa: PTH105  # Python 3.8
            except BaseException:
                os.unlink(name)  # noqa: PTH108
                raise
            return


# The session


def open_session(
    model: str | bytes, provider: dict[str, Any], threads: int, *, graph_level: str = "all", is_profiled: bool = False
) -> Any:
    """A session, sequential, on `provider` alone.

    Raises Refused: `provider` where it is not there or does not start, `failed` where it starts, and cannot take this
    model alone: too little memory, or nodes that it would hand to the CPU, which are named.
    """
    require_built_in(provider)
    try:
        session = new_session(model, provider, threads, graph_level, is_profiled=is_profiled)
    except Exception as error:
        if is_cpu(provider):
            raise
        try:
            check_provider(provider)
        except Refused as broken:
            if "memory" not in str(broken):  # a GPU that is full still starts when there is room again
                raise
        told = elsewhere_text(model, provider, graph_level) or first_line(error)
        raise Refused("failed", f"{provider['runtime_name']} cannot run the model: {told}") from error
    check_session(session, provider)
    return session


def is_cpu(provider: dict[str, Any]) -> bool:
    return provider["runtime_name"] == "CPUExecutionProvider"


def check_provider(provider: dict[str, Any]) -> None:
    """Raises Refused unless ONNX Runtime has `provider` and runs a model of one node on it alone."""
    require_built_in(provider)
    if is_cpu(provider):
        return
    try:
        session = new_session(ONE_NODE, provider, 1)
    except Exception as error:
        raise Refused("provider", f"{provider['runtime_name']} does not start: {first_line(error)}") from error
    check_session(session, provider)


def check_session(session: Any, provider: dict[str, Any]) -> None:
    """Raises Refused unless `provider` is the first of the session's own providers."""
    used = session.get_providers()
    if not used or used[0] != provider["runtime_name"]:
        name = used[0] if used else "nothing"
        raise Refused("provider", f"ONNX Runtime fell back from {provider['runtime_name']} to {name}: not timed")


def require_built_in(provider: dict[str, Any]) -> None:
    """Raises Refused where this ONNX Runtime was built without `provider`."""
    import onnxruntime

    if provider["device"] == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints
            onnxruntime.preload_dlls()
    available = onnxruntime.get_available_providers()
    if provider["runtime_name"] not in available:
        raise Refused(
            "provider",
            f"ONNX Runtime {onnxruntime.__version__} has no {provider['runtime_name']} here"
            f" (it has {', '.join(available)}); pip's {provider['package']} brings it where the system has it",
        )


def new_session(
    model: str | bytes,
    provider: dict[str, Any],
    threads: int,
    graph_level: str = "all",
    *,
    is_profiled: bool = False,
    may_fall_back: bool = False,
    optimised_file: str = "",
) -> Any:
    import onnxruntime

    options = thread_options(threads)
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[graph_level])
    if is_profiled:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.gettempdir()) / f"modscale-profile-{os.getpid()}")
    if optimised_file:
        options.optimized_model_filepath = optimised_file
    if not is_cpu(provider) and not may_fall_back:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = dict(provider["options"])
    if provider["threads_option"]:
        settings[provider["threads_option"]] = str(threads)
    # enable_fallback=0: without it the Python class itself retries on the CPU when a provider fails to start.
    return onnxruntime.InferenceSession(
        model, options, providers=[(provider["runtime_name"], settings)], enable_fallback=0
    )


def thread_options(threads: int) -> Any:
    """Options of a session of so many threads; of those that all sessions share where they are 0."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    else:
        options.use_per_session_threads = False
    options.log_severity_level = 3
    return options


def elsewhere_text(model: str | bytes, provider: dict[str, Any], graph_level: str) -> str:
    """Which operators the provider would leave to another one, in words; empty where that cannot be found out."""
    try:
        session = new_session(model, provider, 1, graph_level, is_profiled=True, may_fall_back=True)
        session.run(None, {feed.name: draw_input(feed, None, 0) for feed in session.get_inputs()})
        return placement_text(session, provider)
    except Exception:  # noqa: BLE001  # then the first error is told
        return ""


def placement_text(session: Any, provider: dict[str, Any]) -> str:
    """Ends the session's profile and says which operators ran elsewhere than on `provider`; empty where none did."""
    profile = Path(session.end_profiling())
    try:
        events = json.loads(profile.read_text(encoding="utf-8"))
    finally:
        with contextlib.suppress(OSError):
            profile.unlink()
    nodes = {
        event.get("name"): (event["args"]["provider"], event["args"].get("op_name", "?"))
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    wrong = Counter(f"{op} on {place}" for place, op in nodes.values() if place != provider["runtime_name"])
    if not wrong:
        return ""
    named = ", ".join(f"{count} {what}" for what, count in wrong.most_common(6))
    more = f" and {len(wrong) - 6} more kinds" if len(wrong) > 6 else ""
    return f"{sum(wrong.values())} of {len(nodes)} nodes would run elsewhere: {named}{more}"


# The timing


def draw_input(feed: Any, shape: Sequence[int] | None, seed: int) -> Any:
    """A random input of fixed seed, of the feed's type; open dimensions are 1 unless `shape` says otherwise."""
    import numpy as np

    dims = shape or [dim if isinstance(dim, int) else 1 for dim in feed.shape]
    return np.random.default_rng(seed).standard_normal(dims, dtype=np.float32).astype(FLOATS[feed.type])


def time_model(model: str | bytes, job: Job) -> Timings:
    """Times a model in this process: random input of fixed seed, input and output on the device. Raises Refused."""
    import onnxruntime

    parent = os.getppid()
    provider, is_other = job.provider, not is_cpu(job.provider)
    is_shared = job.is_probed and not is_other and share_threads(threads_of(job))
    threads = 0 if is_shared else threads_of(job)
    session = open_session(model, provider, threads, graph_level=job.graph_level, is_profiled=is_other)
    feed = session.get_inputs()[0]
    image = draw_input(feed, job.shape, job.seed)
    binding = session.io_binding()
    binding.bind_ortvalue_input(feed.name, onnxruntime.OrtValue.ortvalue_from_numpy(image, provider["device"], 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, provider["device"], 0)
    probe = open_probe(0 if is_shared else 1) if job.is_probed else None
    heard_ns = [time.perf_counter_ns()]

    def run() -> int:
        start = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        end = time.perf_counter_ns()
        if end - heard_ns[0] > HEARTBEAT_S * 1e9:
            heard_ns[0] = end
            if os.getppid() != parent:
                sys.exit("the process that asked is gone")
            os.write(1, b"\n")  # raises where nobody listens
        return end - start

    run()  # the first run also allocates
    if is_other:
        if found := placement_text(session, provider):
            raise Refused("failed", f"{provider['runtime_name']} does not run all of the model: {found}")
        check_outputs(binding.copy_outputs_to_cpu(), new_cpu_outputs(model, feed.name, image), provider)
    expected_s = (job.warmup + job.runs) * run() / 1e9
    if expected_s > job.limit_s:
        raise Refused(
            "failed", f"timing would take about {expected_s:.0f} s, more than the {job.limit_s:.0f} s allowed"
        )
    warm_ns, done = 0, FIRST_RUNS
    while done < job.warmup or warm_ns < provider["warmup_s"] * 1e9:
        warm_ns += run()
        done += 1
    times: list[int] = []
    probes = [probe()] if probe else []
    preempted = cpu_ns = main_cpu_ns = 0
    timed_ns = unprobed_ns = 0
    is_urgent = False
    while len(times) < job.runs or (timed_ns < job.least_s * 1e9 and len(times) < MOST_RUNS):
        preempted -= preemptions()
        cpu_ns -= time.process_time_ns()
        main_cpu_ns -= time.thread_time_ns()
        times.append(run())
        main_cpu_ns += time.thread_time_ns()
        cpu_ns += time.process_time_ns()
        preempted += preemptions()
        timed_ns += times[-1]
        if not is_urgent and timed_ns > LOOK_NS:
            shares = main_cpu_ns / timed_ns, cpu_ns / timed_ns / min(threads_of(job), available_cores())
            if is_urgent := were_kept(*shares, preempted, len(times)):
                go_at_once()
        unprobed_ns += times[-1]
        if probe and unprobed_ns >= PROBE_EVERY_NS:
            probes.append(probe())
            unprobed_ns = 0
    if probe and unprobed_ns:
        probes.append(probe())
    return Timings(
        times_ns=tuple(times),
        cpu_ns=cpu_ns,
        main_cpu_ns=main_cpu_ns,
        preemptions=preempted if preemptions() >= 0 else -1,
        probes_ns=tuple(probes),
        probe_threads=0 if not probe else threads_of(job) if is_shared else 1,
    )


def share_threads(threads: int) -> bool:
    """Has the sessions of this process share so many threads, if it can be had and they are several.

    Two pools would wait for work on the same cores, by spinning, each while the other has some.
    """
    import onnxruntime

    if threads < 2 or not hasattr(onnxruntime, "set_global_thread_pool_sizes"):
        return False
    onnxruntime.set_global_thread_pool_sizes(threads, 1)
    return True


def open_probe(threads: int) -> Callable[[], int]:
    """What runs `PROBE` once, on threads as `thread_options` has them, and gives its wall time, nanoseconds."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(PROBE, thread_options(threads), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    image = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, 1), np.float32), "cpu", 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, image)
    binding.bind_output(session.get_outputs()[0].name, "cpu", 0)

    def probe() -> int:
        start = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        return time.perf_counter_ns() - start

    for _ in range(3):
        probe()
    return probe


def new_cpu_outputs(model: str | bytes, name: str, image: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {name: image})


def check_outputs(found: Sequence[Any], expected: Sequence[Any], provider: dict[str, Any]) -> None:
    """Raises Refused where outputs differ by more than the provider's tolerance of the largest, or are not finite."""
    import numpy as np

    for one, other in zip(found, expected):
        scale, error = float(np.abs(other).max()), float(np.abs(one - other).max())
        if not error <= provider["tolerance"] * scale:  # also when the error is not a number
            told = f"differs from the CPU by {error:.2g} where outputs reach {scale:.2g}"
            raise Refused("failed", f"{provider['runtime_name']} {told}: not timed")


def preemptions() -> int:
    """Involuntary context switches of all threads of this process so far; -1 where the system does not say."""
    try:
        import resource
    except ImportError:
        return -1
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def first_line(error: BaseException) -> str:
    """The first line of an error's text, and those it announces by a colon: 300 characters of them.

    Without places in ONNX Runtime's own source.
    """
    told, *others = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    for line in others:
        if not told.endswith(":"):
            break
        told = f"{told} {line}"
    return SOURCE.sub("", told.strip())[:300]
