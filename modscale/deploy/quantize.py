"""An ONNX file in int8, and whether it is still any good. The one module that knows ONNX Runtime's quantiser.

Static, in QDQ form: activations become uint8 by the ranges they had over the calibration images, weights int8 with a
scale a channel. What stays float was decided by measurement (`benchmarks/int8.md`): LayerNorm, softmax, GELU, the
modulating product, attention's own products and the depthwise convs, which were slower in int8; the outputs of linear
layers, which the next float operator would only turn back. Weights use 7 of their 8 bits: without VNNI a processor adds
two products of 8 bits in 16, which overflows silently, and 41 % of the answers changed.

Whether a file is any good is judged on validation images (`judgement.py`); the first of `LEVELS` that passes is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from modscale.deploy import onnx_graph, runtime
from modscale.files import scratch_folder, write_whole

LEVELS = {"all weights": ("linear", "conv", "head"), "linear layers": ("linear",)}
"""What is in int8, by the kinds of `onnx_graph.weighted_nodes`; the boldest first."""


def quantise(onnx_file: str | Path, out: str | Path, batches: Iterable[npt.NDArray[np.float32]], *, level: str) -> None:
    """Writes `onnx_file` in int8 to `out`, whole or not at all; it keeps its metadata, with `int8` beside them.

    Args:
        onnx_file: a file of `export_onnx`.
        out: the file to write.
        batches: calibration images as the file takes them, [B, C, R, R].
        level: a key of `LEVELS`.

    Raises:
        InputError: `out` cannot be written.
    """
    model = onnx_graph.add_apart(onnx_graph.parse(Path(onnx_file)))
    kinds = onnx_graph.weighted_nodes(model)
    with scratch_folder() as folder, _quiet():
        source, target = folder / "float.onnx", folder / "int8.onnx"
        source.write_bytes(onnx_graph.serialise(model))
        quantize_static(
            str(source),
            str(target),
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Gemm", "Conv"],
            nodes_to_quantize=[name for kind in LEVELS[level] for name in kinds[kind]],
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        quantised = onnx_graph.parse(target)
    held = runtime.read_metadata(str(onnx_file))
    onnx_graph.set_metadata(quantised, {**held, "int8": {"level": level, "weight_bits": 7}})
    write_whole(out, onnx_graph.serialise(quantised))


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    """Hands the calibration images over, a batch at a time."""

    def __init__(self, batches: Iterable[npt.NDArray[np.float32]]) -> None:
        self.batches: Iterator[npt.NDArray[np.float32]] = iter(batches)

    def get_next(self) -> Mapping[str, Any] | None:
        images = next(self.batches, None)
        return None if images is None else {runtime.INPUT_NAME: images}


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs that the file might be optimised first; its weights are turned, which is what is needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
