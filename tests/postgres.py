"""A PostgreSQL of one's own, where its programs are installed: no service, no root."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "s{3}cr%t:/@"  # noqa: S105  # every sign that a URL, or a template, might trip over
URL_PASSWORD = "s{3}cr%25t%3A%2F%40"  # noqa: S105  # the same, as it stands in a URL


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; None where there are none."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


needs_postgres = pytest.mark.skipif(
    programs() is None or not any(map(importlib.util.find_spec, ("psycopg", "psycopg2"))),
    reason="needs PostgreSQL's programs, and modscale[postgres]",
)


class Postgres:
    """A server that is stopped and started, its data in a folder of its own."""

    def __init__(self, folder: Path, bin_folder: Path, port: int, owner: dict[str, Any]) -> None:
        self.folder = folder
        self.bin_folder = bin_folder
        self.port = port
        self.owner = owner

    @property
    def url(self) -> str:
        return f"postgresql://keeper:{URL_PASSWORD}@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.bin_folder / program), *arguments], check=True, stdout=subprocess.DEVNULL, timeout=60,
            cwd=self.folder, **self.owner,
        )  # fmt: skip

    def start(self) -> None:
        options = f"-F -h 127.0.0.1 -p {self.port} -k {self.folder}"
        data, log = str(self.folder / "data"), str(self.folder / "log")
        self.run("pg_ctl", "start", "-w", "-s", "-D", data, "-l", log, "-o", options)

    def stop(self) -> None:
        """As a machine that is switched off."""
        self.run("pg_ctl", "stop", "-s", "-m", "immediate", "-D", str(self.folder / "data"))


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs, with a user `keeper` who needs the password."""
    bin_folder = programs()
    assert bin_folder is not None
    folder = Path(tempfile.mkdtemp(prefix="modscale-pg-"))
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        names = {user.pw_name for user in pwd.getpwall()}
        name = "postgres" if "postgres" in names else "nobody"
        owner = {"user": name, "env": {**os.environ, "HOME": str(folder)}}
        os.chown(folder, pwd.getpwnam(name).pw_uid, -1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Postgres(folder, bin_folder, port, owner)
    try:
        word = folder / "password"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        server.run(
            "initdb", "-N", "-U", "keeper", "-A", "scram-sha-256", f"--pwfile={word}", "-D", str(folder / "data")
        )
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
