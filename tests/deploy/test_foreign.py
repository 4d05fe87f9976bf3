"""Networks of timm's, exported and counted; timm itself is a stand-in, of which the answer is known."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import fake_timm
import pytest

from modscale.deploy.foreign import check_timm, count_file, export_timm
from modscale.deploy.runtime import input_shape
from modscale.errors import InputError

PARAMS = 8 * 3 * 16 + 2 * 8 + 8 * 9 + 8 + 2 * 8 + 8 * 24 + 8 * 5 + 5
"""Stem, BatchNorm, depthwise, LayerNorm, qkv and head, without the branch that is fused."""


def flops(places: int) -> int:
    """Stem, BatchNorm, depthwise, LayerNorm, qkv, both products of attention, head; the mean is free."""
    return places * (8 * 48 + 2 * 8 + 8 * 9 + 5 * 8 + 8 * 24 + 2 * places * 8) + 8 * 5


@pytest.mark.slow
def test_a_network_of_timms_is_exported_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its deployed form, at its own size and at another."""
    fake_timm.load(monkeypatch)
    for name, resolution, side in (("mixed.in1k", None, 32), ("fixed", 48, 48)):
        file = tmp_path / f"{name}.onnx"
        assert export_timm(name, file, resolution) == (1, 3, side, side) == input_shape(str(file), None)
        count = count_file(file, (1, 3, side, side))
        assert (count.params, count.flops) == (PARAMS, flops((side // 4) ** 2))


def test_what_timm_cannot_give_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name with the nearest, no logits, no timm."""
    fake_timm.load(monkeypatch)
    with pytest.raises(InputError, match=r"is no network that timm 0.0 knows; did you mean mixed\?, got 'mixt'"):
        check_timm(["mixt"])
    with pytest.raises(InputError, match="must answer with logits"):
        export_timm("pair", tmp_path / "pair.onnx")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"a\[0\]: .*not installed: install it with `pip install 'modscale\[timm"):
        check_timm(["mixed"], "a[0]")


def test_a_torchvision_of_another_torch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
            if name == "timm":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(InputError, match="does not start: torchvision is not the one of this torch"):
        check_timm(["mixed"])
