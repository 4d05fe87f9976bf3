"""study.db: what Optuna's own tools find in it, and that nothing it holds, or lacks, can stop a search."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_runs import SPACE as DOCUMENT
from fake_runs import fake_trials, remeasured

from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial
from modscale.searching import mirror as mirror_module
from modscale.searching.mirror import StudyMirror
from modscale.searching.study import STUDY_NAME
from modscale.specs.spec import spec_to_dict

SPACE = parse_experiment(DOCUMENT)
TRIALS = fake_trials(SPACE, 6)
TRIALS[4] = remeasured(
    replace(TRIALS[4], state="failed", reason="no luck"), accuracy=None, latency_ms=None, latency_ci95_ms=None
)


def mirror_of(folder: Path) -> tuple[StudyMirror, list[str]]:
    told: list[str] = []
    return StudyMirror(folder / "study.db", SPACE, told.append), told


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study.db of all the trials."""
    folder = tmp_path_factory.mktemp("whole")
    mirror, told = mirror_of(folder)
    mirror.update(TRIALS)
    assert told == []
    return folder / "study.db"


@pytest.fixture
def file(tmp_path: Path, whole: Path) -> Path:
    """A copy of it in a folder of its own."""
    return Path(shutil.copy(whole, tmp_path))


def stored(file: Path) -> optuna.Study:
    """As Optuna itself opens it."""
    return optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{file}")


def assert_whole(file: Path, trials: list[Trial] = TRIALS) -> None:
    found = stored(file).get_trials()
    assert [trial.number for trial in found] == [trial.number for trial in trials]
    assert [trial.params for trial in found] == [dict(trial.choice) for trial in trials]
    expected = [[t["accuracy"], t["latency_ms"]] if t.state == "complete" else None for t in trials]
    assert [trial.values for trial in found] == expected


def test_optuna_opens_it_and_finds_names_values_and_attributes(whole: Path) -> None:
    """Directions, the metrics' names, each trial's options, values, state, duration and attributes."""
    study = stored(whole)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "latency_ms"]
    assert_whole(whole)
    first, failed = study.trials[0], study.trials[4]
    assert first.user_attrs == {
        "name": "fake-0",
        **TRIALS[0].results,
        "spec": spec_to_dict(TRIALS[0].spec),
    }
    assert first.duration is not None
    assert first.duration.total_seconds() == pytest.approx(TRIALS[0].seconds, abs=1e-3)
    assert (failed.state.name, failed.user_attrs["reason"]) == ("FAIL", "no luck")


def test_it_is_what_optuna_itself_would_have_stored(tmp_path: Path) -> None:
    """Every row that Optuna writes for the same trials, times and identities aside."""
    mirror, _ = mirror_of(tmp_path)
    mirror.update(TRIALS)
    theirs = optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'theirs.db'}", study_name=STUDY_NAME, directions=["maximize", "minimize"]
    )
    for trial in stored(tmp_path / "study.db").trials:
        theirs.add_trial(trial)
    questions = (
        "SELECT trial_id, number, study_id, state FROM trials ORDER BY trial_id",
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params ORDER BY trial_id, param_name",
        "SELECT trial_id, objective, value, value_type FROM trial_values ORDER BY trial_id, objective",
        "SELECT trial_id, key, value_json FROM trial_user_attributes ORDER BY trial_id, key",
    )
    for question in questions:
        rows = []
        for name in ("study.db", "theirs.db"):
            with sqlite3.connect(tmp_path / name) as database:
                rows.append(database.execute(question).fetchall())
        assert rows[0] == rows[1]


def test_trials_are_added_one_by_one(tmp_path: Path) -> None:
    """A search that goes on, and one that is resumed, add what is missing; a lost line leaves a failed number."""
    mirror, told = mirror_of(tmp_path)
    mirror.update([])
    assert stored(tmp_path / "study.db").trials == []
    mirror.update(TRIALS[:2])
    mirror.update(TRIALS[:3])
    again, told_again = mirror_of(tmp_path)
    again.update(TRIALS)
    assert_whole(tmp_path / "study.db")
    assert told + told_again == []
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]
    gaps, _ = mirror_of(tmp_path)
    gaps.update([TRIALS[0], TRIALS[3]])
    assert [trial.state.name for trial in stored(tmp_path / "study.db").trials] == [
        "COMPLETE",
        "FAIL",
        "FAIL",
        "COMPLETE",
    ]


def test_what_a_dashboard_adds_stays(file: Path) -> None:
    """Notes and attributes of others are no reason to make it anew."""
    study = stored(file)
    study.set_user_attr("note", "mine")
    with sqlite3.connect(file) as database:  # Optuna lets nobody change a finished trial
        database.execute("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, 'seen', 'true')")
    database.close()
    study._storage.set_study_system_attr(study._study_id, "dashboard:note_ver", 1)
    mirror, told = mirror_of(file.parent)
    mirror.update(TRIALS)
    assert told == []
    assert stored(file).user_attrs == {"note": "mine"}


def sql(*statements: str) -> Callable[[Path], None]:
    def run(file: Path) -> None:
        with sqlite3.connect(file) as database:
            for statement in statements:
                database.executescript(statement)
        database.close()

    return run


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(change(file.read_bytes())) and None


def replaced(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(file: Path) -> None:
        file.unlink()
        make(file)

    return run


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
DAMAGES: dict[str, Callable[[Path], None]] = {
    "no index": sql("DROP INDEX ix_studies_study_name"),
    "two studies": sql("DROP INDEX ix_studies_study_name", "INSERT INTO studies (study_name) VALUES ('modscale')"),
    "another study too": sql("INSERT INTO studies (study_name) VALUES ('mine')"),
    "half a schema": replaced(sql("CREATE TABLE studies (study_id INTEGER NOT NULL, study_name VARCHAR(512))")),
    "no study": sql("DELETE FROM studies"),
    "swapped directions": sql("UPDATE study_directions SET direction = 'MAXIMIZE'"),
    "other metrics": sql("UPDATE study_system_attributes SET value_json = '[\"a\", \"b\"]'"),
    "no metric names": sql("DELETE FROM study_system_attributes"),
    "swapped values": sql(
        "UPDATE trial_values SET objective = 2 + objective", "UPDATE trial_values SET objective = 3 - objective"
    ),
    "another value": sql("UPDATE trial_values SET value = 0.123 WHERE trial_id = 2 AND objective = 0"),
    "infinite value": sql("UPDATE trial_values SET value_type = 'INF_POS' WHERE trial_id = 1"),
    "another option": sql("UPDATE trial_params SET param_value = param_value + 8 WHERE param_name = 'stages[0].dim'"),
    "other distributions": sql("UPDATE trial_params SET distribution_json = replace(distribution_json, '48', '480')"),
    "an option missing": sql("DELETE FROM trial_params WHERE trial_id = 3 AND param_name = 'stages[0].dim'"),
    "an enqueued trial": sql("INSERT INTO trials (number, study_id, state) VALUES (6, 1, 'WAITING')"),
    "a running trial": sql("INSERT INTO trials (number, study_id, state) VALUES (6, 1, 'RUNNING')"),
    "a trial twice": sql("INSERT INTO trials (number, study_id, state) VALUES (5, 1, 'FAIL')"),
    "a trial missing": sql("DELETE FROM trials WHERE number = 2"),
    "orphans": sql("INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (99, 0, 1, 'FINITE')"),
    "intermediate values": sql("INSERT INTO trial_intermediate_values VALUES (1, 1, 0, 0.5, 'FINITE')"),
    "another attribute": sql("UPDATE trial_user_attributes SET value_json = '1' WHERE key = 'params'"),
    "text for a number": sql("UPDATE trial_params SET param_value = 'wide'"),
    "no text at all": sql("UPDATE trials SET state = CAST(x'ff' AS TEXT)"),
    "another version": sql("UPDATE alembic_version SET version_num = 'v9.9.9'"),
    "another schema": sql("UPDATE version_info SET schema_version = 99"),
    "a trigger": sql("CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM trials; END"),
    "an endless trigger": sql(f"CREATE TRIGGER t AFTER INSERT ON trials BEGIN INSERT INTO studies {ENDLESS}; END"),
    "an endless view": sql("ALTER TABLE trials RENAME TO hidden", f"CREATE VIEW trials AS {ENDLESS}"),
    "another column": sql("ALTER TABLE trials ADD COLUMN more INTEGER"),
    "another table": sql("CREATE TABLE mine (x)"),
    "truncated": with_bytes(lambda content: content[: len(content) // 2]),
    "cut in its header": with_bytes(lambda content: content[:60]),
    "empty": with_bytes(lambda content: b""),
    "zeros": with_bytes(lambda content: bytes(len(content))),
    "zeros in the middle": with_bytes(lambda content: content[:8192] + bytes(8192) + content[16384:]),
    "garbage": with_bytes(lambda content: b"not a database at all" * 1000),
    "garbage after the header": with_bytes(lambda content: content[:100] + b"\xa5" * (len(content) - 100)),
    "a folder": replaced(lambda file: (file.mkdir(), (file / "x").write_text("x"))),
    "a FIFO": replaced(os.mkfifo),
    "a link to nothing": replaced(lambda file: file.symlink_to("/nowhere/at/all")),
    "a folder for a journal": lambda file: Path(f"{file}-journal").mkdir(),
    "a FIFO for a journal": lambda file: os.mkfifo(f"{file}-journal"),
    "a FIFO for a log": lambda file: os.mkfifo(f"{file}-wal"),
    "a journal alone": replaced(lambda file: Path(f"{file}-journal").write_bytes(os.urandom(2000))),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_the_study_of_these_trials_is_moved_aside_and_made_anew(file: Path, damage: str) -> None:
    """Said in one line; what was there is kept; Optuna opens the new one, and the search goes on in it."""
    DAMAGES[damage](file)
    mirror, told = mirror_of(file.parent)
    mirror.update(TRIALS)
    assert len(told) == 1
    assert told[0].endswith(": moved to study.db.1, and made anew from trials.jsonl")
    assert "\n" not in told[0]
    assert any(path.name.startswith("study.db.1") for path in file.parent.iterdir())
    assert_whole(file)
    more = fake_trials(SPACE, 7)
    more[:6] = TRIALS
    mirror.update(more)
    assert_whole(file, more)
    assert len(told) == 1


def test_a_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    """The file elsewhere that it points to stays as it is, though it is a study of these trials."""
    elsewhere = Path(shutil.move(file, tmp_path / "elsewhere.db"))
    file.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    more = fake_trials(SPACE, 7)
    more[:6] = TRIALS
    mirror, told = mirror_of(tmp_path)
    mirror.update(more)
    assert len(told) == 1
    assert elsewhere.read_bytes() == before
    assert (tmp_path / "study.db.1").is_symlink()
    assert_whole(file, more)


def test_a_file_far_too_large_is_not_looked_through(file: Path) -> None:
    """Whatever a gigabyte holds, it is not the study of six trials."""
    with file.open("ab") as stream:
        stream.truncate(2**30)
    mirror, told = mirror_of(file.parent)
    mirror.update(TRIALS)
    assert "far larger" in told[0]
    assert_whole(file)


def test_earlier_copies_are_kept(file: Path) -> None:
    """Each file that is moved aside has a number of its own."""
    for expected in ("study.db.1", "study.db.2"):
        file.write_bytes(b"garbage")
        mirror, told = mirror_of(file.parent)
        mirror.update(TRIALS)
        assert f"moved to {expected}," in told[0]
        assert (file.parent / expected).read_bytes() == b"garbage"


@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM trials"])
def test_a_locked_file_is_said_to_be_locked_and_caught_up_with(
    file: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """Another process's open transaction costs a bounded wait, once; the file is neither moved nor given up."""
    monkeypatch.setattr(mirror_module, "WAIT_S", 0.1)
    more = fake_trials(SPACE, 8)
    more[:6] = TRIALS
    other = sqlite3.connect(file, isolation_level=None)
    for statement in lock.split("; "):
        cursor = other.execute(statement)
    mirror, told = mirror_of(file.parent)
    for count in (6, 7, 8):
        mirror.update(more[:count])
    assert len(told) == 1
    assert "is not up to date (another process has locked it for more than 0.1 s); the search goes on" in told[0]
    cursor.close()
    other.close()
    mirror.update(more)
    assert_whole(file, more)
    assert len(told) == 1
    assert [path.name for path in file.parent.iterdir()] == ["study.db"]


def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit on pages stands for the disk; when there is room again, what is missing is added."""
    mirror, told = mirror_of(tmp_path)
    mirror.update([])
    connect = sqlite3.connect

    def connect_full(*arguments: Any, **more: Any) -> sqlite3.Connection:
        database = connect(*arguments, **more)
        if arguments[0] != ":memory:":
            database.execute("PRAGMA max_page_count = 1")
        return database

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_full)
        many = fake_trials(SPACE, 60)
        mirror.update(many[:59])
        mirror.update(many)
    assert told == [
        f"note: {tmp_path / 'study.db'} is not up to date (database or disk is full); the search goes on without it"
    ]
    mirror.update(many)
    assert_whole(tmp_path / "study.db", many)


def test_what_happens_to_it_under_way_ends_nothing(file: Path) -> None:
    """Removed, damaged or replaced while the search runs: it is made anew."""
    more = fake_trials(SPACE, 9)
    more[:6] = TRIALS
    mirror, told = mirror_of(file.parent)
    mirror.update(TRIALS)
    file.unlink()
    mirror.update(more[:7])
    assert told == []
    assert_whole(file, more[:7])
    DAMAGES["an endless trigger"](file)
    mirror.update(more[:8])
    DAMAGES["garbage"](file)
    mirror.update(more)
    assert len(told) == 2
    assert_whole(file, more)


@pytest.mark.parametrize("name", ["a?b", "a#b", "50%25", "{0}", "with space", "é"])
def test_it_lies_where_it_was_asked_for(tmp_path: Path, name: str, whole: Path) -> None:
    """Signs that mean something in an address are only signs in a path."""
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(whole, folder)
    mirror, told = mirror_of(folder)
    mirror.update(fake_trials(SPACE, 1))
    assert len(told) == 1
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.db*")) == [
        Path(name) / "study.db", Path(name) / "study.db.1",
    ]  # fmt: skip


def test_a_kill_in_the_middle_of_a_transaction_leaves_the_trials_before_it(file: Path) -> None:
    """What SQLite left to roll back is rolled back, and the trial is added again."""
    script = (
        "import os, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('PRAGMA cache_size = 1')\n"
        "database.execute('BEGIN IMMEDIATE')\n"
        "for i in range(6, 2000):\n"
        "    database.execute(\"INSERT INTO trials (number, study_id, state) VALUES (?, 1, 'FAIL')\", (i,))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert Path(f"{file}-journal").exists()
    more = fake_trials(SPACE, 7)
    more[:6] = TRIALS
    mirror, told = mirror_of(file.parent)
    mirror.update(more)
    assert told == []
    assert_whole(file, more)
