"""A network in fp16 or int8, for its latency, and a look at what its operators really compute in.

For a latency no weights need be trained: int8 is calibrated on noise, as the timed image is. fp16 is made by ONNX
Runtime's own converter; input and output stay float32. The one module that knows that converter.

A runtime need not compute in what a file holds: the CPU provider turns fp16 weights back to float32 while it loads
them, and int8 ones where it does not know the pattern. So the graph that it made of the file is read again. Int8 that
does not run as int8 is an error; of fp16 it is told.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from modscale.deploy import onnx_graph, runtime
from modscale.deploy.quantize import LEVELS, quantise
from modscale.errors import InputError, TrialFailed
from modscale.files import write_whole

CALIBRATION_IMAGES = 4
"""Images of noise that the ranges of int8 are taken from."""


def write_in(
    precision: str, onnx_file: str | Path, out: str | Path, provider: str, graph_level: str = "all"
) -> dict[str, int]:
    """Writes a file of `export_onnx` in `precision`; what a child process is asked. For `fp16` any file will do.

    Returns:
        How many weights are multiplied by in which precision: on the CPU provider as it will run them, elsewhere as
        the file holds them.

    Raises:
        InputError: no file of ours is to be put in int8.
        TrialFailed: the CPU provider would not take a product in int8 that the file has in int8.
    """
    file = Path(onnx_file)
    if precision == "int8":
        _require_ours(file)
        size = runtime.read_metadata(str(file))["input_size"]
        batch = runtime.fixed_batch(str(file)) or 1
        noise = np.random.default_rng(0).standard_normal((CALIBRATION_IMAGES, batch, *size), dtype=np.float32)
        quantise(file, out, noise, level=next(iter(LEVELS)))
    else:
        # The CPU provider's Attention alone would be computed in fp16, at 1.7 times its time in float32.
        blocked = [*DEFAULT_OP_BLOCK_LIST, "Attention"] if provider == "cpu" else None
        model = convert_float_to_float16(onnx_graph.parse(file), keep_io_types=True, op_block_list=blocked)
        write_whole(out, onnx_graph.serialise(onnx_graph.sort_nodes(model)))
    return multiplied_in(out, provider, graph_level)


def answer_file(onnx_file: str, resolution: int | None) -> tuple[tuple[int, ...], str]:
    """The input that an ONNX file of any origin is timed with, and what its weights are kept in.

    What a child process is asked; raises as `runtime.answer_shape` does.
    """
    return runtime.answer_shape(onnx_file, resolution), onnx_graph.held_precision(onnx_file)


def multiplied_in(onnx_file: str | Path, provider: str, graph_level: str) -> dict[str, int]:
    """How many weights are multiplied by in which precision; see `write_in`. Raises TrialFailed as that does."""
    held = onnx_graph.weight_precisions(onnx_graph.parse(Path(onnx_file)), as_run=False)
    if provider != "cpu":
        return dict(Counter(held.values()))
    found = onnx_graph.weight_precisions(onnx_graph.parse(runtime.optimised(str(onnx_file), graph_level)), as_run=True)
    missing = [name for name, kind in held.items() if kind == "int8" and found.get(name) != "int8"]
    if missing:
        names = ", ".join(name.removesuffix("_quantized") for name in missing[:3])
        raise TrialFailed(f"{len(missing)} of its products would not be taken in int8 ({names} ...): not timed")
    return dict(Counter(found.values()))


def _require_ours(file: Path) -> None:
    held = {entry.key for entry in onnx_graph.parse(file).metadata_props}
    if not {"modscale", "spec", "input_size"} <= held:
        raise InputError("is no file of modscale's, which alone are put in int8; quantise it and time that", file=file)
