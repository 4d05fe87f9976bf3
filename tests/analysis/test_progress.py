"""A run in progress, read from its files: counts, front, pace; who holds the folder; nothing of it is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_runs import SPACE, fake_references, fake_trials, read_json, write_run

from modscale.analysis.progress import progress_to_json, read_progress
from modscale.analysis.results import load_run
from modscale.errors import InputError, RunError
from modscale.report.build import build_report
from modscale.runs.experiment import parse_experiment
from modscale.runs.locking import is_locked, locked_folder

SPACED = SPACE | {"search": {"trials": 20, "references": ["xxs", "xs", "s"]}}
FAKE = parse_experiment(SPACED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 20 trials of which 12 are finished, and two of its three references."""
    return write_run(tmp_path / "run", fake_trials(FAKE, 12), fake_references(FAKE)[:2], space=SPACED)


def test_it_has_what_the_report_will_have(folder):
    """The front and the picks of the same trials; counts and pace by hand."""
    found = read_progress(folder)
    assert found is not None
    shown = progress_to_json(found)
    build_report(load_run(folder), draws=2)
    front = read_json(folder / "front.json")
    assert (shown["front"], shown["bands"]) == (front["front"], front["bands"])
    seconds = [trial.seconds for trial in fake_trials(FAKE, 12)]
    assert (shown["trials"], shown["limit"], shown["complete"], shown["references"]) == (12, 20, 12, 2)
    assert shown["seconds_per_trial"] == pytest.approx(sum(seconds[-8:]) / 8)
    assert shown["seconds_left"] == pytest.approx(sum(seconds[-8:]) / 8 * (8 + 1))
    assert shown["measured_seconds"] == pytest.approx(sum(seconds) + 40)
    assert (shown["running"], shown["over"]) == (False, False)


def test_a_line_that_is_half_written_is_passed_over(folder):
    """As the search writes it while it is read."""
    with (folder / "trials.jsonl").open("a") as file:
        file.write('{"number": 12, "state": "comp')
    assert len(read_progress(folder).trials) == 12


def test_a_held_folder_is_running_and_its_lock_is_left_alone(folder, tmp_path):
    """While another process has it, nothing of the folder changes by being read, and nobody else gets in."""
    holder = (
        "import sys; from pathlib import Path; from modscale.runs.locking import locked_folder\n"
        "with locked_folder(Path(sys.argv[1]), appended=(), written=(), what='x'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}
        assert read_progress(folder).is_running is True
        assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()} == before
        with (
            pytest.raises(RunError, match="another search is running"),
            locked_folder(folder, appended=(), written=(), what="search"),
        ):
            pass
        (folder / "run.yaml").unlink()
        assert read_progress(folder) is None  # begun, and nothing measured
        process.communicate()
    assert is_locked(folder) is False
    with pytest.raises(RunError, match="is no run's folder"):
        read_progress(folder)
    assert is_locked(tmp_path / "none") is False


def test_what_was_timed_again_counts():
    """The committed example is over, and its front is that of its report, which the last session's latencies decide."""
    example = Path(__file__).parents[2] / "reports" / "example"
    front = read_json(example / "front.json")
    found = progress_to_json(read_progress(example))
    assert (found["over"], found["front"], found["bands"]) == (True, front["front"], front["bands"])


def test_a_trial_without_an_objective_is_named_with_its_file(folder):
    """As the report has it."""
    lines = (folder / "trials.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | {"accuracy": None}
    (folder / "trials.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    with pytest.raises(InputError, match=r"trials\.jsonl: trial 0: is complete and must have accuracy"):
        read_progress(folder)
