"""Messages when a run or a check fails; off until a variable says where to send them."""

import dagster as dg

from sqlmesh_dagster import alert_sensors


@dg.definitions
def defs() -> dg.Definitions:
    """Two sensors; `.env.example` names their variables."""
    return dg.Definitions(sensors=alert_sensors())
