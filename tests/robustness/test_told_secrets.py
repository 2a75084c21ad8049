"""Canaries in what the commands print, and in all that they leave: by hand, a dozen commands take minutes."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.test_generated_projects import Project, with_tools_of

pytestmark = pytest.mark.storm

_SECRETS = {
    "DB_PASSWORD": "cnry pass/2'&\"%",
    "APP_TOKEN": "cnry-token-1",
    "DATABASE_URL": "postgres://me:cnry-url-3@db.example/x",
    "SHORT_PW": "zq9x",
    "SSH_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\ncnryMIIEvQIBADANBg\ncnryhkiG9w0BAQEFAA\n-----END PRIVATE KEY-----",
}
_SEEN = ("cnry", "zq9x", base64.b64encode(b"cnry pass/2").decode()[:8], "kG9w0BAQ")
_LEAKY = '''
import base64, os, textwrap, urllib.parse
import dagster as dg
from sqlmesh import model


class Client:
    def __repr__(self):
        return f"Client(password={os.environ['DB_PASSWORD']!r}, pin={os.environ['SHORT_PW']})"


@model("marts.leaky_python", kind="FULL", columns={"id": "int"}, owner="a", description="Leaks.")
def entry(context, **kwargs):
    """Leaks."""
    token, password = os.environ["APP_TOKEN"], os.environ["DB_PASSWORD"]
    print("printed", token, password, os.environ["SSH_PRIVATE_KEY"])
    try:
        raise ConnectionError(f"no login {os.environ['DATABASE_URL']} {urllib.parse.quote_plus(password)}")
    except ConnectionError as error:
        wrapped = textwrap.fill(f"of {Client()} by {base64.b64encode(password.encode()).decode()}", 17)
        raise ValueError(wrapped, Client(), token.upper()) from error
'''
_SQL = """
MODEL (name marts.leaky_sql, kind FULL, owner 'a', description 'Leaks.', audits (not_null(columns := (id))));
SELECT error('no login with ' || 'cnry-token-1')::TEXT AS id /* Id */
"""
_ASSET = """

@dg.asset(group_name="ingest")
def leaky() -> None:
    import os
    raise RuntimeError(f"no login with {os.environ['APP_TOKEN']} and {os.environ['DB_PASSWORD']}")
"""


@pytest.fixture
def project(render: Render, tmp_path: Path) -> Project:
    """The minimal sample, with secrets in its environment and in its `.env`."""
    root = tmp_path / "project"
    shutil.copytree(render(sample="minimal", package_name="shop"), root)
    root.joinpath(".env").write_text("SERVICE_API_KEY=cnry-dotenv-5\n")
    return Project(
        root, with_tools_of(Path(sys.executable), PYTHONPATH=str(root / "src"), **_SECRETS)
    )


def test_no_command_shows_a_secret(project: Project) -> None:
    """Promise: whatever fails, on both streams, with `--verbose` too; nor is one in what is left behind."""
    root, models = project.root, project.root / "sqlmesh_project/models"
    own = _files(root)
    said: list[tuple[str, str]] = []

    def poe(*command: str, **more: str) -> None:
        said.append((" ".join(command), _poe(project, command, more)))

    poe("run")
    (models / "leaky_python.py").write_text(_LEAKY)
    (models / "leaky_sql.sql").write_text(_SQL)
    poe("plan")
    poe("run")
    poe("run", "--verbose", "marts.leaky_python")
    poe("rebuild", "marts.leaky_sql")
    poe("review", SQLMESH_ENVIRONMENT="dev_ada")
    poe("apply", SQLMESH_ENVIRONMENT="dev_bob")
    poe("promote", "--yes")
    poe("rollback", "--yes")
    poe("summary")
    poe("verify")
    poe("check-models")
    poe("conform")
    there = {
        "SQLMESH_GATEWAY": "warehouse",
        "WAREHOUSE_ENGINE": "postgres",
        "WAREHOUSE_HOST": "127.0.0.1",
        "WAREHOUSE_PORT": "1",
        "WAREHOUSE_USER": "ada",
        "WAREHOUSE_PASSWORD": "cnry-warehouse-6",
        "WAREHOUSE_DATABASE": "x",
    }
    for command in (("doctor",), ("move", "--yes"), ("run",), ("plan",)):
        poe(*command, **there)
    poe("alert", ALERT_WEBHOOK_URL="https://hooks.example:cnry/services")
    poe("alert", ALERT_EMAIL="a@b.example", ALERT_SMTP_URL="smtp://me:cnry/x@mail.example")
    for path in ("src/shop/defs/ingest.py", "sqlmesh_project/config.py"):
        file, good = root / path, (root / path).read_text()
        if path.endswith("ingest.py"):
            file.write_text(good + _ASSET)
            poe("load")
            poe("run", "leaky")
            file.write_text(f"{good}\nimport os\nraise ValueError(os.environ['APP_TOKEN'])\n")
            poe("run")
        else:
            file.write_text(
                good.replace(
                    "DuckDBConnectionConfig(", "DuckDBConnectionConfig(pasword='cnry-slip-7', "
                )
            )
            for name in ("run", "plan", "doctor", "conform", "check-models", "format", "move"):
                poe(name)
        file.write_text(good)
    told = [f"{command}: {found}" for command, text in said for found in _shown(text)]
    assert told == []
    assert sum("***" in text for _, text in said) >= 8
    left = {path: text for path, text in _files(root).items() if text != own.get(path)}
    kept = [f"{p}: {f}" for p, text in left.items() if "leaky" not in p.name for f in _shown(text)]
    # the owner's own asset fails with its own error, in Dagster's own words
    assert [line for line in kept if "no login with cnry-token-1 and" not in line] == []
    print(f"\n{len(said)} commands, {len(left)} files")


def _poe(project: Project, command: tuple[str, ...], more: Mapping[str, str]) -> str:
    module, arguments = "sqlmesh_dagster.commands", command
    if command[0] == "conform":
        module, arguments = "sqlmesh_dagster.conform", command[1:]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=project.root,
        env={**project.environment, **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.stdout + done.stderr


def _shown(text: str) -> list[str]:
    return [text[max(0, at - 60) : at + 60] for form in _SEEN if (at := text.find(form)) >= 0]


def _files(root: Path) -> dict[Path, str]:
    """All that was written, but the warehouse, SQLMesh's cache of what models say, and compiled code."""
    return {
        path: path.read_bytes().decode(errors="replace")
        for path in root.rglob("*")
        if path.is_file()
        and not {"__pycache__", ".cache"} & {*path.parts}
        and not path.name.startswith("warehouse.duckdb")
        and path.suffix != ".env"
        and path.name != ".env"
    }
