"""Weights taken over from a like network: of another head, of other widths or depths, or with other channels.

A tensor of the same name and shape is taken as it is. Where a shape differs because a network is wider, the part that
both have is taken: the first channels of each axis, and of axes that are several vectors one after the other (the r
copies of an expansion, the heads of an attention), the first channels of each vector. The rest stays as it was started.
A head of other classes stays fresh, for its rows mean something else.

What was taken, and what was not, is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modscale.errors import CheckpointError, naming_file
from modscale.models.candidates import choose, find_candidates
from modscale.models.checkpoint import HEAD, read_document
from modscale.specs.spec import ATTENTION_HEADS


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenOver:
    """What of a file has become a part of a network."""

    key: str
    """The way to the weights in the file; `.` where it is nothing but them."""
    whole: tuple[str, ...]
    """Tensors of the same shape."""
    partial: tuple[str, ...]
    """Tensors of which a part was taken, or which are a part of theirs."""
    fresh: tuple[str, ...]
    """Tensors that stay as the network was started."""
    unused: tuple[str, ...]
    """Tensors of the file that the network has no place for."""

    def describe(self) -> str:
        """As in `90 of 92 tensors taken over, 0 in part; fresh: head.weight, head.bias`."""
        total = len(self.whole) + len(self.partial) + len(self.fresh)
        parts = [f"{len(self.whole) + len(self.partial)} of {total} tensors taken over, {len(self.partial)} in part"]
        for what, names in (("fresh", self.fresh), ("not used of the file", self.unused)):
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                parts.append(f"{what}: {', '.join(names[:4])}{more}")
        return "; ".join(parts)


@torch.no_grad()
def take_over(network: nn.Module, file: str | Path) -> TakenOver:
    """Takes from `file` into `network` all that fits.

    Raises:
        CheckpointError: the file cannot be read or is no checkpoint, its values are not finite, or nothing fits.
    """
    with naming_file(file):
        wanted = network.state_dict()
        parameters = [name for name, _ in network.named_parameters()]
        candidates, leaves = find_candidates(read_document(Path(file)), wanted, parameters)
        chosen = choose(candidates, leaves, wanted, None)
        found = {name: leaf.tensor for name, leaf in chosen.leaves.items() if not name.endswith("num_batches_tracked")}
        whole: list[str] = []
        partial: list[str] = []
        state: dict[str, Tensor] = {}
        keeps_head = all(
            name in found and found[name].shape[:1] == wanted[name].shape[:1] and found[name].ndim == wanted[name].ndim
            for name in HEAD
        )
        for name, tensor in found.items():
            if name in HEAD and not keeps_head:
                continue
            if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
                raise CheckpointError("must be a dense tensor of floating-point values", place=name)
            if not bool(tensor.float().isfinite().all()):
                raise CheckpointError("has values that are not finite", place=name)
            mixed = _overlaid(name, wanted[name], tensor, wanted, found)
            if mixed is not None:
                state[name] = mixed
                (whole if tensor.shape == wanted[name].shape else partial).append(name)
        if not state:
            raise CheckpointError("has no tensor that fits the network")
        network.load_state_dict({**wanted, **state})
    inside = {leaf.name.removeprefix(chosen.prefix) for leaf in leaves if leaf.name.startswith(chosen.prefix)}
    return TakenOver(
        key=chosen.key,
        whole=tuple(whole),
        partial=tuple(partial),
        fresh=tuple(name for name in wanted if name not in state and not name.endswith("num_batches_tracked")),
        unused=tuple(sorted(inside - set(wanted))),
    )


def _overlaid(
    name: str, ours: Tensor, theirs: Tensor, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> Tensor | None:
    """`ours` with the part that both have from `theirs`; None where they have no such part."""
    if theirs.shape == ours.shape:
        return theirs.to(ours.dtype)
    if theirs.ndim != ours.ndim or theirs.shape[2:] != ours.shape[2:]:  # a kernel of another size is no part of ours
        return None
    our_groups, their_groups = (_vectors(name, state) for state in (wanted, found))
    split = [
        [(count, size // count) for count, size in zip(groups, tensor.shape[:2], strict=False)]
        for groups, tensor in ((our_groups, ours), (their_groups, theirs))
    ]
    out = ours.clone()
    here, there = (
        tensor.view([n for pair in parts for n in pair] + list(tensor.shape[2:]))
        for tensor, parts in zip((out, theirs.contiguous()), split, strict=True)
    )
    part = tuple(slice(0, min(pair)) for pair in zip(here.shape, there.shape, strict=True))
    here[part] = there[part].to(ours.dtype)
    return out


def _vectors(name: str, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many vectors lie one after the other along the first axis of a tensor, and along the second."""
    if re.search(r"\.attn\.qkv\.weight$", name):
        return 3 * ATTENTION_HEADS, 1
    if re.search(r"\.attn\.proj\.weight$", name):
        return 1, ATTENTION_HEADS
    layer = re.match(r"(.*\.)fc([12])\.(weight|bias)$", name)
    weight = state.get(f"{layer[1]}fc1.weight") if layer else None
    if layer and weight is not None and weight.ndim == 2 and weight.shape[0] % weight.shape[1] == 0:
        ratio = weight.shape[0] // weight.shape[1]
        return (ratio, 1) if layer[2] == "1" else (1, 1 if layer[3] == "bias" else ratio)
    return 1, 1
