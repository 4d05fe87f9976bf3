"""Where models are timed: this machine, or whatever a target's command leads to.

Both run the same text, `deploy/timing_worker.py`, as a program read from standard input, a fresh process for every
round. Here it is given the model's place, and the processes of a turn are started together, all cores at once: each
loads its libraries and waits, before the first of them is told what to time. Elsewhere the model travels with the job,
unless the device has it in its cache; that is asked first, for a question is small and a model is not.

The answer is picked out of all that comes back by a mark drawn for the job, line by line, each with a checksum: what a
login shell greets with, or a library prints, is passed over. What a device says of itself must stay as it was at
first: a mean over two processors is the latency of neither.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shlex
import sys
import time
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from modscale.deploy import timing_worker
from modscale.deploy.timing_worker import MARK, Job, Timings
from modscale.errors import ProviderError, TargetError, TrialFailed, WorkerFault, WorkerKilled, one_line
from modscale.machine import available_cores
from modscale.programs import Ended, Program, run_program
from modscale.providers import PROVIDERS
from modscale.settings import LatencySettings

MIN_RUNTIME = (1, 15)
"""The oldest ONNX Runtime that heeds all that a session is told here; see `timing_worker.new_session`."""
LIMIT_S = 1200.0
"""Seconds one process may take before its model is given up; its runs may take half of that."""
ROUND_S = 0.1
"""Seconds that the runs of one process take at the least. It costs half a second to start, and of a network of 0.2 ms
the 20 runs asked for are a moment in which the machine may be slow: see `benchmarks/short_runs.md`."""
KILLED = (-9, 137)
"""Exit codes of a process that the kernel ended, itself or as a shell tells it."""
SAME = ("processor", "cores", "system", "runtime", "threads")
"""What a device says of itself that must not change."""
CHUNK = 1 << 16
"""Bytes of a model in one line of the program."""
LOADED = b"modscale-loaded"
"""What a process here says once it has begun."""
LOAD = f"""
import os, sys
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the program does, which finds NumPy loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")
try:
    import dataclasses, hashlib, platform, tempfile, numpy
except ImportError:
    pass  # the program says so
os.write(1, {LOADED!r} + b"\\n")
exec(compile(sys.stdin.buffer.read(), "<stdin>", "exec"))
os._exit(0)  # all is said: what it holds is not taken apart piece by piece
"""
"""What a process here begins with: it loads what takes longest of what every program needs, reads one, and runs it.

Not ONNX Runtime, which starts a thread as it is loaded: a process that waits has none but its own.
"""


class Device:
    """What times models as some settings say, and stays what it was when it first answered."""

    def __init__(self, settings: LatencySettings, facts: Mapping[str, Any] | None = None) -> None:
        """`facts` are those it had before, in an earlier part of the same run, say."""
        self.settings = settings
        self.facts: dict[str, Any] = dict(facts or {})
        """What it says of itself, once it has answered: see `timing_worker.describe`."""
        self._started: list[Program] = []
        """Processes that wait to be told what to time."""

    @property
    def threads(self) -> int:
        """Intra-op threads."""
        return int(self.facts["threads"])

    @property
    def cores(self) -> int:
        """Cores that a process has there."""
        return int(self.facts["cores"])

    @property
    def least_s(self) -> float:
        """Seconds that the runs of a process take at the least; 0 where so many were asked for, and no more."""
        return ROUND_S if self.settings.patience_s else 0.0

    def now(self) -> float:
        """Seconds of the clock by which its rounds are told."""
        return time.monotonic()

    def with_settings(self, settings: LatencySettings) -> Device:
        """The same device, timing as other settings say."""
        other = copy(self)
        other.settings, other._started = settings, []
        return other

    def check(self) -> None:
        """Has it answer, and try the provider. Raises as `ask_device` does, and TargetError where it has changed."""
        self._know(ask_device(self.settings, _job(self.settings)))

    def start(self, count: int) -> None:
        """Has so many processes wait to be told what to time, where that can be: it saves each of them its start.

        They have no threads and no model, and none is starting any more when this returns. `stop` ends them.
        """
        if self.settings.target is not None:
            return
        before = len(self._started)
        while len(self._started) < count:
            self._started.append(_start_here(self.settings))
        for program in self._started[before:]:
            program.hear(LOADED, LIMIT_S)

    def stop(self) -> None:
        """Ends the processes that wait."""
        started, self._started = self._started, []
        for program in started:
            program.stop()

    def time(
        self, onnx_file: Path, *, runs: int, shape: tuple[int, ...] | None, is_probed: bool | None = None
    ) -> Timings:
        """Times a model in a fresh process, one that waits if there is one; with `timing_worker.PROBE` between its runs
        where `is_probed`. More than these `runs` where they are over before `least_s`.

        By default it is where the provider computes on threads that the probe can share. Raises as `ask_device` does,
        and TargetError where it has changed.
        """
        job = _job(self.settings)
        is_probed = PROVIDERS[self.settings.provider].takes_cores if is_probed is None else is_probed
        job = replace(
            job, runs=runs, least_s=self.least_s, warmup=self.settings.warmup, limit_s=LIMIT_S / 2, shape=shape,
            is_probed=is_probed,
        )  # fmt: skip
        with self._next() as program:
            answer = ask_device(self.settings, job, onnx_file, program)
        self._know(answer)
        times = answer["timings"]
        return Timings(**{**times, **{key: tuple(times[key]) for key in ("times_ns", "probes_ns")}})

    def _next(self) -> AbstractContextManager[Program | None]:
        """A process that waits; None where there is none."""
        while self._started:
            program = self._started.pop(0)
            if program.is_running:
                return program
            program.stop()  # whoever ended it, what is to be timed had no part in it
        return nullcontext()

    def _know(self, answer: dict[str, Any]) -> None:
        if self.settings.target is None:  # a process only sees what it is bound to, and not its quota
            answer["facts"]["cores"] = available_cores()
        check_same(device_name(self.settings), self.facts, answer["facts"])
        self.facts = {**answer["facts"], **self.facts}


def check_same(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises TargetError where what a device says of itself is not what it said `before`; unknown facts are none."""
    for key in SAME:
        if key in before and key in now and before[key] != now[key]:
            raise TargetError(f"{name}: its {key} is {now[key]} now, and was {before[key]} when this began: not timed")


def device_name(settings: LatencySettings) -> str:
    """Its name in a message."""
    if settings.target is None:
        return "the timing process"
    return f"target {settings.target.name}" if settings.target.name else "the target"


def ask_device(
    settings: LatencySettings, job: Job, onnx_file: Path | None = None, program: Program | None = None
) -> dict[str, Any]:
    """What a fresh process of the device answers to a job: `program` of this machine, where that is given.

    Raises:
        ProviderError: it lacks the provider, or that does not start.
        TargetError: it cannot be reached, ended half-way, or its ONNX Runtime, NumPy or Python is missing or too old.
        TrialFailed: it cannot time this model.
        WorkerFault: here, the process ended without an answer.
    """
    if settings.target is None or onnx_file is None:
        local = "" if onnx_file is None else str(onnx_file.absolute())
        return _result(settings, _run(settings, replace(job, onnx_file=local), started=program))
    content = onnx_file.read_bytes()
    job = replace(job, sha256=hashlib.sha256(content).hexdigest(), cache_bytes=settings.target.cache_mib << 20)
    found = _run_there(settings, job)
    if found.get("refused") == "missing":
        found = _run_there(settings, job, content)
    return _result(settings, found)


def _run_there(settings: LatencySettings, job: Job, content: bytes = b"") -> dict[str, Any]:
    """As `_run`, again where it was killed: what leads there may have been, and not the model for want of memory."""
    try:
        return _run(settings, job, content)
    except WorkerKilled:
        return _run(settings, job, content)


def _job(settings: LatencySettings) -> Job:
    here = settings.target is None
    return Job(
        provider={**asdict(PROVIDERS[settings.provider])},
        threads=settings.resolved_threads() if here else settings.threads or 0,
        min_runtime=MIN_RUNTIME,
        graph_level=settings.graph_level,
    )


def _run(
    settings: LatencySettings, job: Job, content: bytes = b"", *, started: Program | None = None
) -> dict[str, Any]:
    """What stands in the answer of one process. Raises TargetError or WorkerFault where there is none."""
    mark = secrets.token_hex(8)
    target, text = settings.target, program(job, mark, content)
    if started is not None:
        ended = started.feed(text, LIMIT_S)
    else:
        command = _here() if target is None else target.command
        ended = run_program(command, text, name=device_name(settings), limit_s=LIMIT_S)
    found = read_answer(ended.output, mark)
    if found is None:
        raise _lost(settings, ended, is_cut=mark.encode() in ended.output)
    if found.get("refused") == "provider":
        found["text"] += _missing_library(ended.log)
    return found


def _start_here(settings: LatencySettings) -> Program:
    """A process of this machine that begins to load its libraries."""
    return Program(_here(), name=device_name(settings))


def program(job: Job, mark: str, content: bytes = b"") -> bytes:
    """The worker's text with a last line that has it answer `job`; the model's bytes, if any, as literals in it."""
    parts = [base64.b64encode(content[i : i + CHUNK]).decode() for i in range(0, len(content), CHUNK)]
    model = "".join(f'    b"{part}",\n' for part in parts)
    text = Path(timing_worker.__file__).read_text(encoding="utf-8")
    plain = {**asdict(job), "limit_s": min(job.limit_s, 1e9)}
    return f"{text}\n\nanswer({json.dumps(plain)!r}, {mark!r}, [\n{model}])\n".encode()


def read_answer(output: bytes, mark: str) -> dict[str, Any] | None:
    """The answer in what a process wrote to standard output, noise and all; None where it is not there whole."""
    pattern = rb"%s %s (\d{1,6}) (\d{1,6}) ([0-9a-f]{8}) ([A-Za-z0-9+/=]+)" % (MARK.encode(), mark.encode())
    parts: dict[int, bytes] = {}
    count = 0
    for number, total, checksum, part in re.findall(pattern, output):
        if zlib.crc32(part) == int(checksum, 16):
            parts[int(number)], count = part, int(total)
    if not count or set(parts) != set(range(count)):
        return None
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(b"".join(parts[i] for i in range(count)))))
    return found


def _result(settings: LatencySettings, found: dict[str, Any]) -> dict[str, Any]:
    """What was asked for. Raises what was refused, as an error of its kind."""
    if "ok" in found:
        ok: dict[str, Any] = found["ok"]
        return ok
    where = "" if settings.target is None else f"{device_name(settings)}: "
    text = f"{where}{one_line(str(found['text']))}"
    if found["refused"] == "provider":
        raise ProviderError(text, place="provider")
    if found["refused"] == "runtime":
        raise TargetError(text)
    raise TrialFailed(text)


def _lost(settings: LatencySettings, ended: Ended, *, is_cut: bool) -> Exception:
    """Why there is no answer."""
    name = device_name(settings)
    if ended.code in KILLED:
        return WorkerKilled(f"{name} was ended by SIGKILL, as when memory runs out")
    said = "its answer was cut off" if is_cut else ended.last_words
    if settings.target is None:
        return WorkerFault(f"{name} ended with code {ended.code}: {said}")
    said += " (Python 3.8 or later is needed)" if said.startswith("SyntaxError") else ""
    command = one_line(shlex.join(settings.target.command))[:80]
    return TargetError(f"{name}: `{command}` ended with code {ended.code} before it had answered: {said}")


def _missing_library(log: str) -> str:
    """The library that ONNX Runtime could not load, which stands in its log and not in its exception."""
    found = re.search(r"Failed to load library .* with error: ([^:]+: cannot open shared object file)", log)
    return f" ({found[1]})" if found else ""


def _here() -> list[str]:
    """A Python like this one that loads its libraries, reads its program, and nothing from the current folder."""
    flags = ["-P", *["-E"] * sys.flags.ignore_environment, *["-s"] * sys.flags.no_user_site]
    return [sys.executable, *flags, "-c", LOAD]
