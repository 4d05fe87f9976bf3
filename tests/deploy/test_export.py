"""Export: every block gives in ONNX Runtime what it gives in PyTorch, and a graph that is wrong anywhere is caught."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from tiny_specs import SMALL, SPECS, small

from modscale.cli.main import main
from modscale.deploy import export, onnx_graph
from modscale.deploy.export import export_model, export_onnx, fresh_network, probe_images
from modscale.deploy.runtime import run_images
from modscale.errors import CheckpointError, InputError, MismatchError, TooLargeError
from modscale.models.checkpoint import load_weights, save_weights
from modscale.models.efficientmod import build_network
from modscale.models.folding import fold_layer_scale
from modscale.specs.counts import count_model
from modscale.specs.spec import load_spec, parse_spec


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small run slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SPECS)
def test_every_block_exports(name, tmp_path):
    """The file's own logits equal PyTorch's to rounding, on weights under which every branch counts."""
    spec = SPECS[name]
    network = export.loud_copy(build_network(spec, seed=0), spec, seed=5)
    error = export_onnx(network, spec, tmp_path / "m.onnx")
    images = probe_images(spec, seed=9)
    found = run_images(str(tmp_path / "m.onnx"), images)
    with torch.inference_mode():
        for key, image in images.items():
            expected = network(torch.from_numpy(image)).numpy()
            assert abs(found[key] - expected).max() < 2e-5 * max(abs(expected).max(), 0.1)
    assert error < 2e-5


BEHIND_NORMS = {
    "norm": ("mlp.fc1", "mlp.context_layer.f"),
    "norm1": ("attn.qkv", "modulation.f"),
    "norm2": ("mlp.fc1",),
}
"""The linear layers that alone read a norm."""


@pytest.mark.parametrize("name", ["modulation", "mbconv", "van", "focal"])
def test_nothing_is_left_to_compute_from_shapes(name, tmp_path):
    """No node remains that a GPU provider would leave to the CPU, and every weight bears its own name.

    Also LayerScale is gone: as much of it as there was stands in the layer before it; and the biases behind a norm.
    """
    network = fresh_network(SPECS[name], seed=0)
    export_onnx(network, SPECS[name], tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Shape", "Gather", "Concat", "Cast", "Constant", "ConstantOfShape", "Range", "If"}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    state = {key: tensor.numpy() for key, tensor in network.state_dict().items() if "num_batches" not in key}
    assert not any("gamma" in key for key in stored)
    for key in [key for key in state if key.endswith("gamma_1")]:
        gamma, end = state.pop(key), key.replace("gamma_1", "mlp.fc2")
        state[f"{end}.weight"] = gamma[:, None] * state[f"{end}.weight"]
        state[f"{end}.bias"] = gamma * state[f"{end}.bias"]
    for key, module in network.named_modules():
        block, _, norm = key.rpartition(".")
        if ".blocks." in key and isinstance(module, torch.nn.LayerNorm):  # fresh: all biases are nought, gains 1
            state[f"{key}.bias"] = 0.5 * np.ones_like(state[f"{key}.bias"])
            for layer in BEHIND_NORMS[norm]:
                if f"{block}.{layer}.weight" in state:
                    state.pop(f"{block}.{layer}.bias", None)
                    weight = state[f"{block}.{layer}.weight"]
                    state[f"{block}.{layer}.weight"] = weight - weight.astype(float).mean(axis=1)[:, None]
    for key, value in state.items():
        assert stored[key] == pytest.approx(value, abs=1e-7)
    assert not [key for key in stored if key.rpartition(".")[2] in ("weight", "bias") and key not in state]


def swap_operator(model: onnx.ModelProto, old: str, new: str, index: int) -> None:
    nodes = [node for node in model.graph.node if node.op_type == old]
    nodes[index].op_type = new


@pytest.mark.parametrize(
    ("old", "new", "index"), [("Mul", "Add", -1), ("Add", "Mul", 6), ("Erf", "Tanh", 0), ("Softmax", "LogSoftmax", 0)]
)
def test_a_broken_branch_is_caught(monkeypatch, tmp_path, old, new, index):
    """One wrong operator in one branch is found, though LayerScale of 1e-4 would hide it in the fresh network."""
    trace = onnx_graph.trace

    def broken(*arguments, **keywords):
        model = trace(*arguments, **keywords)
        swap_operator(model, old, new, index)
        return model

    monkeypatch.setattr(onnx_graph, "trace", broken)
    with pytest.raises(MismatchError, match="every branch count"):
        export_onnx(fresh_network(SMALL, seed=0), SMALL, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_weights_are_caught(monkeypatch, tmp_path):
    """A graph that is right but holds other weights than the network is found by the second comparison."""
    network = fresh_network(SMALL, seed=0)
    put = onnx_graph.set_weights
    other = fold_layer_scale(fresh_network(SMALL, seed=1))

    def wrong(model, given):  # the loud weights, which come first, are left right
        put(model, other if torch.equal(given.state_dict()["head.weight"], network.head.weight) else given)

    monkeypatch.setattr(onnx_graph, "set_weights", wrong)
    with pytest.raises(MismatchError, match="its own weights"):
        export_onnx(network, SMALL, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_that_overflow_are_refused(tmp_path):
    """Logits that are not finite prove nothing and are never written."""
    network = fresh_network(SMALL, seed=0)
    with torch.no_grad():
        network.head.bias.fill_(torch.inf)
    with pytest.raises(MismatchError, match="not finite"):
        export_onnx(network, SMALL, tmp_path / "m.onnx")


def test_the_network_is_left_as_it_was(tmp_path):
    """Exporting changes neither mode nor weights nor statistics of the network it is given."""
    spec = SPECS["van"]
    network = build_network(spec, seed=0).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    export_onnx(network, spec, tmp_path / "m.onnx")
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_a_deep_fresh_van_stays_finite():
    """Forty fresh `van` blocks overflow without statistics; `fresh_network` has them."""
    spec = small({"dim": 16, "depth": 40, "block": "van"})
    image = torch.from_numpy(probe_images(spec)["normal"])
    with torch.inference_mode():
        assert not build_network(spec, seed=0).eval()(image).isfinite().all()
        assert fresh_network(spec, seed=0)(image).isfinite().all()


def test_export_model_writes_three_files_that_agree(tmp_path):
    """Spec, ONNX and weights read back to the same network, with the counted size."""
    out = tmp_path / "new" / "folder"
    result = export_model(SMALL, out, seed=3)
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "model.safetensors", "spec.yaml"]
    assert load_spec(result.spec) == SMALL
    counted = count_model(SMALL)
    assert (result.params, result.flops) == (counted.params, counted.flops)
    network = build_network(load_spec(result.spec), seed=0)
    load_weights(network, result.weights)
    images = probe_images(SMALL)
    found = run_images(str(result.onnx), images)
    with torch.inference_mode():
        worst = max(abs(network.eval()(torch.from_numpy(images[k])).numpy() - found[k]).max() for k in images)
    assert worst == pytest.approx(result.max_abs_error, abs=1e-9)
    assert result.max_abs_error < 1e-6


def test_export_model_with_given_weights(tmp_path):
    """The weights asked for are the weights exported; weights of another network leave nothing behind."""
    network = fresh_network(SMALL, seed=8)
    save_weights(network, tmp_path / "w.safetensors")
    result = export_model(SMALL, tmp_path / "out", weights=tmp_path / "w.safetensors")
    image = probe_images(SMALL)["normal"]
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)).numpy()
    assert abs(run_images(str(result.onnx), {"x": image})["x"] - expected).max() < 1e-6
    with pytest.raises(CheckpointError, match="does not fit the network"):
        export_model(SPECS["focal"], tmp_path / "other", weights=tmp_path / "w.safetensors")
    assert not (tmp_path / "other").exists()


def test_a_size_that_was_not_counted_is_a_fault_of_ours(monkeypatch, tmp_path):
    """Closed form and network check each other at every export."""
    monkeypatch.setattr(export, "count_model", lambda spec: count_model(SPECS["sum"]))
    with pytest.raises(MismatchError, match="params"):
        export_model(SMALL, tmp_path / "out")


def test_a_folder_that_cannot_be_written(tmp_path):
    """A file in the folder's place is one line; so is a network too large for one ONNX file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        export_model(SMALL, tmp_path / "file")
    (tmp_path / "out" / "model.onnx").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"):
        export_model(SMALL, tmp_path / "out")


def test_a_network_too_large_for_one_file(monkeypatch, tmp_path):
    """The limit of the format is told before anything is traced."""
    monkeypatch.setattr(export, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="at most 2 GiB"):
        export_model(SMALL, tmp_path / "out")


@pytest.mark.parametrize("block", ["mbconv", "van", "focal"])
def test_a_channel_that_hardly_varies_does_not_blow_up_its_rounding(block, tmp_path):
    """LayerNorm over one channel is constant: BatchNorm must not divide by the deviation of its rounding errors."""
    stages = [{"dim": 1, "depth": 3, "block": block}, {"dim": 32, "depth": 2, "block": block}]
    spec = parse_spec({"resolution": 32, "num_classes": 10, "stages": stages})
    assert export_onnx(fresh_network(spec, seed=0), spec, tmp_path / "m.onnx") < 1e-5


def test_a_network_too_large_is_not_even_drawn(monkeypatch):
    """2 GiB is asked of the closed form, before a tensor is made."""
    monkeypatch.setattr(export, "build_network", None)
    spec = parse_spec({"stages": [{"dim": 16384, "depth": 4, "mlp_ratios": [64]}]})
    with pytest.raises(TooLargeError, match="at most 2 GiB"):
        fresh_network(spec, seed=0)


def test_an_export_tells_what_it_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which weights of a checkpoint, and what was passed over, in JSON and in text; the averaged ones are written."""
    spec_file = tmp_path / "net.yaml"
    spec_file.write_text("resolution: 32\nnum_classes: 3\nstages: [{dim: 8, depth: 1}]\n")
    raw, averaged = (fresh_network(load_spec(spec_file), seed=seed).state_dict() for seed in (1, 2))
    torch.save({"model": raw, "ema": {**averaged, "n_averaged": torch.tensor(3)}}, tmp_path / "w.pth")
    command = ["export", str(spec_file), "--weights", str(tmp_path / "w.pth"), "--out", str(tmp_path / "out")]
    command.append("--no-latency")
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["trained"] is True
    assert document["loaded"] == {
        "file": str(tmp_path / "w.pth"), "key": "ema", "averaged": True, "trained": True, "passed_over": ["n_averaged"],
        "fresh": [], "buffers_from": None,
    }  # fmt: skip
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in averaged.items())
    assert main([*command, "--fresh-head"]) == 0
    text = capsys.readouterr().out
    assert "under ema; the averaged weights; the head is fresh, not trained; passed over: n_averaged" in text
    assert main([*command[:2], "--key", "ema", "--out", str(tmp_path / "out")]) == 2
    assert "--key: goes with --weights" in capsys.readouterr().err
