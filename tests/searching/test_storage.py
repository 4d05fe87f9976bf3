"""The mirror in a storage: what Optuna finds there, that no outage holds up a search, and that no secret is told."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from fake_runs import SPACE as DOCUMENT
from fake_runs import fake_trials, remeasured
from postgres import PASSWORD, URL_PASSWORD, needs_postgres, postgres

from modscale.errors import InputError
from modscale.runs.experiment import parse_experiment
from modscale.runs.trials import Trial
from modscale.searching import storage as storage_module
from modscale.searching.mirror import StudyMirror
from modscale.searching.storage import Storage, StorageMirror
from modscale.searching.study import STUDY_NAME

SPACE = parse_experiment(DOCUMENT)
TRIALS = fake_trials(SPACE, 8)
TRIALS[4] = remeasured(
    replace(TRIALS[4], state="failed", reason="no luck"), accuracy=None, latency_ms=None, latency_ci95_ms=None
)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "RETRY_S", 0.2)
    monkeypatch.setattr(storage_module, "AGAIN_S", 0.05)
    monkeypatch.setitem(storage_module.PATIENCE, "sqlite", {"timeout": 0.1})


def mirror_at(url: str, told: list[str], study: str = "mine-1") -> StorageMirror:
    return StorageMirror(
        Storage(url, Path("reports/study.db")), study, SPACE, told.append, attributes={"space": "fake", "seed": 3}
    )


def stored(url: str, study: str = "mine-1") -> optuna.Study:
    """As Optuna itself opens it; no connection stays open."""
    filled = url.replace("{", "{{").replace("}", "}}")
    storage = optuna.storages.RDBStorage(filled, engine_kwargs={"poolclass": sqlalchemy.pool.NullPool})
    return optuna.load_study(study_name=study, storage=storage)


def assert_holds(url: str, trials: list[Trial], study: str = "mine-1") -> None:
    found = stored(url, study).get_trials()
    assert [trial.number for trial in found] == [trial.number for trial in trials]
    assert [trial.params for trial in found] == [dict(trial.choice) for trial in trials]
    expected = [[t["accuracy"], t["latency_ms"]] if t.state == "complete" else None for t in trials]
    assert [trial.values for trial in found] == expected


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it never came")


def wait_written(mirror: StorageMirror) -> None:
    wait_for(lambda: mirror._written)


def test_it_holds_what_study_db_holds(tmp_path: Path) -> None:
    """Every trial as Optuna reads it from either, names and attributes among them; and the run's own attributes."""
    url, told = f"sqlite:///{tmp_path / 'all{of}them.db'}", list[str]()  # Optuna takes braces for a template
    mirror = mirror_at(url, told)
    mirror.update([])
    mirror.update(TRIALS[:3])
    mirror.update(TRIALS)
    mirror.close()
    StudyMirror(tmp_path / "study.db", SPACE, told.append).update(TRIALS)
    assert told == []
    theirs, ours = stored(url), optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert theirs.metric_names == ours.metric_names == ["accuracy", "latency_ms"]
    assert theirs.directions == ours.directions
    assert theirs.user_attrs == {"space": "fake", "seed": 3}
    for one, other in zip(theirs.trials, ours.trials, strict=True):
        assert (one.number, one.state, one.params, one.values, one.user_attrs, one.distributions) == (
            other.number, other.state, other.params, other.values, other.user_attrs, other.distributions
        )  # fmt: skip
        assert one.duration is not None
        assert other.duration is not None
        assert one.duration.total_seconds() == pytest.approx(other.duration.total_seconds(), abs=1e-3)


def test_several_runs_share_a_database_and_each_goes_on_in_its_own_study(tmp_path: Path) -> None:
    """Resumed, only what is missing is added, and what others have added to a study stays."""
    url, told = f"sqlite:///{tmp_path / 'all.db'}", list[str]()
    for study, trials in (("a", TRIALS[:3]), ("b", TRIALS[2:4])):
        mirror = mirror_at(url, told, study)
        mirror.update([replace(trial, number=i) for i, trial in enumerate(trials)])
        mirror.close()
    stored(url, "a").set_user_attr("note", "mine")
    again = mirror_at(url, told, "a")
    again.update(TRIALS[:6])
    again.close()
    assert told == []
    assert_holds(url, TRIALS[:6], "a")
    assert stored(url, "a").user_attrs["note"] == "mine"
    assert len(stored(url, "b").trials) == 2


@pytest.mark.parametrize("other", ["another trial", "more trials", "other directions", "other metrics"])
def test_a_study_that_is_not_of_this_run_is_left_as_it_is(tmp_path: Path, other: str) -> None:
    """Another name is taken, and found again when the run goes on."""
    url, told = f"sqlite:///{tmp_path / 'all.db'}", list[str]()
    if other in ("another trial", "more trials"):
        foreign = mirror_at(url, told)
        foreign.update(TRIALS if other == "more trials" else [replace(TRIALS[1], number=0)])
        foreign.close()
    else:
        directions = ["minimize"] if other == "other directions" else ["maximize", "minimize"]
        made = optuna.create_study(storage=url, study_name="mine-1", directions=directions)
        made._storage.set_study_system_attr(made._study_id, "study:metric_names", ["m1", "m2"][: len(directions)])
    before = [(trial.number, trial.values) for trial in stored(url).trials]
    for count in (2, 5):
        mirror = mirror_at(url, told)
        mirror.update(TRIALS[:count])
        mirror.close()
        assert_holds(url, TRIALS[:count], "mine-1 (2)")
    assert [(trial.number, trial.values) for trial in stored(url).trials] == before
    assert told == []


def test_a_locked_database_is_told_once_and_caught_up_with(tmp_path: Path) -> None:
    """While another process has it, nothing is lost or waited for; afterwards it is brought up without a new trial."""
    url, told = f"sqlite:///{tmp_path / 'all.db'}", list[str]()
    mirror = mirror_at(url, told)
    mirror.update(TRIALS[:2])
    wait_written(mirror)
    other = sqlite3.connect(tmp_path / "all.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    mirror.update(TRIALS[:3])
    wait_for(lambda: bool(mirror._notes))
    mirror.update(TRIALS[:5])
    assert told == [
        f"note: the storage sqlite:///{tmp_path / 'all.db'} is not up to date (database is locked); the search goes on"
        " without it, and what is missing is added once it answers"
    ]
    other.execute("ROLLBACK")
    other.close()
    wait_written(mirror)
    assert_holds(url, TRIALS[:5])
    mirror.update(TRIALS)
    mirror.close()
    assert len(told) == 1
    assert_holds(url, TRIALS)


def test_a_database_that_is_emptied_under_way_is_filled_anew(tmp_path: Path) -> None:
    """Looked at again after the first failure, before anything is told."""
    url, told = f"sqlite:///{tmp_path / 'all.db'}", list[str]()
    mirror = mirror_at(url, told)
    mirror.update(TRIALS[:3])
    wait_written(mirror)
    (tmp_path / "all.db").unlink()
    mirror.update(TRIALS[:4])
    wait_written(mirror)
    mirror.close()
    assert told == []
    assert_holds(url, TRIALS[:4])


def test_what_a_run_could_not_write_the_next_one_adds(tmp_path: Path) -> None:
    """A folder that is not there is an outage too: told, and told again at the end."""
    file, told = tmp_path / "away" / "all.db", list[str]()
    mirror = mirror_at(f"sqlite:///{file}", told)
    mirror.update(TRIALS[:3])
    mirror.close()
    assert [text.split(" (")[0] for text in told] == [
        f"note: the storage sqlite:///{file} is not up to date",
        f"note: sqlite:///{file} lacks some of the trials; the same command adds them",
    ]
    assert "unable to open database file" in told[0]
    file.parent.mkdir()
    again = mirror_at(f"sqlite:///{file}", told)
    again.update(TRIALS)
    again.close()
    assert len(told) == 2
    assert_holds(f"sqlite:///{file}", TRIALS)


def test_no_update_waits_for_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not answer at all has the search go on, and its end wait no longer than it is told to."""
    url, told, answer = f"sqlite:///{tmp_path / 'all.db'}", list[str](), threading.Event()
    opened = Storage.open

    def open_slowly(storage: Storage) -> Any:
        answer.wait(60)
        return opened(storage)

    monkeypatch.setattr(Storage, "open", open_slowly)
    mirror = mirror_at(url, told)
    for count in range(1, len(TRIALS)):
        mirror.update(TRIALS[:count])
    mirror.close(wait_s=0.05)
    assert len(told) == 1
    assert not (tmp_path / "all.db").exists()
    answer.set()
    wait_written(mirror)
    assert_holds(url, TRIALS[:-1])


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("nonsense", "must be a URL such as"),
        ("", "must be a URL such as"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("redis://me:hunter2@host/0", "no storage for 'redis'"),
        ("oracle+nodriver://me:hunter2@host/x", "no storage for 'oracle+nodriver'"),
        ("postgresql+asyncpg://me:hunter2@host/x", ""),
        ("postgresql://me:hunter2@host:port/x", "must be a URL such as"),
        ("sqlite:///reports/study.db", "must not be the run's own study.db"),
        ("sqlite:///reports/../reports/study.db", "must not be the run's own study.db"),
    ],
)
def test_what_is_no_storage_is_refused_in_one_line_without_the_password(url: str, rule: str) -> None:
    with pytest.raises(InputError) as refused:
        Storage(url, Path("reports/study.db"))
    text = str(refused.value)
    assert rule in text
    assert text.startswith("--storage: ")
    assert "\n" not in text
    assert "hunter2" not in text


def test_a_driver_that_is_missing_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psycopg", "psycopg2"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(
        InputError, match=r"the driver of postgresql is not installed: pip install 'modscale\[postgres\]'"
    ):
        Storage("postgresql://me:hunter2@host/x", Path("study.db"))


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    """Neither in the URL as it is told, nor in what a database answers."""
    file = tmp_path / "all.db"
    shown = Storage(f"sqlite:///{file}?password=hunter2&sslpassword=hunter3&mode=rw", Path("study.db"))
    assert str(shown) == f"sqlite:///{file}?mode=rw&password=***&sslpassword=***"
    assert shown.reason(ValueError("no hunter2 here\nnor there")) == "no *** here"


@needs_postgres
def test_postgresql_is_stopped_and_started_in_mid_run() -> None:
    """Told once, nothing lost, nothing twice; stopped at the end too, it is caught up with by the next run."""
    told = list[str]()
    with postgres() as server:
        storage = Storage(server.url, Path("study.db"))
        assert PASSWORD not in str(storage)
        assert URL_PASSWORD not in str(storage)
        mirror = mirror_at(server.url, told)
        mirror.update(TRIALS[:2])
        wait_written(mirror)
        server.stop()
        mirror.update(TRIALS[:3])
        wait_for(lambda: bool(mirror._notes))
        mirror.update(TRIALS[:4])
        mirror.update(TRIALS[:5])
        assert len(told) == 1
        assert f"postgresql+psycopg://keeper:***@127.0.0.1:{server.port}/postgres is not up to date (" in told[0]
        assert "refused" in told[0]
        server.start()
        wait_written(mirror)
        assert_holds(str(storage.url.render_as_string(hide_password=False)), TRIALS[:5])
        server.stop()
        mirror.update(TRIALS[:7])
        mirror.close()
        assert len(told) == 2
        assert "lacks some of the trials" in told[1]
        server.start()
        again = mirror_at(server.url, told)
        again.update(TRIALS)
        again.close()
        assert len(told) == 2
        assert_holds(str(storage.url.render_as_string(hide_password=False)), TRIALS)
        wrong = mirror_at(server.url.replace(URL_PASSWORD, "hunter2"), told, "other")
        wrong.update(TRIALS)
        wrong.close()
        assert "password authentication failed" in told[2]
        assert "hunter2" not in "".join(told)
        assert PASSWORD not in "".join(told)
