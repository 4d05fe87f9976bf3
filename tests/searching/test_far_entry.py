"""What a worker does before anything else, whatever modscale it has."""

from __future__ import annotations

import pickle
import re
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

import modscale
from modscale.machine import code_fingerprint
from modscale.searching import far_entry

HOST, WHERE = re.escape(socket.gethostname()), re.escape(str(Path(modscale.__file__).parent))
NEEDED = r"all machines need that of the search \(9\.9\)"


def old(**content: object) -> ModuleType:
    """A `machine.py` of another version."""
    module = ModuleType("modscale.machine")
    vars(module).update(content)
    return module


@pytest.mark.parametrize(
    "machine", [None, old(), old(code_fingerprint=lambda a, b: ""), ModuleType("modscale.machine")]
)
def test_other_code_is_told_before_anything_is_looked_at(
    machine: ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same version too: a checkout that was moved on in mid-run, say; an old one may know of no fingerprint."""
    if machine is not None:
        monkeypatch.setitem(sys.modules, "modscale.machine", machine)
    told = rf"^a worker on {HOST} has other code: modscale \S+ in {WHERE}; {NEEDED}, and none may change meanwhile$"
    with pytest.raises(ImportError, match=told) as caught:
        far_entry.call("0" * 64, "9.9", b"no pickle")
    assert caught.value.name == far_entry.OTHER_CODE


def test_no_code_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modscale", None)
    with pytest.raises(ImportError, match=rf"^a worker on {HOST} has no modscale \(.*\): {NEEDED}$") as caught:
        far_entry.call("0" * 64, "9.9", b"no pickle")
    assert caught.value.name == far_entry.OTHER_CODE


def test_the_same_code_does_what_it_is_asked() -> None:
    assert far_entry.call(code_fingerprint(), "9.9", pickle.dumps((max, (1, 5))), 3, 4) == 5


def test_code_is_told_apart_by_every_file_and_its_place(tmp_path: Path) -> None:
    def fingerprint(name: str, **files: str) -> str:
        for path, content in files.items():
            file = tmp_path / name / path.replace("_", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".py").write_text(content)
        return code_fingerprint(tmp_path / name)

    first = fingerprint("first", a="x = 1", b_c="y = 2")
    (tmp_path / "first" / "notes.txt").write_text("no code")
    assert fingerprint("second", a="x = 1", b_c="y = 2") == first
    others = [
        fingerprint("third", a="x = 2", b_c="y = 2"),
        fingerprint("fourth", a="x = 1", b_d="y = 2"),
        fingerprint("fifth", a="x = 1"),
        code_fingerprint(),
    ]
    assert len({first, *others}) == 5
