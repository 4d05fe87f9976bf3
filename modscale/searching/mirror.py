"""`study.db`: a copy of the finished trials for Optuna's own tools, the dashboard say.

`trials.jsonl` is the truth, and no search reads this file to go on. It is written behind the search, a transaction a
trial; what goes wrong with it is told once and ends nothing, and the trials that it lacks are added as soon as it can
be written again. It was left by whoever had the folder, so before it is used it is looked at without running what it
holds: a file that is not exactly the study of these trials, or of the first of them, is moved aside and made anew.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from modscale.errors import InputError
from modscale.files import write_whole
from modscale.runs.experiment import Experiment
from modscale.runs.trials import Trial
from modscale.searching.study import StoredTrial, empty_study, is_own_attribute, stored_trials

WAIT_S = 2.0
"""Seconds to wait for a file that another process has locked, the first time; later it is passed over at once."""
CHECK_S = 10.0
"""Seconds that looking at the file may take."""
MOST_BYTES = 2**20
"""A trial takes some 20 kB; what takes more than this is not looked through."""
OUTAGES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM}
"""What says nothing about the file itself: it is left where it is."""
COMPANIONS = ("-journal", "-wal", "-shm")
"""Endings of the files that SQLite keeps beside a database."""
SKETCH = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
SAME = {
    "SELECT * FROM alembic_version": "is of another version of Optuna",
    "SELECT schema_version FROM version_info": "is of another version of Optuna",
    "SELECT study_id, study_name FROM studies": "has other studies",
    "SELECT study_id, objective, direction FROM study_directions ORDER BY study_id, objective": "has other objectives",
    "SELECT study_id, value_json FROM study_system_attributes WHERE key = 'study:metric_names'": (
        "does not name this run's metrics"
    ),
    "SELECT count(*) FROM trial_intermediate_values": "has intermediate values",
}
"""What must be as in a new study, and what is wrong otherwise."""

Content = tuple[str, tuple[list[Any], list[Any], list[Any]]]


class Unfit(Exception):  # a signal within this module
    """The file is not the study of these trials; the text says why."""


class StudyMirror:
    """The file `study.db` of one run; `update` brings it up to the finished trials and never fails."""

    def __init__(self, file: Path, experiment: Experiment, tell: Callable[[str], None]) -> None:
        self.file = file
        self.experiment = experiment
        self.tell = tell
        self._template = b""
        self._stored: dict[int, tuple[Trial | None, StoredTrial]] = {}
        self._known: tuple[int, ...] | None = None
        self._told = False

    def update(self, finished: Sequence[Trial]) -> None:
        """Makes the file hold `finished`. Whatever prevents that is told, once."""
        try:
            self._template = empty_study(tuple(self.experiment.objectives.items()))
            self._update(stored_trials(self.experiment, finished, self._stored))
        except (OSError, InputError, sqlite3.Error) as error:
            self._known = None
            if not self._told:
                self._told = True
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                if isinstance(error, sqlite3.OperationalError) and _is_outage(error) and "locked" in reason:
                    reason = f"another process has locked it for more than {WAIT_S:g} s"
                self.tell(f"note: {self.file} is not up to date ({reason}); the search goes on without it")

    def _update(self, trials: list[StoredTrial]) -> None:
        for _ in range(2):
            try:
                if not os.path.lexists(self.file):
                    self._aside("lies beside no study")
                    write_whole(self.file, self._database(trials))
                else:
                    self._append(trials)
                self._known = _identity(self.file)
                return
            except Unfit as error:
                self._aside(str(error))
            except sqlite3.Error as error:
                if _is_outage(error):
                    raise
                self._aside(f"cannot be used ({error})")

    def _append(self, trials: list[StoredTrial]) -> None:
        with self._opened() as database:
            if self._known is None or self._known != _identity(self.file):
                count = self._check(database, trials)
            else:
                (count,) = database.execute("SELECT count(*) FROM trials").fetchone()
            if count < len(trials):
                with _transaction(database):
                    _insert(database, trials[count:])

    def _check(self, database: sqlite3.Connection, trials: list[StoredTrial]) -> int:
        """How many of the trials, from the first, it holds. Raises Unfit where it holds something else."""
        if self.file.stat().st_size > MOST_BYTES * (1 + len(trials)):
            raise Unfit("is far larger than these trials need")
        end = time.monotonic() + CHECK_S
        database.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        with contextlib.closing(_in_memory(self._template)) as fresh:
            if database.execute(SKETCH).fetchall() != fresh.execute(SKETCH).fetchall():
                raise Unfit("does not have the tables of Optuna's study")
            if database.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
                raise Unfit("is damaged")
            for question, wrong in SAME.items():
                if database.execute(question).fetchall() != fresh.execute(question).fetchall():
                    raise Unfit(wrong)
        found = _contents(database)
        if len(found) > len(trials):
            raise Unfit("has trials that trials.jsonl has not")
        for stored, trial in zip(found, trials, strict=False):
            if stored != _content(trial):
                raise Unfit(f"has another trial {trial.number} than trials.jsonl")
        database.set_progress_handler(None, 0)
        return len(found)

    def _aside(self, why: str) -> None:
        """Moves the file, whatever it is, and what belongs to it out of the way, and says so."""
        present = [ending for ending in ("", *COMPANIONS) if os.path.lexists(f"{self.file}{ending}")]
        if not present:
            return
        number = 1
        while any(os.path.lexists(f"{self.file}.{number}{ending}") for ending in ("", *COMPANIONS)):
            number += 1
        for ending in present:
            Path(f"{self.file}{ending}").rename(f"{self.file}.{number}{ending}")
        what = self.file if "" in present else Path(f"{self.file}{present[0]}")
        self.tell(f"note: {what} {why}: moved to {self.file.name}.{number}, and made anew from trials.jsonl")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The database, opened so that nothing it holds can run, follow a link or take for ever."""
        for ending in ("", *COMPANIONS):
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.lstat(f"{self.file}{ending}").st_mode):
                    raise Unfit("is no plain file" if not ending else f"has a {ending} that is no plain file")
        wait_s = 0.0 if self._told else WAIT_S
        address = f"{self.file.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=wait_s, isolation_level=None)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            yield database

    def _database(self, trials: list[StoredTrial]) -> bytes:
        """A whole study of these trials."""
        with contextlib.closing(_in_memory(self._template)) as database:
            with _transaction(database):
                _insert(database, trials)
            return database.serialize()


def _insert(database: sqlite3.Connection, trials: Sequence[StoredTrial]) -> None:
    """Adds trials behind those that there are. Their times are made up from their durations: the last ends now."""
    ends = [datetime.now()]  # Optuna's times are local and have no zone
    for trial in reversed(trials):
        ends.append(ends[-1] - timedelta(seconds=min(trial.seconds, 86_400.0)))
    for i, trial in enumerate(trials):
        times = [str(ends[len(trials) - i - done]) for done in (0, 1)]
        row = database.execute(
            "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) VALUES (?, 1, ?, ?, ?)",
            (trial.number, trial.state, *times),
        ).lastrowid
        _, (params, values, attributes) = _content(trial)
        database.executemany(
            "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
            [(row, *param) for param in params],
        )
        database.executemany(
            "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, ?, ?, ?)",
            [(row, *value) for value in values],
        )
        database.executemany(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
            [(row, *attribute) for attribute in attributes],
        )


def _content(trial: StoredTrial) -> Content:
    """State, and rows of params, values and attributes, as `_contents` finds them."""
    values = [(i, value, "FINITE") for i, value in enumerate(trial.values)]
    return trial.state, (list(trial.params), values, list(trial.attributes))


def _contents(database: sqlite3.Connection) -> list[Content]:
    """Of every trial, what `_content` makes of one. Raises Unfit where rows belong to no trial of the study."""
    trials = database.execute("SELECT number, trial_id, study_id, state FROM trials ORDER BY number").fetchall()
    if [(number, study) for number, _, study, _ in trials] != [(number, 1) for number in range(len(trials))]:
        raise Unfit("does not number its trials one after the other")
    contents: dict[Any, Content] = {trial: (state, ([], [], [])) for _, trial, _, state in trials}
    questions = (
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params ORDER BY param_name",
        "SELECT trial_id, objective, value, value_type FROM trial_values ORDER BY objective",
        "SELECT trial_id, key, value_json FROM trial_user_attributes ORDER BY key",
    )
    for place, question in enumerate(questions):
        for trial, name, *rest in database.execute(question):
            if trial not in contents:
                raise Unfit("has rows that belong to no trial")
            if place < 2 or is_own_attribute(name):  # others may have added attributes of their own
                contents[trial][1][place].append((name, *rest))
    return list(contents.values())


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All that is written in here, or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _in_memory(content: bytes) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.deserialize(content)
    return database


def _identity(file: Path) -> tuple[int, ...] | None:
    """What changes when anybody writes to the file, or puts another in its place."""
    with contextlib.suppress(OSError):
        found = file.lstat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return None


def _is_outage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in OUTAGES
