"""Kills a small search at random moments and starts it again, to the end: nothing finished may be lost.

    .venv/bin/python benchmarks/kills.py [KILLS] [SEED] [WORKERS]

Each run is killed four times with SIGKILL and then left to finish. While the run's folder, `run.yaml` or `study.db` is
still to appear, four of five kills come within half a second of one doing so; of the others, half come in the first
second and half at any moment. Half of all kills take the whole process group along. Of every run it is asserted that

- lines of `trials.jsonl` that were whole at a kill are there at the end, byte for byte;
- the candidates are those of a run that nobody killed (the sampler draws at random, so they depend on the seed alone);
- no process is left within two seconds of a kill, and no temporary or half-written file at the end;
- Optuna opens `study.db` and finds the trials; it was never in the way, so none was moved aside.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna

SPACE = """
name: kills
base: {resolution: 32, num_classes: 10}
stages:
  - {dim: [8, 16, 24], depth: [1, 2], expansion: [2, 4]}
  - {dim: [24, 32], depth: [1, 2], attention_depth: [0, 1]}
bands: {any: {params: {max: 1.0e+6}}}
proxy: {resolution: 8, epochs: 2, threads: 1, train_images: 200, val_images: 100, batch_size: 50}
latency: {runs: 10, warmup: 1, threads: 1}
search: {trials: 4, startup_trials: 1, sampler: random, references: [], finals: false}
"""
KILLS_A_RUN = 4


def start(place: Path, run: Path, log: Path, workers: int) -> subprocess.Popen[bytes]:
    """The search, in a group of its own, with a mark in its environment that its children inherit."""
    command = [sys.executable, "-m", "modscale", "search", str(place / "space.yaml"), "--out", str(run)]
    command += ["--workers", str(workers)]
    environment = {**os.environ, "TMPDIR": str(place / "tmp"), "MODSCALE_KILLS": str(place)}
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)


def marked(place: Path) -> list[int]:
    """Processes that bear the mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MODSCALE_KILLS={place}".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def trial_lines(run: Path) -> bytes:
    """What is whole of trials.jsonl."""
    file = run / "trials.jsonl"
    content = file.read_bytes() if file.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def wait_for_moment(process: subprocess.Popen[bytes], run: Path, length_s: float, rng: random.Random) -> str:
    """Waits until it is time to kill; returns which moment it is, or `over` where the search was quicker."""
    files = {"folder": run, "run.yaml": run / "run.yaml", "study.db": run / "study.db"}
    new = [name for name, file in files.items() if not file.exists()]
    end = time.monotonic() + 10 * length_s
    if new and rng.random() < 0.8:
        name = rng.choice(new)
        while not files[name].exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        delay_s = rng.choice([0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.5)])
    else:
        name = rng.choice(["first second", "any"])
        delay_s = rng.uniform(0, 1 if name == "first second" else length_s)
    deadline = time.monotonic() + delay_s
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    return "over" if process.poll() is not None else name


def kill(process: subprocess.Popen[bytes], place: Path, *, group: bool) -> None:
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    deadline = time.monotonic() + 2
    while marked(place) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not marked(place), "a process is left"


def check(place: Path, run: Path, seen: list[bytes], expected: list[dict[str, object]]) -> None:
    """What must hold of a run that was killed and has finished."""
    content = trial_lines(run)
    assert all(content.startswith(lines) for lines in seen), "a finished trial was lost"
    trials = sorted((json.loads(line) for line in content.splitlines()), key=lambda trial: trial["number"])
    assert [(t["number"], t["state"], t["spec"]) for t in trials] == [
        (number, "complete", spec) for number, spec in enumerate(expected)
    ]
    stored = optuna.load_study(study_name="modscale", storage=f"sqlite:///{run / 'study.db'}").trials
    assert [trial.values for trial in stored] == [[t["accuracy"], t["latency_ms"]] for t in trials]
    left = [path.name for path in run.iterdir() if path.name.startswith((".", "study.db"))]
    assert set(left) <= {".lock", "study.db"}, left
    assert not list((place / "tmp").glob("*modscale*")), "a temporary folder is left"
    assert (run / "report.html").exists()


def main(kills: int, seed: int, workers: int) -> None:
    rng = random.Random(seed)
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    (place / "tmp").mkdir()
    (place / "space.yaml").write_text(SPACE)
    begin = time.monotonic()
    assert start(place, place / "whole", place / "whole.log", workers).wait() == 0, (place / "whole.log").read_text()
    length_s = time.monotonic() - begin
    whole = [json.loads(line) for line in trial_lines(place / "whole").splitlines()]
    expected = [trial["spec"] for trial in sorted(whole, key=lambda trial: trial["number"])]
    print(f"a whole run takes {length_s:.0f} s", flush=True)
    done, runs, moments = 0, 0, dict.fromkeys(("first second", "folder", "run.yaml", "study.db", "any"), 0)
    while done < kills:
        run, log = place / f"run{runs}", place / f"run{runs}.log"
        runs += 1
        seen = []
        for _ in range(KILLS_A_RUN):
            process = start(place, run, log, workers)
            moment = wait_for_moment(process, run, length_s, rng)
            if moment == "over":
                assert process.returncode == 0, log.read_text()
                break
            kill(process, place, group=rng.random() < 0.5)
            seen.append(trial_lines(run))
            moments[moment] += 1
            done += 1
        code = start(place, run, log, workers).wait()
        assert code == 0, f"{run} ended with {code}:\n{log.read_text()}"
        check(place, run, seen, expected)
        print(
            f"{done} kills survived ({', '.join(f'{count} at {name}' for name, count in moments.items())})", flush=True
        )
    shutil.rmtree(place)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*given, *(40, 0, 1)[len(given) :])
