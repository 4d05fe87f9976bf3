"""What a training draws, by the seed, the epoch, the step and the process: no random state is kept between steps."""

from __future__ import annotations

import numpy as np

from modscale.datasets.labelled import Indices
from modscale.training.place import Place

ORDER, STEP = 0, 1
"""What a stream of random numbers is for: the order of an epoch's images, and a step."""


def stream(*numbers: int) -> np.random.Generator:
    """The generator of these numbers."""
    return np.random.default_rng(list(numbers))


def batch_parts(order: Indices, batch: int, first_step: int, place: Place) -> list[Indices]:
    """This process's part of each whole batch of `order`, from a step on."""
    return [
        order[step * batch : (step + 1) * batch][place.rank :: place.processes]
        for step in range(first_step, len(order) // batch)
    ]
