"""What is said of a statement that Postgres has refused."""

from __future__ import annotations

import pytest

from sqlmesh_dagster.facts.rights import Refusal, missing

_COMMENT = "/* SQLMESH_PLAN: 1fe7 */ "
CASES = [
    (
        "permission denied for database shop",
        'CREATE SCHEMA IF NOT EXISTS "raw"',
        "may not make schemas in the database `shop`",
        'GRANT CREATE ON DATABASE "shop" TO "ada";',
    ),
    (
        "permission denied for schema raw\nLINE 1: CREATE TABLE",
        _COMMENT + 'CREATE TABLE IF NOT EXISTS "raw"."payments" ("id" BIGINT)',
        "may not create in the schema `raw` in the database `shop`",
        'GRANT USAGE, CREATE ON SCHEMA "raw" TO "ada";',
    ),
    (
        "permission denied for schema raw",
        'CREATE TABLE "marts"."x" AS SELECT * FROM "raw"."payments"',
        "may not read the schema `raw`",
        'GRANT USAGE ON SCHEMA "raw" TO "ada"; GRANT SELECT ON ALL TABLES IN SCHEMA "raw" TO "ada";',
    ),
    (
        "permission denied for schema marts",
        'CREATE OR REPLACE VIEW "shop"."marts"."x" AS SELECT 1',
        "may not create in the schema `marts`",
        'GRANT USAGE, CREATE ON SCHEMA "marts" TO "ada";',
    ),
    (
        "permission denied for table payments",
        'INSERT INTO "marts"."x" ("a") SELECT 1 FROM "raw"."payments" AS "p"',
        "may not read the table `raw.payments`",
        'GRANT USAGE ON SCHEMA "raw" TO "ada"; GRANT SELECT ON ALL TABLES IN SCHEMA "raw" TO "ada";',
    ),
    (
        "permission denied for table _snapshots",
        'DELETE FROM "sqlmesh"."_snapshots" WHERE TRUE',
        "may not write the table `sqlmesh._snapshots`",
        'ON ALL TABLES IN SCHEMA "sqlmesh" TO "ada";',
    ),
    (
        "permission denied for table payments",
        "select * from raw.payments",
        "may not read the table `raw.payments`",
        'GRANT SELECT ON ALL TABLES IN SCHEMA "raw" TO "ada";',
    ),
    (
        "must be owner of view daily",
        'DROP VIEW IF EXISTS "marts__dev"."daily" CASCADE',
        "does not own the view `marts__dev.daily`",
        'ALTER VIEW "marts__dev"."daily" OWNER TO "ada";',
    ),
    (
        "must be owner of schema marts",
        'DROP SCHEMA "marts"',
        "does not own the schema `marts`",
        'ALTER SCHEMA "marts" OWNER TO "ada";',
    ),
    (
        'permission denied for schema od"d',
        'CREATE TABLE "od""d"."x" (a INT)',
        'may not create in the schema `od"d`',
        'GRANT USAGE, CREATE ON SCHEMA "od""d" TO "ada";',
    ),
    (
        "permission denied for table x",
        'INSERT INTO "marts"."x" ("a") SELECT 1',
        "may not write the table `marts.x`",
        'ON ALL TABLES IN SCHEMA "marts" TO "ada";',
    ),
    (
        "permission denied for table raw__payments__1",
        'CREATE VIEW "raw"."payments" AS SELECT * FROM "sqlmesh__raw"."raw__payments__1"',
        "may not write the table `sqlmesh__raw.raw__payments__1`",
        'GRANT USAGE, CREATE ON SCHEMA "sqlmesh__raw" TO "ada";',
    ),
    (
        "permission denied for table x",
        'INSERT INTO "sqlmesh_like"."y" SELECT * FROM "sqlmesh_like"."x"',
        "may not read the table `sqlmesh_like.x`",
        'GRANT SELECT ON ALL TABLES IN SCHEMA "sqlmesh_like" TO "ada";',
    ),
]


@pytest.mark.parametrize(("message", "statement", "said", "remedy"), CASES)
def test_the_right_that_lacks_is_named_with_the_statement_that_grants_it(
    message: str, statement: str, said: str, remedy: str
) -> None:
    """Promise: the role, the place, and what can be pasted."""
    found = missing(Refusal("ada", "shop", message, statement))
    assert found is not None
    assert found.said.startswith("the role `ada` ") and said in found.said
    assert remedy in found.remedy


@pytest.mark.parametrize("message", ["syntax error", "permission denied for table unknown", ""])
def test_what_is_not_known_is_left_to_the_server(message: str) -> None:
    """Promise: no statement is guessed."""
    assert missing(Refusal("ada", "shop", message, "SELECT 1")) is None


@pytest.mark.parametrize("schema", ["sqlmesh", "sqlmesh__raw"])
def test_in_sqlmeshs_own_schemas_a_role_works_or_nothing_does(schema: str) -> None:
    """Promise: one statement for what it makes there, and one for what is there."""
    statement = f'SELECT * FROM "{schema}"."x"'
    found = missing(Refusal("ada", "shop", f"permission denied for schema {schema}", statement))
    assert found is not None
    assert (
        found.said == f"the role `ada` may not work in the schema `{schema}` in the database `shop`"
    )
    assert found.remedy.endswith(
        f'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "ada"; GRANT SELECT, INSERT, UPDATE, DELETE,'
        f' TRUNCATE ON ALL TABLES IN SCHEMA "{schema}" TO "ada";'
    )


@pytest.mark.parametrize(
    ("kind", "statement", "altered"),
    [
        ("relation x", 'ALTER TABLE "m"."x" ADD COLUMN "a" INT', 'TABLE "m"."x"'),
        ("table x", 'DROP TABLE "m"."x"', 'TABLE "m"."x"'),
        ("view x", 'DROP VIEW "m"."x"', 'VIEW "m"."x"'),
        ("schema m", 'DROP SCHEMA "m"."m"', 'SCHEMA "m"'),
    ],
)
def test_what_another_role_owns_is_given_by_a_superuser(
    kind: str, statement: str, altered: str
) -> None:
    """Promise: Postgres' word for it in a sentence, and SQL's in the statement."""
    found = missing(Refusal("ada", "shop", f"must be owner of {kind}", statement))
    assert found is not None
    assert found.remedy == (
        f'As a superuser: ALTER {altered} OWNER TO "ada"; or make the role a member of the owner, for'
        " all that this has made: GRANT … TO …."
    )


def test_a_table_without_a_schema_is_one_that_is_read() -> None:
    """Promise: what a statement writes to without a schema is taken for no schema of that name."""
    denied = "permission denied for schema x"
    found = missing(Refusal("ada", "shop", denied, 'INSERT INTO "y" SELECT * FROM "x"."y"'))
    assert found is not None and "may not read the schema `x`" in found.said
