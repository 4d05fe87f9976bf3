"""Networks cut into pieces and put together, against their own exports."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tiny_specs import SMALL, SPECS, small

from modscale.deploy import onnx_graph, runtime
from modscale.deploy.export import export_onnx, fresh_network
from modscale.deploy.facts import GRAPH_VERSION
from modscale.deploy.pieces import Composer, cut_graph, join_cuts
from modscale.errors import MismatchError
from modscale.specs.pieces import placed_pieces

pytestmark = pytest.mark.slow


def exported(spec, folder):
    """The graph of the export of a spec."""
    export_onnx(fresh_network(spec, seed=1), spec, folder / "model.onnx")
    return onnx_graph.parse(folder / "model.onnx")


def operators(model) -> list[str]:
    return sorted(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("name", ["modulation", "van", "mbconv"])
def test_a_network_of_its_own_pieces_is_the_same_network(name, tmp_path):
    """Cut at every place and joined again, an export answers the very same logits."""
    spec = SPECS[name]
    model = exported(spec, tmp_path)
    cuts = cut_graph(model)
    assert list(cuts) == [place for place, _ in placed_pieces(spec)]
    joined = join_cuts(list(cuts.values()), model)
    image = np.random.default_rng(0).standard_normal((1, 3, spec.resolution, spec.resolution), dtype=np.float32)
    answers = [
        next(runtime.run_batches(content, [image]))[runtime.OUTPUT_NAME]
        for content in (model.SerializeToString(), onnx_graph.serialise(joined))
    ]
    assert np.array_equal(*answers)


def test_another_network_is_put_together_of_pieces(tmp_path):
    """Deeper than what was exported, it has the operators and shapes of its own export, and weights of each its own."""
    composer = Composer()
    first, second = SMALL.stages
    composer.add(replace(SMALL, stages=(replace(first, depth=3), replace(second, depth=3))))
    deep = replace(SMALL, stages=(replace(first, depth=5), replace(second, depth=3, attention_depth=2)))
    made, own = composer.compose(deep), exported(deep, tmp_path)
    assert operators(made) == operators(own)
    shapes = [Counter(tuple(tensor.dims) for tensor in model.graph.initializer) for model in (made, own)]
    assert shapes[0] == shapes[1]
    names = [tensor.name for tensor in made.graph.initializer]
    assert len(names) == len(set(names))
    matrices = [tensor.raw_data for tensor in made.graph.initializer if len(tensor.dims) > 1]
    assert len(matrices) == len(set(matrices)), "ONNX Runtime reads equal weights once, and is too quick"
    composer.write(deep, tmp_path / "made.onnx")
    image = np.zeros((1, 3, 32, 32), dtype=np.float32)
    assert next(runtime.run_batches(str(tmp_path / "made.onnx"), [image]))[runtime.OUTPUT_NAME].shape == (1, 5)


def test_a_piece_that_was_not_exported_is_named():
    """Nothing is put together of what is not there."""
    composer = Composer()
    composer.add(SMALL)
    with pytest.raises(MismatchError, match=r"stem 8x8 3 to 16 .* was not exported"):
        composer.compose(small({"dim": 16, "depth": 1}))


def test_a_graph_that_cannot_be_cut_is_an_error(tmp_path):
    """Where a tensor goes past a piece, no piece is made of it."""
    model = exported(SMALL, tmp_path)
    node = next(node for node in reversed(model.graph.node) if node.op_type == "LayerNormalization")
    early = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    node.input[0] = early.output[0]
    with pytest.raises(MismatchError, match="cannot be cut"):
        cut_graph(model)


def test_the_version_of_the_graphs_changes_with_them(tmp_path):
    """Whoever changes the operators of an export writes one more into `GRAPH_VERSION`, and the new sum here."""
    model = exported(SMALL, tmp_path)
    found = hashlib.sha256(" ".join(node.op_type for node in model.graph.node).encode()).hexdigest()[:16]
    assert (GRAPH_VERSION, found) == (3, "0f7dae894202b5ca")
