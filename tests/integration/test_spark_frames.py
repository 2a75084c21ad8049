"""DataFrames on Spark: what seeds, Python models and files hand over. `robustness/test_spark.py` has a real one."""

from __future__ import annotations

import datetime
import inspect
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import pytest
from sqlglot import exp
from sqlmesh import Config
from sqlmesh.core.engine_adapter.spark import SparkEngineAdapter

from sqlmesh_dagster.engine import connections
from sqlmesh_dagster.gateways import with_warehouse
from sqlmesh_dagster.upstream.spark import SparkAdapter, as_spark_takes_it, decimals_as_text
from sqlmesh_dagster.warehouses import GATEWAY

DAY = datetime.date(2026, 1, 1)
CASES: dict[str, tuple[list[Any], list[Any]]] = {
    "DECIMAL(20, 2)": (
        [Decimal("12345678901234567.89"), Decimal("0.5"), None],
        [Decimal("12345678901234567.89"), Decimal("0.50"), None],
    ),
    "DECIMAL(10, 1)": ([12.5, None, 0.1], [Decimal("12.5"), None, Decimal("0.1")]),
    "INT": ([1, None, 3], [1, None, 3]),
    "BIGINT": ([2**53, 0, -1], [2**53, 0, -1]),
    "STRING": (["a", float("nan"), 3], ["a", None, "3"]),
    "DOUBLE": ([1.5, float("nan"), None], [1.5, None, None]),
    "BOOLEAN": ([True, None, False], [True, None, False]),
    "DATE": ([DAY, None, pd.NaT], [DAY, None, None]),
    "ARRAY<DECIMAL(5, 2)>": ([[1.5], [], None], [[Decimal("1.50")], [], None]),
}
"""By type: the values of a frame, and what a table of that column holds then."""


def kind(text: str) -> exp.DataType:
    """A type of Spark."""
    return exp.DataType.build(text, dialect="spark")


@pytest.mark.parametrize("text", CASES)
def test_a_frame_has_none_for_what_is_missing_and_no_floats_for_whole_numbers(text: str) -> None:
    """Promise: pandas' NaN is no value, and what it made of whole numbers becomes whole again."""
    given, expected = CASES[text]
    frame = pd.DataFrame({"value": given, "other": [1.5, None, 2.5]})
    found = list(as_spark_takes_it(frame, {"value": kind(text)})["value"])
    assert [each is None for each in found] == [each is None for each in expected]
    if "INT" in text:
        assert found == expected and {type(each) for each in found} <= {int, type(None)}


def test_times_stay_as_pyspark_reads_them() -> None:
    """Its own conversion takes columns of times, with what is missing."""
    frame = pd.DataFrame({"at": pd.to_datetime(["2026-01-01 10:00", None])})
    assert as_spark_takes_it(frame, {"at": kind("TIMESTAMP")}).equals(frame)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DECIMAL(10, 2)", "STRING"),
        ("ARRAY<DECIMAL(10, 2)>", "ARRAY<STRING>"),
        ("STRUCT<a: DECIMAL(10, 2), b: INT>", "STRUCT<a: STRING, b: INT>"),
        ("DOUBLE", "DOUBLE"),
    ],
)
def test_decimals_go_as_text(text: str, expected: str) -> None:
    """Exact, however many digits; SQLMesh casts them to the column's type on Spark."""
    assert decimals_as_text(kind(text)).sql("spark") == expected


def test_the_gateway_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: `SQLMESH_GATEWAY=spark` is enough; SQLMesh's own command has it, too."""
    pytest.importorskip("pyspark")
    monkeypatch.setenv(GATEWAY, "spark")
    for name in ("HOST", "USER", "PASSWORD", "DATABASE"):
        monkeypatch.setenv(f"STATE_{name}", "here")
    monkeypatch.setenv("WAREHOUSE_MASTER", "local[1]")
    connection: Any = with_warehouse(Config()).get_connection()
    assert connection._engine_adapter is SparkAdapter
    assert connection.config == {"spark.master": "local[1]"}
    assert connections.stands_for(connection) is None


def test_what_is_overridden_is_there() -> None:
    """SQLMesh's private method, which hands each frame over."""
    parameters = inspect.signature(SparkEngineAdapter._ensure_pyspark_df).parameters
    assert list(parameters) == ["self", "generic_df", "target_columns_to_types", "source_columns"]
    assert inspect.ismethod(SparkEngineAdapter.sqlglot_to_spark_types)


@pytest.mark.storm
def test_tables_hold_what_frames_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: on a real Spark of this machine, each type with something missing in it."""
    pytest.importorskip("pyspark")
    monkeypatch.chdir(tmp_path)  # Derby writes its log where the process is
    from sqlmesh_dagster.upstream.spark import SparkConnection

    place = f"jdbc:derby:;databaseName={tmp_path}/metastore;create=true"
    config = {
        "spark.master": "local[1]",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.warehouse.dir": str(tmp_path / "data"),
        "spark.sql.legacy.createHiveTableByDefault": "false",
        "spark.hadoop.javax.jdo.option.ConnectionURL": place,
    }
    adapter: Any = SparkConnection(config=config, concurrent_tasks=1).create_engine_adapter()
    adapter.create_schema("frames")
    for number, (text, (given, expected)) in enumerate(CASES.items()):
        frame = pd.DataFrame({"id": range(len(given)), "value": given})
        types = {"id": kind("INT"), "value": kind(text)}
        adapter.replace_query(f"frames.t{number}", frame, types)
        rows = adapter.fetchall(f"SELECT value FROM frames.t{number} ORDER BY id")
        assert [row[0] for row in rows] == expected, text
