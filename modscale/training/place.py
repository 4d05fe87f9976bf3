"""Where a process stands among those that train one network together, as torchrun tells it; alone without torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modscale.errors import ProviderError


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One of the processes, and its device."""

    rank: int
    """0 to `processes` - 1; the first one writes."""
    processes: int
    """How many there are."""
    device: torch.device
    """This one's."""

    def agreed(self, value: Any) -> Any:
        """The first process's value, in every process."""
        if self.processes == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def total(self, values: Tensor) -> Tensor:
        """The sum of all processes' values."""
        if self.processes > 1:
            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def describe(self) -> str:
        """The device, as in `cpu` or `cuda (NVIDIA H100)`."""
        is_gpu = self.device.type == "cuda"
        return f"cuda ({torch.cuda.get_device_name(self.device)})" if is_gpu else self.device.type


def take_place(device: str) -> Place:
    """This process's place, once all others have theirs; each has a GPU of its own where there are some.

    Raises:
        ProviderError: CUDA is asked for and absent.
    """
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ProviderError("no CUDA device is available to torch", place="device", value="cuda")
    chosen = torch.device("cpu")
    if available and device != "cpu":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(chosen)
    if processes > 1:
        torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Place(rank=rank, processes=processes, device=chosen)
