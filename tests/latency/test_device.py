"""Devices: the same worker behind any command, and one line for each way in which that can break."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_onnx import write_tiny

from modscale import programs
from modscale.errors import ProviderError, TargetError, TrialFailed, WorkerFault, WorkerKilled
from modscale.latency import device as devices
from modscale.latency import probed
from modscale.latency.device import Device
from modscale.latency.protocol import measure_files
from modscale.settings import LatencySettings, Target

HERE = LatencySettings(threads=1, warmup=1, runs=10, patience_s=0, reference=False)


def behind(*command: str) -> LatencySettings:
    return replace(HERE, target=Target(command=command, name="pi"))


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MODSCALE_CACHE", str(tmp_path / "cache"))
    return write_tiny(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-"),
        ("sh", "-c", f"echo Welcome to pi; echo 'warning: x' >&2; {sys.executable} -; echo bye"),
        ("env", "-i", "HOME=/nonexistent", sys.executable, "-"),  # a home that cannot be written
    ],
)
def test_any_command_that_runs_a_python_is_a_device(command, model_file, monkeypatch):
    """The model travels with the job; what a shell prints around the answer is passed over."""
    monkeypatch.setattr(probed, "UNSTEADY", 1e9)  # no round is left out
    (result,) = measure_files([model_file], behind(*command))
    assert (result.target, result.runs, result.rounds, result.threads) == ("pi", 10, 5, 1)
    assert result.min_ms > 0
    assert result.processor == Device(HERE).check() or result.processor


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ('shift; exec sh -c "$*"', ["shell", sys.executable, "-"]),
        ('shift; exec sh -c "$*"', ["shell", f"cd / && exec {sys.executable} -"]),
        ("""shift; sh -c "$*" | sed 's/$/\r/'""", ["shell", sys.executable, "-"]),
        ('shift 3; exec "$@"', ["exec", "-i", "box", sys.executable, "-"]),
        ('shift 4; exec "$@"', ["exec", "-i", "pod", "--", sys.executable, "-"]),
    ],
    ids=["adb", "adb with a line", "adb with a terminal's line ends", "docker", "kubectl"],
)
def test_a_command_that_hands_its_arguments_on_in_its_own_way(script, arguments, model_file, tmp_path):
    """As `adb shell` does, which joins them with spaces for a shell there; `docker` and `kubectl` as they are."""
    program = tmp_path / "carrier"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    timings = Device(behind(str(program), *arguments)).time(model_file, runs=5, shape=None)
    assert len(timings.times_ns) == 5


def test_a_model_is_sent_once(model_file, monkeypatch):
    """Five processes: the first asks in vain, the model goes along once, the others find it."""
    sizes = []
    run = programs.run_program
    monkeypatch.setattr(
        devices, "run_program", lambda command, content, **k: sizes.append(len(content)) or run(command, content, **k)
    )
    measure_files([model_file], behind(sys.executable, "-"))
    small, large = min(sizes), max(sizes)
    assert len(sizes) == 6
    assert [size == large for size in sizes] == [False, True, False, False, False, False]
    assert large - small > model_file.stat().st_size


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-ssh", "pi"], "target pi: 'no-such-ssh' cannot be started: No such file or directory"),
        ("echo no route >&2; exit 255", "target pi: `sh -c 'echo no route >&2; exit 255'` ended with code 255"),
        ("echo no route >&2; exit 255", "before it had answered: no route"),
        (["true"], "target pi: `true` ended with code 0 before it had answered: it said nothing"),
        ("head -c 300 >/dev/null; echo lost >&2; exit 1", "ended with code 1 before it had answered: lost"),
        (f"{sys.executable} - | head -c 200", "ended with code 0 before it had answered: its answer was cut off"),
        (f"{sys.executable} - | tr z y", "ended with code 0 before it had answered: its answer was cut off"),
        ([sys.executable, "-c", "x = = 1"], r"SyntaxError: invalid syntax (Python 3.8 or later is needed)"),
        (f"{sys.executable} -u - & sleep 0.05; kill -15 $$", "ended with code -15 before it had answered"),
        (["yes"], "target pi wrote more than 1 MiB to standard output"),
        (["sleep", "60"], "target pi took longer than 3 s"),
    ],
)  # fmt: skip
def test_a_transport_that_breaks_is_one_line(command, message, model_file, monkeypatch):
    """What was run, how it ended, and the last it said; never a figure."""
    monkeypatch.setattr(programs, "MAX_OUTPUT", 1 << 20)
    monkeypatch.setattr(devices, "LIMIT_S", 3.0)
    with pytest.raises(TargetError) as caught:
        measure_files([model_file], behind(*(["sh", "-c", command] if isinstance(command, str) else command)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_the_kernel_ends_is_that_models_failure(model_file):
    """For want of memory, say: a search goes on with the next one."""
    for command in (("sh", "-c", "kill -9 $$"), ("sh", "-c", "exit 137")):
        with pytest.raises(WorkerKilled, match="target pi was ended by SIGKILL, as when memory runs out"):
            measure_files([model_file], behind(*command))


def test_a_command_that_was_killed_once_loses_nothing(model_file, tmp_path):
    """Whoever ends ssh by SIGKILL has not shown that the model is too large: it is run again, and timed."""
    flag = tmp_path / "killed"
    line = f"if [ ! -e {flag} ]; then touch {flag}; kill -9 $$; fi; exec {sys.executable} -"
    timings = Device(behind("sh", "-c", line)).time(model_file, runs=5, shape=None)
    assert flag.exists()
    assert len(timings.times_ns) == 5


def test_a_runtime_that_is_missing_old_or_another_one(model_file, tmp_path, monkeypatch):
    """A line with what is there and what is needed; and none that changes half-way."""
    monkeypatch.setattr(devices, "MIN_RUNTIME", (99, 0))
    with pytest.raises(TargetError, match=r"^target pi: ONNX Runtime .* is too old: 99.0 or later is needed$"):
        measure_files([model_file], behind(sys.executable, "-"))
    monkeypatch.setattr(devices, "MIN_RUNTIME", (1, 15))
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('none')\n")
    with pytest.raises(TargetError, match=r"^target pi: ONNX Runtime cannot be loaded \(none\): pip install"):
        measure_files([model_file], behind("env", f"PYTHONPATH={tmp_path}", sys.executable, "-"))
    now = Device(behind(sys.executable, "-"))
    now.check()
    for key, other in (("processor", "Cortex-A72"), ("runtime", "1.15.0"), ("cores", 77)):
        changed = Device(behind(sys.executable, "-"), {**now.facts, key: other})
        with pytest.raises(TargetError, match=rf"^target pi: its {key} is .* now, and was {other} when this began"):
            measure_files([model_file], changed.settings, device=changed)


def test_a_provider_that_the_device_lacks(model_file):
    """Asked beforehand, or at the first timing; here and elsewhere."""
    for settings in (HERE, behind(sys.executable, "-")):
        lacking = replace(settings, provider="qnn")
        for ask in (Device(lacking).check, lambda lacking=lacking: measure_files([model_file], lacking)):
            with pytest.raises(ProviderError, match="has no QNNExecutionProvider here") as caught:
                ask()
            assert caught.value.exit_code == 2


def test_a_broken_model_is_one_line(tmp_path, monkeypatch):
    """A file that is no ONNX model fails the candidate with ONNX Runtime's own reason, here and elsewhere."""
    monkeypatch.setenv("MODSCALE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    for settings in (HERE, behind(sys.executable, "-")):
        with pytest.raises(TrialFailed) as caught:
            measure_files([tmp_path / "m.onnx"], settings)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_a_process_of_ours_that_ends_is_a_fault(model_file, monkeypatch):
    """It says with what code, and the last it said."""
    monkeypatch.setattr(devices, "_here", lambda: ["sh", "-c", "echo oh >&2; exit 3"])
    with pytest.raises(WorkerFault, match="the timing process ended with code 3: oh"):
        measure_files([model_file], HERE)


def waiting(device):
    return [program._process.pid for program in device._started]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_processes_that_wait_have_begun_and_hold_nothing(model_file, tmp_path):
    """Each has NumPy, no ONNX Runtime, and no thread but its own, which sleeps; they are what times, once each."""
    device = Device(HERE)
    device.start(2)
    two = waiting(device)
    device.start(3)
    assert (waiting(device)[:2], len(waiting(device))) == (two, 3)
    for pid in waiting(device):
        assert [task.name for task in Path(f"/proc/{pid}/task").iterdir()] == [str(pid)]
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":  # it reads, and gets nothing
            assert time.monotonic() < deadline
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert ("_multiarray_umath" in loaded, "onnxruntime" in loaded) == (True, False)
    os.kill(two[0], signal.SIGKILL)  # says nothing of the model
    device._started[0]._process.wait()
    last = waiting(device)[2]
    for left in ([last], []):
        assert len(device.time(model_file, runs=5, shape=None).times_ns) == 5
        assert waiting(device) == left
    assert len(device.time(model_file, runs=5, shape=None).times_ns) == 5  # none waits, and one is started
    device.start(2)
    two = waiting(device)
    device.stop()
    for pid in two:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    elsewhere = Device(behind(sys.executable, "-"))
    elsewhere.start(2)
    assert waiting(elsewhere) == []


def test_none_waits_once_a_measurement_is_over(model_file, tmp_path, monkeypatch):
    """Neither after the last round, nor where one failed."""
    started = []
    start = devices._start_here
    monkeypatch.setattr(devices, "_start_here", lambda settings: started.append(start(settings)) or started[-1])
    measure_files([model_file], HERE)
    assert len(started) == 5
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(TrialFailed):
        measure_files([tmp_path / "broken.onnx", model_file], HERE)
    assert len(started) == 7
    assert not any(program.is_running for program in started)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_no_process_that_waits_outlives_who_started_it(number):
    """Killed, or stopped by Ctrl-C."""
    code = """
import time
from modscale.interrupts import hearing_stops
from modscale.latency.device import Device
from modscale.settings import LatencySettings
device = Device(LatencySettings(threads=1))
with hearing_stops():
    try:
        device.start(2)
        print(*(program._process.pid for program in device._started), flush=True)
        time.sleep(60)
    finally:
        device.stop()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        pids = list(map(int, driver.stdout.readline().split()))
        assert len(pids) == 2
        driver.send_signal(number)
        driver.wait(timeout=20)
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def test_a_library_that_is_missing_is_named(monkeypatch):
    """It stands in ONNX Runtime's log and not in its exception."""
    log = "x FAIL : Failed to load library /a/b.so with error: libcublasLt.so.13: cannot open shared object file: No"
    assert devices._missing_library(log) == " (libcublasLt.so.13: cannot open shared object file)"
    assert devices._missing_library("all is well") == ""


def test_a_stop_ends_the_command(tmp_path):
    """What Ctrl-C ends is not left running."""
    code = f"""
import os, signal, threading
from modscale.interrupts import hearing_stops
from modscale.programs import run_program
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    with hearing_stops():
        run_program(["sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 60"], b"", name="x", limit_s=60)
except KeyboardInterrupt:
    print("stopped")
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.stdout, time.monotonic() - start < 30) == ("stopped\n", True)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
