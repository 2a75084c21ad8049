"""Demand forecast: each week's figure depends on the week before, which is awkward in SQL."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pandas as pd
from sqlglot import exp, parse_one
from sqlmesh import ExecutionContext, model
from sqlmesh.core.model import ModelKindName

WEIGHT_OF_LATEST_WEEK = 0.4


@model(
    "marts.workshop_demand",
    description="Drop-offs per workshop and week, with a forecast for the next week. "
    "One row per workshop and week (Monday to Sunday).",
    kind={"name": ModelKindName.FULL},
    cron="@weekly",
    owner="'operations@spokewell.example'",
    tags=["workshop_floor", "forecast"],
    grains=["(workshop_code, week)"],
    depends_on={"staging.job_events", "staging.repair_jobs"},
    columns={
        "workshop_code": "TEXT",
        "week": "DATE",
        "drop_offs": "INT",
        "forecast": "DECIMAL(10, 1)",
    },
    column_descriptions={
        "workshop_code": "Workshop that took the bicycles in",
        "week": "Monday of the week",
        "drop_offs": "Bicycles dropped off in the week",
        "forecast": "Expected drop-offs of the week after, by exponential smoothing",
    },
    audits=[
        ("not_null", {"columns": exp.tuple_("workshop_code", "week", "forecast")}),
        ("unique_combination_of_columns", {"columns": exp.tuple_("workshop_code", "week")}),
    ],
)
def forecast_demand(
    context: ExecutionContext,
    start: datetime,
    end: datetime,
    execution_time: datetime,
    **kwargs: Any,
) -> Iterator[pd.DataFrame]:
    """Yield one frame, or none at all: SQLMesh refuses an empty one."""
    # Parsed, so that SQLMesh translates it for the engine.
    query = parse_one(
        f"""
        SELECT
          jobs.workshop_code,
          DATE_TRUNC('week', events.occurred_at)::DATE AS week,
          COUNT(*)::INT AS drop_offs
        FROM {context.resolve_table("staging.job_events")} AS events
        JOIN {context.resolve_table("staging.repair_jobs")} AS jobs
          ON events.job_id = jobs.job_id
        WHERE events.status = 'checked_in'
        GROUP BY 1, 2
        ORDER BY 1, 2
        """,
        dialect="duckdb",
    )
    weeks = context.fetchdf(query)
    if weeks.empty:
        return
    smoothed = weeks.groupby("workshop_code")["drop_offs"].ewm(
        alpha=WEIGHT_OF_LATEST_WEEK, adjust=False
    )
    weeks["forecast"] = smoothed.mean().round(1).to_numpy()
    yield weeks
