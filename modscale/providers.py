"""What ONNX Runtime computes on: its execution providers, a row of settings each.

A row travels with each job to the process that times (`deploy/timing_worker.py`), which knows no provider by name. The
options are those of ONNX Runtime's documents of each provider; where the hardware computes in less than float32 unless
told otherwise, it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """One execution provider, and what must be known to time it."""

    runtime_name: str
    """Its name in ONNX Runtime."""
    package: str
    """The package of pip that brings it, each of them in place of any other."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What it is started with."""
    threads_option: str = ""
    """Its own option for the number of threads, where it does not use those of the session."""
    device: str = "cpu"
    """Where the input and the output lie while it is timed."""
    warmup_s: float = 0.0
    """Seconds the warm-up lasts at least: what has a clock of its own raises it only under load."""
    tolerance: float = 0.02
    """Largest error against the CPU provider's answer, as a share of the answer's largest value."""
    takes_cores: bool = False
    """Whether the work is that of this process's threads, so that their share of the cores tells of neighbours."""


PROVIDERS: dict[str, Provider] = {
    "cpu": Provider(runtime_name="CPUExecutionProvider", package="onnxruntime", takes_cores=True),
    "openvino": Provider(
        runtime_name="OpenVINOExecutionProvider",
        package="onnxruntime-openvino",
        options={"device_type": "CPU", "precision": "FP32"},
        threads_option="num_of_threads",
    ),
    "cuda": Provider(
        runtime_name="CUDAExecutionProvider", package="onnxruntime-gpu", device="cuda", warmup_s=0.5
    ),  # it multiplies in TensorFloat-32, which keeps 10 bits
    "tensorrt": Provider(
        runtime_name="TensorrtExecutionProvider", package="onnxruntime-gpu", device="cuda", warmup_s=0.5
    ),
    "coreml": Provider(
        runtime_name="CoreMLExecutionProvider",
        package="onnxruntime",
        options={"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"},
        warmup_s=0.5,
    ),
    "qnn": Provider(
        runtime_name="QNNExecutionProvider",
        package="onnxruntime-qnn",
        options={"backend_type": "htp", "htp_performance_mode": "burst", "enable_htp_fp16_precision": "1"},
        warmup_s=0.5,
        tolerance=0.05,
    ),
}
"""Each provider by the name that a space and the command line give it."""
