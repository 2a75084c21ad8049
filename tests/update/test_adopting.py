"""The how-tos, run as they are written, in repositories that people have."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pytest

from tests.conftest import ROOT
from tests.postgres import postgres
from tests.tree import parse_toml
from tests.update.projects import Project
from tests.update.releases import NEXT, Template, clone, commit, git

pytestmark = pytest.mark.usefixtures("warm_processes")

BLOCK = re.compile(r"^ *```bash\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SQLMESH: dict[str, str] = {
    "config.yaml": """\
gateways:
  local:
    connection:
      type: duckdb
      database: warehouse.db
default_gateway: local
model_defaults:
  dialect: duckdb
  start: 2024-01-01
""",
    "models/orders.sql": "MODEL (name shop.orders, kind FULL, audits (not_null(columns := (id))));\n"
    "SELECT id, amount FROM shop.numbers;\n",
    "models/numbers.sql": "MODEL (name shop.numbers, kind VIEW);\n"
    "SELECT x.x::INT AS id, @twice(x.x)::INT AS amount\nFROM (VALUES (1), (2)) AS x(x);\n",
    "macros/__init__.py": "",
    "macros/twice.py": "from sqlmesh import macro\n\n\n@macro()\ndef twice(evaluator, value):\n"
    "    return f'2 * {value}'\n",
    "tests/test_orders.yaml": """\
test_orders:
  model: shop.orders
  inputs:
    shop.numbers:
      rows: [{id: 1, amount: 2}]
  outputs:
    query:
      rows: [{id: 1, amount: 2}]
""",
}
RUFF = (sys.executable, "-m", "ruff")
REPOSITORY = {
    "README.md": "# Ours\n",
    "pyproject.toml": '[project]\nname = "ours"\nversion = "3"\n',
    ".gitignore": "*.db\nsecrets/\n",
    ".gitattributes": "*.csv -text\n",
    ".github/workflows/ci.yml": "on: push\njobs: {}\n",
    ".github/workflows/deploy.yml": "on: push\njobs: {}\n",
    "data/ours.csv": "a,b\n",
    "tests/test_ours.py": "def test_nothing() -> None:\n    pass\n",
}
FACTORY = """\
from dg_sqlmesh import sqlmesh_definitions_factory

defs = sqlmesh_definitions_factory(
    project_dir="transform",
    gateway="local",
    environment="prod",
    concurrency_limit=1,
    external_asset_mapping="sources/{node.schema}/{node.name}",
    group_name="ours",
    op_tags={"team": "ours"},
    owners=["team:ours"],
    schedule_name="our_schedule",
    enable_schedule=True,
)
"""


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The versions of this repository, and one to come."""
    template = clone(source, tmp_path_factory.mktemp("adopting") / "template")

    def fix(root: Path) -> None:
        for name in ("src/sqlmesh_dagster/errors.py", "src/sqlmesh_dagster/component.py"):
            path = root / "template" / name
            path.write_text(path.read_text() + "# fixed\n")
        pyproject = root / "template/pyproject.toml.jinja"
        pyproject.write_text(pyproject.read_text().replace("anyio>=4,<5", "anyio>=4.1,<5"))

    template.release("90.0.0", fix)
    git(template.root, "tag", "--delete", "v90.0.0")
    return template


def repository(
    root: Path,
    sqlmesh_dir: str,
    files: Mapping[str, str],
    sqlmesh_files: Mapping[str, str] = SQLMESH,
) -> Project:
    """A repository with a SQLMesh project, committed."""
    sqlmesh = {f"{sqlmesh_dir}/{name}": text for name, text in sqlmesh_files.items()}
    for name, text in {**files, **sqlmesh}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    commit(root, "Ours")
    return Project(root)


def environment(project: Project, template: Template) -> dict[str, str]:
    """What the how-to takes for granted: the tools, and the project as if it were installed."""
    tools = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([tools, os.environ["PATH"]]),
        "PYTHONPATH": str(project.root / "src"),
        "TEMPLATE": str(template.root),
        "DAGSTER_HOME": str(project.root / "dagster_home"),
    }


def follow(
    howto: str,
    project: Project,
    template: Template,
    replace: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> str:
    """Run every command of a how-to; returns what the last one prints."""
    blocks = BLOCK.findall((ROOT / "docs" / howto).read_text())
    assert len(blocks) >= 3
    output = ""
    for block in blocks:
        for old, new in (replace or {}).items():
            block = block.replace(old, new)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=project.root,
            env={**environment(project, template), **(more or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        output = done.stdout
    return output


def built(project: Project, template: Template, module: str) -> set[str]:
    """The assets that one run of everything builds."""
    subprocess.run(
        ["sqlmesh", "-p", "transform", "plan", "--auto-apply", "--no-prompts", "--skip-backfill"],
        cwd=project.root,
        env=environment(project, template),
        check=True,
        capture_output=True,
    )
    script = f"""
import dagster as dg
from {module} import defs
found = defs() if callable(defs) else defs
job = found.resolve_implicit_global_asset_job_def()
with dg.DagsterInstance.ephemeral() as instance:
    result = job.execute_in_process(instance=instance)
print(*(e.asset_key.to_user_string() for e in result.get_asset_materialization_events()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project.root,
        env={**environment(project, template), "SQLMESH_ENVIRONMENT": "prod"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_a_repository_with_a_sqlmesh_project_keeps_all_of_it(
    template: Template, tmp_path: Path
) -> None:
    """Every byte is there, Dagster sees and builds the models, and the next update is clean."""
    project = repository(tmp_path / "ours", "transform", REPOSITORY)
    before = project.contents()

    listed = follow("adopt-a-sqlmesh-project.md", project, template)

    assert "orders" in listed
    after = project.contents()
    aside = ("pyproject.toml", ".github/workflows/ci.yml")
    for name, content in before.items():
        if name == ".gitignore":
            assert after[name].endswith(content) and b"yours below" in after[name]
        else:
            assert after[f"{name}.mine" if name in aside else name] == content, name
    assert built(project, template, "my_platform.definitions") == {
        "shop/numbers",
        "shop/orders",
    }
    bring_back(project)
    updated_cleanly(project, template)


def bring_back(project: Project) -> None:
    """What the how-to says to do in an editor."""
    pyproject = project.root / "pyproject.toml"
    pyproject.write_text(
        pyproject.read_text().replace("above ---\n]", 'above ---\n    "ours>=3",\n]', 1)
        + "\n[tool.ours]\nkey = 1\n"
    )
    (project.root / "pyproject.toml.mine").unlink()
    git(project.root, "clean", "--quiet", "--force", "-d")
    project.commit()


def updated_cleanly(project: Project, template: Template) -> None:
    """The release to come arrives, and nothing else happens."""
    git(template.root, "tag", "v90.0.0")
    try:
        report = project.report()
    finally:
        git(template.root, "tag", "--delete", "v90.0.0")
    assert (report["exit_code"], report["before"]) == (0, f"v{NEXT}")
    assert (project.root / "src/sqlmesh_dagster/component.py").read_text().endswith("# fixed\n")
    assert "anyio>=4.1" in (project.root / "pyproject.toml").read_text()


def test_a_sqlmesh_project_at_the_root_is_adopted_in_place(
    template: Template, tmp_path: Path
) -> None:
    """SQLMesh's folders and the template's share the root; both kinds of tests are in `tests`."""
    project = repository(tmp_path / "ours", ".", {"README.md": "# Ours\n"})
    before = project.contents()
    at_the_root = {"sqlmesh_project_dir=transform": "sqlmesh_project_dir=."}
    listed = follow("adopt-a-sqlmesh-project.md", project, template, at_the_root)
    assert "orders" in listed
    after = project.contents()
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.startswith(("data/", "sqlmesh_project/"))]


def test_python_that_the_template_did_not_bring_is_left_alone(
    template: Template, tmp_path: Path
) -> None:
    """`ruff` and `mypy` look at the template's part, until the owner opts in; no file is rewritten."""
    untidy = {
        "scripts/old.py": "import os,sys\nx=lambda :1\n",
        "src/ours/__init__.py": "x = [\n1]\n",
    }
    project = repository(tmp_path / "ours", "transform", {**REPOSITORY, **untidy})
    follow("adopt-a-sqlmesh-project.md", project, template)
    before = project.contents()
    for command in ("check", "format", "check --fix"):
        done = subprocess.run(
            [*RUFF, *command.split(), "--no-cache"],
            cwd=project.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    assert project.contents() == before
    pyproject = project.root / "pyproject.toml"
    lines = [x for x in pyproject.read_text().splitlines() if not x.startswith('include = ["src')]
    pyproject.write_text("\n".join(lines))
    opted_in = subprocess.run([*RUFF, "check"], cwd=project.root, capture_output=True, check=False)
    assert b"scripts/old.py" in opted_in.stdout


def test_a_dbt_project_is_adopted_and_runs(template: Template, tmp_path: Path) -> None:
    """As the page says; then `poe run`, and every step of `poe check` that judges the project's files."""
    pytest.importorskip("dbt.version", reason="dbt is not installed")
    root = tmp_path / "ours"
    shutil.copytree(ROOT / "tests/projects/dbt_shop", root / "transform")
    shutil.copytree(root / "transform/local_packages", root / "transform/dbt_packages")
    project = repository(root, "transform", {"README.md": "# Ours\n"}, {})
    before = project.contents()

    listed = follow("come-from-dagster-dbt.md", project, template)

    assert "customer_value" in listed
    after = project.contents()
    assert {name: after[name] for name in before} == before
    with contextlib.closing(duckdb.connect(str(root / "transform/shop.duckdb"))) as connection:
        connection.execute(
            "CREATE SCHEMA raw; CREATE TABLE raw.orders AS SELECT 1 AS id, 1 AS customer_id, 9 AS amount"
        )
    environ = environment(project, template)
    done: list[str] = []
    for command in ("poe run", "poe run", *_checks()):
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=root,
            env={**environ, "SQLMESH_PROJECT_DIR": "transform"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        done.append(result.stdout)
    assert "6 built" in done[0] or "built" in done[0], done[0]
    with contextlib.closing(duckdb.connect(str(root / "transform/shop.duckdb"))) as connection:
        rows = connection.execute("SELECT * FROM main__dev.customer_value").fetchall()
    assert rows == [(1, "Jo", 900)]
    assert [p.relative_to(root) for p in root.rglob("*.duckdb")] == [Path("transform/shop.duckdb")]


_CONFIG_IN_PYTHON = """\
import os

from sqlmesh.core.config import Config, GatewayConfig, ModelDefaultsConfig
from sqlmesh.core.config.connection import PostgresConnectionConfig


def database(name: str) -> PostgresConnectionConfig:
    return PostgresConnectionConfig(
        host="127.0.0.1", port=int(os.environ["OUR_PORT"]), user="postgres", password="", database=name
    )


config = Config(
    gateways={"ours": GatewayConfig(connection=database("shop"), state_connection=database("state"))},
    default_gateway="ours",
    model_defaults=ModelDefaultsConfig(dialect="postgres", start="2024-01-01"),
    disable_anonymized_analytics=True,
)
"""
_GROUP = "return super().get_group_name(model) or model.schema_name"
_NO_GROUP = 'return str(1 // (model.view_name != "orders"))'


@pytest.mark.slow
def test_a_python_config_on_postgres_is_adopted_and_changes_nothing(
    template: Template, tmp_path: Path
) -> None:
    """As the page says: Dagster finds the production that `sqlmesh` made, and has nothing to build.

    A model that Dagster cannot show makes `poe check` red, which names it.
    """
    files = {name: text for name, text in SQLMESH.items() if name != "config.yaml"}
    project = repository(
        tmp_path / "ours", "transform", REPOSITORY, {**files, "config.py": _CONFIG_IN_PYTHON}
    )
    with postgres() as server:
        server.create_database("shop")
        server.create_database("state")
        environ = {
            **environment(project, template),
            "OUR_PORT": str(server.port),
            "SQLMESH_PROJECT_DIR": "transform",
            "SQLMESH_ENVIRONMENT": "prod",
        }

        def run(command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["bash", "-c", command],
                cwd=project.root,
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )

        planned = run("sqlmesh -p transform plan --auto-apply --no-prompts")
        assert planned.returncode == 0, planned.stdout
        state = "SELECT name, plan_id, finalized_ts FROM sqlmesh._environments"
        intervals = "SELECT name, start_ts, end_ts FROM sqlmesh._intervals ORDER BY 1"
        before = [server.query("state", sql) for sql in (state, intervals)]
        rows = server.query("shop", "SELECT id, amount FROM shop.orders ORDER BY 1")
        listed = follow("adopt-a-sqlmesh-project.md", project, template, more=environ)
        assert "orders" in listed
        done = run("poe run")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "2 up to date" in done.stdout and "built" not in done.stdout, done.stdout
        assert [server.query("state", sql) for sql in (state, intervals)] == before
        assert server.query("shop", "SELECT id, amount FROM shop.orders ORDER BY 1") == rows
        check = _checks()[-1]
        assert run(check).returncode == 0
        (transform,) = (project.root / "src").glob("*/defs/transform.py")
        text = transform.read_text()
        assert _GROUP in text
        transform.write_text(text.replace(_GROUP, _NO_GROUP))
        red = run(check)
        assert red.returncode != 0 and "shop.orders" in red.stdout + red.stderr


def _checks() -> list[str]:
    """The commands of `poe check`."""
    tasks = parse_toml(ROOT / "template/poe_tasks.toml")["tasks"]
    return [
        " ".join([*(f"{k}='{v}'" for k, v in step.get("env", {}).items()), step["cmd"]])
        for step in tasks["check"]["sequence"]
    ]


def test_definitions_of_dg_sqlmesh_need_but_another_import(
    template: Template, tmp_path: Path
) -> None:
    """The factory's call is untouched, its names hold, and one run builds every model."""
    package = {
        "src/my_dagster/__init__.py": "",
        "src/my_dagster/definitions.py": FACTORY,
    }
    project = repository(tmp_path / "ours", "transform", {**REPOSITORY, **package})
    before = project.contents()

    listed = follow("come-from-dg-sqlmesh.md", project, template)

    assert "orders" in listed and "our_schedule" in listed
    after = project.contents()
    code = after["src/my_dagster/definitions.py"].decode()
    assert code == FACTORY.replace("dg_sqlmesh", "sqlmesh_dagster")
    kept = [name for name in before if name.startswith(("transform/", "tests/", "data/", "README"))]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert built(project, template, "my_dagster.definitions") == {
        "warehouse/shop/numbers",
        "warehouse/shop/orders",
    }
