"""When the schedule ticks: by the most frequent of the models' crons."""

from __future__ import annotations

from typing import Any

import pytest

from sqlmesh_dagster.definition.records import CronRecord
from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.run.schedule import finest_crons
from tests.sqlmesh_dagster.pure.records import model

HOUR, DAY = 3600.0, 86400.0


def _model(cron: str, period: float, gap: float | None = None, **changes: Any) -> Any:
    return model("m", cron=cron, cron_period=period, cron_gap=gap or period, **changes)


DAILY, HOURLY = _model("@daily", DAY), _model("@hourly", HOUR)
OFFICE = _model("*/15 8-18 * * 1-5", 900.0, 62 * HOUR)
"""Pauses at night and at the weekend."""


@pytest.mark.parametrize(
    ("models", "crons"),
    [
        ([DAILY], ("@daily",)),
        ([DAILY, HOURLY, DAILY], ("@hourly",)),
        ([_model("0 7 * * *", DAY), _model("0 5 * * *", DAY)], ("0 5 * * *", "0 7 * * *")),
        ([OFFICE, HOURLY, DAILY], ("*/15 8-18 * * 1-5", "@daily", "@hourly")),
        ([OFFICE, _model("@weekly", 7 * DAY)], ("*/15 8-18 * * 1-5",)),
        ([OFFICE, _model("*/20 * * * *", 1200.0)], ("*/15 8-18 * * 1-5", "*/20 * * * *")),
        ([_model("@monthly", 28 * DAY, restated_at=("@daily", DAY, DAY))], ("@daily",)),
        ([HOURLY, _model("@monthly", 28 * DAY, restated_at=("@daily", DAY, DAY))], ("@hourly",)),
    ],
)
def test_it_ticks_as_often_as_the_most_frequent_model_is_due(
    models: list[Any], crons: tuple[str, ...]
) -> None:
    """Promise: no model waits for almost a whole period of its own, nor for the end of a pause."""
    assert finest_crons(models) == (crons, "UTC")


def test_a_seed_does_not_tick() -> None:
    """Promise: it is built when its file changes; it counts only where there is nothing else."""
    seed = _model("@hourly", HOUR, kind="SEED")
    assert finest_crons([seed, DAILY]) == (("@daily",), "UTC")
    assert finest_crons([seed]) == (("@hourly",), "UTC")


def test_an_audit_without_a_model_ticks() -> None:
    """Promise: a standalone audit or an external table that is due more often than all models is asked for."""
    hourly = CronRecord("@hourly", HOUR, HOUR)
    assert finest_crons([DAILY], [hourly]) == (("@hourly",), "UTC")


def test_one_time_zone_is_the_schedules() -> None:
    """Promise: nine o'clock in Berlin is nine o'clock in Berlin."""
    berlin = _model("0 9 * * *", DAY, cron_tz="Europe/Berlin")
    assert finest_crons([berlin, _model("@weekly", 7 * DAY)]) == (("0 9 * * *",), "Europe/Berlin")


@pytest.mark.parametrize(
    ("period", "cron"),
    [(DAY, "0 * * * *"), (HOUR, "0 * * * *"), (900.0, "*/15 * * * *"), (3540.0, "*/59 * * * *")],
)
def test_several_time_zones_are_met_by_even_steps(period: float, cron: str) -> None:
    """Promise: each hour, or more often where a model asks for it."""
    models = [_model("a", period, cron_tz=zone) for zone in ("Europe/Berlin", "Asia/Tokyo", None)]
    assert finest_crons(models) == ((cron,), "UTC")


def test_a_project_without_models_has_no_schedule() -> None:
    """Promise: the message says why."""
    with pytest.raises(InvalidSettingError, match="at least one model"):
        finest_crons([])
