"""What a path is, so that a command which was given the wrong kind of file says so, and which command takes it.

Nothing is loaded but the first bytes of a file, the names in an archive, or a page of YAML.
"""

from __future__ import annotations

import contextlib
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from modscale.document import read_yaml
from modscale.errors import InputError, RunError

RUN_FILE = "run.yaml"
TRIALS_FILE = "trials.jsonl"
FIDELITY_FILE = "fidelity.yaml"
TRAIN_FILE = "train.yaml"
SPEC_FILE = "spec.yaml"
ONNX_FILE = "model.onnx"
WEIGHTS_FILES = ("model.safetensors", "best.safetensors")
"""Where a folder of `export`, or of a full training, keeps a network's weights; the first that is there counts."""

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm",
    ".tga", ".jp2", ".avif",
})  # fmt: skip
"""Of what `datasets/images.py` reads; it goes by content."""
YAML_SUFFIXES = (".yaml", ".yml", ".json")
FOLDER_ENTRIES = 200
"""Entries of a folder that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of file or folder that a command may be given."""

    name: str
    """By which code asks for it."""
    text: str
    """What it is, with its article."""
    takes: str
    """Which commands take it, as a sentence that may follow."""


MODEL_TAKERS = "`modscale count`, `latency`, `scale`, `train`, `export` and `context` take it"

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="run",
            text="a run's folder",
            takes="`modscale report` takes it, and `modscale export` with --pick or --trial;"
            " every command takes a spec in its models/",
        ),
        Kind(
            name="runs", text="a folder of runs", takes="`modscale report`, `watch` and `export` take one of them"
        ),
        Kind(name="run file", text="a file of a run", takes="`modscale report` takes the run's folder"),
        Kind(
            name="fidelity",
            text="a folder of `modscale fidelity`",
            takes="the `modscale fidelity` that made it goes on in it, and its fidelity.md tells what was found",
        ),
        Kind(
            name="training",
            text="a folder of `modscale train` whose first epoch is not over",
            takes="the `modscale train` that made it goes on in it, and `modscale report` tells how far it is",
        ),
        Kind(name="network", text="the folder of one network", takes=MODEL_TAKERS),
        Kind(name="spec", text="a model spec", takes=MODEL_TAKERS),
        Kind(name="space", text="a search space", takes="`modscale search` and `modscale space` take it"),
        Kind(name="onnx", text="an ONNX model", takes="`modscale latency` takes it"),
        Kind(name="checkpoint", text="a checkpoint", takes="`modscale export MODEL --weights` and `context` take it"),
        Kind(name="arrays", text="a file of arrays", takes="`modscale search SPACE.yaml --data` takes it"),
        Kind(name="images", text="a folder of images", takes="`modscale search SPACE.yaml --data` takes it"),
        Kind(name="image", text="an image", takes="`modscale context MODEL` takes it, `search --data` folders of them"),
    )
}  # fmt: skip

_SPACE_KEYS = {"base", "constraints", "objectives", "bands", "proxy", "latency", "search"}
_SPEC_KEYS = {"resolution", "in_chans", "num_classes", "stem", "layer_scale", "drop_path_rate"}
_FIRST_BYTES = {
    b"\x80\x02": "checkpoint",
    b"\xff\xd8\xff": "image",
    b"\x89PNG": "image",
    b"GIF8": "image",
    b"SQLite format 3": "run file",
}


def what_is(path: str | Path) -> Kind | None:
    """The kind of what lies at `path`; None where nothing does, or nothing that is known."""
    if path == "":  # which pathlib takes for the current folder
        return None
    place = Path(path)
    with contextlib.suppress(OSError, ValueError):
        mode = place.stat().st_mode
        if stat.S_ISDIR(mode):
            return KINDS.get(_folder(place))
        if stat.S_ISREG(mode):
            return KINDS.get(_file(place))
    return None


@contextlib.contextmanager
def naming_kind(path: str | Path, *wanted: str) -> Iterator[None]:
    """Where reading `path` fails, and it is of another kind than those wanted, has the error say of which.

    A spec and a space are both YAML, and a slip in one makes it look like the other: there the error keeps its words,
    as it does where a run's folder was asked for.
    """
    try:
        yield
    except InputError as error:
        kind = what_is(path)
        if kind is None or kind.name in wanted or error.file not in ("", str(path)):
            raise
        if isinstance(error, RunError) or (kind.name in ("spec", "space") and {"spec", "space"} & set(wanted)):
            error.rule += f" (it looks like {kind.text}: {kind.takes})"
            raise
        raise type(error)(f"is {kind.text}; {kind.takes}", file=path) from error


def weights_in(folder: str | Path) -> Path | None:
    """The weights of a folder of one network, if there are any."""
    files = (Path(folder) / name for name in WEIGHTS_FILES)
    return next((file for file in files if file.is_file()), None)


def is_network_folder(path: str | Path) -> bool:
    """Whether this is a folder that `export`, or a training, has written of one network."""
    with contextlib.suppress(OSError, ValueError):
        return path != "" and _folder_kind(Path(path)) == "network"
    return False


def is_training(path: str | Path) -> bool:
    """Whether `modscale train` began in this folder, and no run lies there."""
    with contextlib.suppress(OSError, ValueError):
        return path != "" and (Path(path) / TRAIN_FILE).is_file() and not (Path(path) / RUN_FILE).is_file()
    return False


def _folder_kind(place: Path) -> str:
    """What the files of our own in a folder make of it."""
    if (place / RUN_FILE).is_file():
        return "run"
    if (place / FIDELITY_FILE).is_file():
        return "fidelity"
    is_network = (place / SPEC_FILE).is_file() and any((place / name).is_file() for name in (ONNX_FILE, *WEIGHTS_FILES))
    if not is_network and (place / TRAIN_FILE).is_file():
        return "training"
    return "network" if is_network else ""


def _folder(place: Path) -> str:
    if kind := _folder_kind(place):
        return kind
    if any((entry / RUN_FILE).is_file() for entry in islice(place.iterdir(), FOLDER_ENTRIES)):
        return "runs"
    if (place / TRIALS_FILE).is_file():  # of a run whose settings are gone; its figures are no photographs
        return ""
    below = [place]
    for _ in range(3):  # DATA/train/CLASS/image
        entries = [entry for folder in below for entry in islice(folder.iterdir(), FOLDER_ENTRIES)][:FOLDER_ENTRIES]
        if any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries):
            return "images"
        below = [entry for entry in entries if entry.is_dir()][:5]
    return ""


def _file(place: Path) -> str:
    suffix = place.suffix.lower()
    if suffix == ".onnx":
        return "onnx"
    if suffix == ".jsonl":
        return "run file"
    if suffix in YAML_SUFFIXES:
        return _document(place)
    with place.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"PK"):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(place) as archive:
            names = archive.namelist()
            if any(name.endswith("/data.pkl") for name in names):
                return "checkpoint"
            if names and all(name.endswith(".npy") for name in names):
                return "arrays"
    for first, kind in _FIRST_BYTES.items():
        if start.startswith(first):
            return kind
    if suffix == ".npz":
        return "arrays"
    if suffix in CHECKPOINT_SUFFIXES:
        return "checkpoint"
    return "image" if suffix in IMAGE_SUFFIXES else _document(place)


def _document(place: Path) -> str:
    """Which of the two kinds of YAML it is, by keys that only one of them has."""
    try:
        document = read_yaml(place)
    except InputError:
        return ""
    if not isinstance(document, Mapping):
        return ""
    if isinstance(document.get("space"), Mapping) or "hypervolume" in document:
        return "run file"
    if isinstance(document.get("extends"), str):
        return "space"
    if not isinstance(document.get("stages"), list):
        return ""
    stages = [stage for stage in document["stages"] if isinstance(stage, Mapping)]
    searched = any(
        "expansion" in stage or any(isinstance(stage.get(key), (list, Mapping)) for key in ("dim", "depth"))
        for stage in stages
    )
    if searched or _SPACE_KEYS & document.keys():
        return "space"
    return "spec" if _SPEC_KEYS & document.keys() else ""
