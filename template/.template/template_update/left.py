"""What an answer leaves for the owner, because it belongs into a file of the owner's."""

from collections.abc import Mapping
from pathlib import Path

_CALL = "with_warehouse"
_LINE = f"from sqlmesh_dagster.gateways import {_CALL}; config = {_CALL}(config)"
_CONFIGS = ("config.py", "config.yaml", "config.yml", "sqlmesh.yaml", "sqlmesh.yml")


def for_owner(root: Path, answers: Mapping[str, str]) -> str:
    """One line, or nothing."""
    warehouse = answers.get("warehouse", "duckdb")
    folder = root / answers.get("sqlmesh_project_dir", "sqlmesh_project")
    found = next((folder / name for name in _CONFIGS if (folder / name).is_file()), None)
    if warehouse == "duckdb" or found is None or _CALL in found.read_text(errors="replace"):
        return ""
    name = found.relative_to(root).as_posix()
    if found.suffix == ".py":
        return f"Put at the end of `{name}`, so that `SQLMESH_GATEWAY={warehouse}` works: `{_LINE}`"
    return f"Put a gateway `{warehouse}` into `{name}`; or use a `config.py`, which ends with `{_LINE}`"
