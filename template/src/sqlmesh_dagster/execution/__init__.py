"""During a run: one `sqlmesh run` is led, captured and shaped into Dagster events."""
