"""The process that times: one file that needs nothing of ours, alone, on the provider it says."""

from __future__ import annotations

import ast
import base64
import ctypes
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_onnx import write_tiny

from modscale.deploy import timing_worker as worker
from modscale.deploy.timing_worker import Job, Refused
from modscale.latency.device import program, read_answer
from modscale.latency.protocol import measure_models
from modscale.machine import describe_machine
from modscale.providers import PROVIDERS
from modscale.settings import GRAPH_LEVELS, LatencySettings
from modscale.specs.block_kinds import BLOCKS
from modscale.specs.spec import parse_spec

CPU, CUDA, OPENVINO = (asdict(PROVIDERS[name]) for name in ("cpu", "cuda", "openvino"))
TEXT = Path(worker.__file__).read_text()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("onnx") / "m.onnx")


def job(file="", **changes) -> Job:
    fields = {"provider": CPU, "threads": 2, "warmup": 3, "runs": 7, "limit_s": 60.0, **changes}
    return Job(onnx_file=str(file), **fields)


def run(text: bytes, mark: str = "m", *, cwd: Path | None = None, **environment: str):
    """What a Python that knows nothing of modscale answers to a program on its standard input."""
    known = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MODSCALE_CACHE")}
    done = subprocess.run(
        [sys.executable, "-"], input=text, capture_output=True, env={**known, **environment}, cwd=cwd, timeout=60
    )
    return read_answer(done.stdout, mark), done


# The file


def test_it_imports_nothing_but_onnxruntime_numpy_and_the_standard_library():
    found = set()
    for node in ast.walk(ast.parse(TEXT)):
        found |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        found |= {node.module} if isinstance(node, ast.ImportFrom) else set()
    tops = {name.partition(".")[0] for name in found}
    assert tops - set(sys.stdlib_module_names) == {"onnxruntime", "numpy"}


def test_it_is_a_program_for_python_3_8():
    ast.parse(TEXT, feature_version=(3, 8))


def test_its_graph_levels_are_those_of_the_settings():
    assert set(worker.LEVELS) == set(GRAPH_LEVELS)


# A process


def test_it_is_alone_and_loads_nothing_that_trains(model_file):
    """One thread before ONNX Runtime is loaded, and nothing that trains or traces."""
    heavy = {"torch", "onnx", "optuna", "fvcore", "yaml", "rich", "typer", "matplotlib", "PIL", "scipy", "modscale"}
    look = f"\nprint(sorted({heavy!r} & set(sys.modules)))\n"
    found, done = run(program(job(model_file), "m") + look.encode())
    times = found["ok"]["timings"]["times_ns"]
    assert (len(times), min(times) > 0, done.stdout.splitlines()[-1]) == (7, True, b"[]")
    assert found["ok"]["facts"]["runtime"] == onnxruntime.__version__
    assert found["ok"]["facts"]["threads"] == 2


def test_other_threads_are_not_suffered(model_file):
    """A pool that is alive before ONNX Runtime is loaded would take its cores."""
    code = b"import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
    head, line, rest = program(job(model_file), "m").partition(b"\nTYPE_CHECKING = False\n")
    found, _ = run(head + b"\n" + code + line + rest)
    assert found == {
        "refused": "failed", "text": "2 threads are alive in the timing process before it begins: not timed"
    }  # fmt: skip


def test_nothing_of_the_current_folder_is_run(model_file, tmp_path):
    """A Python that reads its program from standard input looks for modules there first, and is told not to."""
    for name in ("base64", "numpy", "onnxruntime", "json", "zlib"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write('{name} ')\n")
    found, _ = run(program(job(model_file), "m"), cwd=tmp_path)
    assert "ok" in found
    assert not (tmp_path / "RAN").exists()


def test_it_ends_when_nobody_listens_any_more(model_file):
    """A timing whose pipe is closed, as where the other end of a connection is gone, stops within some seconds."""
    endless = program(job(model_file, runs=10_000_000, limit_s=1e9), "m")
    with subprocess.Popen([sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(endless)
        process.stdin.close()
        assert process.stdout.read(1) == b"\n"  # its heart beats
        process.stdout.close()
        assert process.wait(timeout=30) != 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to look for the process in")
def test_it_ends_with_the_process_that_asked(model_file, tmp_path):
    """So that it steals no core from the next search."""
    (tmp_path / "program").write_bytes(program(job(model_file, runs=10_000_000, limit_s=1e9), "m"))
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-'], stdin=open(sys.argv[1]), stdout=2)\n"
    code += "print(p.pid, flush=True); p.wait()"
    arguments = [sys.executable, "-c", code, str(tmp_path / "program")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        child = int(process.stdout.readline())
        time.sleep(1.0)
        assert Path(f"/proc/{child}").exists()
        process.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not Path(f"/proc/{child}").exists() or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(child, 9)
    pytest.fail("the timing process is still alive")


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="this system has no nice values")
def test_it_goes_first_where_it_may_and_nobody_else_does(model_file):
    """The nice value is what the system lets it take; whoever asked keeps its own, and its session's too."""
    group = Path("/proc/self/autogroup")

    def own() -> list[object]:
        return [os.getpriority(os.PRIO_PROCESS, 0), *([group.read_text()] if group.exists() else [])]

    before = own()
    found, _ = run(program(job(model_file), "m"))
    allowed = subprocess.run([sys.executable, "-c", "import os; os.nice(-20)"], stderr=subprocess.DEVNULL)
    assert found["ok"]["facts"]["nice"] == (before[0] if allowed.returncode else -20)
    assert own() == before


def test_a_runtime_that_is_too_old_or_missing_is_said_so(model_file, tmp_path):
    """In a line of its own kind, with what is needed."""
    found, _ = run(program(job(model_file, min_runtime=(99, 1)), "m"))
    version = onnxruntime.__version__
    assert found == {"refused": "runtime", "text": f"ONNX Runtime {version} is too old: 99.1 or later is needed"}
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libonnx is not there')\n")
    found, _ = run(program(job(model_file), "m"), PYTHONPATH=str(tmp_path))
    assert found["refused"] == "runtime"
    assert found["text"] == "ONNX Runtime cannot be loaded (libonnx is not there): pip install onnxruntime"


def test_a_model_that_would_take_too_long(model_file):
    """The first run foretells the rest; what exceeds the limit is given up at once."""
    with pytest.raises(Refused, match="more than the 0 s allowed"):
        worker.time_model(str(model_file), job(limit_s=0.0))


# The model travels, and is cached


def sent(model_file, **changes) -> Job:
    content = model_file.read_bytes()
    return job(sha256=hashlib.sha256(content).hexdigest(), cache_bytes=10_000, runs=2, warmup=1, **changes)


def test_a_model_is_sent_once_and_found_by_its_hash(model_file, tmp_path):
    """First it is missing; sent, it is timed and kept; then the question alone will do, until the copy is damaged."""
    ask, content = program(sent(model_file), "m"), model_file.read_bytes()
    cache = {"MODSCALE_CACHE": str(tmp_path)}
    assert run(ask, **cache)[0]["refused"] == "missing"
    assert "ok" in run(program(sent(model_file), "m", content), **cache)[0]
    assert "ok" in run(ask, **cache)[0]
    (kept,) = (tmp_path / "modscale" / "models").iterdir()
    assert (kept.stem, kept.read_bytes()) == (hashlib.sha256(content).hexdigest(), content)
    kept.write_bytes(content[:-1] + b"x")
    assert run(ask, **cache)[0]["refused"] == "missing"
    found, _ = run(program(sent(model_file), "m", content[:-1] + b"x"), **cache)
    assert found == {"refused": "failed", "text": "the model arrived damaged: its hash is another one"}


def test_a_cache_has_its_limit_and_what_was_used_longest_ago_goes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("MODSCALE_CACHE", str(tmp_path))
    monkeypatch.setattr(worker, "LEFT_FREE", 0)
    folder = tmp_path / "modscale" / "models"
    for number in range(5):
        content = bytes([number]) * 100
        worker.keep_model(job(sha256=f"{number}", cache_bytes=350), content)
        for age, file in enumerate(sorted(folder.iterdir(), reverse=True)):
            os.utime(file, (1e9 - age, 1e9 - age))
    assert sorted(file.stem for file in folder.iterdir()) == ["2", "3", "4"]
    worker.keep_model(job(sha256="huge", cache_bytes=350), bytes(351))  # more than the cache: not kept, nothing goes
    worker.keep_model(job(sha256="none", cache_bytes=0), bytes(1))
    assert sorted(file.stem for file in folder.iterdir()) == ["2", "3", "4"]


def test_where_no_home_can_be_written_a_temporary_folder_serves(tmp_path, monkeypatch):
    """A file stands where the cache would be made; and where nothing can be kept, the model is timed all the same."""
    (tmp_path / "home").write_text("not a folder")
    monkeypatch.setenv("MODSCALE_CACHE", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(worker.tempfile, "tempdir", str(tmp_path))
    content = b"a model"
    order = job(sha256=hashlib.sha256(content).hexdigest(), cache_bytes=100)
    assert worker.find_model(order, content) == content
    assert worker.find_model(order, b"") == content
    (file,) = tmp_path.glob("modscale-*/*.onnx")
    file.unlink()
    monkeypatch.setattr(worker.tempfile, "tempdir", str(tmp_path / "home"))
    assert worker.find_model(order, content) == content
    with pytest.raises(Refused, match="not cached"):
        worker.find_model(order, b"")


# Providers


def test_a_provider_that_is_not_there():
    """CUDA without a CUDA build is refused with what would bring it, and never a number."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(
        Refused, match=r"has no CUDAExecutionProvider here .*; pip's onnxruntime-gpu brings it"
    ) as caught:
        worker.check_provider(CUDA)
    assert caught.value.kind == "provider"
    worker.check_provider(CPU)


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_row_names_a_provider_of_onnx_runtime(name):
    """ONNX Runtime itself lists all it was ever built with, best first."""
    if name == "qnn" and "QNNExecutionProvider" not in onnxruntime.get_all_providers():
        pytest.skip("this ONNX Runtime does not know it")
    assert PROVIDERS[name].runtime_name in onnxruntime.get_all_providers()


class FakeSession:
    """A session that says which providers it ended up with."""

    def __init__(self, *providers: str) -> None:
        self.providers = list(providers)

    def get_providers(self) -> list[str]:
        return self.providers


@pytest.fixture
def has_cuda(monkeypatch):
    """ONNX Runtime says it has CUDA; what opens a session is to be given."""
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    return lambda start: monkeypatch.setattr(onnxruntime, "InferenceSession", start)


@pytest.mark.parametrize("used", [["CPUExecutionProvider"], ["CPUExecutionProvider", "CUDAExecutionProvider"], []])
def test_a_silent_fallback_is_an_error(used, has_cuda, model_file):
    """A session that came up on another provider than asked is refused, at whatever point that is seen."""
    with pytest.raises(Refused, match="fell back from CUDAExecutionProvider"):
        worker.check_session(FakeSession(*used), CUDA)
    has_cuda(lambda *_, **__: FakeSession(*used))
    with pytest.raises(Refused, match="fell back from CUDAExecutionProvider"):
        worker.time_model(str(model_file), job(provider=CUDA))


def test_the_asked_provider_passes():
    worker.check_session(FakeSession("CUDAExecutionProvider", "CPUExecutionProvider"), CUDA)
    worker.check_session(FakeSession("CPUExecutionProvider"), CPU)


@pytest.mark.parametrize(("provider", "threads"), [(CUDA, {}), (OPENVINO, {"num_of_threads": "2"})])
def test_no_door_is_left_open_for_a_fallback(provider, threads, monkeypatch):
    """It is the only provider offered, no node may go to the CPU, and the Python class must not retry without it."""
    asked = {}

    def record(model, options, **arguments):
        asked.update(arguments, entry=options.get_session_config_entry("session.disable_cpu_ep_fallback"))
        raise RuntimeError("CUDA failure 35\nmore lines")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider["runtime_name"]])
    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    with pytest.raises(Refused, match=r"does not start: CUDA failure 35$") as caught:
        worker.open_session(b"", provider, 2)
    assert caught.value.kind == "provider"
    asked.clear()
    with pytest.raises(RuntimeError):
        worker.new_session(b"", provider, 2)
    settings = {**provider["options"], **threads}
    assert asked == {"providers": [(provider["runtime_name"], settings)], "enable_fallback": 0, "entry": "1"}


def test_a_model_the_provider_cannot_take_is_that_models_failure(has_cuda, model_file):
    """Where a single node runs on the GPU and the model does not, the search goes on with the next candidate."""

    def start(model, options, **arguments):
        if model == worker.ONE_NODE:
            return FakeSession("CUDAExecutionProvider")
        raise RuntimeError("Failed to allocate memory for requested buffer")

    has_cuda(start)
    worker.check_provider(CUDA)
    with pytest.raises(Refused, match="CUDAExecutionProvider cannot run the model: Failed to allocate") as caught:
        worker.time_model(str(model_file), job(provider=CUDA))
    assert caught.value.kind == "failed"


def test_a_gpu_that_is_full_is_that_models_failure(has_cuda, model_file):
    """Not even one node starts while another process holds all of the memory: the search must not end for it."""

    def start(*_, **__):
        raise RuntimeError("CUDA failure 2: out of memory")

    has_cuda(start)
    with pytest.raises(Refused, match="cannot run the model: CUDA failure 2: out of memory") as caught:
        worker.time_model(str(model_file), job(provider=CUDA))
    assert caught.value.kind == "failed"


def test_nodes_that_would_go_elsewhere_are_named(model_file, has_cuda, tmp_path):
    """ONNX Runtime only says that there are some; its own profile of a session that may fall back says which."""
    real = onnxruntime.InferenceSession

    class Beside:
        """A session that says it runs on CUDA, and has done all on the CPU."""

        def __init__(self, model, options):
            self.session = real(model, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return ["CUDAExecutionProvider"]

        def __getattr__(self, name):
            return getattr(self.session, name)

    def start(model, options, **_):
        try:
            is_strict = options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        except RuntimeError:  # it was never set
            is_strict = False
        if model == worker.ONE_NODE:
            return FakeSession("CUDAExecutionProvider")
        if is_strict:
            raise RuntimeError("fallback to CPU EP has been explicitly disabled")
        return Beside(model, options)

    has_cuda(start)
    names = "2 of 2 nodes would run elsewhere: 1 Mul on CPUExecutionProvider, 1 GlobalAveragePool on CPUExecution"
    with pytest.raises(Refused, match=f"cannot run the model: {names}"):
        worker.time_model(str(model_file), job(provider=CUDA))
    # A runtime that does not heed the entry lets it pass: then the profile of the first run tells.
    has_cuda(lambda model, options, **_: Beside(model, plain))
    plain = onnxruntime.SessionOptions()
    plain.enable_profiling, plain.profile_file_prefix = True, str(tmp_path / "profile")
    session = worker.open_session(str(model_file), CUDA, 1, is_profiled=True)
    session.run(None, {"image": np.zeros((1, 3, 32, 32), np.float32)})
    assert worker.placement_text(session, CUDA).startswith("2 of 2 nodes would run elsewhere: 1 Mul on CPU")
    has_cuda(real)
    ours = worker.open_session(str(model_file), CPU, 1, is_profiled=True)
    ours.run(None, {"image": np.zeros((1, 3, 32, 32), np.float32)})
    assert worker.placement_text(ours, CPU) == ""


def test_the_one_node_is_a_valid_model():
    """ONNX's own checker accepts it, and it is what it is said to be."""
    model = onnx.load_from_string(worker.ONE_NODE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    assert onnxruntime.InferenceSession(worker.ONE_NODE).run(None, {"image": np.float32([-1])})[0] == 0


@pytest.mark.parametrize("wrong", [0.3, math.nan])
def test_a_provider_that_computes_something_else_is_not_timed(wrong):
    """Outputs are held against the CPU's; the rounding of TensorFloat-32, 2^-11, passes."""
    expected = np.float32([[1.0, -4.0, 2.0]])
    worker.check_outputs([expected * (1 + 2**-11)], [expected], CUDA)
    with pytest.raises(Refused, match="CUDAExecutionProvider differs from the CPU by"):
        worker.check_outputs([expected + np.float32([[0, wrong, 0]])], [expected], CUDA)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (  # of ONNX Runtime 1.31.1, where TensorRT is not installed
            "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::python::"
            "RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&) "
            "Please install TensorRT libraries as mentioned in the GPU requirements page.\n",
            "Please install TensorRT libraries as mentioned in the GPU requirements page.",
        ),
        (  # of OpenVINO's provider 1.24.1, of an operator that it does not know
            "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /onnxruntime/onnxruntime/core/providers/"
            "openvino/backends/basic_backend.cc:136 onnxruntime::openvino_ep::BasicBackend::BasicBackend("
            "std::unique_ptr<onnx::ModelProto>&, onnxruntime::openvino_ep::ptr_stream_t&) /onnxruntime/onnxruntime/"
            "core/providers/openvino/ov_interface.cc:28 auto onnxruntime::openvino_ep::OvExceptionBoundary(Func&&)"
            " [with bool typed = false; Func = OVCore::ReadModel(std::string&&)::<lambda()>; Args = {}] [OpenVINO-EP] "
            "Exception while Reading network: Check 'false' failed at src/frontends/onnx/frontend/src/frontend.cpp:"
            "221:\n"
            "FrontEnd API failed with GeneralFailure:\nOpenVINO does not support the following ONNX operations: "
            "Attention\n\n",
            "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: [OpenVINO-EP] Exception while Reading "
            "network: Check 'false' failed at src/frontends/onnx/frontend/src/frontend.cpp:221: FrontEnd API failed "
            "with GeneralFailure: OpenVINO does not support the following ONNX operations: Attention",
        ),
        ("/onnxruntime_src/a/b.cc:12 not a function: x (y) z", "not a function: x (y) z"),
        ("Load model from /tmp/x.onnx:1 failed", "Load model from /tmp/x.onnx:1 failed"),
        ("", "RuntimeError"),
    ],
)
def test_an_error_is_told_without_its_place_in_the_runtimes_source(said, told):
    assert worker.first_line(RuntimeError(said)) == told


class FakeDriver:
    """CUDA's driver library, as ctypes loads it."""

    def __init__(self, name: bytes, failure: int = 0) -> None:
        self.name, self.failure = name, failure

    def cuInit(self, flags):  # noqa: N802  # the driver's name for it
        return self.failure

    def cuDeviceGet(self, device, ordinal):  # noqa: N802
        return self.failure

    def cuDeviceGetName(self, buffer, length, device):  # noqa: N802
        buffer.value = self.name
        return 0


@pytest.mark.parametrize(("failure", "told"), [(0, "NVIDIA H200, a CPU"), (100, "a CPU")])
def test_a_gpus_figure_names_the_gpu(failure, told, monkeypatch):
    """Where the provider is a GPU's; a driver that finds none has no name for it, nor has a machine without one."""
    monkeypatch.setattr(worker, "processor_name", lambda: "a CPU")
    assert worker.processors(CPU) == "a CPU"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(b"NVIDIA H200", failure))
    assert worker.processors(CUDA) == worker.processors(asdict(PROVIDERS["tensorrt"])) == told
    assert worker.processors(OPENVINO) == "a CPU"

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert worker.processors(CUDA) == "a CPU"


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or describe_machine()["gpu"] is None,
    reason="needs ONNX Runtime with CUDA, and a GPU",
)
@pytest.mark.parametrize("block", BLOCKS)
def test_cuda_times_every_block(block):
    """On a GPU: no node goes to the CPU, the logits are the CPU's, and the runs are timed."""
    stages = [{"dim": 16, "depth": 2, "block": block}, {"dim": 32, "depth": 1, "block": block, "attention_depth": 1}]
    spec = parse_spec({"resolution": 64, "num_classes": 10, "stages": stages})
    (result,) = measure_models([spec], LatencySettings(provider="cuda", runs=20, patience_s=0))
    assert (result.provider, result.runs) == ("cuda", 20)
    assert 0 < result.min_ms <= result.mean_ms


# The answer


def test_an_answer_survives_what_else_is_written_around_it(model_file):
    """Greetings, warnings, carriage returns, other lines between its own; a line that was damaged spoils it."""
    _, done = run(program(job(model_file, runs=2000), "m"))
    whole = read_answer(done.stdout, "m")
    lines = [line for line in done.stdout.splitlines() if line]
    assert len(lines) > 2
    noisy = b"Welcome!\r\nfake " + b"\r\nnoise \xff\r\n".join([*lines[::-1], lines[0]]) + b"\r\nbye"
    assert read_answer(noisy, "m") == whole
    assert read_answer(done.stdout, "other") is None
    assert read_answer(done.stdout[: len(done.stdout) // 2], "m") is None
    assert read_answer(done.stdout.replace(lines[1][-5:], b"AAAAA"), "m") is None
    assert read_answer(b"", "m") is None
    assert base64.b64decode(lines[0].split()[-1])
    assert json.dumps(whole)


def test_the_probe_runs_between_the_runs(model_file):
    """Before the first timed run and after the last, and in between only once enough of them are over; its time is
    nobody's core share.
    """

    def told(every_ns: int, **changes) -> dict:
        text = program(job(model_file, **changes), "m")
        return run(text.replace(b"PROBE_EVERY_NS = 5_000_000", b"PROBE_EVERY_NS = %d" % every_ns))[0]["ok"]["timings"]

    after_each, never, plain = told(1, is_probed=True), told(10**18, is_probed=True), told(1)
    assert [len(one["times_ns"]) for one in (after_each, never, plain)] == [7, 7, 7]
    assert [len(one["probes_ns"]) for one in (after_each, never, plain)] == [8, 2, 0]
    assert min(after_each["probes_ns"]) > 0
    assert after_each["main_cpu_ns"] < 1.5 * sum(after_each["times_ns"])


@pytest.mark.parametrize(
    ("runs", "least_s", "timed"), [(7, 0.0, 7), (7, 1e-9, 7), (7, 1000.0, 600), (700, 1000.0, 700)]
)
def test_short_runs_are_timed_for_some_time(model_file, runs, least_s, timed):
    """As many as were asked for, or more until their time is over; never more than a limit for that."""
    (answer, _) = run(program(job(model_file, runs=runs, least_s=least_s), "m"))
    assert len(answer["ok"]["timings"]["times_ns"]) == timed


@pytest.mark.parametrize(
    ("times_ms", "probes_ms", "quick_ms"),
    [
        ([1] * 5 + [2] * 3 + [2] * 3, [2, 2, 3, 3], 1),  # beside 4, 5 and 6 ms: the third group is left out
        ([1] * 5 + [2] * 3 + [2] * 3, [3, 3, 2, 2], 2),  # the first one
        ([1] * 5 + [2] * 3 + [2] * 2, [2, 2, 3, 3], 1),  # the last group is not full
        ([5, 6, 9], [2, 2, 3, 3], 6),  # one run between two probes: all count
        ([1] * 5 + [2] * 6, [2] * 12, 2),  # the probe ran after each run, as it once did
        ([1] * 5 + [2] * 6, [], 2),
        ([1, 1, 2, 2], [2, 3], 1.5),  # nothing to choose from
    ],
)
def test_short_runs_beside_the_quicker_probes_count(times_ms, probes_ms, quick_ms):
    """By hand: five runs of 1 ms, or three of 2, lie between two probes, and half of these groups count."""
    timings = worker.Timings(tuple(10**6 * ms for ms in times_ms), 0, probes_ns=tuple(10**6 * ms for ms in probes_ms))
    assert timings.quick_ms == quick_ms


def test_a_probe_shares_the_threads_of_the_model(model_file):
    """With two threads there are no more of them in the process than without a probe, and none is a session's own."""
    counted = b"""
    shared = [not one.get_session_options().use_per_session_threads for one in (session, *probe_sessions)]
    raise Refused("failed", f"{len(os.listdir('/proc/self/task'))} {shared}")"""

    def told(is_probed: bool) -> list[str]:
        text = program(job(model_file, is_probed=is_probed), "m")
        text = text.replace(b"    preempted = cpu_ns = main_cpu_ns = 0", counted)
        text = text.replace(b"MARK =", b"probe_sessions = []\nMARK =")
        text = text.replace(b"    return probe\n", b"    probe_sessions.append(session)\n    return probe\n")
        return run(text)[0]["text"].split(" ", 1)

    (plain, own), (probed, shared) = told(False), told(True)
    assert (own, shared) == ("[False]", "[True, True]")
    assert plain == probed
