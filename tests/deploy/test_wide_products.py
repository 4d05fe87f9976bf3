"""Wide products: a value wider than the cache is computed copy by copy where that is asked for, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loud_exports import exported, kinds_of
from tiny_specs import small

from modscale.deploy import onnx_graph, precision, runtime, wide_products
from modscale.deploy.export import Form

WIDE = small({"dim": 8, "depth": 3, "mlp_ratios": [1, 6, 2]})
"""At 32 px 64 tokens: the second block's value has 6 copies of 2 KiB, the third's 2."""
COPY_BYTES = 64 * 8 * 4


@pytest.mark.parametrize(
    ("most", "more"),
    [(6 * COPY_BYTES, 0), (6 * COPY_BYTES - 1, 5), (2 * COPY_BYTES - 1, 6)],
    ids=["both fit", "one is wider", "both are wider"],
)
@pytest.mark.parametrize("fusion", ["mul", "sum"])
def test_a_wide_value_is_computed_copy_by_copy(most, more, fusion, monkeypatch, tmp_path):
    """Each copy has its two products and its activation; together they give what PyTorch gives."""
    spec = small({"dim": 8, "depth": 3, "mlp_ratios": [1, 6, 2], "fusion": fusion})
    monkeypatch.setattr(wide_products, "WIDE_BYTES", most)
    before = kinds_of(exported(spec, tmp_path)[0])
    model, network = exported(spec, tmp_path, Form(for_cpu=True))
    after = kinds_of(model)
    assert (after["Gemm"] - before["Gemm"], after["Erf"] - before["Erf"]) == (2 * more, more)
    stored = onnx_graph.stored_shapes(model)
    copies = [name for name in stored if name.startswith("layers.0.blocks.1.mlp.fc1.weight")]
    assert len(copies) == (6 if more else 1)
    assert not more or {tuple(stored[name]) for name in copies} == {(8, 8)}
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 32), dtype=np.float32)
    (found,) = runtime.run_batches(str(tmp_path / "m.onnx"), [image])
    with torch.inference_mode():
        assert abs(found["logits"] - network(torch.from_numpy(image)).numpy()).max() < 1e-5


def test_of_an_open_batch_nothing_is_known_to_be_wide(monkeypatch, tmp_path):
    """How many tokens there will be is not known."""
    monkeypatch.setattr(wide_products, "WIDE_BYTES", 1)
    before = kinds_of(exported(WIDE, tmp_path, Form(batch=None))[0])
    assert kinds_of(exported(WIDE, tmp_path, Form(batch=None, for_cpu=True))[0]) == before


def test_a_sum_stands_apart_from_its_product(monkeypatch, tmp_path):
    """The copies' sum is in their products; apart, as a quantiser wants it, the answer is the same."""
    monkeypatch.setattr(wide_products, "WIDE_BYTES", 6 * COPY_BYTES - 1)
    model, _ = exported(WIDE, tmp_path, Form(for_cpu=True))
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 32), dtype=np.float32)
    (expected,) = runtime.run_batches(str(tmp_path / "m.onnx"), [image])
    before = kinds_of(model)
    apart = onnx_graph.add_apart(model)
    assert kinds_of(apart) - before == {"Add": 5}
    (found,) = runtime.run_batches(onnx_graph.serialise(apart), [image])
    assert abs(found["logits"] - expected["logits"]).max() < 1e-5


def test_copies_are_multiplied_in_int8(monkeypatch, tmp_path):
    """All of them, as ONNX Runtime runs it; the depthwise convs stay float32."""
    monkeypatch.setattr(wide_products, "WIDE_BYTES", 6 * COPY_BYTES - 1)
    exported(WIDE, tmp_path, Form(for_cpu=True))
    counts = precision.write_in("int8", tmp_path / "m.onnx", tmp_path / "q.onnx", "cpu")
    assert counts == {"int8": 4 + (2 + 2 * 6) + 4 + 2, "fp32": 3}  # blocks, and stem and head
