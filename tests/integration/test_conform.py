"""`poe conform`: a project built by SQLMesh alone and through Dagster, on copies, compared."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import duckdb
import pytest
from tests.sqlmesh_dagster.projects import Project

from sqlmesh_dagster.conform import compared, main
from sqlmesh_dagster.facts.conformity import Conformity, Held, Way, causes, table

AT = datetime(2025, 1, 10, tzinfo=timezone.utc)


def _project(root: Path) -> Project:
    project = Project(root)
    project.write("external_models.yaml", "- name: raw.orders\n  columns: {id: int}\n")
    project.model(
        "orders",
        "SELECT id::INT AS id FROM raw.orders",
        "kind FULL, audits (not_null(columns := (id)))",
    )
    project.model(
        "days",
        "SELECT @start_ds::DATE AS day, COUNT(*) AS n FROM demo.orders",
        "kind INCREMENTAL_BY_TIME_RANGE (time_column day)",
    )
    project.write(
        "audits/some.sql",
        "AUDIT (name some, standalone true); SELECT * FROM demo.orders WHERE id < 0",
    )
    with duckdb.connect(str(project.database)) as connection:
        connection.execute(
            "CREATE SCHEMA raw; CREATE TABLE raw.orders AS SELECT range AS id FROM range(3)"
        )
    return project


@pytest.mark.slow
def test_a_project_that_conforms_says_so_and_stays_as_it_is(tmp_path: Path) -> None:
    """Promise: rows, intervals, assets and checks are equal, and the project's own database is untouched."""
    project = _project(tmp_path / "shop")
    before = project.database.read_bytes()
    found = compared("shop", [project.root], AT)
    assert list(found.differences()) == [], found
    assert found.alone.problem is None and found.integrated.problem is None
    assert found.alone.held is not None
    assert set(found.alone.held.rows) == {
        '"warehouse"."demo"."days"',
        '"warehouse"."demo"."orders"',
    }
    assert (found.alone.held.models, found.integrated.assets) == (2, 2)
    assert (found.alone.held.audits, found.integrated.checks) == (2, 2)
    assert project.database.read_bytes() == before
    assert not (project.root / ".cache").exists()


def test_a_difference_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Promise: which models, which way fails and with what; an empty folder is no success."""
    alone = Way(Held({"a": "1 x", "b": "2 y"}, {"a": [[0, 1]]}, 2, 1), 1.0)
    ours = Way(Held({"a": "1 x", "b": "3 z"}, {"a": [[0, 2]]}, 2, 1), 2.0, 1, 1, "it\n broke")
    text = table([Conformity("p", alone, ours)])
    assert text.splitlines()[2] == (
        "| p | 2 | 1 | 1 | 1 | 1 of 2 | 0 of 1 | 1.0 | 2.0 | only Dagster fails; 2 models, 1 assets;"
        " rows of b; intervals of a; it broke |"
    )
    assert Conformity("p", alone, Way(alone.held, 1.0, 2, 1)).is_equal
    by_chance = Way(Held({"a": "1 x", "b": "9 u"}, {"a": [[0, 1]]}, 2, 1), 1.0, 2, 1)
    chance = Conformity("p", alone, Way(by_chance.held, 1.0, 2, 1), again=by_chance)
    assert chance.is_equal and "| 1 of 1 |" in table([chance])
    assert "other rows each time, by SQLMesh alone too: b |" in table([chance])
    long = Conformity("q", Way(None, 1.0, problem="why " * 99), Way(None, 1.0, problem="why " * 99))
    assert causes([chance, long]).count("why") == 99
    assert main([str(tmp_path)]) == 1
    assert "No SQLMesh project was found" in capsys.readouterr().out
    for arguments, message in (
        (["--now", "tomorrow"], "`--now` is `tomorrow`"),
        (["--now", "2999-01-01"], "has not come yet"),
        ([str(tmp_path / "none")], "There is no folder"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
