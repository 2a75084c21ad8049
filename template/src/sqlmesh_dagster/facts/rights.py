"""What Postgres does not allow a role to do, and the statement that allows it: from the server's message. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_TARGET = re.compile(
    r"^(?:/\*.*?\*/\s*)*(?:CREATE|INSERT|DELETE|UPDATE|TRUNCATE|ALTER|DROP|MERGE|COMMENT ON|GRANT)\b"
    r"(?:\s+(?:OR|REPLACE|TEMPORARY|UNLOGGED|MATERIALIZED|TABLE|VIEW|INDEX|COLUMN|SCHEMA|INTO|FROM|IF|NOT|EXISTS)\b)*"
    rf"\s+({_NAME}(?:\.{_NAME})*)",
    re.IGNORECASE | re.DOTALL,
)
"""What a statement writes: a schema, or a table with its schema."""
_DENIED = re.compile(
    r"(?:permission denied for|must be owner of) (materialized view|\w+) \"?(.+?)\"?(?:\n|$)"
)
_OF_ROWS = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE"
_BY_ITS_OWNER = "As who owns it, or a superuser: "


@dataclass(frozen=True)
class Refusal:
    """A statement that Postgres has refused.

    Attributes:
        role: Whose rights did not suffice.
        message: The server's.
        statement: As it was sent.
    """

    role: str
    database: str
    message: str
    statement: str = ""


@dataclass(frozen=True)
class Missing:
    """What a role may not do.

    Attributes:
        said: In words.
        remedy: With a statement that can be pasted.
    """

    said: str
    remedy: str


def missing(refusal: Refusal) -> Missing | None:
    """The right that a statement lacked; None where the message is of something else."""
    found = _DENIED.search(refusal.message)
    if found is None:
        return None
    kind, name = found[1], found[2].replace('""', '"')
    who = f"the role `{refusal.role}`"
    where = f"in the database `{refusal.database}`"
    if "must be owner" in found[0]:
        return _owned(refusal, kind, name, f"{who} does not own the {kind} `{{}}` {where}")
    if kind == "database":
        said = f"{who} may not make schemas in the database `{name}`"
        return Missing(said, _BY_ITS_OWNER + granted_database(name, refusal.role))
    if kind == "schema":
        return _schema(refusal, name, who, where)
    schema = _schema_of(name, refusal.statement)
    return _relation(refusal, name, schema, f"the {kind} `{{}}` {where}", who)


def granted_database(database: str, role: str) -> str:
    """The statement that lets a role make schemas."""
    return f"GRANT CREATE ON DATABASE {quoted(database)} TO {quoted(role)};"


def granted_schema(schema: str, role: str) -> str:
    """The statement that lets a role make tables and views in a schema."""
    return f"GRANT USAGE, CREATE ON SCHEMA {quoted(schema)} TO {quoted(role)};"


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"{}"'.format(name.replace('"', '""'))


def _schema(refusal: Refusal, name: str, who: str, where: str) -> Missing:
    if _is_sqlmeshs(name):
        said = f"{who} may not work in the schema `{name}` {where}"
        return Missing(said, _BY_ITS_OWNER + _granted_working(name, refusal.role))
    if _written(refusal.statement)[0] == name:
        said = f"{who} may not create in the schema `{name}` {where}"
        return Missing(said, _BY_ITS_OWNER + granted_schema(name, refusal.role))
    said = f"{who} may not read the schema `{name}` {where}"
    return Missing(said, _BY_ITS_OWNER + _granted_reading(name, refusal.role))


def _is_sqlmeshs(schema: str) -> bool:
    """Whether SQLMesh keeps its state or its tables there, all of which it writes."""
    return schema == "sqlmesh" or schema.startswith("sqlmesh__")


def _granted_working(schema: str, role: str) -> str:
    rows = f"GRANT {_OF_ROWS} ON ALL TABLES IN SCHEMA {quoted(schema)} TO {quoted(role)};"
    return f"{granted_schema(schema, role)} {rows}"


def _granted_reading(schema: str, role: str) -> str:
    inside = f"SCHEMA {quoted(schema)} TO {quoted(role)};"
    return f"GRANT USAGE ON {inside} GRANT SELECT ON ALL TABLES IN {inside}"


def _relation(
    refusal: Refusal, name: str, schema: str | None, what: str, who: str
) -> Missing | None:
    if schema is None:
        return None
    what = what.format(f"{schema}.{name}")
    if _is_sqlmeshs(schema) or _written(refusal.statement) == (schema, name):
        remedy = _BY_ITS_OWNER + _granted_working(schema, refusal.role)
        return Missing(f"{who} may not write {what}", remedy)
    return Missing(
        f"{who} may not read {what}", _BY_ITS_OWNER + _granted_reading(schema, refusal.role)
    )


def _owned(refusal: Refusal, kind: str, name: str, said: str) -> Missing:
    """A table or view is replaced only by its owner, or who is a member of that role."""
    is_schema = kind == "schema"
    schema = None if is_schema else _schema_of(name, refusal.statement)
    full = name if schema is None else f"{schema}.{name}"
    sql = quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}"
    kind = "table" if kind == "relation" else kind
    remedy = (
        f"ALTER {kind.upper()} {sql} OWNER TO {quoted(refusal.role)}; or make the role a member of the"
        " owner, for all that this has made: GRANT … TO …."
    )
    return Missing(said.format(full), f"As a superuser: {remedy}")


def _schema_of(name: str, statement: str) -> str | None:
    """The schema with which a statement names a table."""
    of_table = rf"(?:{re.escape(quoted(name))}|\b{re.escape(name)}\b)"
    found = re.search(rf"({_NAME})\.{of_table}", statement)
    return None if found is None else _plain(found[1])


def _written(statement: str) -> tuple[str | None, str | None]:
    """The schema that a statement writes to, and the table in it."""
    found = _TARGET.search(statement.strip())
    if found is None:
        return None, None
    parts = [_plain(part) for part in re.findall(_NAME, found[1])]
    return (parts[0], None) if len(parts) == 1 else (parts[-2], parts[-1])


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
