"""What an answer leaves for the owner, because it belongs into a file of the owner's."""

from collections.abc import Iterator, Mapping
from pathlib import Path

_CALL = "with_warehouse"
_LINE = f"from sqlmesh_dagster.gateways import {_CALL}; config = {_CALL}(config)"
_CONFIGS = ("config.py", "config.yaml", "config.yml", "sqlmesh.yaml", "sqlmesh.yml")
_EXAMPLE, _PASSWORD = ".env.example", "POSTGRES_PASSWORD"
_OWN = "deploy/kubernetes/own.yaml"


def for_owner(root: Path, answers: Mapping[str, str]) -> str:
    """One line for each answer, or nothing."""
    return " ".join((*_of_warehouse(root, answers), *_of_deployment(root, answers)))


def _of_warehouse(root: Path, answers: Mapping[str, str]) -> Iterator[str]:
    warehouse = answers.get("warehouse", "duckdb")
    folder = root / answers.get("sqlmesh_project_dir", "sqlmesh_project")
    found = next((folder / name for name in _CONFIGS if (folder / name).is_file()), None)
    if warehouse == "duckdb" or found is None or _CALL in found.read_text(errors="replace"):
        return
    name = found.relative_to(root).as_posix()
    if found.suffix == ".py":
        yield f"Put at the end of `{name}`, so that `SQLMESH_GATEWAY={warehouse}` works: `{_LINE}`."
    else:
        yield f"Put a gateway `{warehouse}` into `{name}`; or use a `config.py`, which ends with `{_LINE}`."


def _of_deployment(root: Path, answers: Mapping[str, str]) -> Iterator[str]:
    deployment = answers.get("deployment", "none")
    example = root / _EXAMPLE
    text = example.read_text(errors="replace") if example.is_file() else ""
    if deployment == "docker-compose" and _PASSWORD not in text:
        yield (
            f"Write a line `# {_PASSWORD}=` into `{_EXAMPLE}`, for the others; on the machine that runs"
            " `compose.yaml`, set it in `.env`."
        )
    if deployment == "kubernetes" and not (root / _OWN).is_file():
        yield (
            f"Write `{_OWN}`, with the place of Dagster's Postgres: `postgresql: {{postgresqlHost: …,"
            " postgresqlUsername: …, postgresqlDatabase: …}`."
        )
