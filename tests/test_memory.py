"""What a process and all that it started hold, by a made-up /proc, and by a real child."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modscale.memory import Family, Held, MemoryWatch

MB = 1 << 20


def write_process(proc: Path, pid: int, parent: int, *, anonymous: int, files: int, shared: int = 0) -> None:
    """A process of /proc that holds so many MB of each kind; its name is one that makes trouble."""
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "stat").write_text(f"{pid} (a) b) S {parent} 0 0")
    sizes = {"RssAnon": anonymous, "RssFile": files, "RssShmem": shared}
    lines = [f"{key}:\t{size * 1024:8d} kB" for key, size in sizes.items()]
    (folder / "status").write_text("\n".join(["Name:\ta", "VmRSS:\t 1 kB", *lines, ""]))


def write_family(proc: Path) -> None:
    """This process, a worker and its child, a process that times, and a stranger."""
    write_process(proc, os.getpid(), 1, anonymous=50, files=30)
    write_process(proc, 9001, os.getpid(), anonymous=300, files=200, shared=5)
    write_process(proc, 9002, 9001, anonymous=7, files=10)
    write_process(proc, 9003, os.getpid(), anonymous=40, files=60)
    write_process(proc, 9004, 1, anonymous=4000, files=4000)
    (proc / "self").mkdir()


def test_what_is_mapped_from_files_counts_once(tmp_path: Path) -> None:
    """Each counts with what it holds alone, the whole with the most that one of them maps; strangers do not count."""
    write_family(tmp_path)
    family = Family(tmp_path)
    held = family.held([9001])
    assert held == Held(own=50 * MB, workers=(305 * MB,), others=47 * MB, mapped=200 * MB)
    assert held.total == (50 + 305 + 47 + 200) * MB
    write_process(tmp_path, 9005, 9003, anonymous=1, files=1)
    for file in (tmp_path / "9001").iterdir():  # a process that is just ending
        file.unlink()
    assert family.held([9001]) == Held(own=50 * MB, workers=(), others=48 * MB, mapped=60 * MB)


def test_without_proc_nothing_is_told(tmp_path: Path) -> None:
    """As on a Mac, or under a kernel that leaves these lines out."""
    assert Family(tmp_path).held() is None
    with MemoryWatch(proc=tmp_path) as watch:
        pass
    assert watch.most() is None
    assert watch.most_with(3) is None
    write_process(tmp_path, os.getpid(), 1, anonymous=1, files=1)
    (tmp_path / str(os.getpid()) / "status").write_text("Name:\ta\nVmRSS:\t 1 kB\n")
    assert Family(tmp_path).held() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_that_holds_memory_is_seen() -> None:
    """64 MiB of a real child count as its own, and are gone with it."""
    code = "x = bytearray(b'1') * (64 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with MemoryWatch(lambda: [child.pid]) as watch:
            while not watch.looks:
                pass
        child.communicate(b"\n")
    assert 64 * MB <= watch.looks[0].workers[0] < 96 * MB
    after = Family().held([child.pid])
    assert after is not None
    assert after.workers == ()


def test_more_workers_hold_more_at_once() -> None:
    """Worked by hand: all but one in the midst of a training while one is timed, or the report, whichever is more."""
    watch = MemoryWatch()
    watch.looks = [
        Held(own=50, workers=(300,), mapped=200),
        Held(own=60, workers=(500,), mapped=200),
        Held(own=60, workers=(310,), others=90, mapped=200),
        Held(own=400, mapped=70),
    ]
    assert watch.most() == 760
    assert watch.most_with(1) == 760
    assert watch.most_with(2) == (60 + 90 + 200) + 500 + 310
    assert watch.most_with(4) == (60 + 90 + 200) + 3 * 500 + 310
    watch.looks[-1] = Held(own=4000, mapped=70)
    assert watch.most_with(2) == 4070
