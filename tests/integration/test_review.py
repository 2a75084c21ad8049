"""Reviews: each number of the page is one that SQL, written by hand, gives."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, Run

from tests.integration.test_plans import execute_of, failure

pytestmark = pytest.mark.slow

NOW = "2025-01-10T00:30:00"
ORDERS = """
    SELECT
      i::INT AS id,
      (i % 5)::INT AS city_id,
      (i * 10)::INT AS amount,
      'm' || i AS email,
      'fixed' AS note
    FROM range(1, 101) AS t(i)
"""
GRAIN = "kind FULL, grain id, audits (not_null(columns := (id)), unique_values(columns := (id)))"
DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), grain (day, hour)"
DAYS = """
    SELECT day::DATE AS day, hour::INT AS hour, (hour * 2)::INT AS amount
    FROM (
      SELECT unnest(generate_series(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 DAY)) AS day
    ) AS days
    CROSS JOIN range(0, 24) AS hours(hour)
    WHERE day BETWEEN @start_dt AND @end_dt
"""
PYTHON = """
import typing as t
from datetime import datetime
import pandas as pd
from sqlmesh import ExecutionContext, model

@model(
    "demo.python",
    columns={"city_id": "int", "doubled": "int"},
    kind="FULL",
    grains=["city_id"],
    depends_on=["demo.by_city"],
)
def execute(
    context: ExecutionContext, start: datetime, end: datetime, execution_time: datetime, **kwargs: t.Any
) -> pd.DataFrame:
    table = context.resolve_table("demo.by_city")
    df = context.fetchdf(f"SELECT city_id, CAST(amount AS INT) AS amount FROM {table} ORDER BY city_id")
    df["doubled"] = df["amount"] * FACTOR
    return df[["city_id", "doubled"]]
"""
MACRO = """
from sqlmesh import macro

@macro()
def scaled(evaluator, column):
    return f"{column} * FACTOR"
"""
REVIEW = """
[[consumers]]
name = "mailing"
kind = "export"
owner = "ada@example.com"
reads = ["demo.orders.email"]

[[consumers]]
name = "board"
reads = ["demo.by_city.amount"]
"""


_VIEWS = "SELECT view_name, sql FROM duckdb_views() WHERE schema_name = 'demo' ORDER BY view_name"


def small_project(root: Path) -> Project:
    """A model of each kind; amounts flow from `orders` into four others."""
    project = Project(root, {"environment": "prod"})
    project.model("orders", ORDERS, GRAIN)
    by_city = "SELECT city_id, SUM(amount)::INT AS amount FROM demo.orders GROUP BY city_id"
    project.model("by_city", by_city, "kind FULL, grain city_id")
    project.model("emails", "SELECT id, email FROM demo.orders", "kind FULL, grain id")
    project.model("amounts", "SELECT amount % 7 AS rest FROM demo.orders")
    project.model(
        "scaled", "SELECT id, @scaled(amount)::INT AS big FROM demo.orders", "kind FULL, grain id"
    )
    project.model("daily", DAYS, DAILY)
    project.model("kept", DAYS, DAILY.replace("column day)", "column day, forward_only true)"))
    project.write("models/python.py", PYTHON.replace("FACTOR", "2"))
    project.write("macros/__init__.py", "")
    project.write("macros/scaled.py", MACRO.replace("FACTOR", "3"))
    project.model(
        "cities",
        "",
        "kind SEED (path '../seeds/cities.csv'), columns (id INT, name TEXT), grain id",
    )
    project.write("seeds/cities.csv", "id,name\n1,Berne\n2,Basle\n3,Olten\n")
    file = root / "models/demo_46_cities.sql"
    file.write_text(file.read_text().replace("\n;", ""))
    project.write("review.toml", REVIEW)
    return project


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, planned into production."""
    root = tmp_path_factory.mktemp("production") / "project"
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("MAX_FORK_WORKERS", "1")
        patch.setenv("SQLMESH__DISABLE_ANONYMIZED_ANALYTICS", "true")
        project = small_project(root)
        options = {"environment": "prod", "apply": True, "allow_production": True}
        run, _ = execute_of(project.definitions(), instance, "plan", execution_time=NOW, **options)
        assert run.success, run.failed
    return root


@pytest.fixture
def project(production: Path, tmp_path: Path) -> Project:
    """A copy of it, whose files may be changed."""
    root = tmp_path / "project"
    shutil.copytree(production, root)
    return Project(root, {"environment": "prod"})


def review(project: Project, instance: dg.DagsterInstance, **options: Any) -> tuple[Run, str]:
    """Reviews the files in `pr`; the run, and the page."""
    given = {"environment": "pr", "execution_time": NOW, **options}
    run, metadata = execute_of(project.definitions(), instance, "review", **given)
    return run, str(metadata.get("sqlmesh/review", ""))


def row(page: str, model: str) -> tuple[str, ...]:
    """What the page says of a model's rows: before, after, only before, only after, equal."""
    data = page[page.index("### Data") :]
    (line,) = [x for x in data.splitlines() if x.startswith(f"| warehouse.demo.{model} |")][:1]
    return tuple(cell.strip() for cell in line.split("|")[2:-1])


def details(page: str, model: str) -> str:
    """The part of the page that is about a model."""
    begin = page.index(f"#### `warehouse.demo.{model}`")
    return page[begin:].split("\n#", 1)[0]


def differing(page: str, model: str) -> dict[str, int]:
    """How many rows the page says differ in each column."""
    rows = [line.split("|")[1:-1] for line in details(page, model).splitlines() if " % |" in line]
    return {cells[0].strip(): int(cells[2]) for cells in rows}


def by_hand(project: Project, model: str, key: str, where: str = "") -> tuple[str, ...]:
    """The same, in SQL, of a model whose key is unique."""
    before, after = f"(FROM demo.{model} {where})", f"(FROM demo__pr.{model} {where})"
    shared = [
        name
        for (name,) in project.query(
            f"SELECT column_name FROM (DESCRIBE demo.{model}) SEMI JOIN (DESCRIBE demo__pr.{model})"
            " USING (column_name)"
        )
    ]
    names = ", ".join(f"{name}::TEXT" for name in shared)
    ((rows_before, rows_after, only_before, only_after, equal),) = project.query(
        f"""SELECT
          (SELECT count(*) FROM demo.{model}), (SELECT count(*) FROM demo__pr.{model}),
          (SELECT count(*) FROM {before} ANTI JOIN {after} USING ({key})),
          (SELECT count(*) FROM {after} ANTI JOIN {before} USING ({key})),
          (SELECT count(*) FROM (SELECT {names} FROM {before} INTERSECT SELECT {names} FROM {after}))
        """
    )
    ((matched,),) = project.query(f"SELECT count(*) FROM {before} SEMI JOIN {after} USING ({key})")
    share = 100 * equal / (matched + only_before + only_after)
    text = f"{share:.0f} %" if share in (0, 100) else f"{share:.2f} %"
    return str(rows_before), str(rows_after), str(only_before), str(only_after), text


def differing_by_hand(project: Project, model: str, key: str, *columns: str) -> dict[str, int]:
    """How many rows differ in each column."""
    found = {}
    for column in columns:
        ((count,),) = project.query(
            f"SELECT count(*) FROM demo.{model} b JOIN demo__pr.{model} a USING ({key})"
            f" WHERE b.{column}::TEXT IS DISTINCT FROM a.{column}::TEXT"
        )
        found[column] = count
    return {column: count for column, count in found.items() if count}


def touched_part(page: str) -> str:
    """Who is touched, and who is not."""
    return page[page.index("### Who is touched") :].split("\n###", 1)[0]


def test_values_history_seed_and_preview_are_measured(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Values that flow downstream, a restated history, an edited seed, and a forward-only change."""
    project.model("orders", ORDERS.replace("i * 10", "i * 10 + (i % 4)"), GRAIN)
    project.model(
        "daily", DAYS.replace("hour * 2", "hour * CASE hour % 3 WHEN 0 THEN 2 ELSE 3 END"), DAILY
    )
    project.write("seeds/cities.csv", "id,name\n1,Berne\n2,Basel\n4,Thun\n5,Visp\n")
    project.model(
        "kept",
        DAYS.replace("hour * 2", "hour * 5"),
        DAILY.replace("column day)", "column day, forward_only true)"),
    )
    run, page = review(project, instance)
    assert run.success, run.failed
    for model, key, columns in [
        ("orders", "id", ("amount", "email")),
        ("by_city", "city_id", ("amount",)),
        ("scaled", "id", ("big",)),
        ("python", "city_id", ("doubled",)),
        ("cities", "id", ("name",)),
        ("daily", "day, hour", ("amount",)),
    ]:
        assert row(page, model) == by_hand(project, model, key), model
        found = differing_by_hand(project, model, key, *columns)
        assert found and differing(page, model) == found, model
    assert row(page, "emails") == ("100", "100", "0", "0", "100 %")
    assert "#### `warehouse.demo.emails`" not in page

    # forward-only: a preview of the days that `preview_days` says, compared with the same days
    assert "Compared: 2025-01-03 to 2025-01-09." in details(page, "kept")
    assert "A preview, of some days: the change is forward-only" in details(page, "kept")
    of_preview = by_hand(project, "kept", "day, hour", "WHERE day >= '2025-01-03'")
    assert row(page, "kept") == of_preview and of_preview[:4] == ("216", "168", "0", "0")
    assert differing(page, "kept") == differing_by_hand(project, "kept", "day, hour", "amount")

    # no grain: rows whole, and both sides of each column
    ((before, after, only_before),) = project.query(
        "SELECT (SELECT count(*) FROM demo.amounts), (SELECT count(*) FROM demo__pr.amounts),"
        " (SELECT count(*) FROM (FROM demo.amounts EXCEPT ALL FROM demo__pr.amounts))"
    )
    assert row(page, "amounts")[:4] == (str(before), str(after), str(only_before), str(only_before))
    assert "| rest | 0 | 7 | 0 | 6 |" in details(page, "amounts")
    assert "The model has no `grain`" in details(page, "amounts")

    who = touched_part(page)
    assert "| board | consumer |  | warehouse.demo.by_city.amount |" in who
    spared = who[who.index("and not touched:") :]
    assert "model `warehouse.demo.emails`" in spared and "consumer `mailing`" in spared
    # what production builds: the preview again is not it; nothing else is left to build
    assert "Nothing to build; 9 models are used as they are." in page


def test_a_removed_column_that_is_read_stops_the_promotion(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """It is named with its reader; a macro and a Python model are measured as any other."""
    project.model("orders", ORDERS.replace("'m' || i AS email,", ""), GRAIN)
    project.model("emails", "SELECT id, note AS email FROM demo.orders", "kind FULL, grain id")
    project.write("macros/scaled.py", MACRO.replace("FACTOR", "4"))
    project.write("models/python.py", PYTHON.replace("FACTOR", "5"))
    run, page = review(project, instance)
    stopped = "`removed_columns`: `warehouse.demo.orders.email` is removed, and consumer `mailing` reads it."
    assert not run.success and stopped in failure(run)
    assert "**A promotion is stopped:**" in page and stopped in page
    assert "| email | removed | TEXT |  |" in details(page, "orders")
    first = [line for line in touched_part(page).splitlines() if line.startswith("| ")][1]
    assert first.startswith("| mailing | consumer, ada@example.com | warehouse.demo.orders.email |")
    for model, key, column in [("scaled", "id", "big"), ("python", "city_id", "doubled")]:
        assert row(page, model) == by_hand(project, model, key), model
        assert differing(page, model) == differing_by_hand(project, model, key, column)
    assert row(page, "by_city") == ("5", "5", "0", "0", "100 %")
    # what is read no longer, and is the same, is not touched
    assert "model `warehouse.demo.by_city`" in touched_part(page).split("and not touched:")[1]


def test_what_is_added_shares_every_table_below_and_a_broken_grain_is_named(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """A non-breaking change builds its own model alone; duplicates of the key are counted."""
    project.model(
        "orders", ORDERS.replace("'fixed' AS note", "'fixed' AS note, i * 1.5 AS extra"), GRAIN
    )
    project.model("daily", DAYS.replace("(hour * 2)::INT", "(hour * 2)::BIGINT"), DAILY)
    project.model(
        "scaled",
        "SELECT (id % 80)::INT AS id, @scaled(amount)::INT AS big FROM demo.orders",
        "kind FULL, grain id",
    )
    run, page = review(project, instance)
    assert run.success, run.failed
    assert (
        row(page, "orders") == by_hand(project, "orders", "id") == ("100", "100", "0", "0", "100 %")
    )
    assert "| extra | added |  | DECIMAL" in details(page, "orders")
    assert "The same table as before, so that nothing of it differs: `warehouse.demo." in page
    assert "| amount | retyped | INT | BIGINT |" in details(page, "daily")
    assert row(page, "daily") == by_hand(project, "daily", "day, hour")
    ((doubled,),) = project.query(
        "SELECT count(*) FROM (SELECT id FROM demo__pr.scaled GROUP BY id HAVING count(*) > 1)"
    )
    grain = f"**The grain `id` is not unique**: several rows share {doubled} values of it after."
    assert grain in details(page, "scaled")
    ((only,),) = project.query(
        "SELECT count(*) FROM (FROM demo.scaled EXCEPT ALL FROM demo__pr.scaled)"
    )
    assert row(page, "scaled")[:4] == ("100", "100", str(only), str(only))


def test_fewer_rows_a_new_and_a_removed_model_and_a_check_that_fails_now(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Each rule that is broken is named; who may overrides it, which is kept."""
    rules = f'{REVIEW}\n[gates]\nfewer_rows_percent = 9.9\noverride_by = ["ada"]\n'
    project.write("review.toml", rules)
    warned = GRAIN.replace("audits (", "audits (not_null_non_blocking(columns := (amount)), ")
    query = ORDERS.replace("(i * 10)", "NULLIF(i * 10, 30)") + " WHERE i % 10 <> 0"
    project.model("orders", query, warned)
    (project.root / "models/demo_46_emails.sql").unlink()
    project.model("fresh", "SELECT 1 AS one")
    run, page = review(project, instance)
    assert not run.success
    assert row(page, "orders") == by_hand(project, "orders", "id")
    assert row(page, "orders")[:4] == ("100", "90", "10", "0")
    assert row(page, "fresh") == ("-", "1", "-", "-", "-")
    assert row(page, "emails") == ("100", "-", "-", "-", "-")
    assert (
        "| warehouse.demo.orders | not_null_non_blocking_amount | newly failing, a warning | - | 1 |"
        in page
    )
    for rule in (
        "`fewer_rows_percent`: `warehouse.demo.orders` has 10.0 % fewer rows: 90 in place of 100",
        "`failing_checks`: `not_null_non_blocking_amount` of `warehouse.demo.orders` newly fails",
    ):
        assert rule in failure(run) and rule in page

    run, _ = review(project, instance, override="cleaned on purpose", override_by="bob")
    assert "`bob` may not override" in failure(run)
    given = {"environment": "pr", "execution_time": NOW}
    run, metadata = execute_of(
        project.definitions(), instance, "review", override="cleaned", override_by="ada", **given
    )
    assert run.success
    assert metadata["sqlmesh/overridden_by"] == "ada" and metadata["sqlmesh/override"] == "cleaned"


def test_a_blocking_check_that_fails_is_on_the_page_though_nothing_can_be_built(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """The environment stays as it was, and the reader sees why."""
    project.model("orders", ORDERS.replace("i::INT AS id", "(i % 50)::INT AS id"), GRAIN)
    page = page_of_failure(project, instance)
    assert "| warehouse.demo.orders | unique_values_id | newly failing | - | 50 |" in page
    assert "`failing_checks`: `unique_values_id`" in page


UNIT_TEST = """
    test_{name}:
      model: demo.emails
      inputs:
        demo.orders:
          - {{id: 1, email: m1}}
      outputs:
        query:
          - {{id: 1, email: {expected}}}
"""
LINTED = """
linter:
  enabled: true
  warn_rules: [nomissingaudits, noselectstar]
"""


def page_of_failure(project: Project, instance: dg.DagsterInstance) -> str:
    """The page of a review that fails before its environment is built."""
    return failing_review(project, instance)[0]


def failing_review(project: Project, instance: dg.DagsterInstance) -> tuple[str, str]:
    """That page, and all that Dagster keeps of the run."""
    result = (
        project.definitions()
        .resolve_job_def("sqlmesh_review_job")
        .execute_in_process(
            instance=instance,
            run_config={
                "ops": {"sqlmesh_review": {"config": {"environment": "pr", "execution_time": NOW}}}
            },
            raise_on_error=False,
        )
    )
    assert not result.success
    shown = metadata_of_failure(Run(result.success, result.run_id, result.all_events))
    kept = "\n".join(str(entry) for entry in instance.all_logs(result.run_id))
    return str(shown["sqlmesh/review"]), kept


def metadata_of_failure(run: Run) -> dict[str, Any]:
    """What the only failed step shows all the same."""
    (event,) = [e for e in run.events if e.is_step_failure]
    shown = event.step_failure_data.user_failure_data
    assert shown is not None
    return {name: entry.value for name, entry in shown.metadata.items()}


def test_unit_tests_and_linter_stand_beside_what_they_say_of_production(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Newly passing, newly failing, still failing; of what the change edits, and of what fails."""
    config = project.root / "config.yaml"
    config.write_text(config.read_text() + LINTED)
    project.write("review.toml", "[gates]\nfewer_rows_percent = false\n")
    project.write("tests/test_upper.yaml", UNIT_TEST.format(name="upper", expected="M1"))
    project.model(
        "emails",
        "SELECT id, UPPER(email) AS email FROM demo.orders",
        "kind FULL, grain id, audits (not_null(columns := (id)))",
    )
    project.model("amounts", "SELECT * FROM demo.by_city")
    run, page = review(project, instance)
    assert run.success, run.failed  # what the linter only mentions stops nothing
    for line in (
        "| emails | unit test: test_upper | newly passing | fails | passes |",
        "| emails | linter: nomissingaudits | newly passing, a warning | 1 | 0 |",
        "| amounts | linter: noselectstar | newly failing, a warning | 0 | 1 |",
        "| amounts | linter: nomissingaudits | still failing, a warning | 1 | 1 |",
    ):
        assert line.replace("| ", "| warehouse.demo.", 1) in page
    assert "1 unit test passed, and the linter found no error." in page

    project.write("tests/test_plain.yaml", UNIT_TEST.format(name="plain", expected="m1"))
    page = page_of_failure(project, instance)
    assert (
        "| warehouse.demo.emails | unit test: test_plain | newly failing | passes | fails |" in page
    )
    assert "`failing_checks`: `test_plain` of `warehouse.demo.emails` newly fails" in page
    assert "1 of 2 unit tests fail, and the linter found no error." in page


def test_a_large_table_is_compared_in_part_and_the_page_says_so(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """By key: a sample that is the same on both sides; by time: the newest intervals."""
    project.write("review.toml", "[measure]\nmax_rows = 50\n")
    project.model("orders", ORDERS.replace("i * 10", "i * 10 + 1") + " WHERE i <> 7", GRAIN)
    project.model("daily", DAYS.replace("hour * 2", "hour * 3"), DAILY)
    _, page = review(project, instance)
    assert "Compared: a sample, of 50 keys of each side." in details(page, "orders")
    assert row(page, "orders")[:2] == ("100", "99")
    compared = differing(page, "orders")["amount"]
    assert 49 <= compared <= 51
    assert "Compared: 2025-01-07 to 2025-01-09." in details(page, "daily")
    newest = by_hand(project, "daily", "day, hour", "WHERE day >= '2025-01-07'")
    assert row(page, "daily") == newest
    assert "More than 50 rows and no key: only counts are compared." in details(page, "amounts")
    # what is unknown is never called untouched
    assert "| warehouse.demo.amounts | model |" in touched_part(page)


def test_rows_are_shown_only_where_the_owner_allows_it_and_masked_columns_never(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """What is made of a masked column is masked, too."""
    change = ORDERS.replace(
        "'m' || i AS email", "CASE WHEN i = 7 THEN 'x' || i ELSE 'm' || i END AS email"
    )
    project.model(
        "orders", change.replace("i * 10", "CASE WHEN i = 7 THEN 5 ELSE i * 10 END"), GRAIN
    )
    _, page = review(project, instance)
    assert "x7" not in page and "m7" not in page
    project.write("review.toml", '[measure]\nsample_rows = 3\nmasked = ["orders.email"]\n')
    _, page = review(project, instance)
    assert "| 7 | 70 → 5 | *** |" in details(page, "orders")
    assert "x7" not in page and "m7" not in page
    assert "| 7 | *** |" in details(page, "emails")
    # nor in the words of the database, which repeats a value that it cannot convert
    project.model(
        "emails", "SELECT id, email::INT AS email FROM demo.orders", "kind FULL, grain id"
    )
    page, kept = failing_review(project, instance)
    assert (
        "`warehouse.demo.emails`: ConversionException. The text of the error is not shown" in page
    )
    assert not re.search(r"\b[mx]\d", page + kept)


def test_what_is_promoted_is_what_was_reviewed(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Neither what a rule stops, nor what has moved since; then production's assets say by what.

    An `after_all` that fails changes nothing of that: SQLMesh has promoted by then.
    """
    config = project.root / "config.yaml"
    before = config.read_text()
    views = project.query(_VIEWS)
    prod = {"environment": "prod", "apply": True, "allow_production": True, "execution_time": NOW}
    project.write("review.toml", "[gates]\noverride_by = ['ada']\nrequire_review = true\n")
    project.model("orders", ORDERS + " WHERE i > 10", GRAIN)
    run, _ = execute_of(project.definitions(), instance, "plan", **prod)
    assert "Run `poe review`, then `poe promote`." in failure(run)
    config.write_text(f"{before}after_all:\n  - INSERT INTO main.nowhere VALUES (1)\n")
    run, page = review(project, instance)
    assert row(page, "orders")[:2] == ("100", "90") and "Table with name nowhere" in page
    assert "could not be built" not in page and "such as `after_all`, fails" in failure(run)
    run, _ = execute_of(project.definitions(), instance, "plan", **prod)
    assert "`fewer_rows_percent`: `warehouse.demo.orders` has 10.0 % fewer rows" in failure(run)
    agreed = {**prod, "override": "agreed", "override_by": "ada"}
    project.model("orders", ORDERS + " WHERE i > 11", GRAIN)
    run, _ = execute_of(project.definitions(), instance, "plan", **agreed)
    assert "This is not what was reviewed. The project's files have changed:" in failure(run)
    assert "`warehouse.demo.orders`" in failure(run)
    assert project.query("SELECT count(*) FROM demo.orders") == [(100,)]

    reviewed, _ = review(project, instance)
    definitions = project.definitions()
    run, _ = execute_of(definitions, instance, "plan", **agreed)
    assert "`prod` is as the plan was to make it" in failure(run)
    facts = metadata_of_failure(run)
    assert facts["sqlmesh/overridden_by"] == "ada" and facts["sqlmesh/override"] == "agreed"
    assert facts["sqlmesh/reviewed_in"] == reviewed.run_id
    assert project.query("SELECT count(*) FROM demo.orders") == [(89,)]
    assert project.query("SELECT 1 FROM duckdb_schemas() WHERE schema_name LIKE 'demo__pr%'") == []
    event = instance.get_latest_materialization_event(dg.AssetKey(["warehouse", "demo", "orders"]))
    assert event is not None and event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert shown["sqlmesh/promoted_in"].value == run.run_id
    assert shown["sqlmesh/reviewed_in"].value == reviewed.run_id

    # a review counts once
    run, _ = execute_of(definitions, instance, "plan", **prod)
    assert "lets nothing into production that was not reviewed" in failure(run)

    # the files of before bring back the tables of before; nothing is built
    project.write("review.toml", "")
    config.write_text(before)
    project.model("orders", ORDERS, GRAIN)
    run, facts = execute_of(project.definitions(), instance, "plan", **prod, without_review=True)
    assert run.success, run.failed
    assert facts["sqlmesh/models_built"] == 0
    assert project.query(_VIEWS) == views
    assert project.query("SELECT count(*) FROM demo.orders") == [(100,)]


def test_production_shows_which_commit_moved_it_and_how_far_off_the_estimate_was(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """The review builds a part; what production builds of the rest is estimated from the last run."""

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=ada", "-c", "user.email=ada@example.com"]
        command = ["git", "-C", str(project.root), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (project.root / ".gitignore").write_text("*\n!models\n!models/*\n")
    git("init", "-q")
    project.model("daily", DAYS.replace("hour * 2", "hour * 3"), DAILY)
    git("add", "models")
    git("commit", "-qm", "Three")
    commit = git("rev-parse", "HEAD")
    key = dg.AssetKey(["warehouse", "demo", "daily"])
    slow = {"sqlmesh/duration_seconds": 100.0, "sqlmesh/partitions": 1}
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=slow))
    reviewed, page = review(project, instance, start="2025-01-08")
    assert f"Commit `{commit[:12]}`." in page
    assert "| warehouse.demo.daily | 2025-01-01 - 2025-01-07 | 7 | - | 700.0 |" in page

    prod = {"environment": "prod", "apply": True, "allow_production": True, "execution_time": NOW}
    run, facts = execute_of(project.definitions(), instance, "plan", **prod)
    assert run.success, run.failed
    assert facts["sqlmesh/commit"] == commit
    told = [entry.user_message for entry in instance.all_logs(run.run_id)]
    assert sum("the review had estimated 700.0" in text for text in told) == 1
    event = instance.get_latest_materialization_event(key)
    assert event is not None and event.asset_materialization is not None
    shown = {k: v.value for k, v in event.asset_materialization.metadata.items()}
    assert shown["sqlmesh/commit"] == commit
    assert shown["sqlmesh/reviewed_in"] == reviewed.run_id
    assert shown["sqlmesh/promoted_in"] == run.run_id


def test_the_numbers_are_those_of_sqlmeshs_own_table_diff(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Where a grain is unique, `Context.table_diff` finds the same."""
    from sqlmesh import Context

    change = ORDERS.replace("i * 10", "NULLIF(i * 10 + (i % 4), 41)").replace(
        "range(1, 101)", "range(5, 111)"
    )
    project.model("orders", change, GRAIN)
    _, page = review(project, instance)
    context = Context(paths=[str(project.root)])
    try:
        (diff,) = context.table_diff("prod", "pr", select_models={"demo.orders"}, show=False)
        rows = diff.row_diff()
        shown = row(page, "orders")
        assert shown[:2] == (str(rows.source_count), str(rows.target_count))
        assert shown[2:4] == (str(rows.s_only_count), str(rows.t_only_count))
        same = rows.column_stats["pct_match"]["amount"] / 100 * rows.join_count
        assert differing(page, "orders") == {"amount": rows.join_count - round(same)}
    finally:
        context.close()
        context.engine_adapter.close()


def test_a_consumer_is_an_asset_below_what_it_reads(project: Project) -> None:
    """In the same graph as the models; nothing builds it."""
    graph = project.definitions().resolve_asset_graph()
    board = dg.AssetKey(["consumers", "board"])
    assert graph.get(board).parent_keys == {dg.AssetKey(["warehouse", "demo", "by_city"])}
    assert board not in graph.executable_asset_keys


def test_files_that_equal_production_have_nothing_to_review(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """No environment is made; production itself is never where a change is reviewed."""
    run, page = review(project, instance)
    assert run.success and "Nothing differs from `prod`." in page
    assert project.query("SELECT 1 FROM duckdb_schemas() WHERE schema_name LIKE 'demo__pr%'") == []
    run, _ = review(project, instance, environment="prod")
    assert "A change is reviewed before it is in `prod`." in failure(run)


_EDITS: tuple[Callable[[Project], None], ...] = (
    lambda p: p.model("orders", ORDERS.replace("i * 10", "i * 10 + (i % 3)"), GRAIN),
    lambda p: p.model("orders", ORDERS + " WHERE i % 9 <> 0", GRAIN),
    lambda p: p.model("orders", ORDERS.replace("'fixed'", "'moved'"), GRAIN),
    lambda p: p.model(
        "orders", ORDERS.replace("'fixed' AS note", "'fixed' AS note, 1 AS x"), GRAIN
    ),
    lambda p: p.model("orders", ORDERS.replace("'m' ||", "'n' ||"), GRAIN),
    lambda p: p.write("macros/scaled.py", MACRO.replace("FACTOR", "6")),
    lambda p: p.write("models/python.py", PYTHON.replace("FACTOR", "1 + 1")),
    lambda p: p.write("models/python.py", PYTHON.replace("FACTOR", "7")),
    lambda p: p.write("seeds/cities.csv", "id,name\n1,Berne\n2,Basel\n"),
    lambda p: p.model("daily", DAYS.replace("hour * 2", "hour + hour"), DAILY),
    lambda p: p.model("daily", DAYS.replace("hour * 2", "hour * 9"), DAILY),
    lambda p: p.model("amounts", "SELECT amount % 5 AS rest FROM demo.orders"),
)
_MODELS = ["orders", "by_city", "emails", "amounts", "scaled", "daily", "kept", "python", "cities"]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.storm) for n in range(1, 25))]
)
def test_what_the_page_does_not_name_is_the_same_after_the_promotion(
    project: Project, instance: dg.DagsterInstance, seed: int
) -> None:
    """For random changes: each model without a part of its own on the page is equal, row by row."""

    def data() -> dict[str, list[tuple[Any, ...]]]:
        return {m: project.query(f"SELECT * FROM demo.{m} ORDER BY ALL") for m in _MODELS}

    chance = random.Random(seed)
    before = data()
    for edit in chance.sample(_EDITS, chance.randint(1, 3)):
        edit(project)
    project.write("review.toml", "[gates]\nfewer_rows_percent = false\n")
    _, page = review(project, instance)
    named = {m for m in _MODELS if f"#### `warehouse.demo.{m}`" in page}
    prod = {"environment": "prod", "apply": True, "allow_production": True, "execution_time": NOW}
    run, _ = execute_of(project.definitions(), instance, "plan", **prod)
    assert run.success, run.failed
    after = data()
    assert {m for m in _MODELS if before[m] != after[m]} <= named
