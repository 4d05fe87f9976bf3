"""ONNX Runtime for all but timing: what a model answers, what it says of itself, the input that it takes.

Sessions are opened by `timing_worker.py`, the one module that runs it, with what is timed. What is asked of a child
process stands at the end.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modscale.deploy import timing_worker
from modscale.deploy.timing_worker import FLOATS, first_line
from modscale.errors import InputError, ModscaleError, OpenSidesError, TrialFailed
from modscale.files import scratch_folder
from modscale.providers import PROVIDERS

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
MASKS_NAME = "masks"
"""Logits of each class for every pixel, [B, K, R, R]: what a network under Semantic FPN answers."""

MAX_INPUT = 2**29
"""Numbers in one input: 2 GiB of float32."""


def is_at_least(oldest: Sequence[int]) -> bool:
    """Whether ONNX Runtime here is of that version, (major, minor), or later."""
    try:
        timing_worker.require_runtime(oldest)
    except timing_worker.Refused:
        return False
    return True


def open_session(model: str | bytes, *, threads: int = 1) -> Any:
    """A session on the CPU with every graph optimisation, sequential; what ONNX Runtime raises, it raises."""
    return timing_worker.open_session(model, asdict(PROVIDERS["cpu"]), threads)


def optimised(onnx_file: str, graph_level: str = "all") -> bytes:
    """The graph that ONNX Runtime makes of a file on the CPU, as a file's content; what it raises, this raises."""
    with scratch_folder() as folder:
        file = folder / "optimised.onnx"
        timing_worker.new_session(onnx_file, asdict(PROVIDERS["cpu"]), 1, graph_level, optimised_file=str(file))
        return file.read_bytes()


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
        raise InputError(f"is no model that ONNX Runtime loads: {first_line(error)}", file=onnx_file) from error
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
        raise OpenSidesError(f"{told} leaves height and width open: say --resolution", place="input")
    if resolution is not None and (not sides or any(shape[i] not in (0, resolution) for i in sides)):
        raise InputError(f"{told} is fixed, and not {resolution} x {resolution}", place="input")
    filled = tuple(dim or resolution or 1 for dim in shape)
    if math.prod(filled) > MAX_INPUT:
        raise InputError(f"{told} must be of at most {MAX_INPUT} numbers to be timed", place="input")
    return filled


def answer_shape(onnx_file: str, resolution: int | None) -> tuple[int, ...]:
    """`input_shape` as a child process answers it: what ONNX Runtime raises is a TrialFailed."""
    with _in_one_line():
        return input_shape(onnx_file, resolution)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except ModscaleError:
        raise
    except Exception as error:  # ONNX Runtime raises a dozen kinds, one for each status code
        raise TrialFailed(f"{type(error).__name__}: {first_line(error)}") from error
