"""The study's mirror in any database that Optuna has a storage for, by its URL: for a dashboard, across machines.

It is given what `mirror.py` writes into `study.db`, and like that it is a copy that no search reads. A thread of its
own writes it, a transaction a trial, so that a database which is slow, stopped or gone holds up nothing: that is told
once, tried again every `RETRY_S`, and what is missing is added, at the latest when the same command runs again. What
stands in the database is never changed or removed: where a study of the run's name is not the study of these trials,
another name is taken.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.storages import RDBStorage

from modscale.errors import InputError, one_line, shorten
from modscale.files import user_path
from modscale.runs.experiment import Experiment
from modscale.runs.trials import Trial
from modscale.searching.study import (
    METRIC_NAMES,
    StoredTrial,
    directions_of,
    frozen_trial,
    stored_trials,
)

RETRY_S = 30.0
"""Seconds from one try on a database that is out to the next."""
AGAIN_S = 1.0
"""Seconds until the second try, before anything is told: two runs may have made the tables at once."""
CLOSE_S = 15.0
"""Seconds that the end of a search waits for the last trials to be written."""
WAIT_S = 5.0
"""Seconds that a database may take to answer."""
MOST_NAMES = 20
"""Names that are tried where studies of the run's name are not its own."""
PLACE = "--storage"
HIDDEN = "***"
PATIENCE: Mapping[str, Mapping[str, Any]] = {
    "postgresql": {
        "connect_timeout": int(WAIT_S), "tcp_user_timeout": int(2000 * WAIT_S), "keepalives_idle": 5,
        "keepalives_interval": 2, "keepalives_count": 3, "application_name": "modscale",
    },
    "mysql": {"connect_timeout": int(WAIT_S)},
    "mariadb": {"connect_timeout": int(WAIT_S)},
    "sqlite": {"timeout": WAIT_S},
}  # fmt: skip
"""By kind of database, what its driver is told, so that no connection waits for minutes."""
DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("pymysql", "mysqldb"), "mariadb": ("pymysql", "mysqldb")}
"""Where a URL names no driver, those that are taken, the first that is installed."""
EXTRAS = {"postgresql": "pip install 'modscale[postgres]'", "mysql": "pip install pymysql"}
SECRETS = re.compile(r"pass|secret|token", re.IGNORECASE)
"""Parameters of a URL that are not to be seen."""


class Storage:
    """A checked storage URL, which prints without what is secret in it."""

    def __init__(self, text: str, study_file: Path) -> None:
        """From the text of a URL; `study_file` is the run's own `study.db`, which is no mirror of itself.

        Raises:
            InputError: no such database, or its driver is not installed. No message holds the URL's secrets.
        """
        try:
            url = sqlalchemy.make_url(re.sub(r"^postgres://", "postgresql://", text))
            kind = url.get_backend_name()
            url = _with_driver(url)
            dialect = url.get_dialect()
            dialect.import_dbapi()
        except sqlalchemy.exc.NoSuchModuleError as error:
            rule = (
                f"Optuna has no storage for {shorten(text.partition(':')[0])}: there are sqlite, postgresql and mysql"
            )
            raise InputError(rule, place=PLACE) from error
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            rule = "must be a URL such as sqlite:///studies.db or postgresql://USER@HOST/DATABASE"
            raise InputError(rule, place=PLACE) from error
        except ImportError as error:
            cure = EXTRAS.get(kind, f"install {error.name or kind}")
            raise InputError(f"the driver of {kind} is not installed: {cure}", place=PLACE) from error
        if dialect.is_async:
            raise InputError("must name a driver that is not asynchronous", place=PLACE, value=url.drivername)
        if kind == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise InputError("must name a file: what is in memory ends with the run", place=PLACE)
            url = url.set(database=str(user_path(str(url.database))))
            if Path(str(url.database)).resolve() == study_file.resolve():
                rule = f"must not be the run's own {study_file.name}, which is written anyway"
                raise InputError(rule, place=PLACE)
        self.url = url
        self.kind = kind

    def __str__(self) -> str:
        query = {key: HIDDEN if SECRETS.search(key) else value for key, value in self.url.query.items()}
        return self.url.set(query=query).render_as_string(hide_password=True).replace("%2A%2A%2A", HIDDEN)

    def open(self) -> RDBStorage:
        """Connects, makes the tables where there are none. Raises whatever the driver, SQLAlchemy or Optuna raise."""
        known = {key: value for key, value in PATIENCE.get(self.kind, {}).items() if key not in self.url.query}
        text = self.url.render_as_string(hide_password=False)
        return RDBStorage(
            text.replace("{", "{{").replace("}", "}}"),  # where SQLAlchemy leaves braces, Optuna fills in
            engine_kwargs={"poolclass": sqlalchemy.pool.NullPool, "connect_args": known},
        )

    def reason(self, error: BaseException) -> str:
        """What a database says of itself, in a line without the secrets of the URL."""
        cause: BaseException | None = error
        while cause is not None:  # Optuna's errors come from SQLAlchemy's, whose `orig` is the driver's
            error, cause = cause, getattr(cause, "orig", None) or cause.__cause__
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        text = lines[0]
        secrets = [self.url.password, *(v for key, v in self.url.query.items() if SECRETS.search(key))]
        for secret in secrets:
            text = text.replace(str(secret), HIDDEN) if secret else text
        return one_line(text)[:200]


class StorageMirror:
    """A run's study in a storage: `update` and `close` never fail, and `update` never waits."""

    def __init__(
        self,
        storage: Storage,
        study: str,
        experiment: Experiment,
        tell: Callable[[str], None],
        *,
        attributes: Mapping[str, Any],
    ) -> None:
        """`study` is the name there, `attributes` what is said of the run there, plain values by name."""
        self.storage = storage
        self.study = study
        self.experiment = experiment
        self.attributes = attributes
        self.tell = tell
        self._database: tuple[RDBStorage, int, int] | None = None  # with the study's identity, and the trials it has
        self._stored: dict[int, tuple[Trial | None, StoredTrial]] = {}
        self._notes: deque[str] = deque()
        self._changed = threading.Condition()
        self._wanted: tuple[Trial, ...] = ()
        self._written = True
        self._closing = False
        self._told = False
        self._thread: threading.Thread | None = None

    def update(self, finished: Sequence[Trial]) -> None:
        """Has the storage brought up to `finished`, behind the search."""
        self._say_notes()
        with self._changed:
            self._wanted, self._written = tuple(finished), False
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="storage mirror", daemon=True)
            self._thread.start()

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Tries once more where anything is missing, for so many seconds, and tells where that was in vain."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(wait_s)
            self._say_notes()
            if not self._written:
                self.tell(f"note: {self.storage} lacks some of the trials; the same command adds them")

    def _say_notes(self) -> None:
        while self._notes:
            self.tell(self._notes.popleft())

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                if self._written:
                    self._changed.wait_for(lambda: self._closing or not self._written)
                elif failures:
                    self._changed.wait_for(lambda: self._closing, AGAIN_S if failures == 1 else RETRY_S)
                is_last, wanted = self._closing, self._wanted
            if self._written:
                return
            try:
                self._bring_up(stored_trials(self.experiment, wanted, self._stored))
            except Exception as error:  # noqa: BLE001  # whatever a driver raises, the search goes on
                self._forget()
                failures += 1
                if failures > 1:
                    self._note(error)
                    if is_last:
                        return
            else:
                failures = 0
                with self._changed:
                    self._written = self._wanted is wanted

    def _note(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            self._notes.append(
                f"note: the storage {self.storage} is not up to date ({self.storage.reason(error)}); the search goes on"
                " without it, and what is missing is added once it answers"
            )

    def _bring_up(self, trials: Sequence[StoredTrial]) -> None:
        """Makes the study hold these trials. Raises whatever goes wrong."""
        if self._database is None:
            database = self.storage.open()
            self._database = (database, *self._find_study(database, trials))
        database, study, held = self._database
        for trial in trials[held:]:
            # Optuna tries five times to add a trial, with pauses: a question beforehand fails at once.
            database.get_study_name_from_id(study)
            database.create_new_trial(study, frozen_trial(trial))
            self._database = (database, study, trial.number + 1)
        database.remove_session()

    def _find_study(self, database: RDBStorage, trials: Sequence[StoredTrial]) -> tuple[int, int]:
        """(identity, trials) of the study under the run's name, or the next one that is free, with all that is said."""
        objectives = self.experiment.objectives
        for number in range(1, MOST_NAMES + 1):
            name = self.study if number == 1 else f"{self.study} ({number})"
            try:
                study = database.get_study_id_from_name(name)
            except KeyError:
                study = database.create_new_study(directions_of(objectives), name)
            if database.get_study_directions(study) != directions_of(objectives):
                continue
            names = database.get_study_system_attrs(study).get(METRIC_NAMES)
            if names not in (None, list(objectives)):
                continue
            found = database.get_all_trials(study, deepcopy=False)
            if [*map(_essence, found)] != [_essence(frozen_trial(one)) for one in trials[: len(found)]]:
                continue
            if names is None:
                database.set_study_system_attr(study, METRIC_NAMES, list(objectives))
            before = database.get_study_user_attrs(study)
            for key, value in self.attributes.items():
                if key not in before or before[key] != value:
                    database.set_study_user_attr(study, key, value)
            return study, len(found)
        raise RuntimeError(f"{MOST_NAMES} studies of the name {self.study} have other trials than this run")

    def _forget(self) -> None:
        """Drops the connection: what is there is looked at again before more is added."""
        if self._database is not None:
            with contextlib.suppress(Exception):
                self._database[0].remove_session()
                self._database[0].engine.dispose()
        self._database = None


def _essence(trial: Any) -> tuple[Any, ...]:
    """By which a trial is known again; others may have added attributes."""
    return trial.state, trial.values, trial.params


def _with_driver(url: sqlalchemy.URL) -> sqlalchemy.URL:
    """The URL, with a driver that is installed where it names none."""
    if "+" in url.drivername:
        return url
    for driver in DRIVERS.get(url.drivername, ()):
        named = url.set(drivername=f"{url.drivername}+{driver}")
        with contextlib.suppress(ImportError):
            named.get_dialect().import_dbapi()
            return named
    return url
