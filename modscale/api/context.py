"""A whole look at what a network's context branch sees: images read, the maps taken, a figure for each written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modscale.api.known_facts import find_facts
from modscale.arrays import FloatArray
from modscale.datasets.images import Images, quiet_pillow, read_image
from modscale.deploy.export import fresh_network
from modscale.errors import DataError, InputError, naming_file
from modscale.files import path_text, write_whole
from modscale.models.checkpoint import LoadedWeights, load_weights, loaded_to_json
from modscale.models.context_maps import context_maps
from modscale.report.context import DRAWN, SeenImage, SeenMap, draw_context
from modscale.specs.receptive_field import token_places
from modscale.specs.spec import ModelSpec

SUFFIX = ".context.png"
"""What the name of a figure ends with; the rest is the image's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextOrder:
    """Whose context is to be drawn, of what, and where to."""

    spec: ModelSpec
    """The network."""
    images: tuple[Path, ...]
    """Image files, one or more."""
    out: Path
    """The folder of the figures."""
    weights: Path | None = None
    """A checkpoint; None starts the weights fresh."""
    key: str | None = None
    """The way to the weights in the checkpoint."""
    seed: int = 0
    """Of fresh weights."""


def draw_contexts(order: ContextOrder, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Writes a figure for each image; what was drawn as plain values.

    Nothing is written before every image and the weights have been read.

    Raises:
        DataError: an image cannot be read, or the network takes no such images.
        CheckpointError: the weights do not fit.
        InputError: the network has no context branch, or a figure would lie where an image does, or cannot be written.
    """
    spec, files = order.spec, figure_files(order.images, order.out)
    if spec.in_chans not in (1, 3):
        rule = "must be 1 or 3 to look at images"
        raise DataError(rule, file=spec.name, place="in_chans", value=spec.in_chans)
    with quiet_pillow():
        pixels = [_read(file, spec) for file in order.images]
    network = fresh_network(spec, seed=order.seed)
    loaded = None if order.weights is None else load_weights(network, order.weights, key=order.key)
    facts = find_facts(order.weights, spec)
    trained = loaded is not None and loaded.trained
    if not trained:
        say(_untrained(loaded))
    title = f"{spec.name}, {'' if trained else 'not trained, '}at {spec.resolution} px"
    mean, std = (torch.tensor(values)[:, None, None] for values in (facts.mean, facts.std))
    found: list[dict[str, int]] = []
    for image, source, file in zip(pixels, order.images, files, strict=True):
        scaled = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        with naming_file(spec.name):
            maps = context_maps(network.eval(), ((scaled - mean) / std)[None])
        for one in maps:
            _check_finite(one.values, order.weights, f"stage {one.stage}")
        seen = seen_image(spec, image, [(one.stage, one.block, one.values[0].numpy()) for one in maps])
        _make_folder(order.out)
        write_whole(file, draw_context(seen, title=f"{path_text(source.name)}: {title}"))
        found = [{"stage": one.stage, "block": one.block, "side": one.values.shape[-1]} for one in maps]
    return {
        "images": [path_text(file) for file in files],
        "name": spec.name,
        "resolution": spec.resolution,
        "trained": trained,
        "loaded": None if loaded is None else {"file": path_text(order.weights or ""), **loaded_to_json(loaded)},
        "maps": found,
        "drawn": DRAWN,
    }


def seen_image(
    spec: ModelSpec, pixels: Images, maps: Sequence[tuple[int, int, FloatArray]], name: str = ""
) -> SeenImage:
    """An image [R, R, C] and its maps, each with the numbers of its stage and block, as the figures take them."""
    return SeenImage(
        pixels=pixels,
        name=name,
        maps=[
            SeenMap(name=f"stage {stage}, block {block}", values=values, places=token_places(spec, stage))
            for stage, block, values in maps
        ],
    )


def figure_files(images: Sequence[Path], out: Path) -> list[Path]:
    """A file in `out` for each image, by its name; images of one name are numbered.

    Raises:
        InputError: an image lies where a figure would be written.
    """
    taken: set[str] = set()
    files = []
    for image in images:
        name = next(name for name in _names(image.stem) if name not in taken)
        taken.add(name)
        files.append(out / name)
    given = {image.resolve() for image in images}
    for file in files:
        if file.resolve() in given:
            raise InputError("is one of the images, and a figure would take its place", file=file, place="--out")
    return files


def _names(stem: str) -> Iterator[str]:
    yield f"{stem}{SUFFIX}"
    number = 2
    while True:
        yield f"{stem}-{number}{SUFFIX}"
        number += 1


def _read(file: Path, spec: ModelSpec) -> Images:
    """[R, R, C], a network of one channel given the mean of the colours: of a grey image, its grey."""
    image = read_image(file, spec.resolution)
    return image if spec.in_chans == 3 else np.rint(image.mean(axis=2, keepdims=True)).astype(np.uint8)


def _untrained(loaded: LoadedWeights | None) -> str:
    where = "the weights are fresh; --weights FILE puts in a checkpoint" if loaded is None else "so its file says"
    return f"this network was never trained ({where}): its maps show how it starts, not what it has learnt"


def _check_finite(values: Tensor, weights: Path | None, place: str) -> None:
    if not bool(values.isfinite().all()):
        raise InputError("gives a context that is not finite", file=weights or "", place=place)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be created: {error.strerror or error}", file=folder, place="--out") from error
