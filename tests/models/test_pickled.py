"""What stands beside the weights: values of any kind are passed over unmade, code is refused, and none of it runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import importlib
import os
import pathlib
import pickle
import subprocess
import sys
import types
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch

from modscale.errors import CheckpointError
from modscale.models.checkpoint import load_weights
from modscale.models.efficientmod import build_network
from modscale.models.pickled import StandIn, read_pickle
from modscale.specs.spec import parse_spec

SPEC = parse_spec({"resolution": 32, "num_classes": 5, "stages": [{"dim": 8, "depth": 1}]})
WEIGHTS = dict(build_network(SPEC, seed=1).state_dict())


class Options(dict):
    """A user's own mapping with attributes, as many configuration libraries have it."""


class Best(enum.Enum):
    """A user's own enumeration."""

    TOP1 = "top-1"


class Settings:
    """A user's own class."""

    def __init__(self) -> None:
        self.out = pathlib.Path("x")
        self.parent = self


def options() -> Options:
    made = Options(lr=0.1, out=pathlib.Path("x"))
    made.extra = 1
    return made


BESIDE = {
    "pathlib": lambda: argparse.Namespace(out=pathlib.Path("x"), pure=pathlib.PureWindowsPath("y")),
    "defaultdict": lambda: collections.defaultdict(list, {"loss": [0.1]}),
    "nested defaultdict": lambda: collections.defaultdict(dict, {1: collections.defaultdict(float, a=1.0)}),
    "deque": lambda: collections.deque([1, 2], maxlen=5),
    "Counter": lambda: collections.Counter("abc"),
    "datetime": lambda: [datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.date(2026, 1, 2)],
    "timedelta": lambda: {datetime.timedelta(1): datetime.time(3)},
    "numpy": lambda: {
        "a": np.arange(4.0),
        "b": np.float32(1),
        "c": np.int64(2),
        "d": np.dtype("<i4"),
        "e": np.bool_(1),
    },
    "numpy objects": lambda: np.array([pathlib.Path("x"), None], dtype=object),
    "numpy random state": lambda: [np.random.default_rng(0).bit_generator.state, np.random.get_state()],
    "torch": lambda: [torch.Size([1]), torch.float16, torch.device("cpu"), torch.get_rng_state(), torch.__version__],
    "namespace": lambda: types.SimpleNamespace(a=decimal.Decimal(1), b=uuid.UUID(int=1), c=frozenset([1]), d=range(3)),
    "own mapping": options,
    "own class": lambda: [Settings(), Best.TOP1],
    "an optimizer": lambda: torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]),
    "plain": lambda: {"text": "é", "bytes": b"\x00\xff", "big": 10**30, "set": {1, 2}, "c": 1j, "none": None},
}


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("beside", BESIDE)
def test_harmless_objects_do_not_stand_in_the_way(tmp_path, beside, new_format):
    """The weights load beside any value, in either format of PyTorch's files."""
    document = {"state_dict": WEIGHTS, "args": BESIDE[beside](), "args2": [BESIDE[beside]()]}
    torch.save(document, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    network = build_network(SPEC, seed=0)
    load_weights(network, tmp_path / "w.pth")
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in network.state_dict().items())


def test_an_object_is_not_made(tmp_path):
    """What is read in its place is of no class but ours, plain lists and mappings where it is filled like one."""
    torch.save(
        {"a": pathlib.Path("x"), "b": options(), "c": collections.deque([1]), "d": Settings()}, tmp_path / "w.pth"
    )
    document = read_pickle(tmp_path / "w.pth")
    assert isinstance(document["a"], StandIn)
    assert document["a"].origin.startswith("pathlib.")
    assert type(document["b"]) is collections.OrderedDict
    assert document["c"] == [1]
    assert set(document["d"].state) == {"out", "parent"}


def test_nothing_is_imported_for_a_file(tmp_path, monkeypatch):
    """A class of a module that lies beside the data is not looked for: that module never runs."""
    (tmp_path / "theirs.py").write_text("import pathlib; pathlib.Path('ran').touch()\nclass Config: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save({"c": importlib.import_module("theirs").Config()}, "w.pth")
    del sys.modules["theirs"]
    (tmp_path / "ran").unlink()
    assert read_pickle(tmp_path / "w.pth")["c"].origin == "theirs.Config"
    assert not (tmp_path / "ran").exists()
    assert "theirs" not in sys.modules


class Call:
    """Unpickled by pickle itself, calls a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def numpy_bomb(file: Path):
    """NumPy's own way to a second pickle: a scalar of dtype object is unpickled from bytes."""
    scalar = np.float64(0).__reduce__()[0]
    return Call(scalar, np.dtype("O"), pickle.dumps(Call(os.mkdir, str(file))))


class TouchingPath(pathlib.PurePosixPath):
    """A path that leaves a trace when its fields are put back."""

    def __reduce__(self):
        return TouchingPath, ("x",), str(self)

    def __setstate__(self, state):
        Path(state).mkdir()


def leave_trace(file: str) -> None:
    """A function of neither Python, torch nor NumPy."""
    Path(file).mkdir()


ATTACKS = {
    "os.system": lambda file: Call(os.system, f"touch {file}"),
    "os.mkdir": lambda file: Call(os.mkdir, str(file)),
    "eval": lambda file: Call(eval, f"__import__('os').mkdir({str(file)!r})"),
    "exec": lambda file: Call(exec, f"import os; os.mkdir({str(file)!r})"),
    "getattr": lambda file: Call(getattr, "x", "upper"),
    "open": lambda file: Call(open, str(file), "w"),
    "subprocess": lambda file: Call(subprocess.call, ["touch", str(file)]),
    "Popen": lambda file: Call(subprocess.Popen, ["touch", str(file)]),
    "pickle": lambda file: Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(file)))),
    "torch function": lambda file: Call(torch.save, {}, str(file)),
    "torch.load": lambda file: Call(torch.load, str(file)),
    "numpy function": lambda file: Call(np.save, str(file), np.zeros(1)),
}


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_is_refused_by_name_and_never_runs(tmp_path, attack, new_format):
    """A function of the system, of Python, torch or NumPy beside the weights: one line that names it, and no trace."""
    target = tmp_path / "ran"
    torch.save({"model": WEIGHTS, "x": [ATTACKS[attack](target)]}, tmp_path / "w.pth",
               _use_new_zipfile_serialization=new_format)  # fmt: skip
    assert not target.exists()
    with pytest.raises(CheckpointError, match=r"asks for .*; only tensors and plain values are read") as caught:
        load_weights(build_network(SPEC), tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "make", [numpy_bomb, lambda file: TouchingPath(str(file)), lambda file: Call(leave_trace, str(file))],
    ids=["numpy", "a path's class", "a function of another package"],
)  # fmt: skip
def test_code_behind_a_value_never_runs(tmp_path, make, new_format):
    """A value whose making would run code is not made: the bytes in it stay bytes, the function in it a name."""
    target = tmp_path / "ran"
    torch.save({"model": WEIGHTS, "x": make(target)}, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    assert not target.exists()
    load_weights(build_network(SPEC), tmp_path / "w.pth")
    assert not target.exists()
    if make is not numpy_bomb:  # which NumPy 2.4 refuses by itself
        torch.load(tmp_path / "w.pth", weights_only=False)
        assert target.exists(), "the file proves nothing"


def test_a_stand_in_is_never_what_torch_keeps(tmp_path):
    """After a file was read, torch allows no more than before."""
    before = set(torch.serialization.get_safe_globals())
    torch.save({"model": WEIGHTS, "x": pathlib.Path("x")}, tmp_path / "w.pth")
    read_pickle(tmp_path / "w.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def test_files_that_are_no_weights(tmp_path):
    """A TorchScript program and another pickle protocol are named for what they are."""
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match="is a TorchScript program, not weights"):
        read_pickle(tmp_path / "s.pt")
    torch.save({"model": WEIGHTS, "x": pathlib.Path("x")}, tmp_path / "p.pt", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="has a pickle protocol above 2"):
        read_pickle(tmp_path / "p.pt")


def test_a_whole_network_gives_its_weights(tmp_path):
    """`torch.save(network)`: its tensors are read by the names of its state dict, and its class is not made."""
    torch.save({"epoch": 3, "net": torch.nn.Sequential(build_network(SPEC, seed=1))}, tmp_path / "w.pth")
    network = build_network(SPEC, seed=0)
    assert load_weights(network, tmp_path / "w.pth").key == "net.0"
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in network.state_dict().items())
    torch.save({"epoch": 3, "net": Settings()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        load_weights(network, tmp_path / "w.pth")
