"""What an exported file answers to images, by nothing but what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modscale.deploy import runtime

OPEN_BATCH = 32
"""Images at once, where the file leaves that open."""


def classify(onnx_file: str | Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The class [N], 0 to K - 1, that a file of `export_onnx` gives to each of the images [N, R, R, C]."""
    found = runtime.run_batches(str(onnx_file), feed(onnx_file, images))
    answers = [given[runtime.OUTPUT_NAME].argmax(axis=1) for given in found]
    return np.concatenate(answers)[: len(images)].astype(np.int64)


def segment(onnx_file: str | Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The class [N, R, R] that such a file with masks gives to each pixel of the images [N, R, R, C]."""
    found = runtime.run_batches(str(onnx_file), feed(onnx_file, images))
    answers = [given[runtime.MASKS_NAME].argmax(axis=1) for given in found]
    return np.concatenate(answers)[: len(images)].astype(np.int64)


def feed(onnx_file: str | Path, images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.float32]]:
    """The images [N, R, R, C] as the file takes them, [B, C, R, R] each; the last of a fixed batch is filled up."""
    held = runtime.read_metadata(str(onnx_file))
    mean, std = (np.asarray(held[key], dtype=np.float32) for key in ("mean", "std"))
    batch = runtime.fixed_batch(str(onnx_file))
    for first in range(0, len(images), batch or OPEN_BATCH):
        part = images[first : first + (batch or OPEN_BATCH)]
        if batch is not None and len(part) < batch:
            part = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), dtype=np.uint8)])
        scaled = (part.astype(np.float32) / 255 - mean) / std
        yield np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
