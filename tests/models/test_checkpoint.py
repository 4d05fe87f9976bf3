"""Checkpoints: every wrapper loads, every misfit is named in one line, nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modscale.errors import CheckpointError
from modscale.models.checkpoint import load_weights, save_weights
from modscale.models.efficientmod import build_network
from modscale.specs.spec import parse_spec

SPEC = parse_spec({"resolution": 32, "num_classes": 5, "stages": [{"dim": 8, "depth": 1}, {"dim": 8, "depth": 1}]})
MBCONV = parse_spec({"resolution": 32, "num_classes": 5, "stages": [{"dim": 8, "depth": 1, "block": "mbconv"}]})


def weights(seed: int = 1) -> dict[str, torch.Tensor]:
    return dict(build_network(SPEC, seed=seed).state_dict())


def assert_loaded(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def message(file: Path, spec=SPEC) -> str:
    """The one line with which `file` is refused; the network must come out untouched."""
    network = build_network(spec, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, file)
    assert_loaded(network, before)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    assert text.startswith(str(file))
    return text.removeprefix(str(file))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
def test_every_wrapper_loads(tmp_path, wrapper, suffix):
    """PyTorch files load bare or wrapped, whatever else stands beside the weights."""
    state = weights()
    document = state if wrapper is None else {wrapper: state, "epoch": 3, "arch": "x", "optimizer": {"lr": [1.0]}}
    file = tmp_path / f"w{suffix}"
    torch.save(document, file)
    network = build_network(SPEC, seed=0)
    load_weights(network, file)
    assert_loaded(network, state)


def test_averaged_weights_come_first(tmp_path):
    """Where a file holds both, the averaged weights are taken, as timm does."""
    file = tmp_path / "w.pth"
    torch.save({"state_dict": weights(1), "state_dict_ema": weights(2)}, file)
    network = build_network(SPEC, seed=0)
    load_weights(network, file)
    assert_loaded(network, weights(2))


def test_an_empty_average_is_passed_over(tmp_path):
    """timm writes `state_dict_ema: None` where no average was kept."""
    file = tmp_path / "w.pth"
    torch.save({"state_dict": weights(1), "state_dict_ema": None}, file)
    network = build_network(SPEC, seed=0)
    load_weights(network, file)
    assert_loaded(network, weights(1))


def test_a_training_checkpoint_of_timm_loads(tmp_path):
    """Options in an argparse.Namespace and a score in NumPy's float do not stand in the way."""
    file = tmp_path / "w.pth.tar"
    document = {
        "epoch": 299, "state_dict": OrderedDict(weights()), "args": argparse.Namespace(lr=4e-3, opt="adamw"),
        "metric": np.float64(76.0), "version": 2,
    }  # fmt: skip
    torch.save(document, file)
    network = build_network(SPEC, seed=0)
    load_weights(network, file)
    assert_loaded(network, weights())


def test_module_prefix_and_old_format(tmp_path):
    """DataParallel's prefix is dropped, and files from before the zip format load."""
    file = tmp_path / "w.pth"
    torch.save({"model": {f"module.{k}": v for k, v in weights().items()}}, file, _use_new_zipfile_serialization=False)
    network = build_network(SPEC, seed=0)
    load_weights(network, file)
    assert_loaded(network, weights())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path, dtype):
    """Half and double precision land in the network's float32."""
    file = tmp_path / "w.safetensors"
    save_file({k: v.to(dtype) for k, v in weights().items()}, file)
    network = build_network(SPEC, seed=0)
    load_weights(network, file)
    assert_loaded(network, {k: v.to(dtype).float() for k, v in weights().items()})


def test_save_and_load_round_trip(tmp_path):
    """What is saved is what the safetensors library reads, BatchNorm's statistics included; nothing is left over."""
    network = build_network(MBCONV, seed=3)
    network(torch.randn(2, 3, 32, 32))  # moves the running statistics
    file = tmp_path / "w.safetensors"
    save_weights(network, file)
    assert_loaded(network, load_file(file))
    again = build_network(MBCONV, seed=0)
    load_weights(again, file)
    assert_loaded(again, dict(network.state_dict()))
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_batch_norm_counters_may_be_missing(tmp_path):
    """The counter of batches is no weight."""
    state = {k: v for k, v in build_network(MBCONV, seed=1).state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "w.pth")
    network = build_network(MBCONV, seed=0)
    load_weights(network, tmp_path / "w.pth")
    assert torch.equal(network.state_dict()["head.weight"], state["head.weight"])
    torch.save({**state, "layers.0.blocks.0.norm1.num_batches_tracked": torch.zeros(3)}, tmp_path / "w.pth")
    assert "1 of another shape: layers.0.blocks.0.norm1.num_batches_tracked" in message(tmp_path / "w.pth", MBCONV)


def spoil(change) -> dict[str, torch.Tensor]:
    state = weights()
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.pop("head.bias"), ["1 missing: head.bias"]),
        (lambda s: s.update(extra=torch.zeros(1)), ["1 extra: extra"]),
        (lambda s: s.update({"head.bias": torch.zeros(7)}), ["1 of another shape: head.bias [7] for [5]"]),
        (lambda s: s.update({"head.bias": torch.zeros(5, dtype=torch.int64)}), ["1 not floating-point: head.bias"]),
        (lambda s: s.update({"head.bias": torch.full((5,), torch.nan)}), ["1 not finite: head.bias"]),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("layers.0")],
            ["missing: layers.0.blocks.0.gamma_1", "and", "more"],
        ),
        (
            lambda s: (s.pop("norm.bias"), s.update(a=torch.zeros(1), b=torch.zeros(1))),
            ["1 missing: norm.bias; 2 extra: a, b"],
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_misfit_is_named(tmp_path, change, expected, suffix):
    """A missing, extra, misshapen, integer or non-finite tensor is named, with how many there are."""
    file = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(spoil(change), file)
    text = message(file)
    for part in expected:
        assert part in text


class Bomb:
    """Unpickling this with plain pickle would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_is_never_executed(tmp_path, new_format):
    """A file that asks for a function is refused by that function's name."""
    target = tmp_path / "executed"
    torch.save({"state_dict": weights(), "x": Bomb(target)}, tmp_path / "w.pth",
               _use_new_zipfile_serialization=new_format)  # fmt: skip
    assert "asks for posix.mkdir" in message(tmp_path / "w.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps(Bomb(target), protocol=2))
    assert "posix.mkdir" in message(tmp_path / "p.pth")
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.98])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file(tmp_path, suffix, share, new_format):
    """A file cut short anywhere is said to be no whole checkpoint."""
    file = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(weights(), file, _use_new_zipfile_serialization=new_format)
    else:
        save_file(weights(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert "not a whole" in message(file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_something_else(tmp_path, suffix):
    """A text, a foreign zip, plain values and random bytes each get one line."""
    file = tmp_path / f"w{suffix}"
    file.write_text("name: not weights\n")
    assert "not a whole" in message(file)
    file.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "not a whole" in message(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "hello")
    assert "not a whole" in message(file)


@pytest.mark.parametrize("document", [[1, 2], {}, 7, {"epoch": 3}, {"state_dict": {"a": 1}}, torch.zeros(3)])
def test_a_checkpoint_without_weights(tmp_path, document):
    """A PyTorch file that holds no tensors by name is refused."""
    torch.save(document, tmp_path / "w.pth")
    assert "tensors" in message(tmp_path / "w.pth")


def test_files_that_cannot_be_opened(tmp_path):
    """No file, and a folder in its place, are told in the system's words."""
    assert "cannot be read: No such file" in message(tmp_path / "none.pth")
    (tmp_path / "d.safetensors").mkdir()
    assert "cannot be read: Is a directory" in message(tmp_path / "d.safetensors")


@pytest.mark.parametrize("make", [lambda t: t.to_sparse_coo(), lambda t: t.to("meta")])
def test_a_tensor_without_plain_values_is_named(tmp_path, make):
    """Sparse tensors, and tensors that are a shape alone, are no weights."""
    state = weights()
    state["head.weight"] = make(state["head.weight"])
    torch.save(state, tmp_path / "w.pth")
    assert "head.weight: must be a dense tensor with its values" in message(tmp_path / "w.pth")


def test_an_empty_wrapper_is_passed_over(tmp_path):
    """A training that kept no averaged weights may still have written the key."""
    torch.save({"state_dict_ema": {}, "state_dict": weights()}, tmp_path / "w.pth")
    network = build_network(SPEC, seed=0)
    load_weights(network, tmp_path / "w.pth")
    assert_loaded(network, weights())


def test_a_suffix_in_capitals_and_a_pipe(tmp_path):
    """FILE.SAFETENSORS is safetensors; a pipe, which might never end, is refused at once."""
    save_file(weights(), tmp_path / "W.SAFETENSORS")
    network = build_network(SPEC, seed=0)
    load_weights(network, tmp_path / "W.SAFETENSORS")
    assert_loaded(network, weights())
    os.mkfifo(tmp_path / "pipe.pth")
    assert ": must be a plain file" in message(tmp_path / "pipe.pth")
