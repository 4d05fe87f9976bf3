"""Files: whole or not at all."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from modscale.errors import InputError
from modscale.files import (
    path_text,
    require_current_folder,
    scratch_folder,
    sweep_halves,
    sweep_scratch,
    user_path,
    user_text,
    write_whole,
)


def test_nothing_is_lost_when_a_write_fails(tmp_path: Path) -> None:
    """An old file stands until the new one is whole, nothing is left beside it, and no folder is one line."""
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_whole(file, None)  # type: ignore[arg-type]
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(InputError, match="folder: cannot be written: "):
        write_whole(tmp_path / "folder", b"new")
    with pytest.raises(InputError, match="cannot be written: No such file"):
        write_whole(tmp_path / "none" / "a", b"new")
    assert file.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]


def test_a_file_is_replaced_and_has_the_usual_mode(tmp_path: Path) -> None:
    """Bytes as they are, text as UTF-8, and the permissions that any new file would get."""
    write_whole(tmp_path / "a", b"\xff")
    assert (tmp_path / "a").read_bytes() == b"\xff"
    write_whole(tmp_path / "a", "é")
    assert (tmp_path / "a").read_bytes() == "é".encode()
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "b", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o640


@pytest.fixture
def bad_paths(tmp_path: Path) -> dict[str, Path]:
    """Paths at which nothing can lie, by what the system says of them."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    return {
        "File name too long": tmp_path / ("x" * 300),
        "Too many levels of symbolic links": tmp_path / "loop",
        "Not a directory": tmp_path / "file" / "x",
        "embedded null byte": tmp_path / "a\0b",
    }


def test_a_path_at_which_nothing_can_lie_is_one_line(bad_paths: dict[str, Path], tmp_path: Path) -> None:
    """Typed, or in a file, whose place is named then; what is not there, or a broken link, may be made."""
    for reason, path in bad_paths.items():
        with pytest.raises(InputError, match=f"cannot be used: {reason}"):
            user_path(path)
        with pytest.raises(InputError, match=f"cannot be used: {reason}"):
            user_text(str(path))
        with pytest.raises(InputError, match=rf"^spec: cannot be used: {reason}, got '"):
            user_path(path.relative_to(tmp_path), tmp_path, place="spec")
    (tmp_path / "nowhere").symlink_to("none")
    for path in (tmp_path / "none" / "x", tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        assert user_path(path) == path
    assert user_text("") == ""


def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither it nor what is below it; who may look everywhere is refused by a stand-in."""
    (tmp_path / "locked").mkdir()
    stat_of = Path.stat

    def refused(path: Path, **options: bool) -> os.stat_result:
        if path != tmp_path / "locked" and (tmp_path / "locked") in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat_of(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    for path in (tmp_path / "locked", tmp_path / "locked" / "x"):
        with pytest.raises(InputError, match="cannot be used: Permission denied"):
            user_path(path)


def test_a_current_folder_that_is_gone_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs torch says so, where a library of torch's would end the process."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    require_current_folder()
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="the current folder is gone"):
        require_current_folder()
    os.chdir(tmp_path)


def test_a_path_of_any_bytes_can_be_printed(tmp_path: Path) -> None:
    """Two paths that are no Unicode stay apart, and neither steers a terminal."""
    paths = [Path(os.fsdecode(name)) for name in (b"a\xff\x1b[0m", b"a\xfe\x1b[0m", "é".encode())]
    assert [path_text(path) for path in paths] == [r"a\udcff\x1b[0m", r"a\udcfe\x1b[0m", "é"]


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    """`~` and `~user` at the beginning; anywhere else, and where a file is called so, it is a letter like others."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/x") == tmp_path / "x"
    assert user_path("~") == tmp_path
    assert user_text("~root") == pwd.getpwnam("root").pw_dir
    for text in ("a/~/b", "xxs", "./~x", "a~"):
        assert user_text(text) == text
    with pytest.raises(InputError, match="no home folder is known for ~nobody-here"):
        user_path("~nobody-here/x")
    (tmp_path / "~nobody-here.yaml").touch()
    assert user_text("~nobody-here.yaml") == "~nobody-here.yaml"


KILLED = """
import os, sys
from pathlib import Path
from modscale import files
if sys.argv[1] == "file":
    class Content(str):
        def encode(self): print("ready", flush=True); sys.stdin.read(1); os.kill(os.getpid(), 9)
    files.write_whole(Path(sys.argv[2]) / "run.yaml", Content("x"))
else:
    with files.scratch_folder() as folder:
        (folder / "model.onnx").write_bytes(b"x")
        print("ready", flush=True); sys.stdin.read(1); os.kill(os.getpid(), 9)
"""


def leave_half(kind: str, folder: Path) -> subprocess.Popen[str]:
    """A process that holds a file or a folder half written, until it is let go on to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, kind, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_holds_is_not(tmp_path: Path) -> None:
    """The lock on it, which the kernel takes away with the process, tells the two apart."""
    with leave_half("file", tmp_path) as process:
        (half,) = tmp_path.iterdir()
        sweep_halves(tmp_path, lambda name: name == "run.yaml")
        assert half.exists()
        process.communicate("x")
    assert half.exists()
    sweep_halves(tmp_path, lambda name: name == "other.yaml")
    assert half.exists()
    sweep_halves(tmp_path, lambda name: name == "run.yaml")
    assert list(tmp_path.iterdir()) == []


def test_scratch_folders_of_killed_processes_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process that needs one removes them; not what is in use, nor what only looks similar."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    others = [tmp_path / "modscale-mine", tmp_path / "modscale-scratch-notes", tmp_path / "elsewhere"]
    for other in others:
        other.mkdir()
    link = tmp_path / "modscale-scratch-abcdefgh"
    link.symlink_to(others[2])
    with leave_half("folder", tmp_path) as process:
        (half,) = set(tmp_path.iterdir()) - {*others, link}
        sweep_scratch.cache_clear()
        with scratch_folder() as mine:
            assert half.exists()
            sweep_scratch.cache_clear()
            sweep_scratch(str(tmp_path))
            assert mine.exists()
        assert not mine.exists()
        process.communicate("x")
    assert (half / "model.onnx").exists()
    sweep_scratch.cache_clear()
    with scratch_folder():
        assert not half.exists()
    assert set(tmp_path.iterdir()) == {*others, link}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """What lies elsewhere stays as it is."""
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "report.html").symlink_to(tmp_path / "elsewhere")
    write_whole(tmp_path / "report.html", "new")
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "report.html").read_text() == "new"
