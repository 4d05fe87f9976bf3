"""Weights in and out of a network: safetensors, or PyTorch's own files read without executing anything in them.

The parameters bear the authors' names, so their published checkpoints load as they are. Wrappers understood, in this
order, each around a plain mapping of names to tensors: `state_dict_ema`, `model_ema`, `state_dict`, `model`. The
averaged weights come first, as in timm's loader: they are the ones that a paper's accuracy was measured with. A
`module.` before every name (DataParallel) is dropped.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from modscale.errors import CheckpointError, naming_file
from modscale.files import write_whole

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")

HARMLESS = (argparse.Namespace, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType)
"""Plain-value classes that timm's training checkpoints hold beside the weights: options and the best score."""

_NAMED = 3
"""How many offending tensors a message names before it only counts the rest."""


def load_weights(network: nn.Module, file: str | Path) -> None:
    """Loads every tensor of `network` from `file`; half precision is converted to the network's own type.

    Nothing is loaded unless all of it fits.

    Raises:
        CheckpointError: the file cannot be read, is no checkpoint, or a tensor is missing, extra, misshapen, not of
            a floating-point type or not finite; the message names the first few.
    """
    with naming_file(file):
        state = _checked(network.state_dict(), read_tensors(file))
        network.load_state_dict(state)


def read_tensors(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, wrappers and `module.` removed. Raises CheckpointError."""
    path = Path(file)
    with naming_file(file):
        try:
            if path.exists() and not path.is_file() and not path.is_dir():  # a pipe might never end
                raise CheckpointError("must be a plain file")
            with path.open("rb"):  # so that a missing or forbidden file says so in the system's words
                pass
            document = load_file(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
        except SafetensorError as error:
            raise CheckpointError(f"not a whole safetensors file: {error}") from error
        return _without_module(_unwrapped(document))


def save_weights(network: nn.Module, file: str | Path) -> None:
    """Writes the state dict of `network` as safetensors, whole or not at all. Raises InputError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_whole(file, save(tensors))


def _read_pickle(path: Path) -> object:
    """What torch.load makes of the file under `weights_only`, which builds tensors and plain values only."""
    scalar: Any = np.float64(0).__reduce__()[0]  # the function numpy's own scalars are rebuilt with
    allowed: list[Any] = [
        *HARMLESS,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # old formats warn; what matters is checked below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in torch's reader, as an OSError too
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and asked:
            raise CheckpointError(f"asks for {asked[1]}; only tensors and plain values are read") from error
        raise CheckpointError("not a whole PyTorch checkpoint") from error


def _unwrapped(document: object) -> dict[str, Tensor]:
    for _ in range(2):  # a `model` inside a `state_dict` has been seen, nothing deeper
        if isinstance(document, Mapping):
            inner = next((d for key in WRAPPERS if isinstance(d := document.get(key), Mapping) and d), None)
            document = document if inner is None else inner
    if not isinstance(document, Mapping) or not document:
        raise CheckpointError("holds no tensors by name", value=type(document).__name__)
    for name, tensor in document.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"must hold tensors by name, alone or under one of {', '.join(WRAPPERS)}", place=str(name)
            )
        if tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError("must be a dense tensor with its values", place=name, value=str(tensor.layout))
    return dict(document)


def _without_module(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _checked(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`found` made whole with the counters of `wanted`, or a CheckpointError that names what does not fit."""
    problems: list[str] = []
    # BatchNorm's step counter is not a weight: older files have none, and nothing reads it at momentum 0.1.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    _note(problems, "missing", [name for name in wanted if name not in found and name not in counters])
    _note(problems, "extra", [name for name in found if name not in wanted])
    both = [name for name in wanted if name in found]
    fits = [name for name in both if found[name].shape == wanted[name].shape]
    _note(
        problems,
        "of another shape",
        [f"{name} {list(found[name].shape)} for {list(wanted[name].shape)}" for name in both if name not in fits],
    )
    floats = [name for name in fits if found[name].is_floating_point()]
    others = [f"{n} ({found[n].dtype})" for n in fits if n not in floats and n not in counters]
    _note(problems, "not floating-point", others)
    _note(problems, "not finite", [name for name in floats if not bool(found[name].float().isfinite().all())])
    if problems:
        raise CheckpointError(f"does not fit the network: {'; '.join(problems)}")
    return {name: found.get(name, tensor) for name, tensor in wanted.items()}


def _note(problems: list[str], what: str, names: Iterable[str]) -> None:
    listed = list(names)
    if listed:
        more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
        problems.append(f"{len(listed)} {what}: {', '.join(listed[:_NAMED])}{more}")
