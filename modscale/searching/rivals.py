"""What is measured of a rival: a network without a spec, which is counted and timed as it is and never trained.

The proxy trains a thinned copy, which nobody can make of a foreign graph; and the same training at full width tells
nothing of the rank (`training/estimate.py`). So a rival's accuracy is stated by somebody, or there is none.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from modscale.errors import InputError, MismatchError, OpenSidesError, RunError, TrialFailed
from modscale.files import scratch_folder
from modscale.interrupts import check_stop
from modscale.latency.protocol import OnnxModel, find_onnx
from modscale.latency.rivals import check_timm, count_onnx, timm_model
from modscale.rivals import Rival
from modscale.runs.references import MeasuredRival
from modscale.searching.steps import Steps, Timing


def check_rivals(rivals: Sequence[tuple[int, Rival]], folder: Path, resolution: int) -> None:
    """Looks at everything that is still to be measured, before anything is.

    `rivals` stand with their places in `search.references` of a space in `folder`; an ONNX file's open sides take
    `resolution`.

    Raises:
        InputError: a file is missing or takes no single image, timm is absent or does not know a name.
    """
    for number, rival in rivals:
        place = f"search.references[{number}]"
        try:
            if rival.kind == "onnx":
                _find(rival, folder, resolution)
            elif rival.kind == "timm":
                check_timm([rival.source])
        except InputError as error:
            error.place = f"{place}.{error.place}" if error.place else place
            raise


def check_unchanged(measured: Sequence[MeasuredRival], folder: Path, run: Path) -> None:
    """Raises RunError where an ONNX file that was measured is another one now; one that is gone is none."""
    for one in measured:
        file = one.rival.file(folder)
        if one.sha256 is not None and file.is_file() and _hash(file) != one.sha256:
            rule = f"was compared with another {one.rival.source} than the one that is there now"
            raise RunError(f"{rule}; give the new one another name, or another --out", file=run)


def measure_rival(rival: Rival, number: int, *, folder: Path, resolution: int) -> Steps[MeasuredRival]:
    """Counts and times a rival; what cannot be done is its failure, with the reason."""
    start = time.perf_counter()
    sha256: str | None = None
    shape: tuple[int, ...] = ()
    reason: str | None = None
    results: dict[str, float] = {}
    not_counted: tuple[str, ...] = ()
    try:
        with scratch_folder() as scratch:
            if rival.kind == "timm":
                model = timm_model(rival.source, scratch, rival.resolution)
            else:
                sha256 = _hash(rival.file(folder))
                model = _find(rival, folder, resolution)
            shape = model.shape
            count = count_onnx(model)
            results["params"], not_counted = count.params, count.not_counted
            if count.flops is not None:
                results["flops"] = count.flops
            (timed,) = yield Timing(models=(model,), told=({"name": rival.name, "input": list(shape)},))
            results |= timed
    except (InputError, MismatchError, TrialFailed, OSError) as failure:
        check_stop()  # what was stopped has not failed
        reason = str(failure)
    return MeasuredRival(
        number=number,
        state="complete" if reason is None else "failed",
        reason=reason,
        rival=rival,
        results=results,
        input=shape,
        sha256=sha256,
        not_counted=not_counted,
        seconds=time.perf_counter() - start,
    )


def _find(rival: Rival, folder: Path, resolution: int) -> OnnxModel:
    """An ONNX file, its sides as they are fixed there, or as the space has them."""
    file = rival.file(folder)
    if rival.resolution is not None:
        return find_onnx(file, rival.resolution)
    try:
        return find_onnx(file)
    except OpenSidesError:
        return find_onnx(file, resolution)


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
