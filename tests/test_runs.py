"""The run's folder: what it records, whom it refuses, and that nothing is written half."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from modscale.errors import RunError
from modscale.runs import (
    RUN_FILE,
    check_folder,
    describe_machine,
    describe_versions,
    locked_run,
    read_run,
    read_run_space,
    update_run,
    write_run,
    write_text,
)
from modscale.space import SearchSpace, parse_space

DOCUMENT = {
    "name": "toy",
    "stages": [{"dim": [16, 24], "depth": {"low": 1, "high": 3}, "mlp_ratios": [[1, 6]], "kernel_size": [3, [3, 5]]}],
    "constraints": {"params": {"max": 1e6}, "widths": "nondecreasing"},
    "bands": {"tiny": {"params": {"max": 10_000}}},
}


def toy(**changes: object) -> SearchSpace:
    return parse_space({**DOCUMENT, **changes})


def test_a_run_reads_back_the_space_it_was_made_with(tmp_path: Path) -> None:
    """run.yaml is plain YAML and holds the whole resolved space, machine and versions."""
    write_run(tmp_path, toy(), "spaces/toy.yaml", {"fingerprint": "abc"})
    assert read_run_space(tmp_path) == toy()
    plain = yaml.safe_load((tmp_path / RUN_FILE).read_text())
    assert plain["data"] == {"fingerprint": "abc"}
    assert plain["versions"]["python"] == sys.version.split()[0]
    assert plain["machine"]["cores"] >= 1
    assert plain["space"]["search"]["seed"] == plain["seed"]


def test_a_folder_of_another_space_is_refused_with_the_part_that_differs(tmp_path: Path) -> None:
    """Only the number of trials may change between two starts of a run."""
    assert check_folder(tmp_path, toy()) is False
    write_run(tmp_path, toy(), "toy.yaml", {})
    assert check_folder(tmp_path, toy()) is True
    more = toy()
    more = replace(more, search=replace(more.search, trials=99))
    assert check_folder(tmp_path, more) is True
    update_run(tmp_path, more)
    assert read_run(tmp_path)["trials"] == 99
    with pytest.raises(RunError, match="belongs to another space: its constraints differs"):
        check_folder(tmp_path, toy(constraints={}))
    with pytest.raises(RunError, match="its search differs"):
        check_folder(tmp_path, toy(search={"seed": 5}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no space"),
        (b"- 1", "it has no space"),
        (b"space: {name: x}", "space.stages: is required"),
        (b"space: {stages: [{dim: -1, depth: 1}]}", r"space.stages\[0\].dim: must be 1 or more, got -1"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_a_broken_run_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Whatever stands in run.yaml, the error names the file and the place."""
    (tmp_path / RUN_FILE).write_bytes(content)
    with pytest.raises(RunError, match=message) as caught:
        read_run_space(tmp_path)
    assert RUN_FILE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    """A missing folder, a file and a folder of other things each have their sentence."""
    with pytest.raises(RunError, match="no such run folder"):
        read_run(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="must be a folder"):
        check_folder(tmp_path / "file", toy())
    with pytest.raises(RunError, match=r"has file and no run\.yaml"):
        check_folder(tmp_path, toy())
    with pytest.raises(RunError, match="is no run's folder"):
        read_run(tmp_path)


def test_a_second_search_is_kept_out_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    """The lock is the operating system's: it goes with its process."""
    script = (
        "import sys, os; from pathlib import Path; from modscale.runs import locked_run\n"
        "with locked_run(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read(); os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(RunError, match="another search is running"), locked_run(tmp_path):
        pass
    process.stdin.close()
    process.wait(timeout=20)
    process.stdout.close()
    with locked_run(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    """A path through a file, and a file system without room or leave to write."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", Path("/proc/modscale")):
        with pytest.raises(RunError, match="cannot be written to"), locked_run(folder):
            pass


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """write_text replaces a file whole or not at all."""
    write_text(tmp_path / "a", "old")
    (tmp_path / ".a.tmp").mkdir()
    with pytest.raises(RunError, match="a: cannot be written"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_machine_and_versions_are_plain_values() -> None:
    """What run.yaml records of the machine survives safe YAML."""
    record = {**describe_machine(), **describe_versions()}
    assert yaml.safe_load(yaml.safe_dump(record)) == record
    assert {"torch", "onnxruntime", "optuna"} <= set(record)
