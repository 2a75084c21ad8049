"""Before any run: a SQLMesh project becomes records, and records become Dagster specs."""
