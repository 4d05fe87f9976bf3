"""What is timed of many networks on a machine whose speed changes."""

from __future__ import annotations

from pathlib import Path

from modscale.latency.steady import take_steadily


class Machine:
    """A clock in which every process takes a second; in the seconds that are slow, runs take 1.6 times as long."""

    def __init__(self, slow: range) -> None:
        self.slow, self.seconds = slow, 0

    def time_file(self, file: Path, runs: int) -> tuple[tuple[int, ...], bool]:
        self.seconds += 1
        factor = 1.6 if self.seconds in self.slow else 1.0
        return (int(1e6 * factor * float(file.name)),) * runs, False


def take(machine: Machine, limit_s: float):
    return take_steadily(
        12, lambda i: Path(str(i + 2)), machine.time_file, Path("1"), runs=lambda i: 3, flops=lambda i: i + 2,
        limit_s=limit_s,
        now=lambda: machine.seconds,
    )  # fmt: skip


def test_what_was_timed_while_the_machine_was_slow_is_timed_again():
    """Half of the networks meet a slow machine; all have their own time in the end."""
    found = take(Machine(slow=range(8, 13)), limit_s=100)
    assert {one.index: one.times_ns for one in found.steady} == {i: (int(1e6 * (i + 2)),) * 3 for i in range(12)}
    assert {one.index for one in found.others} == set(range(4, 12))
    assert found.reference_ms == 1.0


def test_the_first_ones_are_judged_by_what_comes_later():
    """A machine that begins slow and becomes faster shows only then that it was slow."""
    found = take(Machine(slow=range(7)), limit_s=100)
    assert min(one.at_s for one in found.steady) > 6
    assert all(one.times_ns[0] == 1e6 * (one.index + 2) for one in found.steady)


def test_a_process_that_was_slow_by_itself_is_timed_again():
    """Both references were fast, and the network took far longer than its FLOPs let expect: once, so it was not it."""
    found = take(Machine(slow=range(4, 5)), limit_s=100)
    assert {one.index: one.times_ns[0] for one in found.steady} == {i: 1e6 * (i + 2) for i in range(12)}
    assert [one.index for one in found.others] == [2]


def test_a_network_that_is_slow_twice_is_slow():
    """What takes long for its FLOPs and does so again is believed."""
    machine = Machine(slow=range(0))
    found = take_steadily(
        8, lambda i: Path(str(9 if i == 5 else 3)), machine.time_file, Path("1"), runs=lambda i: 3,
        flops=lambda i: 3, limit_s=100, now=lambda: machine.seconds,
    )  # fmt: skip
    assert {one.index: one.times_ns[0] for one in found.steady} == {i: 9e6 if i == 5 else 3e6 for i in range(8)}
    assert [one.index for one in found.others] == [5]


def test_it_ends_in_time():
    """After the limit nothing more is begun, and what there is is given."""
    found = take(Machine(slow=range(0)), limit_s=7)
    assert len(found.steady) == 8
