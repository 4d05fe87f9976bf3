"""The conditions of a measurement, its settings, data, machine and versions: what of them has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modscale.errors import RunError, shorten
from modscale.machine import describe_machine, describe_versions
from modscale.providers import PROVIDERS

TIMERS = ("torch", "onnxruntime", "onnxruntime-gpu")
"""Packages whose version moves accuracies or latencies."""


def uses_gpu(provider: object, device: object) -> bool:
    """Whether an NVIDIA GPU times, by the provider's name, or trains, by the device in words: `cuda (NVIDIA H200)`."""
    row = PROVIDERS.get(str(provider))  # as a file has it, which may be no name at all
    return (row is not None and row.device == "cuda") or str(device).startswith("cuda")


def check_conditions(document: Mapping[str, Any], folder: Path, *, on_gpu: bool) -> list[str]:
    """What is not as `document` has it under `machine` and `versions`, and may move its numbers: versions, a line each.

    Raises:
        RunError: the processor, or a GPU that is used, is another one; latencies of two machines have no common order.
    """
    machine, versions = (
        found if isinstance(found := document.get(key), Mapping) else {} for key in ("machine", "versions")
    )
    now_here = describe_machine()
    for part in ("cpu", "gpu") if on_gpu else ("cpu",):
        now = now_here[part]
        before = machine.get(part)
        if None not in (before, now) and before != now:
            rule = f"was measured on another machine: its {part} is {shorten(before)}, and {shorten(now)} here"
            raise RunError(f"{rule}; give another --out", file=folder)
    here = describe_versions()
    pairs = [(package, versions.get(package), here.get(package)) for package in TIMERS]
    pairs += [("the GPU's driver", machine.get("gpu_driver"), now_here["gpu_driver"])] if on_gpu else []
    return [f"{name} was {old or 'absent'} and is {new or 'absent'}" for name, old, new in pairs if old != new]


def check_same_data(old: Mapping[str, Any], data: Mapping[str, Any], file: Path) -> None:
    """Raises RunError where what `file` says of its data, `old`, is not so of `data`: other images, another device."""
    for key, what in (("fingerprint", "belongs to other data"), ("device", "was trained on another device")):
        if old.get(key) != data[key]:
            rule = f"{what}: its {key} is {shorten(old.get(key))}, and {shorten(data[key])} here; give another --out"
            raise RunError(rule, file=file, place=f"data.{key}")


def differences(old: object, new: object, place: str = "") -> Iterator[tuple[str, object, object]]:
    """Every place in which two documents differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, now) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, now, f"{place}[{i}]")
    elif old != new:
        yield place, old, new


def told(value: object) -> str:
    """A value of a setting in a sentence."""
    return "not set" if value is None else shorten(value)
