"""Definitions from the stored manifest: when it is made again, and that it never lies."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import ModelRecord, ProjectLoadError, SQLMeshResource, SQLMeshTranslator
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.engine.changed import load_changed
from sqlmesh_dagster.engine.context import load_manifest
from sqlmesh_dagster.manifest.loading import project_manifest

if TYPE_CHECKING:
    from sqlmesh.core.model import Model

_STORED = ".cache/dagster/manifest.json"
_LIBRARIES = ("sqlmesh", "sqlglot", "pandas")


def _full_project(project: Project) -> None:
    """One file of each kind that SQLMesh loads, and each way to read an environment variable."""
    project.write(
        "config.py",
        f"""
        import os

        from settings.names import OWNER
        from sqlmesh.core.config import (
            Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig
        )

        config = Config(
            gateways={{
                name: GatewayConfig(connection=DuckDBConnectionConfig(database={str(project.database)!r}))
                for name in ("local", "other")
            }},
            default_gateway="local",
            model_defaults=ModelDefaultsConfig(
                dialect="duckdb", start="2025-01-01", owner=OWNER,
                cron=os.environ.get("OUR_CRON", "@daily"),
            ),
            variables={{"label": os.getenv("OUR_LABEL", "plain")}},
            disable_anonymized_analytics=True,
        )
        """,
    )
    (project.root / "config.yaml").unlink()
    project.write("settings/__init__.py", "")
    project.write("settings/names.py", "from settings.deeper import OWNER\n")
    project.write("settings/deeper.py", "OWNER = 'ada'\n")
    project.write(".env", "FROM_DOTENV=one\n")
    project.write("seeds/places.csv", "id,name\n1,Bern\n")
    project.model(
        "places", "", "kind SEED (path '../seeds/places.csv'), columns (id INT, name TEXT)"
    )
    seed = project.root / "models/demo_46_places.sql"
    seed.write_text(seed.read_text().replace("\n;\n", "\n"))
    project.model(
        "labelled",
        "SELECT id::INT AS id, @doubled(id)::INT AS more, @VAR('label') AS label FROM demo.places"
        " JOIN raw.things USING (id)",
        "kind FULL, audits (small)",
    )
    project.write(
        "macros/numbers.py",
        """
        from sqlmesh import macro

        @macro()
        def doubled(evaluator, column):
            return f"{column} * 2"
        """,
    )
    project.write(
        "audits/small.sql", "AUDIT (name small);\nSELECT * FROM @this_model WHERE id > 9;\n"
    )
    project.write(
        "signals/gates.py",
        """
        from sqlmesh import signal

        @signal()
        def gate(batch):
            return True
        """,
    )
    project.model("gated", "SELECT 1::INT AS id", "kind FULL, signals (gate())")
    project.write(
        "models/python.py",
        """
        import os
        import typing as t
        import pandas as pd
        from sqlmesh import ExecutionContext, model

        @model("demo.python", columns={"n": "int"}, kind="FULL", tags=[os.environ.get("OUR_TAG", "x")])
        def execute(context: ExecutionContext, **kwargs: t.Any) -> pd.DataFrame:
            return pd.DataFrame({"n": [1]})
        """,
    )
    project.write(
        "external_models.yaml", "- name: raw.things\n  columns:\n    id: int\n    kind: text\n"
    )


def _replaced(path: str, old: str, new: str) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        file = project.root / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


def _deleted(path: str) -> Callable[[Project], None]:
    return lambda project: (project.root / path).unlink()


_CHANGES: Mapping[str, Callable[[Project], None]] = {
    "a SQL model": _replaced("models/demo_46_gated.sql", "1::INT AS id", "1::INT AS id, 2 AS two"),
    "a new model": lambda project: project.model("new", "SELECT 1 AS id"),
    "a deleted model": _deleted("models/demo_46_gated.sql"),
    "a renamed model": lambda project: project.write(
        "models/demo_46_gated.sql", "MODEL (name demo.renamed);\nSELECT 1 AS id;\n"
    ),
    "a Python model": _replaced("models/python.py", '"n": "int"', '"n": "bigint"'),
    "a macro": _replaced("macros/numbers.py", "* 2", "* 3"),
    "an audit": _replaced("audits/small.sql", "> 9", "> 99"),
    "a signal": _replaced("signals/gates.py", "return True", "return bool(batch)"),
    "a seed": _replaced("seeds/places.csv", "Bern", "Basel"),
    "external models": _replaced("external_models.yaml", "kind: text", "sort: text"),
    "a unit test": lambda project: project.write("tests/test_x.yaml", "{}"),
    "the config": _replaced("config.py", "2025-01-01", "2025-01-02"),
    "a module that the config imports": _replaced("settings/names.py", "from", "import os\nfrom"),
    "a module that such a module imports": _replaced("settings/deeper.py", "ada", "grace"),
    "the .env file": lambda project: project.write(".env", "OUR_CRON=@hourly\n"),
    "settings for a new gateway": lambda project: project.settings.update(gateway="other"),
}
_VARIABLES = {"OUR_CRON": "@weekly", "OUR_LABEL": "new", "OUR_TAG": "new"}
_NO_CHANGES: Mapping[str, Callable[[Project], None]] = {
    "times": lambda project: _touch(*project.root.rglob("*.*")),
    "a README": lambda project: project.write("README.md", "Hello"),
    "data": lambda project: project.write("data/raw.csv", "id\n1\n"),
    "logs and caches": lambda project: project.write("logs/x.log", "x"),
    "bytecode": lambda project: project.write("macros/__pycache__/numbers.cpython-3.pyc", "x"),
}


def _resource(project: Project, **settings: Any) -> SQLMeshResource:
    chosen = {k: v for k, v in {**project.settings, **settings}.items() if k != "environment"}
    return SQLMeshResource(project_dir=str(project.root), **chosen)


def _in_a_process(project: Project, **settings: Any) -> tuple[bool, Manifest]:
    """Whether a fresh process loads SQLMesh for its definitions, and the manifest it then has."""
    code = (
        "import json, sys\n"
        "from sqlmesh_dagster import SQLMeshResource\n"
        "from sqlmesh_dagster.manifest.loading import project_manifest\n"
        "from pydantic import TypeAdapter\n"
        "from sqlmesh_dagster.definition.records import Manifest\n"
        "manifest = project_manifest(SQLMeshResource(**json.loads(sys.argv[1])))\n"
        "text = TypeAdapter(Manifest).dump_json(manifest).decode()\n"
        "print(json.dumps(['sqlmesh' in sys.modules, text]))\n"
    )
    arguments = {"project_dir": str(project.root), **settings}
    arguments |= {k: v for k, v in project.settings.items() if k != "environment"}
    output = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout
    is_cold, text = json.loads(output.splitlines()[-1])
    from pydantic import TypeAdapter

    return is_cold, TypeAdapter(Manifest).validate_json(text)


def _is_cold(project: Project, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> bool:
    """Whether the project is loaded now; compares what is used with a full load, too."""
    loads = []

    def load(*arguments: Any) -> Manifest:
        loads.append(arguments)
        return load_manifest(*arguments)

    def load_part(*arguments: Any) -> Manifest | None:
        loads.append(arguments)
        return load_changed(*arguments)

    environ = dict(os.environ)
    monkeypatch.setattr("sqlmesh_dagster.engine.context.load_manifest", load)
    monkeypatch.setattr("sqlmesh_dagster.engine.changed.load_changed", load_part)
    used = project_manifest(_resource(project, **settings))
    full = load_manifest(_resource(project, **settings).settings)
    os.environ.clear()
    os.environ.update(environ)  # SQLMesh lets `.env` override it
    assert used == full
    return bool(loads)


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables of these tests, and none of this machine's SQLMesh settings."""
    for name in ("OUR_CRON", "OUR_LABEL", "OUR_TAG", "FROM_DOTENV"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("own_home")
@pytest.mark.slow
@pytest.mark.usefixtures("cold_processes")
def test_definitions_of_a_known_project_import_no_sqlmesh(project: Project) -> None:
    """Promise: assets, checks, job and schedule come from the stored manifest alone."""
    _full_project(project)
    code = (
        "import sys\n"
        "from sqlmesh_dagster import sqlmesh_definitions_factory\n"
        "definitions = sqlmesh_definitions_factory(project_dir=sys.argv[1])\n"
        "definitions.resolve_implicit_global_asset_job_def()\n"
        f"print([name for name in {_LIBRARIES} if name in sys.modules])\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, str(project.root)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    assert printed == [str(list(_LIBRARIES)), "[]"]


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("change", _CHANGES)
def test_a_change_that_sqlmesh_sees_makes_the_manifest_anew(
    project: Project, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Promise: what is used equals a full load, before, after, and once more."""
    _full_project(project)
    assert _is_cold(project, monkeypatch)
    assert not _is_cold(project, monkeypatch)
    _forget_modules("settings")
    _CHANGES[change](project)
    assert _is_cold(project, monkeypatch)
    assert not _is_cold(project, monkeypatch)


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("variable", _VARIABLES)
def test_an_environment_variable_that_the_project_reads_makes_it_anew(
    project: Project, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Promise: read in the config or in a model; others, such as `PATH`, change nothing."""
    _full_project(project)
    assert _is_cold(project, monkeypatch)
    monkeypatch.setenv("OUR_OTHER", "new")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/somewhere")
    assert not _is_cold(project, monkeypatch)
    monkeypatch.setenv(variable, _VARIABLES[variable])
    assert _is_cold(project, monkeypatch)
    assert not _is_cold(project, monkeypatch)
    monkeypatch.delenv(variable)
    assert _is_cold(project, monkeypatch)


@pytest.mark.parametrize(
    ("name", "value"), [("OUR_SCHEMA", "there"), ("SQLMESH__MODEL_DEFAULTS__CRON", "@weekly")]
)
def test_a_variable_of_a_yaml_config_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Promise: `env_var` in YAML, and SQLMesh's own `SQLMESH__…`."""
    monkeypatch.delenv(name, raising=False)
    config = project.root / "config.yaml"
    config.write_text(
        config.read_text() + "variables:\n  place: {{ env_var('OUR_SCHEMA', 'here') }}\n"
    )
    project.model("placed", "SELECT @VAR('place') AS place")
    assert _is_cold(project, monkeypatch)
    monkeypatch.setenv(name, value)
    assert _is_cold(project, monkeypatch)
    assert not _is_cold(project, monkeypatch)


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("change", _NO_CHANGES)
def test_what_sqlmesh_does_not_see_leaves_it_warm(
    project: Project, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Promise: the content counts, and of those files alone that SQLMesh reads."""
    _full_project(project)
    assert _is_cold(project, monkeypatch)
    _NO_CHANGES[change](project)
    assert not _is_cold(project, monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("cold_processes")
def test_a_copy_elsewhere_is_warm(project: Project, tmp_path: Path) -> None:
    """Promise: an image with a manifest that was baked elsewhere loads no SQLMesh, and knows its place."""
    project.model("full", "SELECT 1::INT AS id")
    project.write("config.yaml", (project.root / "config.yaml").read_text())
    assert _in_a_process(project)[0]
    shutil.copytree(project.root, tmp_path / "image" / "app")
    os.utime(tmp_path / "image" / "app" / "config.yaml", (1, 1))
    copy = Project.__new__(Project)
    copy.root, copy.settings = tmp_path / "image" / "app", {}
    is_cold, manifest = _in_a_process(copy)
    assert not is_cold
    assert manifest.project_dir == str(copy.root)
    assert [model.path for model in manifest.models] == ["models/demo_46_full.sql"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 0}', b"\x00\xff", b'{"format": 1, "inputs": {}}']
)
def test_a_file_that_is_not_a_whole_manifest_is_made_anew(
    project: Project, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Promise: truncated, foreign or of another version, it is never half used."""
    project.model("full", "SELECT 1::INT AS id")
    assert _is_cold(project, monkeypatch)
    (project.root / _STORED).write_bytes(content)
    assert _is_cold(project, monkeypatch)
    assert not _is_cold(project, monkeypatch)


def test_a_truncated_manifest_is_made_anew(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: at whatever byte it ends."""
    project.model("full", "SELECT 1::INT AS id")
    assert _is_cold(project, monkeypatch)
    whole = (project.root / _STORED).read_bytes()
    for size in range(0, len(whole), len(whole) // 5 + 1):
        (project.root / _STORED).write_bytes(whole[:size])
        assert _is_cold(project, monkeypatch)
    assert (project.root / _STORED).read_bytes() == whole


@pytest.mark.slow
def test_processes_that_make_it_at_once_don_t_spoil_it(project: Project) -> None:
    """Promise: each writes it whole; no reader sees a half."""
    project.model("full", "SELECT 1::INT AS id")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sqlmesh_dagster import SQLMeshResource\n"
        "from sqlmesh_dagster.manifest.loading import project_manifest\n"
        "for _ in range(10):\n"
        "    project_manifest(SQLMeshResource(project_dir=sys.argv[1]))\n"
        f"    Path(sys.argv[1], {_STORED!r}).unlink(missing_ok=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(project.root)]
    running = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert list((project.root / _STORED).parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_with_the_command(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: definitions load all the same, and the message says how to bake the manifest."""
    project.model("full", "SELECT 1::INT AS id")
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        manifest = project_manifest(_resource(project, manifest_dir=str(tmp_path / "file" / "x")))
    assert [model.name for model in manifest.models] == ["demo.full"]
    assert "dg check defs" in caplog.text


def test_a_manifest_in_another_folder_is_used(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: `manifest_dir` is for project folders that cannot be written."""
    project.model("full", "SELECT 1::INT AS id")
    elsewhere = str(tmp_path / "elsewhere")
    assert _is_cold(project, monkeypatch, manifest_dir=elsewhere)
    assert not _is_cold(project, monkeypatch, manifest_dir=elsewhere)
    assert not (project.root / _STORED).exists()


def test_a_file_that_is_saved_during_the_load_is_seen_by_the_next(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a manifest of the old content is not stored under the new one."""
    project.model("full", "SELECT 1::INT AS id")

    def load_and_save(*arguments: Any) -> Manifest:
        manifest = load_manifest(*arguments)
        project.model("late", "SELECT 1::INT AS id")
        return manifest

    monkeypatch.setattr("sqlmesh_dagster.engine.context.load_manifest", load_and_save)
    assert len(project_manifest(_resource(project)).models) == 1
    assert _is_cold(project, monkeypatch)


class _Counting(SQLMeshTranslator):
    def read_model(self, model: Model) -> Mapping[str, Any]:
        return {"columns": len(model.columns_to_types or {})}

    def get_tags(self, model: ModelRecord) -> Mapping[str, str]:
        return {"columns": str(model.extra["columns"])}


def test_a_translator_can_keep_more_of_a_loaded_model(project: Project) -> None:
    """Promise: `read_model` runs when the manifest is made; the record brings what it kept."""
    project.model("full", "SELECT 1::INT AS id, 2::INT AS two")
    project.definitions()  # a manifest without it is not used
    for _ in range(2):
        (spec,) = project.definitions(translator=_Counting()).resolve_all_asset_specs()
        assert spec.tags["columns"] == "2"


def test_a_broken_model_fails_the_load_unless_the_last_good_is_to_be_kept(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """Promise: the last good definitions say why they are old, and runs go on with what is deployed."""
    project.model("full", "SELECT 1::INT AS id", "kind FULL, cron '@hourly'")
    good = project.definitions()
    assert run_in_process(good, instance).success
    project.model("broken", "SELEC 1 AS id FROM")
    with pytest.raises(ProjectLoadError, match="broken"):
        project.definitions()
    kept = project.definitions(keep_last_good=True)
    (spec,) = kept.resolve_all_asset_specs()
    assert "broken" in spec.metadata["sqlmesh/problem"].value
    assert "sqlmesh/problem" in (kept.metadata or {})
    run = run_in_process(kept, instance, now="2025-01-10T05:30:00")
    assert run.materialized == ["full"]
    (project.root / "models/demo_46_broken.sql").unlink()
    (spec,) = project.definitions(keep_last_good=True).resolve_all_asset_specs()
    assert "sqlmesh/problem" not in spec.metadata


_ENDS = ("raise KeyboardInterrupt", "raise SystemExit(3)", "raise GeneratorExit", "sys.exit('bye')")
_PLACES = {
    "models/ends.py": "import sys\n{}\n",
    "macros/ends.py": "import sys\n{}\n",
    "config.py": "import sys\n{}\n",
}


@pytest.mark.parametrize("path", _PLACES)
def test_a_file_that_ends_the_process_is_a_load_error(project: Project, path: str) -> None:
    """Promise: one message with the file, and the last good definitions help; whatever it raises."""
    project.model("full", "SELECT 1::INT AS id")
    project.definitions()
    if path == "config.py":
        (project.root / "config.yaml").unlink()
    for end in _ENDS:
        project.write(path, _PLACES[path].format(end))
        with pytest.raises(ProjectLoadError, match=path):
            project.definitions()
        (spec,) = project.definitions(keep_last_good=True).resolve_all_asset_specs()
        assert path in spec.metadata["sqlmesh/problem"].value


def test_a_load_that_is_stopped_is_no_load_error(project: Project) -> None:
    """Promise: Ctrl-C ends the process that loads, also while a file of the project runs."""
    project.write(
        "models/waits.py",
        """
        import os, signal, time

        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        """,
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            project.definitions()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_model_that_ends_the_process_fails_alone(
    project: Project, instance: dg.DagsterInstance, end: str
) -> None:
    """Promise: as a model that raises; what does not read it is built, and the run ends."""
    project.model("beside", "SELECT 1::INT AS id")
    project.write(
        "models/ends.py",
        f"""
        import sys
        from sqlmesh import model

        @model("demo.ends", kind="FULL", columns={{"id": "int"}})
        def entry(context, **kwargs):
            {end}
        """,
    )
    run = run_in_process(project.definitions(), instance)
    assert run.materialized == ["beside"]
    ((step, error),) = run.failed.items()
    assert step.endswith("ends") and ("SystemExit: 3" in error or "KeyboardInterrupt" in error)


def test_a_broken_project_without_a_last_good_load_fails(project: Project) -> None:
    """Promise: nothing is made up."""
    project.model("broken", "SELEC 1 AS id FROM")
    with pytest.raises(ProjectLoadError, match="broken"):
        project.definitions(keep_last_good=True)


def test_a_stored_manifest_is_the_same_as_a_built_one(project: Project) -> None:
    """Promise: nothing of a record is lost on the way through the file."""
    _full_project(project)
    built = project_manifest(_resource(project))
    _, read = _in_a_process(project)
    assert replace(read, project_dir=built.project_dir) == built


def _touch(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (1, 1))


def _forget_modules(package: str) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]


def test_loads_in_several_threads_record_what_each_reads() -> None:
    """Regression: one thread that ended its recording broke the environment for another."""
    from sqlmesh_dagster.manifest.inputs import recorded_variables

    kind = type(os.environ)
    with recorded_variables() as outer:
        with recorded_variables() as inner:
            os.environ.get("OUR_FIRST")
        os.environ.get("OUR_SECOND")
    assert "OUR_FIRST" in inner and "OUR_SECOND" not in inner
    assert {"OUR_FIRST", "OUR_SECOND"} <= outer
    assert type(os.environ) is kind


_PYTHON_CONFIG = """
import os

from sqlmesh.core.config import (
    Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig, PostgresConnectionConfig
)

PASSWORD = os.environ.get("OUR_PASSWORD", "")
config = Config(
    gateways={
        "local": GatewayConfig(
            connection=DuckDBConnectionConfig(
                catalogs={"warehouse": os.getenv("OUR_FILE", "warehouse.duckdb")}
            ),
            state_connection=PostgresConnectionConfig(
                host=os.getenv("OUR_HOST", "build"), port=int(os.getenv("OUR_PORT", "1")),
                user="ada", password=PASSWORD, database="state",
            ),
        )
    },
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start=os.getenv("OUR_START", "2025-01-01")),
    disable_anonymized_analytics=True,
)
"""
_YAML_CONFIG = """
gateways:
  local:
    connection:
      type: duckdb
      catalogs:
        warehouse: "{{ env_var('OUR_FILE', 'warehouse.duckdb') }}"
    state_connection:
      type: postgres
      host: "{{ env_var('OUR_HOST', 'build') }}"
      port: {{ env_var('OUR_PORT', '1') }}
      user: ada
      password: "{{ env_var('OUR_PASSWORD', 'none') }}"
      database: state
model_defaults:
  dialect: duckdb
  start: {{ env_var('OUR_START', '2025-01-01') }}
disable_anonymized_analytics: true
"""


@pytest.mark.parametrize(
    ("name", "config"), [("config.py", _PYTHON_CONFIG), ("config.yaml", _YAML_CONFIG)]
)
def test_a_baked_manifest_is_used_whatever_the_credentials_are(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, config: str
) -> None:
    """Promise: what only connects may differ between image and pod, in `.env` as well; a start date may not."""
    values = {
        "OUR_FILE": str(tmp_path / "other.duckdb"),
        "OUR_HOST": "production",
        "OUR_PORT": "5432",
        "OUR_PASSWORD": "secret",
    }
    for variable in (*values, "OUR_START"):
        monkeypatch.delenv(variable, raising=False)
    (project.root / "config.yaml").unlink()
    project.write(name, config)
    project.model("one", "SELECT 1::INT AS id")
    assert _is_cold(project, monkeypatch)
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    if name == "config.yaml":  # SQLMesh merges no such override into a connection of Python
        monkeypatch.setenv("SQLMESH__GATEWAYS__LOCAL__STATE_CONNECTION__USER", "grace")
    assert not _is_cold(project, monkeypatch)
    project.write(".env", "OUR_PASSWORD=another\n")
    assert not _is_cold(project, monkeypatch)
    project.write(".env", "OUR_START=2025-01-02\n")
    assert _is_cold(project, monkeypatch)
