"""What is said of a server that cannot be worked with."""

from __future__ import annotations

import pytest

from sqlmesh_dagster.facts.reaching import (
    Server,
    failed,
    lacks_java,
    lacks_package,
    refused,
    shortened,
    silent,
    unanswered,
    unknown_host,
)

_OURS = Server(
    "Warehouse `postgres`",
    "db.example.com",
    5432,
    ("WAREHOUSE_HOST", "WAREHOUSE_PORT"),
    ("WAREHOUSE_USER", "WAREHOUSE_PASSWORD"),
    "WAREHOUSE_",
)
_THEIRS = Server("Warehouse `mysql`", "db.example.com", 3306)
_FIXED = Server("Warehouse `bigquery`", "bigquery.googleapis.com", 443, (), (), "WAREHOUSE_")


def test_a_host_that_is_silent_or_unknown_is_told_with_its_variables() -> None:
    """Promise: what was found, then the variable to correct; where there is none, no word of one."""
    assert silent(_OURS, 10).message == (
        "Warehouse `postgres` cannot be reached: no answer from `db.example.com`, port 5432, within 10 s."
        " → Look whether it is up, and the way there open from here (firewall, VPN, proxy); or correct `WAREHOUSE_HOST` and"
        " `WAREHOUSE_PORT`. `poe doctor` looks again."
    )
    assert "correct what SQLMesh's config says of it" in silent(_THEIRS, 10).remedy
    assert "correct" not in silent(_FIXED, 10).remedy
    assert "Correct `WAREHOUSE_HOST`, or look at this machine's DNS" in unknown_host(_OURS).remedy
    assert unknown_host(_FIXED).remedy.startswith("Look at this machine's DNS")
    assert "takes no connection: Connection refused" in refused(_OURS, "Connection refused").said
    assert "within 60 s" in unanswered(_OURS, 60).said


def test_each_fault_is_one_message_with_what_to_do() -> None:
    """Promise: whole sentences, of the server that it is about; what has answered is there, and is not unreachable."""
    look = "`poe doctor` looks again."
    gone, there = (
        "Warehouse `postgres` cannot be reached: ",
        "Warehouse `postgres` cannot be worked with: ",
    )
    assert [
        fault.message
        for fault in (
            unknown_host(_OURS),
            refused(_OURS, "Connection refused"),
            unanswered(_OURS, 60),
            lacks_package(_OURS, "No module named 'psycopg2'", "uv sync"),
            lacks_java(_OURS),
        )
    ] == [
        f"{gone}the host `db.example.com` is not known here. → Correct `WAREHOUSE_HOST`, or look at this"
        f" machine's DNS, and its way to the network. {look}",
        f"{gone}`db.example.com`, port 5432 takes no connection: Connection refused. → Look whether it is"
        f" up; or correct `WAREHOUSE_HOST` and `WAREHOUSE_PORT`. {look}",
        f"{there}it takes connections, and has not answered `SELECT 1` within 60 s. → Look whether it is"
        f" overloaded, is still starting, or is a proxy without the server. {look}",
        f"{there}No module named 'psycopg2' → Take the packages that the template names by `poe update`,"
        f" and install the project again: `uv sync`. {look}",
        f"{there}PySpark starts a Java program, and there is no `java` on the PATH and no `JAVA_HOME`. →"
        " Install Java 17, such as by `apt-get install openjdk-17-jre-headless`, or set `JAVA_HOME`."
        f" {look}",
    ]
    assert refused(_FIXED, "x").remedy == "Look whether it is up."


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ('FATAL:  password authentication failed for user "ada"', "VALID UNTIL 'infinity'"),
        (
            'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "ada", database "a", no encryption',
            "set `WAREHOUSE_SSLMODE` to `require`",
        ),
        (
            "server does not support SSL, but SSL was required",
            "or set `WAREHOUSE_SSLMODE` to `disable`",
        ),
        ('invalid sslmode value: "on"', "Set `WAREHOUSE_SSLMODE` to `disable`, `allow`"),
        (
            'root certificate file "/root.crt" does not exist\nEither provide the file or change sslmode',
            "name another in `PGSSLROOTCERT`; or set `WAREHOUSE_SSLMODE` to `require`",
        ),
        ("FATAL:  sorry, too many clients already", "Raise `max_connections`"),
        ('FATAL:  too many connections for role "ada"', "the limit of the role"),
        (
            "cannot execute CREATE SCHEMA in a read-only transaction",
            "let `WAREHOUSE_HOST` and `WAREHOUSE_PORT` lead to the primary",
        ),
        (
            "OperationalError: server closed the connection unexpectedly",  # PgBouncer by statements
            "(PgBouncer's `pool_mode = session`): else let `WAREHOUSE_HOST` and `WAREHOUSE_PORT` lead",
        ),
        (
            "transaction blocks not allowed in statement pooling mode",
            "A pooler must give a session",
        ),
        ('FATAL:  database "a" does not exist', "Correct `WAREHOUSE_DATABASE`, or make it"),
        ('FATAL:  role "ada" does not exist', "Correct `WAREHOUSE_USER` and `WAREHOUSE_PASSWORD`"),
        ("permission denied for schema sqlmesh", "GRANT ALL ON SCHEMA"),
        ("could not extend file: No space left on device", "Make room on the server's disk."),
        ("canceling statement due to statement timeout", "SET statement_timeout = 0"),
        ("a" * 500 + " statement timeout", "SET statement_timeout = 0"),
        ("canceling statement due to lock timeout", "`pg_stat_activity`"),
        ("terminating connection due to idle-session timeout", "its log says why"),
        ("out of shared memory", "`max_locks_per_transaction`"),
        ("Insufficient privileges to operate on schema", "GRANT CREATE"),
        (
            "250001 (08001): Incorrect username or password was specified.",
            "Correct `WAREHOUSE_USER` and `WAREHOUSE_PASSWORD`, or what the server allows this user.",
        ),
    ],
)
def test_what_a_driver_says_has_its_own_remedy(message: str, remedy: str) -> None:
    """Promise: one for each thing that keeps people from working with a server."""
    found = failed(_OURS, message)
    assert found.said == shortened(message) and remedy in found.remedy


def test_a_long_message_of_a_driver_is_one_line() -> None:
    """Some print each attempt, or the page of a proxy."""
    said = failed(_THEIRS, "Forbidden\n<html>" + "x" * 5000).said
    assert said.startswith("Forbidden <html>") and len(said) < 500 and "\n" not in said
