"""Why a server cannot be worked with, and what to do about it: from what its driver says. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_CHARACTERS = 400
"""Of what a driver says: some repeat each attempt, or print the page of a proxy."""


@dataclass(frozen=True)
class Server:
    """A server that a run needs, and how it is named.

    Attributes:
        subject: What it is to the project: "Warehouse `snowflake`", "SQLMesh's state".
        host: None where the driver alone knows it.
        place: Names of the variables that say where it is; none where SQLMesh's config says it.
        login: Those that say who logs in to what.
        prefix: Of all its variables, for those that may be set, too.
    """

    subject: str
    host: str | None
    port: int | None
    place: tuple[str, ...] = ()
    login: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def address(self) -> str:
        """For a message."""
        return f"`{self.host}`{f', port {self.port}' if self.port else ''}"


@dataclass(frozen=True)
class Unreachable:
    """What is wrong with a server.

    Attributes:
        said: What was found.
        remedy: What to do.
        is_there: Whether it has said something itself.
    """

    server: Server
    said: str
    remedy: str
    is_there: bool = False

    @property
    def message(self) -> str:
        """For a run."""
        what = "cannot be worked with" if self.is_there else "cannot be reached"
        return (
            f"{self.server.subject} {what}: {self.said} → {self.remedy} `poe doctor` looks again."
        )


def unknown_host(server: Server) -> Unreachable:
    """No name server knows it."""
    names = [name for name in server.place if not name.endswith("PORT")]
    wrong = "" if server.prefix and not names else f"Correct {_named(names)}, or look at "
    remedy = f"{wrong or 'Look at '}this machine's DNS, and its way to the network."
    return Unreachable(server, f"the host `{server.host}` is not known here.", remedy)


def silent(server: Server, seconds: float) -> Unreachable:
    """Nothing comes back from its host."""
    said = f"no answer from {server.address}, within {seconds:g} s."
    remedy = f"Look whether it is up, and the way there open from here (firewall, VPN, proxy){_or(server)}."
    return Unreachable(server, said, remedy)


def refused(server: Server, why: str) -> Unreachable:
    """Its host is there, or a router before it, and takes no connection."""
    remedy = f"Look whether it is up{_or(server)}."
    return Unreachable(server, f"{server.address} takes no connection: {why}.", remedy)


def unanswered(server: Server, seconds: float) -> Unreachable:
    """It takes a connection, and doesn't answer a query."""
    said = f"it takes connections, and has not answered `SELECT 1` within {seconds:g} s."
    remedy = "Look whether it is overloaded, is still starting, or is a proxy without the server."
    return Unreachable(server, said, remedy, is_there=True)


def lacks_package(server: Server, message: str, command: str) -> Unreachable:
    """Its driver, or a package for this way to log in, is not installed here; a command installs it."""
    remedy = f"Take the packages that the template names by `poe update`, and install the project again: `{command}`."
    return Unreachable(server, shortened(message), remedy, is_there=True)


def lacks_java(server: Server) -> Unreachable:
    """PySpark is there, and no Java."""
    said = "PySpark starts a Java program, and there is no `java` on the PATH and no `JAVA_HOME`."
    remedy = (
        "Install Java 17, such as by `apt-get install openjdk-17-jre-headless`, or set `JAVA_HOME`."
    )
    return Unreachable(server, said, remedy, is_there=True)


def failed(server: Server, message: str) -> Unreachable:
    """Its driver raised an error with this message."""
    remedy = _remedy_of(" ".join(message.split())) or _LOGIN
    names = {
        "login": _named(server.login),
        "place": _named(server.place),
        "sslmode": f"`{server.prefix}SSLMODE`" if server.prefix else "`sslmode`",
        "database": f"`{server.prefix}DATABASE`" if server.prefix else "`database`",
    }
    return Unreachable(server, shortened(message), remedy.format_map(names), is_there=True)


def has_remedy(message: str) -> bool:
    """Whether it is known what to do, whoever logs in."""
    return _remedy_of(message) is not None


def _remedy_of(message: str) -> str | None:
    return next((r for words, r in _REMEDIES if re.search(words, message, re.IGNORECASE)), None)


def shortened(message: str) -> str:
    """A driver's message in a line: without line breaks, empty brackets and what it repeats."""
    text = " ".join(message.split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


_LOGIN = "Correct {login}, or what the server allows this user."
_REMEDIES = (
    (
        "password authentication failed",
        "Correct {login}. If they are right, the password may have expired, which Postgres doesn't say:"
        " ALTER ROLE … VALID UNTIL 'infinity' there.",
    ),
    (
        "does not support SSL",
        "Turn on SSL on the server, or set {sslmode} to `disable` or `prefer`.",
    ),
    (
        "invalid sslmode value",
        "Set {sslmode} to `disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`.",
    ),
    (
        "root certificate file .* does not exist",
        "Put the certificate of the server's authority into that file, or name another in `PGSSLROOTCERT`;"
        " or set {sslmode} to `require`, which encrypts and does not ask whose server it is.",
    ),
    (
        r"no encryption|SSL off|SSL connection is required|hostssl|no pg_hba.*SSL",
        "The server wants SSL: set {sslmode} to `require`. Else let its `pg_hba.conf` allow this user from here.",
    ),
    ("pg_hba.conf", "Let the server's `pg_hba.conf` allow this user, database and host."),
    (
        "too many clients|too many connections|connection slots|connection limit",
        "Raise `max_connections`, or the limit of the role or database; or lower"
        " `WAREHOUSE_CONCURRENT_TASKS` and how many runs work at once.",
    ),
    (
        "read-only transaction|read only transaction|hot standby|recovery mode|read-only mode",
        "This is a replica, or is read-only by `default_transaction_read_only`: let {place} lead to the"
        " primary, or turn it off for this user.",
    ),
    (
        'database ".*" does not exist',
        "Correct {database}, or make it there: CREATE DATABASE.",
    ),
    (
        'role ".*" does not exist|not permitted to log in',
        "Correct {login}, or let the role log in.",
    ),
    (
        "transaction blocks not allowed|server closed the connection|connection already closed",
        "Look into the log of the server, or of the pooler before it. A pooler must give a session for as long"
        " as a connection lasts (PgBouncer's `pool_mode = session`): else let {place} lead to the server itself.",
    ),
    (
        "starting up|shutting down|is in recovery",
        "Wait until it is up, and try again.",
    ),
    (
        "statement timeout",
        "Give this user more time: `statement_timeout` of the role, the database or the server, as by"
        " ALTER ROLE … SET statement_timeout = 0 there.",
    ),
    (
        "lock timeout|deadlock detected",
        "Another session holds what is needed: Postgres shows it in `pg_stat_activity`. Try again when it has ended.",
    ),
    (
        "terminating connection",
        "The server has ended the connection: its log says why. Try again.",
    ),
    (
        "out of shared memory",
        "Raise `max_locks_per_transaction` on the server.",
    ),
    (
        "No space left|disk full|could not extend file|could not write",
        "Make room on the server's disk.",
    ),
    (
        "permission denied|must be owner|not authorized|insufficient privileges?|access denied: ",
        "Grant the user the right to create schemas, and to create in those that are there: GRANT CREATE ON"
        " DATABASE …, GRANT ALL ON SCHEMA ….",
    ),
    (
        "failed to download extension|extension .* not found",
        "Let this machine reach DuckDB's extensions, or install the extension before.",
    ),
    ("certificate", "Let this machine trust the server's certificate, or correct {place}."),
)
"""Words of drivers, most of Postgres, and what to do; the first that fits."""


def _or(server: Server) -> str:
    """What may be wrong with the address; nothing where nobody chooses it."""
    return "" if server.prefix and not server.place else f"; or correct {_named(server.place)}"


def _named(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    if not quoted:
        return "what SQLMesh's config says of it"
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
