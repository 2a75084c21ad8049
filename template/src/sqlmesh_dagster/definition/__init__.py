"""Before any run: a SQLMesh project as records, and records as Dagster specs. Imports no SQLMesh."""
