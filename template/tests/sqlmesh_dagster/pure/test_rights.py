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
