"""Other precisions for a latency: what they hold, what they are multiplied in, and that int8 is int8 or an error."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tiny_specs import SMALL

from modscale.deploy import onnx_graph, precision, runtime
from modscale.deploy.export import export_onnx, loud_copy, probe_images
from modscale.errors import InputError, TrialFailed
from modscale.models.efficientmod import build_network


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    file = tmp_path_factory.mktemp("float") / "m.onnx"
    export_onnx(loud_copy(build_network(SMALL, seed=0), SMALL), SMALL, file)
    return file


def products_of(spec) -> dict[str, int]:
    """Linear layers and dense convs, and depthwise convs, counted in PyTorch."""
    modules = list(build_network(spec, seed=0).modules())
    depthwise = sum(getattr(module, "groups", 1) > 1 for module in modules)
    return {
        "depthwise": depthwise,
        "other": sum(hasattr(one, "weight") and one.weight.ndim > 1 for one in modules) - depthwise,
    }


def test_fp16_keeps_its_input_and_output_and_is_said_to_be_multiplied_in_fp32_on_the_cpu(exported, tmp_path):
    """Every weight is of 16 bits; the CPU provider has no product of such, and turns each back."""
    counted = products_of(SMALL)
    found = precision.write_in("fp16", exported, tmp_path / "half.onnx", "cpu")
    assert found == {"fp32": sum(counted.values())}
    assert precision.write_in("fp16", exported, tmp_path / "half.onnx", "cuda") == {"fp16": sum(counted.values())}
    model = onnx.load(tmp_path / "half.onnx")
    assert not [one.name for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    images = probe_images(SMALL)
    before, after = runtime.run_images(str(exported), images), runtime.run_images(str(tmp_path / "half.onnx"), images)
    for key, expected in before.items():
        assert 0 < abs(after[key] - expected).max() < 0.02 * abs(expected).max()


def test_int8_is_multiplied_in_int8_but_for_the_depthwise_convs(exported, tmp_path):
    """Counted in the graph that ONNX Runtime made of the file."""
    counted = products_of(SMALL)
    found = precision.write_in("int8", exported, tmp_path / "q.onnx", "cpu")
    assert found == {"int8": counted["other"], "fp32": counted["depthwise"]}


def test_int8_that_would_be_multiplied_in_float_is_an_error(exported, tmp_path):
    """Without the optimisations that find the pattern every weight would be turned back in every run."""
    with pytest.raises(TrialFailed, match="would not be taken in int8"):
        precision.write_in("int8", exported, tmp_path / "q.onnx", "cpu", "disabled")


def test_a_file_of_another_origin_is_put_in_fp16_alone(tmp_path):
    """One product with a weight; int8 wants a file of ours, and says so in a line."""
    weight = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    value = [onnx.helper.make_tensor_value_info(name, 1, [1, side]) for name, side in (("x", 4), ("y", 2))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", onnx_graph.OPSET)], ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    assert precision.write_in("fp16", tmp_path / "other.onnx", tmp_path / "half.onnx", "cuda") == {"fp16": 1}
    with pytest.raises(InputError, match="no file of modscale's"):
        precision.write_in("int8", tmp_path / "other.onnx", tmp_path / "q.onnx", "cpu")
