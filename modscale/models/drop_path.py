"""Stochastic depth, which draws the same whether a batch goes through as a whole or in slices, each by a thread.

Threads share torch's global random state, so that what each drew from it would follow from who came first. Inside
`SharedDraws.rows` a path draws for the whole batch instead, once for all slices, and each takes its own rows: the k-th
draw of a forward pass is the k-th draw of the state, as if the batch were whole.

Shapes: B batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch leaves it out of its list

_here = threading.local()


class DropPath(nn.Module):
    """Drops a residual branch for whole samples in training (stochastic depth), scaled to keep its mean."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        if not is_scripting() and isinstance(x, Tensor):  # TorchScript and torch.fx know of no threads
            drawn = _drawn(x)
        else:
            drawn = torch.rand(x.shape[0], 1, 1, 1, device=x.device, dtype=x.dtype)
        return x * (drawn >= self.rate) / (1.0 - self.rate)


class SharedDraws:
    """What one forward pass over a batch of B draws, by whichever slice of it comes first."""

    def __init__(self, items: int) -> None:
        self.items = items
        self._drawn: list[Tensor] = []
        self._lock = threading.Lock()

    @contextmanager
    def rows(self, part: slice) -> Iterator[None]:
        """This thread runs the network once over these rows of the batch, 0 to B."""
        passed = 0

        def draw(x: Tensor) -> Tensor:
            nonlocal passed
            with self._lock:
                if passed == len(self._drawn):
                    self._drawn.append(_uniform(self.items, x))
                drawn = self._drawn[passed]
            passed += 1
            return drawn[part]

        _here.draw = draw
        try:
            yield
        finally:
            del _here.draw


def _drawn(x: Tensor) -> Tensor:
    """[B, 1, 1, 1] for the items of x, between 0 and 1."""
    draw = getattr(_here, "draw", None)
    return _uniform(x.shape[0], x) if draw is None else draw(x)


def _uniform(items: int, like: Tensor) -> Tensor:
    """[B, 1, 1, 1] between 0 and 1."""
    return torch.rand(items, 1, 1, 1, device=like.device, dtype=like.dtype)
