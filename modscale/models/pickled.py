"""PyTorch's own files, read without making or calling anything that a file names.

`torch.load(weights_only=True)` does the reading: it makes tensors and plain values, and refuses any other class or
function. Training scripts leave such things beside the weights all the same: a path, a date, a defaultdict, NumPy's
scalars, the options of a configuration library. Those are not let in either. The names that a file asks for are
listed first, by `pickletools`, which executes nothing; for each that may stand beside weights, torch is given an inert
stand-in of ours under that name. So nothing is imported for a file, NumPy's own functions are not called (one of them
unpickles what it is given), and what a stand-in is called with is dropped.

Which names get a stand-in: of the standard library and NumPy the classes of values listed here, of torch what is
spelled like a class, and everything of any other package. The rest, `os.system` or `builtins.eval` say, is refused
by torch, in a line with its name.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch

from modscale.errors import CheckpointError

MAX_PICKLE_BYTES = 256_000_000
"""What may stand beside the tensors' values; a larger pickle is no checkpoint of a network."""

VALUE_MODULES = {
    "_datetime", "collections", "datetime", "decimal", "fractions", "numpy.dtypes", "numpy.random",
    "numpy.random._pickle", "numpy.random.mtrand", "pathlib", "pathlib._local", "typing", "uuid",
}  # fmt: skip
"""Modules of values alone; their names get stand-ins."""

VALUE_NAMES = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|functools\.partial"
    r"|builtins\.(bool|bytes|bytearray|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)"
    r"|numpy\.(ndarray|dtype|bool_?|str_|bytes_|void|longlong|ulonglong|longdouble|datetime64|timedelta64)"
    r"|numpy\.(float|int|uint|complex)\d+"
    r"|numpy\.(core|_core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
)
"""Single names of the standard library and NumPy that get stand-ins."""

_TORCH_CLASS = re.compile(r"torch\..*\b_?[A-Z]\w*")

_FIELDS = ("_modules", "_parameters", "_buffers")
"""Where a pickled `nn.Module` keeps what its state dict names without them."""


class StandIn:
    """What torch makes in place of an object that is not ours to make: it keeps the fields, and does nothing."""

    origin = ""
    """The full name that the file asked for."""

    state: object = None
    """The object's fields as the file has them, made of plain values, tensors and other stand-ins."""

    def __new__(cls, *arguments: object, **options: object) -> StandIn:
        """Drops whatever the object would have been made from."""
        return object.__new__(cls)

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_pickle(path: Path) -> object:
    """The document in a PyTorch file: tensors on the CPU, plain values, and a `StandIn` for any other object.

    Raises:
        CheckpointError: it is damaged, of another kind, or asks for something that is no value.
        OSError: it cannot be read.
    """
    try:
        stand_ins = _stand_ins(_pickles(path))
    except CheckpointError:
        raise
    except Exception:  # noqa: BLE001  # a damaged pickle can fail anywhere; torch's reader has the last word
        stand_ins = []
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # old formats warn; what matters is checked by whoever asked
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in torch's reader, as an OSError too
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and asked:
            raise CheckpointError(f"asks for {asked[1]}; only tensors and plain values are read") from error
        raise CheckpointError("not a whole PyTorch checkpoint") from error


def module_fields(stand_in: StandIn) -> Iterable[tuple[str, object]]:
    """The fields of an object by name; the tables in which an `nn.Module` keeps its tensors bear an empty one."""
    parts = stand_in.state if isinstance(stand_in.state, tuple) else (stand_in.state,)
    for fields in parts:
        if isinstance(fields, dict):
            for name, value in fields.items():
                yield ("" if name in _FIELDS else str(name)), value


def _pickles(path: Path) -> Iterable[tuple[Any, Any]]:
    """The operations of the pickles in a file that describe its objects."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                raise CheckpointError("is a TorchScript program, not weights; save its state_dict() instead")
            for name in names:
                if name.endswith("/data.pkl"):
                    if archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
                        raise CheckpointError(f"holds more than {MAX_PICKLE_BYTES} bytes beside its tensors")
                    with archive.open(name) as stream:
                        yield from _operations(stream.read())
        return
    with path.open("rb") as stream:  # the format before zip: magic number, version, system, document
        for _ in range(4):
            yield from _operations(stream)


def _operations(stream: bytes | IO[bytes]) -> Iterable[tuple[Any, Any]]:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.proto > 2 or (opcode.name == "PROTO" and (argument or 0) > 2):
            raise CheckpointError("has a pickle protocol above 2; torch.save writes 2 where it is not told otherwise")
        yield opcode, argument


def _stand_ins(operations: Iterable[tuple[Any, Any]]) -> list[Any]:
    """What `safe_globals` is given: a stand-in with its name for every one that may have it.

    torch fills a mapping or list only where its type is that very class, so that an object which the file fills
    like one has to be one: the operations are followed on a stack of names, as `pickletools.dis` does.
    """
    makers: dict[str, Any] = {}
    stack: list[Any] = []
    memo: dict[object, Any] = {}
    for opcode, argument in operations:
        name = opcode.name
        if name == "GLOBAL":
            asked = _modern_name(*str(argument).split(" ", 1))
            makers.setdefault(asked, StandIn)
            stack.append(asked)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument))
        elif name in ("REDUCE", "NEWOBJ", "BUILD"):
            stack.pop()  # what is left stands for the object that is made
        else:
            before, after = opcode.stack_before, opcode.stack_after
            if pickletools.markobject in before:
                while stack.pop() is not pickletools.markobject:
                    pass
                before = before[: before.index(pickletools.markobject)]
            fills = name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS")
            if len(before) - fills:
                del stack[-(len(before) - fills) :]
            if not fills:
                stack.extend(pickletools.markobject if kind is pickletools.markobject else None for kind in after)
            elif stack[-1] in makers:
                makers[stack[-1]] = _new_mapping if name.startswith("SET") else _new_list
    return [
        (type("StandIn", (StandIn,), {"origin": name}) if maker is StandIn else maker(), name)
        for name, maker in makers.items()
        if _may_stand_beside(name)
    ]


def _new_mapping() -> type:
    """A class whose objects are plain ordered mappings."""
    return type("MappingStandIn", (), {"__new__": lambda cls, *arguments: OrderedDict()})


def _new_list() -> type:
    """A class whose objects are plain lists."""
    return type("ListStandIn", (), {"__new__": lambda cls, *arguments: []})


def _may_stand_beside(name: str) -> bool:
    module, top = name.rpartition(".")[0], name.partition(".")[0]
    if module in VALUE_MODULES or VALUE_NAMES.fullmatch(name):
        return True
    if top == "torch":
        return bool(_TORCH_CLASS.fullmatch(name))
    return top != "numpy" and top not in sys.stdlib_module_names


def _modern_name(module: str, name: str) -> str:
    """The full name in Python 3 of what Python 2's pickles call otherwise, as torch's reader looks it up."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    else:
        module = IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"
