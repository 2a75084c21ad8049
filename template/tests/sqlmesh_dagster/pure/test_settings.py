"""A project's settings and a run's options: what is taken, what is refused, and in which words."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.options import CheckedRunOptions, RunOptions
from sqlmesh_dagster.settings import ProjectSettings, environment_name


@pytest.mark.parametrize(
    ("text", "name"), [("prod", "prod"), ("PR 12", "pr_12"), ("a-b.c", "a_b_c"), ("Ä", "ä")]
)
def test_an_environment_is_named_as_sqlmesh_names_it(text: str, name: str) -> None:
    """Promise: `SQLMESH_ENVIRONMENT` may hold what a person would write."""
    assert environment_name(text) == name
    assert ProjectSettings(environment=text).checked().environment == name


def test_a_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: from the working directory, or from the home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    relative = ProjectSettings(project_dir="a").checked()
    assert relative.project_dir == str(tmp_path / "a") and relative.project_path == tmp_path / "a"
    assert ProjectSettings(project_dir="~/a").checked().project_dir == str(tmp_path / "home/a")


@pytest.mark.parametrize("value", ["many", "", "1.5", "0", "-1"])
def test_a_number_of_workers_that_sqlmesh_cannot_read_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Promise: before SQLMesh is imported, which fails there without the variable's name."""
    monkeypatch.setenv("MAX_FORK_WORKERS", value)
    with pytest.raises(InvalidSettingError, match=f"variable `MAX_FORK_WORKERS` is `{value}`"):
        ProjectSettings().checked()


def test_a_variable_that_is_set_to_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: `SQLMESH_ENVIRONMENT=` in a `.env` is what empties the option."""
    with pytest.raises(
        InvalidSettingError, match=r"`environment` is empty\. Set it, or leave it out\."
    ):
        ProjectSettings(environment="").checked()
    monkeypatch.setenv("SQLMESH_ENVIRONMENT", "")
    with pytest.raises(InvalidSettingError, match="`SQLMESH_ENVIRONMENT` is set to nothing"):
        ProjectSettings(environment="").checked()


def test_settings_come_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: texts and numbers; a gateway may be left out."""
    for name, value in {"DIR": "/p", "GATE": "g", "ENV": "PR 1", "LIMIT": "3"}.items():
        monkeypatch.setenv(name, value)
    given: dict[str, Any] = {
        "project_dir": dg.EnvVar("DIR"),
        "gateway": dg.EnvVar("GATE"),
        "environment": dg.EnvVar("ENV"),
        "concurrency_limit": dg.EnvVar.int("LIMIT"),
    }
    checked = ProjectSettings.model_construct(**given).checked()
    assert (checked.project_dir, checked.gateway) == ("/p", "g")
    assert (checked.environment, checked.concurrency_limit) == ("pr_1", 3)
    assert ProjectSettings().checked().gateway is None
    assert ProjectSettings().checked().concurrency_limit is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"project_dir": ""}, "`project_dir` is empty. Set it, or leave it out."),
        ({"project_dir": ["", ""]}, "`project_dir` is empty. Set it, or leave it out."),
        ({"environment": ""}, "`environment` is empty. Set it, or leave it out."),
        (
            {"gateway": dg.EnvVar("UNSET")},
            "`gateway` is taken from the environment variable `UNSET`, which is not set. Set it, e.g."
            " in `.env`.",
        ),
        ({"concurrency_limit": 0}, "`concurrency_limit` is 0. It must be 1 or more."),
        ({"wait_timeout": -1.0}, "`wait_timeout` is -1.0. It must be 0 or more."),
        ({"failing_rows_sample": -1}, "`failing_rows_sample` is -1. It must be 0 or more."),
        ({"execution": "both"}, "`execution` is `both`. Use one of: shared, per_step."),
        ({"execution": ""}, "`execution` is empty. Set it, or leave it out."),
        (
            {"undeployed_changes": "ignore"},
            "`undeployed_changes` is `ignore`. Use one of: apply, warn, fail.",
        ),
        ({"undeployed_changes": ""}, "`undeployed_changes` is empty. Set it, or leave it out."),
        (
            {"environment": dg.EnvVar("UNSET")},
            "`environment` is taken from the environment variable `UNSET`, which is not set. Set it,"
            " e.g. in `.env`.",
        ),
        (
            {"concurrency_limit": dg.EnvVar.int("WORD")},
            "`concurrency_limit` is taken from the environment variable `WORD`, which holds `two`."
            " Set it to a whole number.",
        ),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], words: str
) -> None:
    """Promise: which, what it is, and what it may be."""
    monkeypatch.setenv("WORD", "two")
    monkeypatch.delenv("UNSET", raising=False)
    with pytest.raises(InvalidSettingError) as caught:
        ProjectSettings.model_construct(**given).checked()
    assert caught.value.description == words


@pytest.mark.parametrize(
    "given",
    [
        {"concurrency_limit": 1},
        {"wait_timeout": 0.0},
        {"failing_rows_sample": 0},
        {"execution": "per_step"},
        {"execution": "shared"},
    ],
)
def test_the_least_that_makes_sense_is_taken(given: dict[str, Any]) -> None:
    """Promise: limits are inclusive."""
    checked = ProjectSettings(**given).checked()
    assert {name: getattr(checked, name) for name in given} == given


@pytest.mark.parametrize(
    ("environment", "given", "policy"),
    [
        ("prod", None, "fail"),
        ("dev", None, "apply"),
        ("prod", "apply", "apply"),
        ("dev", "fail", "fail"),
        ("dev", "warn", "warn"),
    ],
)
def test_production_changes_only_when_told_to(
    environment: str, given: str | None, policy: str
) -> None:
    """Promise: by default a run fails on local changes there, and applies them elsewhere."""
    settings = ProjectSettings(environment=environment, undeployed_changes=given)
    assert settings.checked().deployment_policy == policy


def test_the_command_to_deploy_names_the_environment() -> None:
    """Promise: SQLMesh plans production if none is named."""
    assert ProjectSettings(project_dir="/p").plan_hint == "Run `cd /p && sqlmesh plan` to deploy."
    dev = ProjectSettings(project_dir="/p", environment="dev")
    assert dev.plan_hint == "Run `cd /p && sqlmesh plan dev` to deploy."
    both = ProjectSettings(project_dir=["/p p", "/q"])
    assert both.plan_command("prod") == "cd '/p p' && sqlmesh -p . -p /q plan"


@pytest.mark.parametrize(
    ("folder", "variable", "tasks", "command"),
    [
        ("sqlmesh_project", None, "[tasks.sqlmesh]", "poe -C '{root}' sqlmesh plan dev"),
        ("transform/db", "transform/db", "[tasks.sqlmesh]", "poe -C '{root}' sqlmesh plan dev"),
        ("", ".", "[tasks.sqlmesh]", "poe -C '{root}' sqlmesh plan dev"),
        ("other", None, "[tasks.sqlmesh]", "poe -C '{root}' sqlmesh -p '{root}/other' plan dev"),
        ("sqlmesh_project", None, "[tasks.x]", "cd '{root}/sqlmesh_project' && sqlmesh plan dev"),
        ("sqlmesh_project", None, None, "cd '{root}/sqlmesh_project' && sqlmesh plan dev"),
    ],
)
def test_the_command_of_a_generated_project_is_its_poe_task(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    variable: str | None,
    tasks: str | None,
    command: str,
) -> None:
    """Promise: what a message says to run works when it is pasted, on the data of the runs.

    Bug: `sqlmesh -p …` read no `.env` of the project, and made a second file where the DuckDB path is relative.
    """
    root = tmp_path / "a platform"
    (root / folder).mkdir(parents=True)
    if tasks is not None:
        (root / "poe_tasks.toml").write_text(tasks)
    if variable is None:
        monkeypatch.delenv("SQLMESH_PROJECT_DIR", raising=False)
    else:
        monkeypatch.setenv("SQLMESH_PROJECT_DIR", variable)
    settings = ProjectSettings(project_dir=str(root / folder), environment="dev")
    assert settings.plan_command("dev") == command.format(root=root)


def test_the_command_names_folders_and_gateway_that_are_not_the_default(tmp_path: Path) -> None:
    """Promise: it works on the same folders, with the same connection and state, as the runs.

    Bug: without `--gateway`, it planned the environment of the config's default gateway.
    """
    (tmp_path / "poe_tasks.toml").write_text("[tasks.sqlmesh]")
    folders = [str(tmp_path / name) for name in ("sqlmesh_project", "finance")]
    settings = ProjectSettings(project_dir=folders, gateway="cold storage", environment="dev")
    options = f"-p {folders[0]} -p {folders[1]} --gateway 'cold storage'"
    assert settings.command == f"poe -C {tmp_path} sqlmesh {options}"
    own = settings.model_copy(update={"project_dir": folders[0]})
    assert own.command == f"poe -C {tmp_path} sqlmesh --gateway 'cold storage'"
    bare = ProjectSettings(project_dir="/p", gateway="cold")
    assert bare.plan_hint == "Run `cd /p && sqlmesh --gateway cold plan` to deploy."


def test_a_lock_is_of_a_project_and_its_gateway() -> None:
    """Promise: all environments share it, another project or gateway has its own; it names a file."""

    def name(folder: str, gateway: str | None = None, environment: str = "dev") -> str:
        settings = ProjectSettings(project_dir=folder, gateway=gateway, environment=environment)
        return settings.lock_name

    assert name("/p") == name("/p", environment="prod") == name("/p", "")
    assert len({name("/p"), name("/q"), name("/p", "g"), name("/pg")}) == 4
    assert name("/p").isalnum() and len(name("/p")) == 16


def test_a_run_builds_again_what_is_done_when_it_was_told_to() -> None:
    """Promise: by its option, or because it is of partitions."""
    assert not CheckedRunOptions.of(RunOptions(start="2025-01-01")).is_restatement
    assert CheckedRunOptions.of(RunOptions(restate=True)).is_restatement
    assert CheckedRunOptions.of(RunOptions(build="all")).is_restatement
    assert CheckedRunOptions(partitions=(1, 2)).is_restatement


def test_a_checked_option_is_what_was_given() -> None:
    """Promise: no option is lost on its way from the launchpad to SQLMesh."""
    given = RunOptions(
        build="due",
        ignore_cron=True,
        start="2025-01-01",
        end="2025-01-02",
        execution_time="2025-01-03T06:00:00+02:00",
        skip_janitor=True,
        restate=True,
        restate_downstream=False,
    )
    unlike_default = {
        name for name, f in RunOptions.model_fields.items() if f.default != getattr(given, name)
    }
    assert unlike_default == set(RunOptions.model_fields)
    checked = CheckedRunOptions.of(given)
    assert {name: getattr(checked, name) for name in RunOptions.model_fields} == given.model_dump()
    assert checked.partitions is None
    assert checked.build_policy == "due"
    assert checked.now == datetime(2025, 1, 3, 4, tzinfo=timezone.utc)
    assert RunOptions().now is None
