"""finals.json against what was written into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modscale.errors import RunError
from modscale.runs.finals import FINALS_FILE, read_finals, write_finals


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Also the latency on a device of the user's, whose name stands in no table; without a file there is nothing."""
    assert read_finals(tmp_path) == {}
    measured = {
        3: {"latency_ms": 5.25, "latency_wide": False, "latency_reference_ms": 8.5, "latency_pi_ms": 50.5},
        0: {"latency_ms": 7.0, "latency_pi_ms": 61.0, "latency_pi_busy": True},
    }
    write_finals(tmp_path, measured)
    assert read_finals(tmp_path) == measured


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot be read as JSON"),
        ('{"finals": 3}', "finals: must be a list"),
        ('{"finals": [3]}', "finals[0]"),
        ('{"finals": [{"number": 0, "latency_pi_ms": -1}]}', "finals[0].latency_pi_ms: must be more than 0"),
        ('{"finals": [{"number": 0, "latancy_ms": 1}]}', "latancy_ms"),
    ],
)
def test_a_broken_file_is_told_in_a_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / FINALS_FILE).write_text(text)
    with pytest.raises(RunError) as caught:
        read_finals(tmp_path)
    assert told in str(caught.value)
