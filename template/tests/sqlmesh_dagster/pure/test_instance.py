"""Dagster's instance, whose settings or records are broken: what a command says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sqlmesh_dagster.errors import InstanceError
from sqlmesh_dagster.guard.instance import opened_instance

_SETTINGS = """
telemetry: {enabled: false}
storage:
  custom:
    module: sqlmesh_dagster.event_log
    class: PooledSqliteStorage
    config: {base_dir: {env: DAGSTER_HOME}}
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of an instance that has been used."""
    home = tmp_path_factory.mktemp("instance") / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(_SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        with opened_instance():
            return home


@pytest.fixture
def home(used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(used, tmp_path / "home"))


def _told() -> str:
    with pytest.raises(InstanceError) as told, opened_instance():
        pass
    return str(told.value.description)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("storage: [\n", "line 2"),
        ("- a\n", "to parse to dictionary"),
        (_SETTINGS + "storag: {}\n", 'unexpected config entry "storag" at the root.'),
        (_SETTINGS.replace("PooledSqliteStorage", "Other"), "Couldn't find class Other"),
        (_SETTINGS + "run_retries: {max_retries: many}\n", 'Value "many"'),
        (_SETTINGS + "\0", "x0000"),
    ],
)
def test_settings_that_make_no_sense_are_named_with_their_file(
    home: Path, text: str, said: str
) -> None:
    """Promise: one paragraph, what is wrong, and how to see what was changed."""
    file = home / "dagster.yaml"
    file.write_text(text)
    told = _told()
    assert told.startswith(f"`{file}` makes no sense: ") and said in told
    assert f"`git diff {file}`" in told
    assert "Traceback" not in told and "Stack Trace" not in told and "Expected: " not in told


def _spoil(file: Path) -> None:
    file.write_text("This is a text, and no database of any kind.")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("history/runs.db", _cut),
        ("history/runs/index.db", _spoil),
        ("schedules/schedules.db", _cut),
    ],
)
def test_records_that_are_damaged_are_named_with_a_command_that_begins_them_anew(
    home: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """Promise: before a run is created; what is pasted helps, and nothing is deleted."""
    file = home / name
    damage(file)
    told = _told()
    assert "are damaged" in told and f"`{file}`" in told
    command = told.partition(", by `")[2].partition("`")[0]
    assert subprocess.run(command, shell=True, check=False).returncode == 0
    assert (home / "damaged" / file.name).exists()
    with opened_instance() as instance:
        assert instance.get_runs() == []


def test_a_home_that_is_no_folder_is_named(home: Path) -> None:
    """Promise: with its variable."""
    shutil.rmtree(home)
    assert _told().startswith(f"`DAGSTER_HOME` is `{home}`, which is no folder.")


@pytest.mark.parametrize("home", ["dagster_home", "./home"])
def test_a_home_that_is_no_whole_path_is_told_with_the_one_it_may_mean(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: not as a storage that does not answer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", home)
    meant = tmp_path / Path(home).name
    meant.mkdir()
    assert _told() == (
        f"`DAGSTER_HOME` is `{home}`. Dagster takes a whole path alone: set it to `{meant}`."
    )
