"""A real MariaDB server on a free port, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UNPRIVILEGED = "nobody"
"""Who runs the server when root runs the tests."""


@dataclass(frozen=True)
class MariaDB:
    """A running server; its user `sqlmesh` has no password and may do all."""

    port: int

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def connect(self) -> Any:
        """A connection, which the caller closes."""
        import pymysql  # type: ignore[import-untyped,unused-ignore]

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="sqlmesh", password="", autocommit=True
        )


def is_installed() -> bool:
    """Whether there are programs to start one."""
    return bool(shutil.which("mariadbd") and shutil.which("mariadb-install-db"))


@contextmanager
def mariadb() -> Iterator[MariaDB]:
    """A server without databases, stopped and removed at the end."""
    with tempfile.TemporaryDirectory(
        prefix="mariadb-", dir="/tmp" if os.getuid() == 0 else None
    ) as name:
        folder, user = Path(name), _UNPRIVILEGED if os.getuid() == 0 else None
        if user:
            shutil.chown(folder, user)
        data = ["--no-defaults", f"--datadir={folder}/data", f"--tmpdir={folder}"]
        data += [f"--user={user}"] if user else []
        subprocess.run(
            ["mariadb-install-db", *data, "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
        )
        users = [
            f"sqlmesh@'{host}'" for host in ("%", "localhost")
        ]  # the latter wins over a nameless one
        (folder / "init.sql").write_text(
            "".join(f"CREATE USER {name};\nGRANT ALL ON *.* TO {name};\n" for name in users)
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/socket"]
        options += [f"--init-file={folder}/init.sql", "--skip-log-bin"]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(["mariadbd", *data, *options], stdout=log, stderr=log) as process,
        ):
            try:
                _wait(port, process, folder / "log")
                yield MariaDB(port)
            finally:
                process.terminate()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    server = MariaDB(port)
    deadline = time.monotonic() + 60
    while True:
        try:
            server.query("SELECT 1")
            return
        except Exception:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
