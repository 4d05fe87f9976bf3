"""Networks of timm's by name, where timm is installed. Ours in its registry: `integrations/timm_entry.py`.

timm is imported when a name is asked for, and it may be there and yet not start: it needs torchvision, whose compiled
operators belong to one build of torch.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from modscale.errors import InputError

INSTALL = "install it with `pip install 'modscale[timm]'`"
TORCHVISION = (
    "torchvision is not the one of this torch; install both from one index, for a CPU with"
    " `pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu`"
)


def load_timm(name: str, place: str = "") -> Any:
    """The library. Raises InputError, at `place` of the value `name`, where it is not installed or does not start."""
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        missing = "timm" if error.name == "timm" else f"{error.name}, which timm needs,"
        raise InputError(
            f"is a name of timm's, and {missing} is not installed: {INSTALL}", place=place, value=name
        ) from error
    except Exception as error:  # beside a torchvision that does not fit it fails in many ways
        why = TORCHVISION if "torchvision" in str(error) else str(error)
        raise InputError(f"is a name of timm's, and timm does not start: {why}", place=place, value=name) from error


def check_name(name: str, place: str = "") -> None:
    """Raises InputError, with the nearest names, where timm knows no network of this name; also as `load_timm` does."""
    timm = load_timm(name, place)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3, cutoff=0.5)
        guess = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"is no network that timm {timm.__version__} knows{guess}", place=place, value=name)


def build_deployed(name: str, *, resolution: int | None = None) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network as it is deployed, with weights drawn at random, in eval mode; and its input [C, R, R].

    What timm can fuse is fused: the parallel branches of MobileOne and their like, which are there for the training
    alone. The input is the one of timm's own configuration where no resolution is given.

    Raises:
        InputError: no such network, or it cannot be built, or not for this resolution; or as `load_timm` does.
    """
    check_name(name)
    timm = load_timm(name)
    options = {"pretrained": False, "exportable": True}
    try:
        network: nn.Module = timm.create_model(name, **options)
        channels, *own = input_size(network)
        side = resolution or own[0]
        if side != own[0] and getattr(network, "pretrained_cfg", {}).get("fixed_input_size"):
            network = timm.create_model(name, img_size=side, **options)
        utilities = importlib.import_module("timm.utils.model")
        network = utilities.reparameterize_model(network.eval())
    except Exception as error:  # each network raises its own
        raise InputError(f"timm cannot build it: {error}", value=name) from error
    return network.eval(), (channels, side, side)


def input_size(network: nn.Module) -> tuple[int, int, int]:
    """[C, R, R] that a network of timm's is made for, by its own configuration; 3 x 224 x 224 where it says nothing."""
    config: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    if height != width:
        raise InputError("must take square images", value=(height, width))
    return channels, height, width
