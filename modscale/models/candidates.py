"""Which of the tensors in a checkpoint are a network's weights: found by their names, wherever they lie.

A file is a tree: wrappers (`state_dict`, `ema`, an optimizer's state, a trainer's callbacks) around mappings whose keys
are names with dots in them, before which other wrappers have left prefixes (`module.`, `_orig_mod.`, `model.`). The
two are the same thing here. A tensor's full name is the whole way to it; where a full name ends in a name of the
network, what stands before that is a prefix, and a prefix that at least half of the network's names share is a
candidate. No list of wrappers or prefixes is needed.

Of several candidates the averaged weights are meant: they are the ones that a paper's accuracy was measured with.
Words on the way tell them (`ema`, `averaged`, `swa`), the innermost first: `ema.online_model` is not averaged.
Example: `{"model": {...}, "ema": {"module": {...}}}` has the candidates `model` and `ema.module`; the second is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from modscale.errors import CheckpointError
from modscale.models.pickled import StandIn, module_fields

Role = Literal["averaged", "raw", "optimizer", ""]

WORDS: dict[str, Role] = {
    **dict.fromkeys(("ema", "ewma", "swa", "avg", "average", "averaged", "averaging", "polyak", "shadow"), "averaged"),
    **dict.fromkeys(("online", "raw", "current", "collected"), "raw"),
    **dict.fromkeys(("optim", "optimizer", "optimizers", "grad", "grads", "gradients", "buffer", "exp"), "optimizer"),
}
"""What a word on the way to tensors says about them; of one name's words the last row counts first (`exp_avg`)."""

MAX_NESTING = 60
"""Deepest nesting that is looked into."""

MAX_NAME = 80
"""Characters of a name that a message holds."""

_NAMED = 3
"""How many candidates a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """A tensor of a file."""

    name: str
    """Everything on the way to it, joined by dots."""
    container: str
    """The way to the mapping, or pickled module, that it is part of."""
    tensor: Tensor
    """Its values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Tensors that may be the network's weights."""

    prefix: str
    """What stands before the network's names, its last dot included."""
    role: Role
    """What the words on the way say."""
    leaves: Mapping[str, Leaf] = field(repr=False)
    """By the network's own names."""

    @property
    def key(self) -> str:
        """The way to it as a person gives it, `.` for a file that is nothing but the weights."""
        return self.prefix.rstrip(".") or "."


def find_leaves(document: object) -> tuple[list[Leaf], dict[str, list[Tensor]]]:
    """All tensors of a document, and its lists of nothing but tensors by the way to them; nothing is read twice."""
    leaves: list[Leaf] = []
    lists: dict[str, list[Tensor]] = {}
    seen: set[int] = set()

    def walk(node: object, path: tuple[str, ...], container: str, within_module: bool) -> None:
        if isinstance(node, Tensor):
            leaves.append(Leaf(name=".".join(path), container=container, tensor=node))
            return
        if not isinstance(node, (Mapping, list, tuple, StandIn)) or id(node) in seen or len(path) > MAX_NESTING:
            return
        seen.add(id(node))
        here = ".".join(path)
        children: Iterable[tuple[object, object]]
        if isinstance(node, StandIn):
            children = module_fields(node)
        elif isinstance(node, Mapping):
            children = node.items()
        else:
            children = enumerate(node)
            if node and all(isinstance(item, Tensor) for item in node):
                lists[here] = list(node)
        inner = container if within_module else here
        for name, child in children:
            way = path if name == "" and isinstance(node, StandIn) else (*path, str(name))
            walk(child, way, inner, within_module or isinstance(node, StandIn))

    walk(document, (), "", False)
    return leaves, lists


def find_candidates(
    document: object, wanted: Mapping[str, Tensor], parameters: Sequence[str]
) -> tuple[list[Candidate], list[Leaf]]:
    """The candidates in a document, those with most of the wanted names first, and all of its tensors.

    Args:
        document: what a file holds.
        wanted: the network's state by name.
        parameters: the names of its parameters in their order, by which a list of tensors without names is read.

    Raises:
        CheckpointError: no tensor bears a name of the network.
    """
    leaves, lists = find_leaves(document)
    names = {name: name for name in wanted}
    for name in wanted:  # buffers cannot have dots in their names, so that averages in a module are named without
        names.setdefault(name.replace(".", ""), name)
        names.setdefault(name.replace(".", "_"), name)
    found: dict[str, dict[str, Leaf]] = {}
    for leaf in leaves:
        starts = [0, *(match.end() for match in re.finditer(r"\.", leaf.name))]
        for start in starts:
            if leaf.name[start:] in names:
                found.setdefault(leaf.name[:start], {})[names[leaf.name[start:]]] = leaf
    for path, tensors in lists.items():
        if [tensor.shape for tensor in tensors] == [wanted[name].shape for name in parameters]:
            found[f"{path}."] = {
                name: Leaf(name=f"{path}.{i}", container=path, tensor=tensor)
                for i, (name, tensor) in enumerate(zip(parameters, tensors, strict=True))
            }
    if not found:
        if not leaves:
            what = document.origin if isinstance(document, StandIn) else type(document).__name__
            raise CheckpointError("holds no tensors by name", value=what)
        raise CheckpointError(f"holds {len(leaves)} tensors, none by a name of the network", value=leaves[0].name)
    roles = _layout(document)
    candidates = [
        Candidate(prefix=prefix, role=_role(prefix, roles, leaves), leaves=members) for prefix, members in found.items()
    ]
    candidates = [one for one in candidates if one.role != "optimizer"] or candidates
    candidates.sort(key=lambda one: -len(one.leaves))
    return [one for one in candidates if 2 * len(one.leaves) >= len(wanted)] or candidates[:1], leaves


def choose(
    candidates: Sequence[Candidate], leaves: Sequence[Leaf], wanted: Mapping[str, Tensor], key: str | None
) -> Candidate:
    """The candidate that is meant: the one at `key`; the averaged one; the only one that fits.

    Raises:
        CheckpointError: none lies at `key`, or which is meant cannot be told.
    """
    if key is not None:
        at = key.strip(".")
        held = [one for one in candidates if one.key == (at or ".")]
        held = held or [one for one in candidates if at and one.prefix.startswith(f"{at}.")]
        if not held:
            raise CheckpointError(f"has no weights of this network there; it has them at {_keys(candidates)}",
                                  place="--key", value=key)  # fmt: skip
        candidates = held
    averaged = [one for one in candidates if one.role == "averaged"]
    others = [leaf for leaf in leaves if _words_role(leaf.name) == "averaged"]
    if key is None and not averaged and 2 * len(others) >= len(wanted):
        raise CheckpointError(
            f"holds averaged weights whose names are not the network's ({cut(others[0].name)}); "
            f"--key loads the raw ones: {_keys(candidates)}"
        )
    pool = averaged or [one for one in candidates if one.role != "raw"] or list(candidates)
    fitting = [one for one in pool if _fits(one, wanted)]
    pool = pool if averaged else fitting or pool
    first, *rest = pool
    if not fitting and not averaged:
        rest = [one for one in rest if len(one.leaves) == len(first.leaves)]
    if any(not _equal(first, one) for one in rest):
        raise CheckpointError(f"holds weights of this network more than once; --key says which: {_keys(pool)}")
    return first


def extras(chosen: Candidate, candidates: Sequence[Candidate], leaves: Sequence[Leaf]) -> tuple[list[str], list[str]]:
    """Tensors beside the chosen ones: under the same prefix (named without it), and beside it in the same mapping."""
    taken = {leaf.name for leaf in chosen.leaves.values()}
    containers = {leaf.container for leaf in chosen.leaves.values()}
    others = [one.prefix for one in candidates if len(one.prefix) > len(chosen.prefix)]
    inside, beside = [], []
    for leaf in leaves:
        if leaf.name in taken or leaf.container not in containers or leaf.name.startswith(tuple(others)):
            continue
        if leaf.name.startswith(chosen.prefix):
            inside.append(leaf.name.removeprefix(chosen.prefix))
        else:
            beside.append(leaf.name)
    return inside, beside


def cut(name: str) -> str:
    """A tensor's name as a message holds it, however long the file has it."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."


def _fits(candidate: Candidate, wanted: Mapping[str, Tensor]) -> bool:
    return all(
        name in candidate.leaves and candidate.leaves[name].tensor.shape == tensor.shape
        for name, tensor in wanted.items()
        if not name.endswith("num_batches_tracked")
    )


def _equal(one: Candidate, other: Candidate) -> bool:
    return one.leaves.keys() == other.leaves.keys() and all(
        leaf.tensor.shape == other.leaves[name].tensor.shape and bool((leaf.tensor == other.leaves[name].tensor).all())
        for name, leaf in one.leaves.items()
        if leaf.tensor.layout == torch.strided and not leaf.tensor.is_meta
    )


def _keys(candidates: Sequence[Candidate]) -> str:
    more = f" and {len(candidates) - _NAMED} more" if len(candidates) > _NAMED else ""
    return ", ".join(cut(one.key) for one in candidates[:_NAMED]) + more


def _role(prefix: str, layout: Mapping[str, Role], leaves: Sequence[Leaf]) -> Role:
    top = prefix.partition(".")[0]
    if top in layout:
        return layout[top]
    outside = prefix.removesuffix("module.")  # torch's AveragedModel counts beside its module
    if outside != prefix and any(leaf.name == f"{outside}n_averaged" for leaf in leaves):
        return "averaged"
    return _words_role(prefix)


def _words_role(way: str) -> Role:
    """What the innermost part of a way that says anything says."""
    for part in reversed(way.split(".")):
        words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)}
        said = [role for word, role in WORDS.items() if word in words]
        if said:
            return said[-1]
    return ""


def _layout(document: object) -> dict[str, Role]:
    """Roles of wrappers that two libraries name otherwise: they keep the average where the plain weights used to be."""
    if isinstance(document, Mapping) and "state_dict" in document:
        meta = document.get("meta")
        if "averaging_state" in document and "current_model_state" in document:  # Lightning's WeightAveraging
            return {"state_dict": "averaged", "current_model_state": "raw"}
        if isinstance(meta, Mapping) and "mmengine_version" in meta and "ema_state_dict" in document:
            return {"state_dict": "averaged", "ema_state_dict": "raw"}
    return {}
