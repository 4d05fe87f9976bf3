"""The networks of the paper by name: every row that has a configuration, with the figures printed beside it.

Source: "Efficient Modulation for Vision Networks" (ICLR 2024, arXiv 2403.19963); the data stand in `models.yaml`,
one entry a published row. Where a row's size does not follow from what the paper says, its note says what was tried.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from modscale.document import read_yaml
from modscale.errors import InputError
from modscale.kinds import CHECKPOINT_SUFFIXES, SPEC_FILE, YAML_SUFFIXES, is_network_folder, naming_kind
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec, load_spec, parse_spec

MODELS_FILE = Path(__file__).with_name("models.yaml")
FILE_SUFFIXES = (*YAML_SUFFIXES, *CHECKPOINT_SUFFIXES, ".onnx", ".npz")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedModel:
    """A published row: its network and what the paper prints about it."""

    name: str
    """The published name that every command takes."""
    spec: ModelSpec
    """The network."""
    same_as: str | None
    """The name under which the same network stands first; None where this is it."""
    table: str
    """Where the paper prints the row."""
    paper: Mapping[str, float]
    """Printed figures: `top1`, `distilled_top1` (%), `params_m` (1e6), `flops_g` (1e9), `gpu_ms`, `cpu_ms`."""
    dense: Mapping[str, float]
    """Printed in Table 7 of it under Semantic FPN, at 512 pixels on ADE20K: `params_m`, `flops_g`, `miou` (%)."""
    note: str
    """What was tried where the size does not follow from the paper; empty where it does."""


def published(name: str) -> ModelSpec:
    """The spec of a published name.

    >>> import modscale
    >>> [stage.dim for stage in modscale.published("xxs").stages]
    [32, 64, 128, 256]

    Raises:
        InputError: no such name; the nearest one is named.
    """
    entries = _entries()
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1, cutoff=0.4)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"must be a spec file or a published name{guess} (`modscale models` lists them)", value=name)
    entry = entries[name]
    if "same_as" in entry:
        return replace(published(entry["same_as"]), name=name)
    return parse_spec({"name": name, **_document(entry)}, f"{MODELS_FILE.name}: {name}")


def resolve_model(model: str) -> ModelSpec:
    """The spec that MODEL stands for on a command line: a published name, or else a spec file or a network's folder.

    Raises:
        InputError: none of these, or a file that is no valid spec; where it is a file of another kind, of which.
    """
    if is_published(model) or not _looks_like_file(model):
        return published(model)
    if is_network_folder(model):
        return load_spec(Path(model) / SPEC_FILE)
    with naming_kind(model, "spec"):
        return load_spec(model)


def is_published(model: str) -> bool:
    """Whether `modscale models` lists this name; it then means that network, whatever lies beside it."""
    return model in _entries()


def list_models() -> tuple[NamedModel, ...]:
    """Every published row that has a configuration, in the order of `models.yaml`."""
    return tuple(
        NamedModel(
            name=name,
            spec=published(name),
            same_as=entry.get("same_as"),
            table=entry["table"],
            paper=entry["paper"],
            dense=entry.get("dense", {}),
            note=entry.get("note", ""),
        )
        for name, entry in _entries().items()
    )


def models_to_json(models: Iterable[NamedModel]) -> list[dict[str, Any]]:
    """The rows as plain values, the paper's figures beside our exact counts (`params`, `flops`)."""
    rows = []
    for model in models:
        count = count_model(model.spec)
        rows.append(
            {
                "name": model.name,
                "same_as": model.same_as,
                "resolution": model.spec.resolution,
                "params": count.params,
                "flops": count.flops,
                "paper": dict(model.paper),
                "table": model.table,
                "note": model.note,
            }
        )
    return rows


@cache
def _entries() -> dict[str, Any]:
    """The entries of `models.yaml` as they stand."""
    return cast("dict[str, Any]", read_yaml(MODELS_FILE))


def _document(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of an entry as plain values; `like` is followed, then `every_stage` is set in each stage."""
    if "like" not in entry:
        return dict(entry["spec"])
    document = _document(_entries()[entry["like"]])
    document["stages"] = [{**stage, **entry["every_stage"]} for stage in document["stages"]]
    return document


def _looks_like_file(model: str) -> bool:
    if model.endswith(FILE_SUFFIXES) or "/" in model:
        return True
    try:
        return Path(model).exists()
    except (OSError, ValueError):  # a name too long for a file, or with a null byte
        return False
