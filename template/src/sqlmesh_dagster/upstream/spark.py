"""DataFrames on Spark: SQLMesh's adapter, with decimals as exact as in the warehouse, and what is missing as NULL.

SQLMesh 0.236.4 gives PySpark a `DecimalType` without digits, which refuses floats, and rounds decimals
to whole numbers in silence; and it gives the NaN of pandas, which PySpark takes for no text, number or
date. Seeds and Python models are frames. Importing this module imports SQLMesh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd  # type: ignore[import-untyped,unused-ignore]
from sqlglot import exp
from sqlmesh.core.config.connection import SparkConnectionConfig
from sqlmesh.core.engine_adapter.base import EngineAdapter
from sqlmesh.core.engine_adapter.spark import SparkEngineAdapter

_DECIMALS = {
    exp.DataType.Type.DECIMAL,
    exp.DataType.Type.BIGDECIMAL,
    exp.DataType.Type.DECIMAL32,
    exp.DataType.Type.DECIMAL64,
    exp.DataType.Type.DECIMAL128,
}


class SparkAdapter(SparkEngineAdapter):
    """Frames reach Spark with decimals as text, which SQLMesh casts to the column's type there."""

    @classmethod
    def sqlglot_to_spark_types(cls, input: dict[str, exp.DataType]) -> Any:
        """The schema in which a frame is handed over."""
        return super().sqlglot_to_spark_types({n: decimals_as_text(t) for n, t in input.items()})

    def _ensure_pyspark_df(
        self,
        generic_df: Any,
        target_columns_to_types: dict[str, exp.DataType] | None = None,
        source_columns: list[str] | None = None,
    ) -> Any:
        frame = self.try_get_pandas_df(generic_df)
        if frame is not None and target_columns_to_types:
            generic_df = as_spark_takes_it(frame, target_columns_to_types)
        return super()._ensure_pyspark_df(generic_df, target_columns_to_types, source_columns)


class SparkConnection(SparkConnectionConfig):
    """SQLMesh's connection to Spark, whose adapter is ours."""

    @property
    def _engine_adapter(self) -> type[EngineAdapter]:
        return SparkAdapter


def decimals_as_text(kind: exp.DataType) -> exp.DataType:
    """A type, with TEXT in place of each decimal in it."""

    def as_text(node: exp.Expression) -> exp.Expression:
        is_decimal = isinstance(node, exp.DataType) and node.this in _DECIMALS
        return exp.DataType.build("TEXT") if is_decimal else node

    return kind.transform(as_text)  # type: ignore[return-value]


def as_spark_takes_it(frame: pd.DataFrame, types: Mapping[str, exp.DataType]) -> pd.DataFrame:
    """A copy with Python's own values: None for what is missing, and whole numbers, not the floats of pandas."""
    columns = {
        name: _column(frame[name], is_whole=kind.this in exp.DataType.INTEGER_TYPES)
        for name, kind in types.items()
        if name in frame.columns and frame[name].dtype.kind != "M"  # PySpark takes NaT in these
    }
    return frame.assign(**columns)


def _column(values: pd.Series[Any], *, is_whole: bool) -> pd.Series[Any]:
    found = [_plain(each, is_whole=is_whole) for each in values]
    return pd.Series(found, index=values.index, dtype=object)


def _plain(value: Any, *, is_whole: bool) -> Any:
    if not pd.api.types.is_scalar(value):
        return value
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    if is_whole and isinstance(value, float) and value.is_integer():
        return int(value)
    return value.item() if hasattr(value, "item") else value  # NumPy's own numbers
