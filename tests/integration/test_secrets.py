"""Canaries in every place where a secret is: none is in what Dagster keeps, the project or the logs."""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info
from tests.sqlmesh_dagster.projects import Project, run_in_process, run_multiprocess

from sqlmesh_dagster import SQLMeshResource

pytestmark = pytest.mark.slow

CANARIES = {
    "APP_TOKEN": "cnry-token-1",
    "DB_PASSWORD": "cnry pass/2'&\"%",
    "DATABASE_URL": "postgres://me:cnry-url-3@db.example/x",
    "INNOCENT": "cnry-innocent-4",  # used in a connection's secret field alone
    "SSH_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\ncnryMIIEvQIBADANBg\ncnryhkiG9w0BAQEFAA\n-----END PRIVATE KEY-----",
}
IN_ENV_FILE = {"SERVICE_API_KEY": "cnry-dotenv-5"}
CONFIG = """
gateways:
  local:
    connection:
      type: duckdb
      database: {database}
  other:
    connection:
      type: postgres
      host: localhost
      port: 5432
      user: me
      password: {{{{ env_var('INNOCENT') }}}}
      database: x
default_gateway: local
model_defaults:
  dialect: duckdb
  start: 2025-01-01
disable_anonymized_analytics: true
variables:
  api_token: cnry-variable-6
before_all:
  - SET VARIABLE v1 = '{{{{ env_var("APP_TOKEN") }}}}'
  - SET VARIABLE v2 = 'cnry-literal-7'; -- CREATE SECRET (SECRET 'cnry-literal-7')
  - SELECT CASE WHEN down = 'before' THEN error(getvariable('v1')) END FROM main.flag
after_all:
  - SELECT CASE WHEN down = 'after' THEN error('cnry-literal-7') END FROM main.flag
"""
PYTHON_MODEL = """
import base64, os, urllib.parse
from sqlmesh import model

@model("demo.{name}", kind="FULL", columns={{"id": "int"}})
def entry(context, **kwargs):
    value = os.environ["{variable}"]
    raise ValueError({text})
"""
FORMS = {
    "plain": "value",
    "repr": "repr([value])",
    "quoted": "urllib.parse.quote_plus(value)",
    "encoded": "base64.b64encode(('user:' + value).encode()).decode()",
    "pieces": "'...' + value[-12:]",
}


def seen(text: str) -> list[str]:
    """The canaries that a text shows, in any form."""
    encoded = base64.b64encode(b"user:cnry pass").decode()[8:16]
    forms = ("cnry", encoded, "ass/2", "%22%25", "kG9w0BAQ")
    return [text[max(0, at - 80) : at + 60] for form in forms if (at := text.find(form)) >= 0]


def files(*roots: Path) -> Iterator[tuple[Path, str]]:
    """Everything that is kept below these folders; the warehouse and its state are SQLMesh's."""
    for path in (path for root in roots for path in sorted(root.rglob("*"))):
        if path.is_file() and not path.name.startswith("warehouse.duckdb"):
            yield path, path.read_bytes().decode(errors="replace")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for `DAGSTER_HOME`."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_no_canary_is_kept_whatever_happens(
    project: Project,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Promise: of secrets in the environment, in `.env`, in the config, in SQL and in errors, nothing is kept."""
    caplog.set_level(logging.DEBUG)
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    project.write(".env", "".join(f"{n}={v}\n" for n, v in IN_ENV_FILE.items()))
    texts: list[str] = []

    def load(**settings: object) -> dg.Definitions | None:
        try:
            return project.definitions(**settings)
        except Exception as error:
            texts.append("".join(traceback.format_exception(error)))
            texts.append(json.dumps(serializable_error_info_from_exc_info(sys.exc_info())))
        return None

    project.execute("CREATE TABLE main.flag AS SELECT 'none' AS down")
    project.write("config.yaml", CONFIG.format(database=project.database))
    project.model("good", "SELECT @VAR('api_token') AS t, getvariable('v1') AS u")
    project.write(
        "audits/finds.sql",
        "AUDIT (name finds); SELECT * FROM @this_model WHERE t = 'cnry-variable-6' OR t = @x;",
    )
    project.model(
        "audited",
        "SELECT @VAR('api_token') AS t",
        "kind FULL, audits (finds(x := 'cnry-token-1', blocking := false))",
    )
    project.model(
        "blocked",
        "SELECT @VAR('api_token') AS t",
        "kind FULL, audits (finds(x := 'cnry-token-1'))",
    )
    project.model(
        "owned",
        "SELECT 1 AS id",
        "kind FULL, owner 'cnry-token-1', tags ('cnry-token-1', 'of:cnry-token-1', 'dagster:owner:cnry-token-1'),"
        " description 'of cnry-token-1'",
    )
    project.model("converted", "SELECT @VAR('api_token')::INT AS t")
    project.model("raised", "SELECT error('no ' || getvariable('v2')) AS t")
    for name, form in FORMS.items():
        variable = "SSH_PRIVATE_KEY" if name == "repr" else "DB_PASSWORD"
        project.write(
            f"models/{name}.py", PYTHON_MODEL.format(name=name, variable=variable, text=form)
        )
    project.write(
        "models/dotenv.py",
        PYTHON_MODEL.format(name="dotenv", variable="SERVICE_API_KEY", text="value"),
    )
    sources = {path for path, _ in files(project.root)}  # what the owner wrote
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        defs = load(failing_rows_sample=3)
        assert defs is not None, texts
        run = run_in_process(defs, instance)
        assert {"good", "audited"} <= set(run.materialized)
        assert len(run.failed) == 9
        assert all("***" in text for text in run.failed.values()), run.failed

        for down in ("before", "after"):
            project.execute(f"UPDATE main.flag SET down = '{down}'")
            run = run_in_process(defs, instance, "good", options={"restate": True})
            assert f"{down}_all" in str(run.failed), run.failed
        project.execute("UPDATE main.flag SET down = 'before'")
        project.model("good", "SELECT 1 AS t")
        plan = defs.resolve_job_def("sqlmesh_plan_job").execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {"sqlmesh_plan": {"config": {"apply": True}}}},
        )
        assert not plan.success

        resource = SQLMeshResource(project_dir=str(project.root), environment="dev")

        @dg.asset
        def raw() -> None:
            with resource.connection() as adapter:
                adapter.execute(f"SELECT '{os.environ['INNOCENT']}'::INT")

        assert not dg.materialize([raw], instance=instance, raise_on_error=False).success

        # ------------------------------------------------ what cannot be loaded
        good = (project.root / "config.yaml").read_text()
        mistyped = good.replace("type: duckdb\n", "type: duckdb\n      pasword: cnry-mistyped-8\n")
        for bad in (
            mistyped,
            mistyped.replace("default_gateway: local", "default_gateway: [local"),
            good.replace("port: 5432", "port: cnry-innocent-4"),
            good + "\nbogus: '{{ env_var(\"APP_TOKEN\") }}'\n",
            good.replace("type: duckdb", "type: cnry-token-1"),
        ):
            project.write("config.yaml", bad)
            assert load() is None
            kept = load(keep_last_good=True)
            assert kept is not None
            specs = kept.resolve_all_asset_specs()
            assert all("sqlmesh/problem" in spec.metadata for spec in specs)
            texts.extend(str(spec.metadata) for spec in specs)
            texts.append(str(kept.metadata))
        (project.root / "config.yaml").unlink()
        project.write(
            "config.py",
            "from sqlmesh.core.config import *\n"
            "config = Config(default_connection=PostgresConnectionConfig(host='h', user='u', port=1,"
            " database='d', pasword='cnry-python-9'), model_defaults=ModelDefaultsConfig(dialect='duckdb'))\n",
        )
        assert load() is None
        (project.root / "config.py").unlink()
        project.write("config.yaml", good)
        sources.add(project.root / "models/bad.py")
        project.write(
            "models/bad.py", "import os\nraise RuntimeError('x' + os.environ['APP_TOKEN'])\n"
        )
        assert load() is None

        (project.root / "models/bad.py").unlink()
        project.execute("UPDATE main.flag SET down = 'none'")
        models = " or ".join(f'key:"warehouse/demo/{name}"' for name in ("raised", "plain"))
        run = run_multiprocess(project, home / "processes", select=models)
        assert len(run.failed) == 2
        assert all("***" in text for text in run.failed.values()), run.failed
        logs = [path for path in (home / "processes").rglob("*.err") if path.stat().st_size]
        assert logs  # of the processes of the steps

        out = capfd.readouterr()
        texts += [caplog.text, out.out, out.err]
    assert any("***" in text for text in texts)
    for text in texts:
        assert not seen(text)
    stored = [
        (path, text)
        for path, text in files(home, project.root)
        if path not in sources and "__pycache__" not in path.parts  # the source once more
    ]
    assert len(stored) > 10
    assert not [f"{path}: {found}" for path, text in stored if (found := seen(text))]
