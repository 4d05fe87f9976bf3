"""What the machine gives this process: cores, memory, and how much of it others take; what it is, and which code runs.

A container is often given a share of a machine as a CPU quota of its control group, which the affinity mask does not
show: a pool of 64 threads on a quota of 2 cores is stopped for most of every period. Its memory may be limited in the
same way, and what is above the limit is killed. Both versions of control groups are read, as the kernel's
`cgroup-v1/cpuacct`, `cgroup-v1/memory`, `sched-bwc` and `cgroup-v2` documents define their files.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from modscale import __version__

PROC = Path("/proc")
PACKAGE = Path(__file__).resolve().parent
"""Where the package lies."""
PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "onnx", "optuna", "numpy", "fvcore")
"""Those that make the numbers."""


def available_cores(proc: Path = PROC) -> int:
    """Whole cores this process may use: those it is bound to, or its CPU quota where that is less; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(proc)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def cpu_quota(proc: Path = PROC) -> float | None:
    """The least CPU quota, in cores, of this process's control groups and all above them; None without one."""
    return min((quota for folder in _group_folders(proc / "self", "cpu") for quota in _quotas(folder)), default=None)


def available_memory(proc: Path = PROC) -> int | None:
    """Bytes this process may use: the machine's, or the least limit of its control groups where that is less.

    None where the system tells neither.
    """
    known = []
    with suppress(AttributeError, ValueError, OSError):
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for folder in _group_folders(proc / "self", "memory"):
        for line in (line for file in ("memory.max", "memory.limit_in_bytes") for line in _lines(folder / file)):
            with suppress(ValueError):  # `max` is no limit; version 1's word for none is more than any machine has
                known.append(int(line))
    return min((limit for limit in known if limit > 0), default=None)


def load_average() -> float | None:
    """Processes that ran or waited for a core in the last minute; None where the system does not say."""
    with suppress(AttributeError, OSError):
        return os.getloadavg()[0]
    return None


def stolen_seconds(proc: Path = PROC) -> float | None:
    """Seconds for which the host gave this virtual machine's cores to others so far; None where it does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int((proc / "stat").read_text(encoding="ascii").split()[8]) / os.sysconf("SC_CLK_TCK")
    return None


def describe_machine() -> dict[str, Any]:
    """The machine that measures, as far as it tells."""
    return {
        "cpu": _cpu_name(),
        **dict(zip(("gpu", "gpu_driver"), _gpus(), strict=True)),
        "cores": available_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    from importlib import metadata  # it takes its time

    versions = {"python": platform.python_version(), "modscale": __version__}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


@functools.cache
def code_fingerprint(package: Path = PACKAGE) -> str:
    """SHA-256 of the names and contents of all Python files of the package, as they were when it was first asked for.

    A version says less: work in progress has that of the last release, and a checkout may move on under a process.
    """
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _group_folders(process: Path, controller: str) -> Iterator[Path]:
    """The folder of every control group that may limit the process in `controller`, from its own up to the mount's."""
    mounts = list(_mounts(process))
    for line in _lines(process / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        kind = "cgroup2" if number == "0" and not controllers else "cgroup"
        if kind == "cgroup" and controller not in controllers.split(","):
            continue
        for mounted_kind, options, root, point in mounts:
            if mounted_kind == kind and (kind == "cgroup2" or controller in options):
                inside = _below(PurePosixPath(group), PurePosixPath(root))
                yield from (point.joinpath(*inside[:depth]) for depth in range(len(inside), -1, -1))


def _below(group: PurePosixPath, root: PurePosixPath) -> tuple[str, ...]:
    """The steps from a mount's root down to a group; none where the group lies outside of what is mounted."""
    if ".." in group.parts or not group.is_relative_to(root):
        return ()
    return group.relative_to(root).parts


def _mounts(process: Path) -> Iterator[tuple[str, list[str], str, Path]]:
    """File system, options, root within it and mount point of every mount that the process sees."""
    for line in _lines(process / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) >= 5 and len(kind) >= 3:
            yield kind[0], kind[2].split(","), _unescaped(fields[3]), Path(_unescaped(fields[4]))


def _quotas(folder: Path) -> Iterator[float]:
    """Cores of the quota that a control group states in its own files, where it does and they are understood."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        words = [word for file in files for line in _lines(folder / file) for word in line.split()]
        with suppress(ValueError, ZeroDivisionError):
            quota, period = map(int, words)  # not so `max 100000`; -1 is version 1's word for no quota
            if quota > 0:
                yield quota / period


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return []


def _unescaped(field: str) -> str:
    r"""A field of mountinfo, in which a space stands as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[str | None, str | None]:
    """The kinds of NVIDIA GPU there are, and their driver; None where there is none, or no tool to ask."""
    question = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(question, capture_output=True, text=True, timeout=30, check=True).stdout
        pairs = [line.rpartition(", ") for line in answer.splitlines() if ", " in line]
        if pairs:
            names, drivers = ({pair[k].strip() for pair in pairs} for k in (0, 2))
            return "; ".join(sorted(names)), "; ".join(sorted(drivers))
    return None, None


def _memory_gib() -> float | None:
    with suppress(AttributeError, ValueError, OSError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None
