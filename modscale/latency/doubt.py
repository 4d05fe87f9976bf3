"""Of which models the order is in doubt: where a search has them in turns at its end, its time is spent on those."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

from modscale.latency.device import Device
from modscale.latency.probed import find_probe
from modscale.latency.summary import Round, summarise


def in_doubt(
    seen: Sequence[Sequence[Round]],
    references: Sequence[Round],
    device: Device,
    beside: Sequence[tuple[float, float]] = (),
) -> list[bool]:
    """Whether each model's latency is not told apart from some other one's, see `not_told_apart`.

    `beside` are others that were measured before, in units of the reference, with the half-widths of their intervals.
    """
    levels, unit_ms = _levels(seen, references, device)
    others = [(unit_ms * one, unit_ms * half) for one, half in beside] if unit_ms is not None else []
    return not_told_apart([*levels, *others])[: len(seen)]


def not_told_apart(found: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each latency is not told apart from some other one, by the half-width of the 95 % interval of each.

    It is where they differ by more than the half-widths of both, added in squares, as for ties on a front. Worked by
    hand: 10.0 ± 0.3 and 10.6 ± 0.4 ms are 0.6 apart, and told apart from 0.5 on.
    """
    return [
        any(abs(one - other) <= hypot(half, its) for j, (other, its) in enumerate(found) if j != i)
        for i, (one, half) in enumerate(found)
    ]


def _levels(
    seen: Sequence[Sequence[Round]], references: Sequence[Round], device: Device
) -> tuple[list[tuple[float, float]], float | None]:
    """What each model takes on the quiet machine, and the half-width of its interval, milliseconds; and the reference.

    The reference is None where it was not timed.
    """
    own = [[one.timings for one in rounds] for rounds in seen]
    probe = find_probe([one for each in own for one in each], device.threads, [one.timings for one in references])
    halves = [None if probe is None else probe.half_width_ms(each) for each in own]
    if probe is not None and None not in halves:  # without a bootstrap, of many models in no time
        unit_ms = probe.level_ms([one.timings for one in references]) if references else None
        return [(probe.level_ms(each), half or 0.0) for each, half in zip(own, halves, strict=True)], unit_ms
    latencies = [summarise(rounds, references, device) for rounds in seen]
    return [(one.quiet_ms, one.quiet_ci95_ms) for one in latencies], latencies[0].reference_quiet_ms
