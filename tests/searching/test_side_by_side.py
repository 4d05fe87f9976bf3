"""How long several workers take, worked by hand, and against what one after the other takes."""

from __future__ import annotations

from collections.abc import Sequence

from modscale.searching.side_by_side import Asked, seconds_of
from modscale.specs.published import published
from modscale.specs.spec import ModelSpec

XXS = published("xxs")


def timing_s(specs: Sequence[ModelSpec]) -> float:
    """Two seconds each, in turns, and one for the reference."""
    return 2.0 * len(specs) + 1.0


def asked(count: int, *, export_s: float = 1.0, training_s: float = 4.0) -> list[Asked]:
    return [Asked(spec=XXS, export_s=export_s, training_s=training_s) for _ in range(count)]


def test_two_workers_share_what_can_be_shared() -> None:
    """One trains the anchor while the other exports both; then both are timed, all standing still, and trained at once.

    By hand: exports until 2, timing until 7, in which the anchor (3 s) stands still with a second to go; it ends at 8,
    and the two trainings at 12.
    """
    found = seconds_of(asked(2), workers=2, window=4, anchor_s=3.0, timing_s=timing_s)
    assert found == 12.0


def test_one_worker_does_one_thing_after_the_other() -> None:
    """The sum, but for timings that are taken together."""
    assert seconds_of(asked(3), workers=1, window=1, anchor_s=3.0, timing_s=timing_s) == 3 + 3 * (1 + 3 + 4)
    assert seconds_of(asked(3), workers=1, window=3, anchor_s=3.0, timing_s=timing_s) == 3 + 3 * 1 + 7 + 3 * 4


def test_a_window_of_one_leaves_the_second_worker_idle() -> None:
    """Trial 1 is drawn once trial 0 is finished; only the anchor is trained beside something."""
    found = seconds_of(asked(2), workers=2, window=1, anchor_s=2.0, timing_s=timing_s)
    # anchor 0 to 2 beside the export to 1; timing 1 to 4, the anchor ends at 5; 5 to 9; then 1 + 3 + 4
    assert found == 9 + 8


def test_devices_elsewhere_stop_nobody() -> None:
    """The anchor goes on while models are timed there: it ends at 3, the timing at 7, the trainings at 11."""
    found = seconds_of(asked(2), workers=2, window=4, anchor_s=3.0, timing_s=timing_s, stands_still=False)
    assert found == 11.0


def test_what_is_not_trained_ends_with_its_timing() -> None:
    """A candidate that fails by its latency, and nothing at all."""
    some = [*asked(1), *asked(1, training_s=0.0)]
    assert seconds_of(some, workers=2, window=4, anchor_s=0.0, timing_s=timing_s) == 1 + 5 + 4
    assert seconds_of([], workers=2, window=4, anchor_s=3.0, timing_s=timing_s) == 0.0


def test_a_worker_that_comes_late_is_waited_for_by_nobody() -> None:
    """Ready at 100, it has nothing to do any more."""
    found = seconds_of(asked(2), workers=2, window=4, anchor_s=3.0, timing_s=timing_s, ready_s=100.0)
    assert found == seconds_of(asked(2), workers=1, window=4, anchor_s=3.0, timing_s=timing_s)
