"""A training step in slices of the batch, side by side in threads: the same gradients, in less time on a CPU.

torch's own threads meet at the end of every operation, thousands of times a step, and most operations of these
networks are too short for that. Here each thread takes a slice of the batch through the whole network, forward and
backward, and they meet once a step; a slice's activations fit the caches better besides. Networks too small even for
that learn fastest in one thread (benchmarks/network_forms.md).

What a slice is follows from the network and the batch alone, each is computed by one thread while there are no more
threads than slices, and their gradients are added in the batch's order: they are the same to the bit with 1 thread,
with 2, and with as many as there are slices. Only networks that treat each item of a batch by itself are
sliced: BatchNorm does not. Paths are dropped as in the whole batch (`models/drop_path.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise
from threading import Barrier
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modscale.models.drop_path import SharedDraws
from modscale.specs.counts import count_model
from modscale.specs.spec import ModelSpec

MOST_ITEMS = 32
"""Of a batch in one slice, where more would be worth a thread of their own."""
WORTH_MACS = 16e6
"""Multiply-adds of one block's forward pass over a slice below which a slice is not worth a thread."""
MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers that mix the items of a batch, or draw in another way than `DropPath`."""

Part = TypeVar("Part")
Found = TypeVar("Found")


def slice_rows(spec: ModelSpec, items: int) -> tuple[slice, ...]:
    """The rows of each slice of a batch, of equal numbers within 1; a single slice where two are not worth it."""
    macs = count_model(spec).flops / max(1, spec.num_blocks())
    least = max(1, math.ceil(WORTH_MACS / macs))
    number = min(items // least, max(2, math.ceil(items / MOST_ITEMS)))
    ends = [items * i // max(1, number) for i in range(max(1, number) + 1)]
    return tuple(slice(first, end) for first, end in pairwise(ends))


def is_separable(network: nn.Module) -> bool:
    """Whether in training each item of a batch has an output that the others do not change, drawn once."""
    return not any(
        isinstance(module, MIXING) or getattr(module, "grad_checkpointing", False) for module in network.modules()
    )


class Slices:
    """Works through batches of one size by threads; a context manager that ends them."""

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        *,
        items: int,
        threads: int,
        cores: int | None = None,
        is_whole: bool = False,
    ) -> None:
        """For a batch of so many items; `is_whole`: whatever the network, in one slice, as DistributedDataParallel.

        What is computed is what so many threads compute, to the bit. Of those that each do a slice by themselves at
        most `cores` run, where that is given.
        """
        self.items = items
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters)
        can_slice = on_cpu and not is_whole and is_separable(network)
        rows = slice_rows(spec, items)
        self.rows = rows if can_slice else (slice(0, items),)
        self.own_threads = threads if len(rows) > len(self.rows) else 1
        """For torch's own operations in the thread that asks: 1 where all that is large is done in slices, or nothing.

        With more its optimisers would round otherwise.
        """
        workers = min(threads, len(self.rows)) if len(self.rows) > 1 else threads
        inner = threads // workers
        if inner == 1 and cores is not None:
            workers = min(workers, cores)
        self._pool = _start(workers, inner) if on_cpu and workers > 1 else None
        self.shares = _shares(self.parameters, len(self.rows))
        """Parameters by their numbers, a list for each slice, about as many values in each."""

    def __enter__(self) -> Slices:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def learn(self, mean_loss: Callable[[slice], Tensor]) -> Tensor:
        """Puts into the parameters the gradient of the mean loss over the batch, and returns that loss, [].

        `mean_loss` gives it over the rows that it is told, by the network; it is called from several threads.
        Raises what `mean_loss` raises, once all threads have stopped.
        """
        for parameter in self.parameters:
            parameter.grad = None
        if len(self.rows) == 1:
            loss = mean_loss(self.rows[0])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            return loss.detach()
        draws = SharedDraws(self.items)

        def differentiate(rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
            with draws.rows(rows):
                loss = mean_loss(rows) * ((rows.stop - rows.start) / self.items)
            return loss.detach(), torch.autograd.grad(loss, self.parameters)

        loss, total = torch.zeros(()), list[Tensor]()
        for i, (part, gradients) in enumerate(self.each(differentiate, self.rows)):
            loss = loss + part
            if i == 0:
                total = list(gradients)
                continue
            add = partial(_add, total, gradients, i == 1)
            if i < len(self.rows) - 1:  # the threads are busy
                add(range(len(total)))
            else:
                for _ in self.each(add, self.shares):
                    pass
        for parameter, gradient in zip(self.parameters, total, strict=True):
            is_laid_out = gradient.stride() == parameter.stride()  # as the optimiser takes for granted
            parameter.grad = gradient if is_laid_out else torch.empty_like(parameter).copy_(gradient)
        return loss

    def adamw(self, groups: list[dict[str, Any]], **settings: Any) -> SharedAdamW:
        """AdamW for the network's parameters, each share of them by a thread; the steps are torch's, to the bit."""
        owner = {id(self.parameters[i]): share for share, those in enumerate(self.shares) for i in those}
        optimisers = []
        for share in range(len(self.shares)):
            parts = [{**group, "params": [q for q in group["params"] if owner[id(q)] == share]} for group in groups]
            parts = [part for part in parts if part["params"]]
            if parts:
                optimisers.append(torch.optim.AdamW(parts, fused=True, **settings))
        return SharedAdamW(self, optimisers)

    def each(self, function: Callable[[Part], Found], parts: Iterable[Part]) -> Iterator[Found]:
        """What `function` gives for each part, in their order; by the threads, where there are some.

        Raises what `function` raises, once all threads have stopped.
        """
        if self._pool is None:
            yield from map(function, parts)
            return
        futures: list[Future[Found]] = [self._pool.submit(function, part) for part in parts]
        futures.reverse()
        try:
            while futures:
                yield futures.pop().result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


class SharedAdamW:
    """An AdamW for each share of the parameters."""

    def __init__(self, slices: Slices, optimisers: list[torch.optim.AdamW]) -> None:
        self.slices, self.optimisers = slices, optimisers
        self.param_groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        """Those of all shares; a group's settings stand in each that has some of its parameters."""

    def step(self) -> None:
        """By the gradients that the parameters have."""
        if len(self.optimisers) == 1:  # in as many threads as whoever asks has
            self.optimisers[0].step()
            return
        for _ in self.slices.each(lambda optimiser: optimiser.step(), self.optimisers):
            pass


def _shares(parameters: list[nn.Parameter], number: int) -> list[list[int]]:
    """The largest first, each to whom has least."""
    shares, values = [list[int]() for _ in range(number)], [0] * number
    for i in sorted(range(len(parameters)), key=lambda i: -parameters[i].numel()):
        share = values.index(min(values))
        shares[share].append(i)
        values[share] += parameters[i].numel()
    return shares


def _add(total: list[Tensor], gradients: tuple[Tensor, ...], to_new: bool, which: Iterable[int]) -> None:
    """Adds these of the gradients; into new memory where two parameters may have been given the same."""
    for i in which:
        total[i] = total[i] + gradients[i] if to_new else total[i].add_(gradients[i])


def _start(workers: int, threads: int) -> ThreadPoolExecutor:
    """A pool of so many running threads, each of which lets torch use `threads` of its own."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "slice", torch.set_num_threads, (threads,))
    together = Barrier(workers)
    wait([pool.submit(together.wait) for _ in range(workers)])
    torch.set_num_threads(before)  # what threads that are yet to come begin with
    return pool
