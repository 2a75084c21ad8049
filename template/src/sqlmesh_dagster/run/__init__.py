"""What Dagster launches: model steps, plans, verification, the schedule and the sync sensor. SQLMesh is imported only inside functions."""
