"""The rewrites of a graph: any number of images, maps, plain pixels and Gemms, each held against PyTorch."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from tiny_specs import SMALL, SPECS, small

from modscale.deploy import export, onnx_graph, runtime
from modscale.deploy.export import Form, export_onnx
from modscale.deploy.facts import Facts
from modscale.errors import MismatchError
from modscale.models.efficientmod import build_network
from modscale.specs.spec import parse_spec

PATCHES = small({"dim": 8, "depth": 1}, stem={"kernel_size": 8, "stride": 8})
FACTS = Facts(mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.4), classes=("a", "b", "ü", "d", "e"), training={"epochs": 3})


def loud(spec):
    return export.loud_copy(build_network(spec, seed=0), spec, seed=3).eval()


def images_of(spec, count, seed=0):
    shape = (count, spec.in_chans, spec.resolution, spec.resolution)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def answers(file, images):
    (found,) = runtime.run_batches(str(file), [images])
    return found


@pytest.mark.parametrize("name", ["modulation", "van", "focal", "mbconv", "attention first"])
def test_an_open_batch_takes_any_number_of_images(name, tmp_path):
    """One, two and five images at once give what PyTorch gives for each."""
    spec = SPECS[name]
    network = loud(spec)
    export_onnx(network, spec, tmp_path / "m.onnx", form=Form(batch=None))
    assert runtime.fixed_batch(str(tmp_path / "m.onnx")) is None
    for count in (1, 2, 5):
        images = images_of(spec, count)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images)).numpy()
        found = answers(tmp_path / "m.onnx", images)["logits"]
        assert found.shape == (count, spec.num_classes)
        assert abs(found - expected).max() < 1e-5


def test_a_fixed_batch_takes_so_many_images_and_no_others(tmp_path):
    """The number stands in the file's input and output."""
    network = loud(SMALL)
    export_onnx(network, SMALL, tmp_path / "m.onnx", form=Form(batch=4))
    assert runtime.fixed_batch(str(tmp_path / "m.onnx")) == 4
    images = images_of(SMALL, 4)
    with torch.inference_mode():
        assert (
            abs(answers(tmp_path / "m.onnx", images)["logits"] - network(torch.from_numpy(images)).numpy()).max() < 1e-5
        )
    with pytest.raises(Exception, match="invalid dimensions"):
        answers(tmp_path / "m.onnx", images[:3])


def test_images_that_meet_in_a_graph_of_an_open_batch_are_caught(monkeypatch, tmp_path):
    """Opening the batch by the wrong axis is no export but a mismatch."""

    def wrong(model):
        model = onnx_graph_open(model)
        pool = next(node for node in model.graph.node if node.op_type == "Softmax")
        pool.attribute[0].i = 0
        return model

    onnx_graph_open = onnx_graph.open_batch
    monkeypatch.setattr(onnx_graph, "open_batch", wrong)
    with pytest.raises(MismatchError, match="every branch count"):
        export_onnx(loud(SMALL), SMALL, tmp_path / "m.onnx", form=Form(batch=None))


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("batch", [1, None])
def test_the_map_of_a_stage_is_what_its_last_block_gives(batch, logits, tmp_path):
    """[B, C, H, W] each, as hooks on PyTorch's blocks see them; the logits before them, or left out."""
    spec = parse_spec({
        "resolution": 64, "num_classes": 5,
        "stages": [{"dim": 8, "depth": 1}, {"dim": 12, "depth": 1}, {"dim": 16, "depth": 1},
                   {"dim": 20, "depth": 1, "attention_depth": 1}],
    })  # fmt: skip
    network = loud(spec)
    export_onnx(network, spec, tmp_path / "m.onnx", form=Form(batch=batch, features=True, logits=logits))
    seen = []
    for layer in network.layers:
        layer.blocks[-1].register_forward_hook(lambda module, given, value: seen.append(value.permute(0, 3, 1, 2)))
    images = images_of(spec, batch or 3)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    found = answers(tmp_path / "m.onnx", images)
    assert list(found) == [*(["logits"] if logits else []), "stage1", "stage2", "stage3", "stage4"]
    assert [found[f"stage{i}"].shape[1:] for i in (1, 2, 3, 4)] == [(8, 16, 16), (12, 8, 8), (16, 4, 4), (20, 2, 2)]
    for i, value in enumerate(seen, start=1):
        assert abs(found[f"stage{i}"] - value.numpy()).max() < 1e-5 * abs(value.numpy()).max()
    stored = {tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert ("head.weight" in stored) == logits
    if logits:
        assert abs(found["logits"] - expected).max() < 1e-5


@pytest.mark.parametrize("spec", [SMALL, PATCHES, SPECS["attention first"]], ids=["padded", "patches", "odd side"])
def test_folded_normalisation_gives_the_same_from_plain_pixels(spec, tmp_path):
    """To 1e-5, at the border too, where a padded zero stands for the mean's colour."""
    network = loud(spec)
    export_onnx(network, spec, tmp_path / "plain.onnx", facts=FACTS)
    export_onnx(network, spec, tmp_path / "folded.onnx", facts=FACTS, form=Form(folded=True))
    pixels = np.random.default_rng(1).random((1, 3, spec.resolution, spec.resolution), dtype=np.float32)
    mean, std = (np.float32(values)[:, None, None] for values in (FACTS.mean, FACTS.std))
    plain = answers(tmp_path / "plain.onnx", (pixels - mean) / std)["logits"]
    folded = answers(tmp_path / "folded.onnx", pixels)["logits"]
    assert abs(plain).max() > 0.1
    assert abs(folded - plain).max() < 1e-5
    subtractions = sum(node.op_type == "Sub" for node in onnx.load(tmp_path / "folded.onnx").graph.node)
    assert subtractions == (0 if spec is PATCHES else 1)


def test_a_file_says_of_itself_what_its_user_needs(tmp_path):
    """Each value a JSON text under the contract's keys; with the normalisation folded in there is none left to do."""
    for folded in (False, True):
        export_onnx(loud(SMALL), SMALL, tmp_path / "m.onnx", facts=FACTS, form=Form(folded=folded))
        model = onnx.load(tmp_path / "m.onnx")
        held = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        assert held["input_size"] == [3, 32, 32]
        assert held["classes"] == ["a", "b", "ü", "d", "e"]
        assert parse_spec(held["spec"]) == SMALL
        assert held["training"] == {"epochs": 3}
        assert held["counts"]["params"] == sum(parameter.numel() for parameter in build_network(SMALL).parameters())
        assert (held["mean"], held["std"]) == (([0, 0, 0], [1, 1, 1]) if folded else ([0.5, 0.4, 0.3], [0.2, 0.1, 0.4]))
        assert held.get("folded") == ({"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.1, 0.4]} if folded else None)
