"""What the candidates of a search are compared with, published networks and rivals, as the space would make them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from modscale.errors import InputError, naming_file
from modscale.rivals import Rival
from modscale.runs.experiment import Experiment
from modscale.searching.rivals import check_rivals
from modscale.spaces.space import Space, as_candidate
from modscale.specs.published import is_published, published
from modscale.specs.spec import ModelSpec, load_spec


def check_references(experiment: Experiment, measured: Collection[int], space_file: str) -> None:
    """Raises InputError where a network that is compared with is none, or of those not `measured` cannot be read."""
    home, side = Path(space_file).parent, experiment.space.base.resolution
    rivals = [(i, one) for i, one in enumerate(experiment.search.references) if isinstance(one, Rival)]
    with naming_file(space_file):
        for _, rival in rivals:
            rival_spec(rival, home, experiment.space)
        check_rivals([(i, rival) for i, rival in rivals if i not in measured], home, side)


def reference_network(reference: str | Rival, folder: Path, space: Space) -> ModelSpec | Rival:
    """A reference as it is measured: a spec as the space would make it, or a rival that has none, as it is."""
    if isinstance(reference, str):
        return as_candidate(published(reference), space)
    return rival_spec(reference, folder, space) or reference


def rival_spec(rival: Rival, folder: Path, space: Space) -> ModelSpec | None:
    """The spec of a rival that has one, as the space of `folder` would make it; None of another.

    Raises:
        InputError: its file is missing or broken, or its name is a published network's.
    """
    if is_published(rival.name):
        raise InputError("must not be the name of a published network", place="search.references", value=rival.name)
    if rival.kind != "spec":
        return None
    return replace(as_candidate(load_spec(rival.file(folder)), space), name=rival.name)
