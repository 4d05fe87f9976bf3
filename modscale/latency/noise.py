"""What is told of a machine that was not quiet while models were timed, in a line."""

from __future__ import annotations

from collections.abc import Sequence

from modscale.latency.device import Device
from modscale.latency.summary import Latency, Round, core_share, is_busy
from modscale.machine import load_average, stolen_seconds
from modscale.settings import LatencySettings


def noise_text(latencies: Sequence[Latency], settings: LatencySettings) -> str | None:
    """That the machine was too noisy for the interval that was asked for, and how that shows; None where it was not."""
    wide = [one for one in latencies if one.wide]
    if not wide:
        return None
    reached = [one.reached_percent for one in wide]
    span = f"{min(reached):.2g}" if len(wide) == 1 else f"{min(reached):.2g} to {max(reached):.2g}"
    rounds, unsteady, disturbed = (
        sum(getattr(one, name) for one in latencies) for name in ("all_rounds", "unsteady_rounds", "disturbed_rounds")
    )
    told = (
        f"note: too noisy for {settings.until_percent:g} % in the time given: {len(wide)} of {len(latencies)} reached"
        f" {span} %"
    )
    if latencies[0].reference_ms is None:
        return told
    return f"{told}; of {rounds} rounds {disturbed} were disturbed and {unsteady} ran while the machine was slow"


def busy_text(seen: Sequence[Sequence[Round]], device: Device, stolen: float | None, start: float) -> str | None:
    """That the machine is busy, and how that shows; None where it is not.

    `stolen` is what the host had taken of it, in seconds of a core, at `start` by the clock of the device.
    """
    timings = [one.timings for each in seen for one in each]
    if not is_busy(timings, device):
        return None
    settings, is_here = device.settings, device.settings.target is None
    share, cores = core_share(timings, device) or 0.0, device.cores
    found = []
    if min(one.preemptions for one in timings) >= 0:
        runs = sum(len(one.times_ns) for one in timings)
        found.append(f"{sum(one.preemptions for one in timings) / runs:.1f} preemptions a run")
    if is_here and (load := load_average()) is not None:
        found.append(f"load {load:.1f} on {cores} cores")
    if is_here and stolen is not None and (now := stolen_seconds()) is not None:
        taken = (now - stolen) / cores / (device.now() - start)
        found += [f"{taken:.0%} taken by the host"] if taken >= 0.01 else []
    first = "; root, or who may set a negative nice value, is timed before all others" if may_go_first(device) else ""
    again = f"; measuring for {settings.patience_s:g} s more at most" if settings.patience_s else ""
    signs = f" ({', '.join(found)})" if found else ""
    return f"note: the machine is busy: the timing threads had a core {share:.0%} of the time{signs}{first}{again}"


def may_go_first(device: Device) -> bool:
    """Whether its timing processes ran as any other, where a system like this could have put them before all others."""
    return device.facts.get("nice") == 0 and not str(device.facts["system"]).startswith("Windows")
