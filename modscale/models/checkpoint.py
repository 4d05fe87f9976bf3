"""Weights in and out of a network: safetensors, or PyTorch's own files read without executing anything in them.

The parameters bear the authors' names, so their published checkpoints load as they are. Where in a file the weights
lie is found by those names (`candidates.py`); what PyTorch's files hold beside them is passed over (`pickled.py`).
What was loaded, and what was not, is told: nothing is left out without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from modscale.errors import CheckpointError, naming_file
from modscale.files import write_whole
from modscale.models.candidates import Candidate, Leaf, choose, cut, extras, find_candidates
from modscale.models.pickled import read_pickle

BOOKKEEPING = {
    "n_averaged", "total_ops", "total_params", "num_batches_tracked", "decay", "num_updates", "updates", "step",
    "steps", "initted", "global_step", "epoch",
}  # fmt: skip
"""Last parts of names that averages, counters of operations and trainers give to numbers which are no weights."""

HEAD = ("head.weight", "head.bias")
"""The classifier: the only weights whose shapes follow from the number of classes."""

STEM = "patch_embed.proj.weight"
"""[dim, in_chans, k, k]: the only weight whose shape follows from the number of channels."""

INITIAL = {"weights": "initial"}
"""Metadata of a safetensors file whose network was never trained."""

_NAMED = 3
"""How many offending tensors a message names before it only counts the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedWeights:
    """What was taken from a file, and what was not."""

    key: str
    """The way to the weights in the file; `.` where it is nothing but them."""
    averaged: bool
    """Whether the names on that way say that they are averaged over training."""
    passed_over: tuple[str, ...]
    """Tensors beside the weights that are known to be none, or lie outside of the network."""
    fresh: tuple[str, ...]
    """Weights that were left as the network was started: the head, where that was asked for."""
    trained: bool
    """False where the file says that its weights are those that an untrained network started with."""
    buffers_from: str
    """Where BatchNorm's statistics were taken from, when an average holds parameters only; else empty."""


def load_weights(
    network: nn.Module, file: str | Path, *, key: str | None = None, fresh_head: bool = False
) -> LoadedWeights:
    """Loads every tensor of `network` from `file`; half precision is converted to the network's own type.

    Nothing is loaded unless all of it fits. Of several sets of weights in the file the averaged one is taken.

    Args:
        network: an EfficientMod network.
        file: safetensors, or a PyTorch file.
        key: the way to the weights in the file, as in `ema.module`, where there are several.
        fresh_head: leave the classifier as it is in `network`, whatever the file has.

    Raises:
        CheckpointError: the file cannot be read, is no checkpoint, or a tensor is missing, extra, misshapen, not of
            a floating-point type or not finite; the message names the first few. Or the file holds several sets of
            weights, and which is meant cannot be told.
    """
    with naming_file(file):
        wanted = network.state_dict()
        parameters = [name for name, _ in network.named_parameters()]
        candidates, leaves = find_candidates(read_document(Path(file)), wanted, parameters)
        chosen = choose(candidates, leaves, wanted, key)
        found, source = _with_buffers(chosen, candidates, wanted, parameters)
        inside, beside = extras(chosen, candidates, leaves)
        fresh = HEAD if fresh_head else ()
        state = _checked(wanted, found, [name for name in inside if not _is_bookkeeping(name)], fresh)
        network.load_state_dict(state)
    return LoadedWeights(
        key=chosen.key,
        averaged=chosen.role == "averaged",
        passed_over=(*(name for name in inside if _is_bookkeeping(name)), *beside),
        fresh=fresh,
        trained=not _is_initial(Path(file)),
        buffers_from=source,
    )


def save_weights(network: nn.Module, file: str | Path, *, trained: bool = True) -> None:
    """Writes the state dict of `network` as safetensors, whole or not at all, and in it whether it is trained.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_whole(file, save(tensors, metadata=None if trained else INITIAL))


def loaded_to_json(loaded: LoadedWeights) -> dict[str, object]:
    """What was loaded as plain values."""
    return {
        "key": loaded.key,
        "averaged": loaded.averaged,
        "trained": loaded.trained,
        "passed_over": list(loaded.passed_over),
        "fresh": list(loaded.fresh),
        "buffers_from": loaded.buffers_from or None,
    }


def read_document(path: Path) -> object:
    """What a file holds. Raises CheckpointError."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe might never end
            raise CheckpointError("must be a plain file")
        with path.open("rb"):  # so that a missing or forbidden file says so in the system's words
            pass
        return load_file(path) if path.suffix.lower() == ".safetensors" else read_pickle(path)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"not a whole safetensors file: {error}") from error


def _is_initial(path: Path) -> bool:
    if path.suffix.lower() != ".safetensors":
        return False
    with safe_open(path, framework="pt") as file:
        return INITIAL.items() <= (file.metadata() or {}).items()


def _with_buffers(
    chosen: Candidate, candidates: list[Candidate], wanted: Mapping[str, Tensor], parameters: list[str]
) -> tuple[dict[str, Leaf], str]:
    """The chosen weights; an average of parameters alone takes BatchNorm's statistics from the weights beside it."""
    found = dict(chosen.leaves)
    missing = {name for name in wanted if name not in found}
    others = [one for one in candidates if one is not chosen and missing <= one.leaves.keys()]
    if not missing or missing & set(parameters) or chosen.role != "averaged" or len(others) != 1:
        return found, ""
    return {**found, **{name: others[0].leaves[name] for name in missing}}, others[0].key


def _is_bookkeeping(name: str) -> bool:
    return name.rpartition(".")[2] in BOOKKEEPING


def _checked(
    wanted: Mapping[str, Tensor], leaves: Mapping[str, Leaf], extra: list[str], fresh: tuple[str, ...]
) -> dict[str, Tensor]:
    """The state made whole with what `wanted` may keep, or a CheckpointError that names what does not fit."""
    found = {name: leaf.tensor for name, leaf in leaves.items() if name not in fresh}
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError("must be a dense tensor with its values", place=name, value=str(tensor.layout))
    problems: list[str] = []
    # BatchNorm's step counter is not a weight: older files have none, and nothing reads it at momentum 0.1.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    kept = {*counters, *fresh}
    _note(problems, "missing", [name for name in wanted if name not in found and name not in kept])
    _note(problems, "extra", extra)
    both = [name for name in wanted if name in found]
    fits = [name for name in both if found[name].shape == wanted[name].shape]
    misshapen = [name for name in both if name not in fits]
    _note(
        problems,
        "of another shape",
        [f"{name} {list(found[name].shape)} for {list(wanted[name].shape)}" for name in misshapen],
    )
    floats = [name for name in fits if found[name].is_floating_point()]
    others = [f"{n} ({found[n].dtype})" for n in fits if n not in floats and n not in counters]
    _note(problems, "not floating-point", others)
    _note(problems, "not finite", [name for name in floats if not bool(found[name].float().isfinite().all())])
    if problems:
        rule = f"does not fit the network: {'; '.join(problems)}"
        raise CheckpointError(". ".join([rule, *_remedies(wanted, found)]))
    return {name: found.get(name, tensor) for name, tensor in wanted.items()}


def _remedies(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What to write where a misfit follows from the number of classes or channels alone."""
    told = []
    head, bias = (found.get(name) for name in HEAD)
    if head is not None and bias is not None and bias.ndim == 1:
        classes = len(bias)
        if head.shape == (classes, wanted[HEAD[0]].shape[1]) and classes != len(wanted[HEAD[1]]):
            told.append(
                f"Its head has {classes} classes: write `num_classes: {classes}` in the spec,"
                " or load the rest with --fresh-head"
            )
    elif head is None and bias is None:
        told.append("It has no head: --fresh-head loads the rest")
    stem = found.get(STEM)
    if stem is not None and stem.ndim == 4:
        dim, channels, *kernel = wanted[STEM].shape
        if stem.shape == (dim, stem.shape[1], *kernel) and stem.shape[1] != channels:
            told.append(f"Its stem takes {stem.shape[1]} channels: write `in_chans: {stem.shape[1]}` in the spec")
    return told


def _note(problems: list[str], what: str, names: Iterable[str]) -> None:
    listed = [cut(name) for name in names]
    if listed:
        more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
        problems.append(f"{len(listed)} {what}: {', '.join(listed[:_NAMED])}{more}")
