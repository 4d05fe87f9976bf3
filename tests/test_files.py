"""Files: whole or not at all."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from modscale.errors import InputError
from modscale.files import path_text, user_path, user_text, write_whole


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
