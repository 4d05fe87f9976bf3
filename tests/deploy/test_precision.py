"""Other precisions for a latency: what they hold, what they are multiplied in, and that int8 is int8 or an error."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from tiny_specs import SMALL

from modscale.deploy import onnx_graph, precision, runtime
from modscale.deploy.export import export_onnx, loud_copy, probe_images
from modscale.errors import InputError, TrialFailed
from modscale.latency.protocol import find_onnx, measure_files
from modscale.models.efficientmod import build_network
from modscale.settings import LatencySettings


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


def save_product(file, weight, nodes=None, more=(), kind=onnx.TensorProto.FLOAT):
    """A file that none of ours made: y = x w, or what `nodes` say."""
    value = [onnx.helper.make_tensor_value_info(name, kind, [1, side]) for name, side in (("x", 4), ("y", 2))]
    nodes = nodes or [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    stored = [onnx.numpy_helper.from_array(weight, "w"), *more]
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:], stored)
    opsets = [onnx.helper.make_opsetid("", onnx_graph.OPSET), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), file)
    return file


class Noise(CalibrationDataReader):
    def __init__(self):
        self.left = [{"x": np.ones((1, 4), np.float32)}]

    def get_next(self):
        return self.left.pop() if self.left else None


def test_what_a_file_of_another_origin_holds_is_read_in_the_file(tmp_path):
    """As ONNX Runtime's own quantiser writes int8, in its three forms; fp16 as it is, and cast back by the file."""
    plain = save_product(tmp_path / "plain.onnx", np.ones((4, 2), np.float32))
    quantize_dynamic(plain, tmp_path / "dynamic.onnx")  # MatMulInteger
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):  # behind a DequantizeLinear, and QLinearMatMul
        quantize_static(plain, tmp_path / f"{form.name}.onnx", Noise(), quant_format=form)
    half = np.ones((4, 2), np.float16)
    save_product(tmp_path / "half.onnx", half, kind=onnx.TensorProto.FLOAT16)
    cast = [onnx.helper.make_node("Cast", ["w"], ["v"], to=1), onnx.helper.make_node("MatMul", ["x", "v"], ["y"])]
    save_product(tmp_path / "cast.onnx", half, cast)
    double = np.ones((4, 2), np.float64)
    save_product(tmp_path / "double.onnx", double, kind=onnx.TensorProto.DOUBLE)
    expected = {"plain": "fp32", "dynamic": "int8", "QDQ": "int8", "QOperator": "int8", "half": "fp16", "cast": "fp16"}
    expected["double"] = "other"
    assert {name: onnx_graph.held_precision(tmp_path / f"{name}.onnx") for name in expected} == expected
    assert find_onnx(tmp_path / "dynamic.onnx").precision == "int8"


def test_a_weight_that_the_file_itself_quantises_is_int8(tmp_path):
    """As PyTorch writes a network that was trained for int8: float weights, a QuantizeLinear, a DequantizeLinear."""
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["v"]),
        onnx.helper.make_node("MatMul", ["x", "v"], ["y"]),
    ]
    more = [
        onnx.numpy_helper.from_array(np.array(value), name)
        for name, value in (("s", np.float32(0.1)), ("z", np.int8(0)))
    ]
    file = save_product(tmp_path / "aware.onnx", np.ones((4, 2), np.float32), nodes, more)
    assert onnx_graph.held_precision(file) == "int8"


def test_the_larger_part_of_the_weights_names_the_precision(tmp_path):
    """8 values in int8, 4 in float: int8, also where they are constants among the operators."""
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.ones((2, 2), np.float32))),
        onnx.helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        onnx.helper.make_node("MatMul", ["x", "v"], ["h"]),
        onnx.helper.make_node("MatMul", ["h", "c"], ["y"]),
    ]
    scale = onnx.numpy_helper.from_array(np.array(np.float32(0.1)), "s")
    file = save_product(tmp_path / "both.onnx", np.ones((4, 2), np.int8), nodes, [scale])
    assert onnx_graph.held_precision(file) == "int8"
    assert sorted(onnx_graph.weight_precisions(onnx_graph.parse(file), as_run=False).values()) == ["fp32", "int8"]


def test_a_file_that_is_int8_already_is_put_in_nothing_else(tmp_path):
    """`--precision fp16` would time a mixture; one line says so, before anything is timed."""
    file = save_product(tmp_path / "int8.onnx", np.ones((4, 2), np.float32))
    quantize_dynamic(file, file)
    settings = LatencySettings(threads=1, precision="fp16")
    with pytest.raises(InputError, match="holds weights in int8, and is put in no other precision"):
        measure_files([find_onnx(file)], settings)


def test_a_file_of_another_origin_is_put_in_fp16_alone(tmp_path):
    """One product with a weight; int8 wants a file of ours, and says so in a line."""
    save_product(tmp_path / "other.onnx", np.ones((4, 2), np.float32))
    assert precision.write_in("fp16", tmp_path / "other.onnx", tmp_path / "half.onnx", "cuda") == {"fp16": 1}
    with pytest.raises(InputError, match="no file of modscale's"):
        precision.write_in("int8", tmp_path / "other.onnx", tmp_path / "q.onnx", "cpu")
