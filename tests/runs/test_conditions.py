"""The machine and the versions behind a measurement, and what of them may not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from modscale.errors import RunError
from modscale.machine import describe_machine, describe_versions
from modscale.runs import conditions
from modscale.runs.conditions import check_conditions, uses_gpu


def test_a_new_version_is_told_and_another_machine_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that moves numbers is a line; a processor, or a GPU that is used, an error with both names."""
    here, versions = describe_machine() | {"gpu": "NVIDIA H200", "gpu_driver": "1"}, describe_versions()
    monkeypatch.setattr(conditions, "describe_machine", lambda: here)
    began = {"machine": here, "versions": versions}
    assert check_conditions(began, tmp_path, on_gpu=True) == []
    older = {"machine": here | {"gpu_driver": "0"}, "versions": versions | {"torch": "0.9", "optuna": "0.1"}}
    torch = f"torch was 0.9 and is {versions['torch']}"
    assert check_conditions(older, tmp_path, on_gpu=False) == [torch]
    assert check_conditions(older, tmp_path, on_gpu=True) == [torch, "the GPU's driver was 0 and is 1"]
    for part in ("cpu", "gpu"):
        other = began | {"machine": here | {part: "Another 9000"}}
        with pytest.raises(RunError, match=f"its {part} is 'Another 9000', and .*; give another --out"):
            check_conditions(other, tmp_path, on_gpu=True)
    assert check_conditions(began | {"machine": here | {"gpu": "Another 9000"}}, tmp_path, on_gpu=False) == []
    assert len(check_conditions({}, tmp_path, on_gpu=False)) > 0  # all that is not on record is new


@pytest.mark.parametrize(
    "provider", ["cpu", "openvino", "cuda", "tensorrt", "coreml", "qnn", "none of ours", None, ["cuda"]]
)
@pytest.mark.parametrize("device", ["cpu", "cuda (NVIDIA H200)", None])
def test_a_gpu_is_used_where_it_times_or_trains(provider: object, device: str | None) -> None:
    """`tensorrt` is on the GPU as `cuda` is: another GPU must not go unnoticed."""
    assert uses_gpu(provider, device) == (provider in ("cuda", "tensorrt") or device == "cuda (NVIDIA H200)")
