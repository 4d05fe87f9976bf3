"""What networks would take, by those that were rehearsed: export and training.

A training of n blocks takes n times what a block takes, which lies between those of the rehearsed by the network's
FLOPs: export and training of ten networks of `mobile.yaml` had a standard deviation of 7 % about blocks and FLOPs, of
11 % about blocks alone, of 15 % about FLOPs alone. What is timed is played through, see `imagined_device.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from modscale.searching.rehearsal import Rehearsal, Rehearsed
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec


class Costs:
    """What networks take here, on a machine of the speed of the rehearsal."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal = rehearsal

    def export_s(self, spec: ModelSpec) -> float:
        """To write a network to a file and check that against torch."""
        return self._by_block(spec, self.rehearsal.networks, lambda one: one.export_s)

    def training_s(
        self, spec: ModelSpec, epochs: int, val_images: int | None = None, *, share: float = 1.0, scorings: int = 1
    ) -> float:
        """A share of a network's training, with so many epochs and validation images, scored so often."""
        anchor = self.rehearsal.anchor
        seen = sorted((*self.rehearsal.networks, *(() if anchor is None else (anchor,))), key=lambda one: one.flops)
        return self._by_block(
            spec, seen, lambda one: one.pace.seconds(epochs, val_images, share=share, scorings=scorings)
        )

    def anchor_s(self, epochs: int, val_images: int | None = None, *, scorings: int = 1) -> float:
        """The training of what all are compared with; 0 where there is none."""
        anchor = self.rehearsal.anchor
        return 0.0 if anchor is None else anchor.pace.seconds(epochs, val_images, scorings=scorings)

    @staticmethod
    def _by_block(spec: ModelSpec, seen: Sequence[Rehearsed], value: Callable[[Rehearsed], float]) -> float:
        each = [value(one) / max(1, one.spec.num_blocks()) for one in seen]
        flops = count_model(spec).flops
        return max(1, spec.num_blocks()) * float(np.interp(flops, [one.flops for one in seen], each))
