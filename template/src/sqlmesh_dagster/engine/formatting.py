"""SQLMesh's formatter where the project wants it: `python -m sqlmesh_dagster.engine.formatting [--check]`.

A project wants it if its config says how, with a `format` section. SQLMesh cannot format dbt's files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sqlmesh import Context

from sqlmesh_dagster.engine.culprit import with_culprit
from sqlmesh_dagster.engine.databases import anchor_new_contexts
from sqlmesh_dagster.guard.folder import at_home
from sqlmesh_dagster.guard.secrets import learn_of_project, masked_output
from sqlmesh_dagster.layout import project_folder
from sqlmesh_dagster.upstream.internals import FormatConfig
from sqlmesh_dagster.upstream.sqlmesh import is_dbt_project, own_cache_entries


def main(arguments: list[str]) -> int:
    """Formats the project's SQL, or looks whether it is formatted.

    Returns:
        The exit status: 1 if files need formatting.
    """
    folder = Path(project_folder()).resolve()
    learn_of_project(folder)
    anchor_new_contexts(folder)
    with at_home([folder]), masked_output():
        try:
            return _formatted(folder, arguments)
        except Exception as error:  # of any file of the project
            print(f"Error: {with_culprit(error, str(error).strip(), folder)}", file=sys.stderr)
            return 1


def _formatted(folder: Path, arguments: list[str]) -> int:
    context = Context(paths=str(folder), load=False)
    if is_dbt_project(context):
        print("SQLMesh's formatter leaves a dbt project alone.")
        return 0
    if context.config.format == FormatConfig() and "format" not in context.config.model_fields_set:
        print("SQL is not formatted: SQLMesh's config has no `format` section.")
        return 0
    with own_cache_entries(anew=False):
        context.load()
    is_formatted = context.format(check="--check" in arguments or None)
    if not is_formatted:
        print("Run `poe format`.")
    return 0 if is_formatted else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
