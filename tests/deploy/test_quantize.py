"""int8: what becomes int8 and what stays, and that it still answers, on a network whose head was fitted."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
import torch
from fitted import FITTED, MEAN, STD, fitted_network, normalised, read_images, write_images
from onnx import numpy_helper

from modscale.deploy import runtime
from modscale.deploy.classify import classify, feed
from modscale.deploy.export import Form, export_onnx
from modscale.deploy.facts import Facts
from modscale.deploy.quantize import LEVELS, quantise

FACTS = Facts(mean=MEAN, std=STD)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_images(write_images(tmp_path_factory.mktemp("data") / "few.npz"))


@pytest.fixture(scope="module")
def network(data):
    return fitted_network(data)


@pytest.fixture(scope="module")
def float_file(data, network, tmp_path_factory):
    file = tmp_path_factory.mktemp("float") / "m.onnx"
    export_onnx(network, FITTED, file, facts=FACTS, form=Form(batch=None))
    return file


@pytest.mark.parametrize("form", [Form(batch=None), Form(batch=7), Form(folded=True)], ids=["open", "seven", "folded"])
def test_a_file_classifies_as_pytorch_does(form, data, network, tmp_path):
    """Whatever its batch, and whether the normalisation is folded in: by what the file says of itself."""
    export_onnx(network, FITTED, tmp_path / "m.onnx", facts=FACTS, form=form)
    with torch.inference_mode():
        logits = network(normalised(data.x_val)).numpy()
    assert (logits.argmax(1) == data.y_val).mean() > 0.6  # of five classes
    top = np.sort(logits)
    clear = top[:, -1] - top[:, -2] > 1e-4
    assert (classify(tmp_path / "m.onnx", data.x_val) == logits.argmax(1))[clear].all()


@pytest.mark.parametrize("level", LEVELS)
def test_int8_answers_as_float32_does(level, data, float_file, tmp_path):
    """Nine answers of ten are the same; the file is smaller, and says what it is beside what it said before."""
    quantise(float_file, tmp_path / "q.onnx", feed(float_file, data.x_train[:100]), level=level)
    before, after = classify(float_file, data.x_val), classify(tmp_path / "q.onnx", data.x_val)
    assert (before == after).mean() > 0.9
    held, old = (runtime.read_metadata(str(file)) for file in (tmp_path / "q.onnx", float_file))
    assert held == old | {"int8": {"level": level, "weight_bits": 7}}


def test_weights_become_int8_and_the_rest_stays_float(data, float_file, tmp_path):
    """Every linear layer, dense conv and the head, with a scale a channel, in 7 bits; nothing else."""
    quantise(float_file, tmp_path / "q.onnx", feed(float_file, data.x_train[:50]), level="all weights")
    graph = onnx.load(tmp_path / "q.onnx").graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    origin = {node.output[0]: node for node in graph.node}
    kinds: collections.Counter[str] = collections.Counter()
    for node in graph.node:
        if node.op_type in ("Gemm", "Conv"):
            source = origin.get(node.input[1])
            if source is None:
                kinds[f"float {node.op_type}"] += 1
                continue
            weight, scale = (numpy_helper.to_array(stored[name]) for name in source.input[:2])
            assert weight.dtype == np.int8
            assert abs(weight.astype(int)).max() <= 64
            assert len(scale) == weight.shape[0] > 1
            kinds[f"int8 {node.op_type}"] += 1
        elif node.op_type in ("LayerNormalization", "Erf", "Softmax", "MatMul", "Mul"):
            assert all(origin[name].op_type != "DequantizeLinear" for name in node.input if name in origin)
    # fc1, f, g, fc2 of two modulation blocks; qkv, proj, fc1, fc2 of attention; the head. Stem and downsampling.
    assert kinds == {"int8 Gemm": 13, "int8 Conv": 2, "float Conv": 2}
