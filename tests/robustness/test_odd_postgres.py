"""The minimal sample on Postgres servers as people have them: odd names, settings of roles, sockets, passwords.

By hand: `pytest tests/robustness/test_odd_postgres.py -m storm`.
"""

from __future__ import annotations

import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.postgres import Server, postgres
from tests.test_generated_projects import Project, with_tools_of

pytestmark = pytest.mark.storm
_NAME = "data-team shop"
_PASSWORD = "p@s:s/w?o#r%41'd\\ \"x$"
_QUOTED = _PASSWORD.replace("'", "''")
_VARIABLES = ("HOST", "PORT", "USER", "PASSWORD", "DATABASE")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """It asks for passwords, but of its superuser, and listens on a socket and on both loopbacks."""
    with postgres() as running:
        ((rules,),) = running.query("postgres", "SHOW hba_file")
        Path(rules).write_text("local all postgres trust\nhost all postgres all trust\n")
        with Path(rules).open("a") as file:
            file.write("local all all scram-sha-256\nhost all all all scram-sha-256\n")
        running.query("postgres", "ALTER SYSTEM SET listen_addresses = '127.0.0.1, ::1'")
        running.restart()
        yield running


class Place:
    """A database with its owner, and a project that works on it."""

    def __init__(self, server: Server, root: Path, warm: Path, name: str) -> None:
        self.server, self.root, self.warm = server, root, warm
        self.name = f"{_NAME} {name}"
        server.query("postgres", f"CREATE ROLE \"{self.name}\" LOGIN PASSWORD '{_QUOTED}'")
        server.create_database(self.name)
        server.query("postgres", f'ALTER DATABASE "{self.name}" OWNER TO "{self.name}"')

    def variables(self, prefix: str = "WAREHOUSE", **more: str) -> dict[str, str]:
        given = ("127.0.0.1", str(self.server.port), self.name, _PASSWORD, self.name)
        given_more = {**dict(zip(_VARIABLES, given, strict=True)), **more}
        return {f"{prefix}_{name}": value for name, value in given_more.items()}

    def project(self, **more: str) -> Project:
        variables = {"SQLMESH_GATEWAY": "postgres", **self.variables(), **more}
        variables |= {"DAGSTER_HOME": str(self.root / "dagster_home")}
        variables |= {"PYTHONPATH": str(self.root / "src")}
        return Project(self.root, with_tools_of(Path(sys.executable), self.warm, **variables))

    def said(self, *command: str, **more: str) -> str:
        done = self.project(**more).ran(*command)
        return done.stdout + done.stderr

    def role_has(self, setting: str) -> None:
        self.server.query("postgres", f'ALTER ROLE "{self.name}" SET {setting}')

    def rows(self) -> int:
        ((found,),) = self.server.query(self.name, "SELECT count(*) FROM marts__dev.daily_revenue")
        return int(found)


@pytest.fixture
def place(
    server: Server,
    render: Render,
    tmp_path: Path,
    warm_python: Path,
    request: pytest.FixtureRequest,
) -> Place:
    """With the minimal sample."""
    root = Path(
        shutil.copytree(render(sample="minimal", warehouse="postgres"), tmp_path / "project")
    )
    return Place(server, root, warm_python, request.node.name[5:40])


def works(place: Place, **variables: str) -> None:
    """Nothing for the doctor to say; all built; then nothing due."""
    project = place.project(**variables)
    said = project.run("poe", "doctor")
    assert "FAIL" not in said and _PASSWORD not in said, said
    said = project.run("poe", "run")
    assert " built" in said and _PASSWORD not in said, said
    assert place.rows() > 0
    assert " up to date" in project.run("poe", "run")


def test_a_database_and_a_role_with_odd_names_and_a_password(place: Place) -> None:
    """A hyphen, a space; each sign that is something in a URL, in SQL or in a shell; upper case in the role."""
    place.server.query("postgres", f"CREATE ROLE \"Team-A\" LOGIN PASSWORD '{_QUOTED}'")
    place.server.query("postgres", f'ALTER DATABASE "{place.name}" OWNER TO "Team-A"')
    works(place, WAREHOUSE_USER="Team-A")


def test_a_search_path_of_the_role(place: Place) -> None:
    """One that is nowhere, and one that has a table of the models' name before theirs."""
    place.server.query(place.name, "CREATE SCHEMA other; CREATE TABLE other.payments (odd TEXT)")
    place.server.query(place.name, f'GRANT ALL ON SCHEMA other TO "{place.name}"')
    place.role_has("search_path = 'other, nowhere'")
    works(place)


def test_timeouts_of_the_role(place: Place) -> None:
    """Sessions that are idle for two seconds end, those in a transaction after one; the lock is held all the same."""
    place.role_has("idle_session_timeout = '2s'")
    place.role_has("idle_in_transaction_session_timeout = '1s'")
    place.role_has("lock_timeout = '5s'")
    works(place)


def test_a_statement_timeout_of_the_role(place: Place) -> None:
    """Promise: who is too short of time is told by Postgres' own words, and nothing is recorded as done."""
    place.role_has("statement_timeout = '1ms'")
    said = place.said("poe", "run")
    assert "canceling statement due to statement timeout" in said, said


def test_by_a_socket(place: Place) -> None:
    """A folder as the host."""
    ((folder,),) = place.server.query("postgres", "SHOW unix_socket_directories")
    works(place, WAREHOUSE_HOST=folder)


def test_by_ipv6(place: Place) -> None:
    """An address with colons."""
    try:
        socket.create_connection(("::1", place.server.port), 2).close()
    except OSError:
        pytest.skip("no IPv6 here")
    works(place, WAREHOUSE_HOST="::1")


def test_the_state_is_on_another_server(place: Place) -> None:
    """In a database with an odd name, of another user."""
    with postgres() as other:
        other.create_database("State-DB")
        more = {
            "PORT": str(other.port),
            "USER": "postgres",
            "PASSWORD": "x",
            "DATABASE": "State-DB",
        }
        works(place, **place.variables("STATE", **more))
        assert other.query("State-DB", "SELECT count(*) FROM sqlmesh._intervals") != [(0,)]


def test_schemas_that_another_role_has_made(place: Place) -> None:
    """Promise: each is named with what its owner has to grant; pasted, all is built."""
    for schema in ("raw", "staging__dev", "sqlmesh", "sqlmesh__marts"):
        place.server.query(place.name, f"CREATE SCHEMA {schema}")
    for _ in range(8):
        said = place.said("poe", "doctor") + place.said("poe", "run")
        grants = dict.fromkeys(re.findall(r"(?:GRANT|ALTER) [^;`]*;", said))
        if not grants:
            break
        for statement in grants:
            place.server.query(place.name, statement)
    assert not grants and place.rows() > 0
    assert " up to date" in place.project().run("poe", "run")


_OPTIONS = {
    "{}": "",
    ' {"keepalives_idle": 30} ': "",
    '{"keepalives_idle": "30"}': "",
    '{"application_name": "x"}': "",
    '{"concurrent_tasks": 2}': "",
    '{"sslmode": "disable"}': "",
    "[]": "must be a JSON object",
    "null": "must be a JSON object",
    "'{}'": "must be a JSON object",
    '{"connect_timeout": "soon"}': "`connect_timeout`",
    '{"type": "mysql"}': "Take `type` out",
    '{"database": "nope"}': "set `WAREHOUSE_DATABASE`",
    '{"HOST": "x"}': "`HOST`",
    '{"password": null}': "Correct `password` in",
}


def test_options(place: Place) -> None:
    """Promise: what the connection takes is taken; what it doesn't is named, in one line."""
    found = {
        options: place.said("poe", "doctor", WAREHOUSE_OPTIONS=options) for options in _OPTIONS
    }
    wrong = {o: [line for line in f.splitlines() if "FAIL" in line] for o, f in found.items()}
    assert {o: len(lines) for o, lines in wrong.items()} == {
        o: int(bool(w)) for o, w in _OPTIONS.items()
    }
    assert all(words in "".join(wrong[options]) for options, words in _OPTIONS.items())
