"""The script of docs/slurm.md on the loopback, with small programs in place of Slurm's; left out without Ray."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="what a job has started is found by /proc"),
]
PAGE = Path(__file__).parents[1] / "docs" / "slurm.md"
NODES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
STUBS = {
    "scontrol": '[ "$1 $2" = "show hostnames" ] && tr , "\\n" <<< "$3"',
    "srun": 'echo "$@" >> "$LOG"; while [[ $1 == --*=* ]]; do shift; done; exec "$@"',
    "ray": f'exec {Path(sys.executable).parent}/ray "$@" --object-store-memory=100000000',
    "modscale": f'exec {sys.executable} -m modscale "$@"',
}
SPACE = """
name: mine
base: {resolution: 32, num_classes: 10}
stages: [{dim: [8, 16, 24], depth: [1, 2]}, {dim: [16, 24, 32], depth: [1, 2]}]
proxy: {resolution: 16, epochs: 1, train_images: 100, val_images: 40}
latency: {runs: 10, warmup: 1, threads: 1, patience_s: 0, reference: false}
search: {startup_trials: 3, references: [], finals: false}
"""


def script() -> str:
    """The page's script, with places, sizes and a port of the test's own."""
    (text,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    changes = {
        "6379": port, "/shared/photos": "synthetic", "/shared/runs/mine": "run", "--trials 1000": "--trials 6",
        "--window 256": "--window 3",
    }  # fmt: skip
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@contextmanager
def job(folder: Path, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """The batch script as Slurm starts it; when it is over, all that it has started is ended, as Slurm does."""
    number = uuid.uuid4().hex
    environment = {**os.environ, "HOME": str(folder / "home"), "LOG": str(folder / "srun.log"), "SLURM_JOB_ID": number}
    environment |= {"SLURM_JOB_NODELIST": ",".join(NODES), "SLURM_CPUS_PER_TASK": "1"}
    for name in [name for name in environment if name.startswith("RAY_")]:
        del environment[name]
    (folder / "job.sh").write_text(text)
    try:
        with (folder / "log").open("w") as log:
            yield subprocess.Popen(
                ["bash", "job.sh"], cwd=folder, env=environment, stderr=log, stdout=log, start_new_session=True
            )
    finally:
        end(number)


def end(number: str) -> None:
    """Kills whatever has a job's number in its environment."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"SLURM_JOB_ID={number}".encode() in (place / "environ").read_bytes().split(b"\0"):
                os.kill(int(place.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def test_the_script_searches_and_stops_in_time(tmp_path: Path) -> None:
    """By the very signal that it asks Slurm for; every node but the first has its step, with its CPUs."""
    if shutil.which("getent") is None:
        pytest.skip("getent is needed")
    home, stubs, trials = tmp_path / "home", tmp_path / "stubs", tmp_path / "run" / "trials.jsonl"
    (home / "modscale" / ".venv" / "bin").mkdir(parents=True)
    (home / "modscale" / ".venv" / "bin" / "activate").write_text(
        f'export PATH="{stubs}:{Path(sys.executable).parent}:$PATH"\n'
    )
    stubs.mkdir()
    for name, body in STUBS.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (stubs / name).chmod(0o755)
    (tmp_path / "mine.yaml").write_text(SPACE)
    text = script()
    (asked,) = re.findall(r"#SBATCH --signal=B:(\w+)@300", text)

    with job(tmp_path, text) as first:
        deadline = time.monotonic() + 600
        while not (trials.exists() and trials.read_bytes()) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        first.send_signal(signal.Signals[f"SIG{asked}"])
        code = first.wait(600)
    assert code == 130, (tmp_path / "log").read_text()
    assert (tmp_path / "run" / "report.html").exists()
    numbers = [json.loads(line)["number"] for line in trials.read_text().splitlines()]
    assert sorted(numbers) == sorted(set(numbers)) != []
    steps = (tmp_path / "srun.log").read_text()
    assert [steps.count(f"--nodelist={node} --cpus-per-task=1 ") for node in NODES] == [0, 1, 1]
