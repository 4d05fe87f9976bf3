"""Exported networks cut into their pieces, and put together anew: every network of a space from a few exports.

A piece is what stands between two places of a graph where a single tensor passes: the stem, a block, a downsampling,
the head. It is cut from whatever `export.py` writes, so that it follows every rewrite there; the names of weights and
nodes say which piece they are of. A network put together from pieces has the very nodes of its own export, only with
other weights, and takes milliseconds where an export takes seconds. It is for timing alone.

It runs in a process of its own, for it loads torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from modscale.deploy import onnx_graph
from modscale.deploy.export import export_onnx, fresh_network
from modscale.errors import MismatchError
from modscale.files import scratch_folder, write_whole
from modscale.specs.pieces import Piece, piece_keys, placed_pieces
from modscale.specs.spec import ModelSpec

LAYOUT = ("Reshape", "Transpose")
Place = tuple[str | int, ...]

STEM = re.compile(r"patch_embed\b")
BLOCK = re.compile(r"layers\.(\d+)\b.*\bblocks\.(\d+)\b")
DOWNSAMPLE = re.compile(r"layers\.(\d+)\b.*\bdownsample\b")
HEAD = re.compile(r"/?(norm|head)\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """One piece of a graph."""

    nodes: tuple[Any, ...]
    """Its nodes in order, those that prepare its weights among them."""
    weights: tuple[Any, ...]
    """The stored tensors that they read."""
    source: str
    """The tensor that enters."""
    result: str
    """The tensor that leaves."""


def cut_graph(model: onnx_graph.Graph) -> dict[Place, Cut]:
    """The pieces of an exported classifier by their places, see `placed_pieces`, from the stem to the head.

    Raises:
        MismatchError: between two of them more than one tensor passes.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    moving = {graph.input[0].name}  # what depends on the image
    groups: list[tuple[Place, list[Any]]] = []
    for node in graph.node:
        if moving.isdisjoint(node.input):
            continue  # prepares weights for whoever reads them
        moving.update(node.output)
        place = _place(node, stored) or (groups[-1][0] if groups else ("stem",))
        if any(place == closed for closed, _ in groups[:-1]):  # what is made of an earlier piece's result, here
            place = groups[-1][0]
        if not groups or place != groups[-1][0]:
            groups.append((place, []))
        groups[-1][1].append(node)
    for (_, nodes), (_, after) in pairwise(groups):
        while (
            nodes[-1].op_type in LAYOUT and len(nodes) > 1
        ):  # what only turns a result for the next piece is the next's
            after.insert(0, nodes.pop())
    cuts: dict[Place, Cut] = {}
    source = graph.input[0].name
    for i, (place, nodes) in enumerate(groups):
        made = {name for node in nodes for name in node.output}
        later = {name for _, others in groups[i + 1 :] for node in others for name in node.input}
        passing = made & (later | {value.name for value in graph.output})
        entering = {name for node in nodes for name in node.input} & moving - made
        if len(passing) != 1 or entering != {source} or place in cuts:
            where = " ".join(map(str, place))
            raise MismatchError(f"the exported graph cannot be cut at its {where}: more than one tensor passes there")
        (result,) = passing
        whole = [*_preparation(nodes, makers, moving), *nodes]
        weights = [stored[name] for name in dict.fromkeys(n for node in whole for n in node.input) if name in stored]
        cuts[place] = Cut(nodes=tuple(whole), weights=tuple(weights), source=source, result=result)
        source = result
    return cuts


def join_cuts(cuts: Sequence[Cut], like: onnx_graph.Graph) -> onnx_graph.Graph:
    """A graph of pieces one after the other, every one with weights unlike the others'; input as in `like`.

    The last one is a head like that of `like`.
    """
    model = type(like)()
    model.CopyFrom(like)
    graph = model.graph
    for field in (graph.node, graph.initializer, graph.value_info):
        del field[:]
    entering, seen = graph.input[0].name, Counter[bytes]()
    for i, cut in enumerate(cuts):
        names = {cut.source: entering}
        last = i + 1 == len(cuts)

        def renamed(name: str, names: dict[str, str] = names, i: int = i) -> str:
            return names.setdefault(name, f"{i}:{name}") if name else name

        names[cut.result] = graph.output[0].name if last else f"{i}:{cut.result}"
        for tensor in cut.weights:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = renamed(tensor.name)
            onnx_graph.make_unique(graph.initializer[-1], seen[tensor.raw_data])
            seen[tensor.raw_data] += 1
        for node in cut.nodes:
            added = graph.node.add()
            added.CopyFrom(node)
            added.name = f"{i}:{node.name}"
            for field in (added.input, added.output):
                field[:] = [renamed(name) for name in field]
        entering = names[cut.result]
    return model


class Composer:
    """What the process does: it exports networks, keeps their pieces, and puts others together of them."""

    def __init__(self) -> None:
        self.pieces: dict[tuple[Piece, bool], Cut] = {}
        self.like: onnx_graph.Graph | None = None

    def add(self, spec: ModelSpec) -> None:
        """Exports and verifies a network, and keeps those of its pieces that are new.

        Raises:
            MismatchError: the export failed, or cannot be cut into what its spec says.
        """
        with scratch_folder() as folder:
            export_onnx(fresh_network(spec, seed=0), spec, folder / "model.onnx")
            model = onnx_graph.parse(folder / "model.onnx")
        cuts, placed = cut_graph(model), dict(placed_pieces(spec))
        if set(cuts) != set(placed):
            raise MismatchError(f"the exported graph has {len(cuts)} pieces where its spec has {len(placed)}")
        for place, key in zip(placed, piece_keys(spec), strict=True):
            self.pieces.setdefault(key, cuts[place])
        self.like = self.like or model

    def compose(self, spec: ModelSpec) -> onnx_graph.Graph:
        """A network put together. Raises MismatchError where a piece of it was not exported."""
        pieces = piece_keys(spec)
        absent = [piece for piece, first in pieces if (piece, first) not in self.pieces]
        if absent or self.like is None:
            raise MismatchError(f"{spec.name} cannot be put together: {absent[0].name} was not exported")
        return join_cuts([self.pieces[piece] for piece in pieces], self.like)

    def write(self, spec: ModelSpec, file: Path) -> None:
        """Writes a network put together as an ONNX file. Raises as `compose` does, and InputError."""
        write_whole(file, self.compose(spec).SerializeToString())


def _place(node: Any, stored: Mapping[str, Any]) -> Place | None:
    """The piece that a node is of, by its weights' names before its own; None where they do not say."""
    for name in (*(name for name in node.input if name in stored), node.name, *node.output):
        if STEM.search(name):
            return ("stem",)
        if found := BLOCK.search(name):
            return ("block", int(found[1]), int(found[2]))
        if found := DOWNSAMPLE.search(name):
            return ("downsample", int(found[1]))
        if HEAD.match(name):
            return ("head",)
    return None


def _preparation(nodes: Sequence[Any], makers: Mapping[str, Any], moving: set[str]) -> list[Any]:
    """The nodes that make of stored tensors what `nodes` read, in order."""
    found: dict[str, Any] = {}

    def add(names: Sequence[str]) -> None:
        for name in names:
            if name in makers and name not in moving and name not in found:
                add(makers[name].input)
                found[name] = makers[name]

    for node in nodes:
        add(node.input)
    return list({id(node): node for node in found.values()}.values())
