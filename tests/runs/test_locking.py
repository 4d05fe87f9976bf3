"""The lock of a folder of results."""

from __future__ import annotations

from pathlib import Path

import pytest

from modscale.errors import RunError
from modscale.runs.locking import locked_folder


def test_a_second_one_is_kept_out_by_name(tmp_path: Path) -> None:
    """Whoever has the folder is named by what it does, and it is free again afterwards."""
    with (
        locked_folder(tmp_path, appended=[], written=[], what="search"),
        pytest.raises(RunError, match="another fidelity check is running in this folder"),
        locked_folder(tmp_path, appended=[], written=[], what="fidelity check"),
    ):
        pass
    with locked_folder(tmp_path, appended=[], written=[], what="search"):
        pass


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    """A path through a file, a file system without room or leave to write, and a name that none takes."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", Path("/proc/modscale"), tmp_path / ("x" * 300)):
        with (
            pytest.raises(RunError, match="cannot be written to"),
            locked_folder(folder, appended=[], written=[], what="search"),
        ):
            pass


def test_what_fails_inside_is_not_put_down_to_the_folder(tmp_path: Path) -> None:
    """A full /tmp, say: the error goes on as it is, and the lock is free again."""
    with (
        pytest.raises(OSError, match="too many open files"),
        locked_folder(tmp_path, appended=[], written=[], what="search"),
    ):
        raise OSError("too many open files")
    with locked_folder(tmp_path, appended=[], written=[], what="search"):
        pass


def test_a_start_sweeps_the_halves_of_what_is_written_here(tmp_path: Path) -> None:
    """Only those of the given names."""
    for name in (".a.json.abcd1234", ".b.json.abcd1234"):
        (tmp_path / name).write_text("x")
    with locked_folder(tmp_path, appended=[], written=["a.json"], what="search"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".b.json.abcd1234", ".lock"]


def test_a_folder_that_came_to_nothing_is_taken_away_again(tmp_path: Path) -> None:
    """However that came; one that was there stays, as does one that holds something."""
    for name, is_there, written, stays in (("a", False, None, False), ("b", True, None, True), ("c", False, "x", True)):
        folder = tmp_path / name
        if is_there:
            folder.mkdir()
        with locked_folder(folder, appended=[], written=[], what="search"):
            if written:
                (folder / written).write_text("1")
        assert folder.exists() is stays
