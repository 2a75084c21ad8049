"""Whether a load failed because of a project's file, and which one it was."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import available_timezones

import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from sqlmesh_dagster.engine import culprit
from sqlmesh_dagster.engine.culprit import is_of_project, with_culprit, with_gateway


def _raised(file: Path, code: str) -> BaseException:
    """What a file of a project raises."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    try:
        exec(compile(code, str(file), "exec"), {})
    except BaseException as error:
        return error
    raise AssertionError(f"{code} raises nothing")


@pytest.mark.parametrize("is_stopped", [True, False])
def test_each_error_is_the_files_but_what_stops_the_process(
    tmp_path: Path, is_stopped: bool
) -> None:
    """Promise: a file that ends the process is an error of the project; who stops the process does."""
    assert is_of_project(ValueError(), tmp_path, is_stopped=is_stopped)
    assert is_of_project(SystemExit(1), tmp_path, is_stopped=is_stopped)
    assert is_of_project(KeyboardInterrupt(), tmp_path, is_stopped=is_stopped) is not is_stopped
    stopped = DagsterExecutionInterruptedError()
    assert not isinstance(stopped, Exception)
    assert not is_of_project(stopped, tmp_path, is_stopped=is_stopped)
    assert not is_of_project(GeneratorExit(), tmp_path, is_stopped=is_stopped)
    inside = _raised(tmp_path / "models/a.py", "raise GeneratorExit")
    assert is_of_project(inside, tmp_path, is_stopped=is_stopped)
    assert not is_of_project(inside, tmp_path / "other", is_stopped=is_stopped)


def test_an_error_says_its_line_and_what_it_is(tmp_path: Path) -> None:
    """Promise: the kind of error where the message says little, and the last line of the project's own."""
    model = tmp_path / "models/a.py"
    assert with_culprit(_raised(model, "\nraise ValueError('bad')"), "bad", tmp_path) == (
        "bad\nIn `models/a.py, line 2`."
    )
    assert with_culprit(_raised(model, "import sys\nsys.exit()"), "", tmp_path) == (
        "SystemExit\nIn `models/a.py, line 2`."
    )
    assert with_culprit(_raised(model, "raise SystemExit('3')"), "3", tmp_path) == (
        "SystemExit: 3\nIn `models/a.py, line 1`."
    )
    assert with_culprit(_raised(model, "def f():\n    f()\nf()"), "too deep", tmp_path) == (
        "RecursionError: too deep\nIn `models/a.py, line 2`."
    )
    assert with_culprit(_raised(model, "raise ValueError"), "bad in models/a.py", tmp_path) == (
        "bad in models/a.py\nIn `models/a.py, line 1`."
    )
    assert with_culprit(_raised(model, "raise ValueError"), "bad (a.py, line 1)", tmp_path) == (
        "bad (a.py, line 1)"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("assert False", "AssertionError"),
        ("raise MemoryError", "MemoryError"),
        ("{}['x']", "KeyError: 'x'"),
        ("1 / 0", "division by zero"),
    ],
)
def test_what_sqlmesh_repeats_without_its_kind_is_told_with_it(
    tmp_path: Path, source: str, said: str
) -> None:
    """Promise: an error that has no text of its own is no empty message; and its line in the file is told."""
    cause = _raised(tmp_path / "models/a.py", f"\n{source}")
    named = f"Failed to load '{tmp_path / 'models/a.py'}':"
    error = RuntimeError(f"{named}\n\n  {cause}")
    error.__cause__ = cause
    text = with_culprit(error, str(error).strip(), tmp_path)
    assert " ".join(text.split()) == f"{named} {said} In `models/a.py, line 2`."


def test_what_is_no_line_of_the_projects_is_told_as_it_is(tmp_path: Path) -> None:
    """Promise: no file is named that has nothing to do with it."""
    outside = _raised(tmp_path / "elsewhere/a.py", "raise ValueError('bad')")
    project = tmp_path / "project"
    project.mkdir()
    assert with_culprit(outside, "bad", project) == "bad"
    assert with_culprit(ValueError("x"), "x", project) == "x"
    assert with_culprit(ValueError(), "", project) == "ValueError"


def test_a_project_at_the_root_is_not_told_of_libraries_in_its_folder(tmp_path: Path) -> None:
    """Promise: neither the environment of Python there nor this package is what a person has to repair."""
    library = ".venv/lib/python3.11/site-packages/sqlmesh/core/loader.py"
    assert (
        with_culprit(_raised(tmp_path / library, "raise ValueError('bad')"), "bad", tmp_path)
        == "bad"
    )
    with pytest.raises(AttributeError) as raised:
        with_culprit(ValueError(), "", None)  # type: ignore[arg-type]
    assert with_culprit(raised.value, "bad", Path(culprit.__file__).parents[2]) == "bad"


def test_the_file_that_was_being_read_is_named(tmp_path: Path) -> None:
    """Promise: as SQLMesh's loaders call it; one outside of the project is not meant."""
    inside, outside = tmp_path / "project/audits/a.sql", tmp_path / "b.sql"
    inside.parent.mkdir(parents=True)
    for file in (inside, outside):
        file.write_text("SELECT 1")

    def load(path: Path) -> None:
        raise ValueError(f"cannot load {path.name[0]}")

    def read(path: Path) -> str:
        try:
            load(path)
        except ValueError as error:
            return with_culprit(error, str(error), tmp_path / "project")
        raise AssertionError

    assert read(inside) == "cannot load a\nIn `audits/a.sql`."
    assert read(outside) == "cannot load b"


def test_an_error_of_a_connection_is_of_no_file(tmp_path: Path) -> None:
    """Bug: a driver's missing part was told as a fault of the audit that was read when SQLMesh first connected."""
    names = {"__name__": "sqlmesh.utils.connection_pool"}
    exec("def get_cursor():\n    raise ModuleNotFoundError('no driver')", names)
    file = tmp_path / "audits/a.sql"
    file.parent.mkdir()
    file.write_text("SELECT 1")

    def load(path: Path) -> None:
        names["get_cursor"]()  # type: ignore[operator]

    with pytest.raises(ModuleNotFoundError) as raised:
        load(file)
    assert with_culprit(raised.value, "no driver", tmp_path) == "no driver"


def test_the_cause_is_looked_for_behind_other_errors(tmp_path: Path) -> None:
    """Promise: what SQLMesh raises from an error of the reader says no file, and the reader knows it."""
    file = tmp_path / "models/a.yaml"
    file.parent.mkdir()
    file.write_text("x")

    def read(path: Path) -> None:
        raise KeyError("inside")

    for is_from in (True, False):
        try:
            try:
                read(file)
            except KeyError as inner:
                if is_from:
                    raise ValueError("outside") from inner
                raise ValueError("outside")  # noqa: B904 - also without `from`
        except ValueError as error:
            assert with_culprit(error, "outside", tmp_path) == "outside\nIn `models/a.yaml`."


def test_a_seed_is_named_as_its_model_has_it(tmp_path: Path) -> None:
    """Promise: the rows that cannot be read, else the model's file as the message says it."""
    model = tmp_path / "s.sql"
    message = f"Failed to load '{model}'"
    error = ValueError("x")
    model.write_text("MODEL (name s, kind SEED (path 'gone.csv'));")
    assert with_culprit(error, message, tmp_path) == message
    model.write_bytes(b"MODEL (name \xff, kind SEED (path 's.csv'));")
    assert with_culprit(error, message, tmp_path).startswith(
        f"{message}\nIn `s.sql`, which is not UTF-8"
    )
    model.write_bytes("\ufeffMODEL (name s)".encode())
    assert "In `s.sql`, which begins with" in with_culprit(error, message, tmp_path)
    plain = tmp_path / "s.yaml"
    plain.write_bytes("\ufeffx: 1".encode())
    assert with_culprit(error, f"Failed to load '{plain}'", tmp_path) == f"Failed to load '{plain}'"


def test_a_file_elsewhere_is_named_whole(tmp_path: Path) -> None:
    """Promise: and no other one, where the message names the project itself."""
    project, outside = tmp_path / "project", tmp_path / "b.yaml"
    project.mkdir()
    outside.write_bytes(b"\xff")
    assert f"In `{outside}`, which" in with_culprit(
        ValueError("x"), f"cannot load '{outside}'", project
    )
    own = project / "a.yaml"
    own.write_text("x")

    def read(path: Path) -> None:
        raise ValueError(f"{project} is wrong")

    with pytest.raises(ValueError) as raised:
        read(own)
    assert with_culprit(raised.value, str(raised.value), project) == f"{project} is wrong"


@pytest.mark.parametrize("file", ["models/marts/a.sql", "config.yaml"])
def test_a_cron_that_sqlmesh_refuses_is_told_with_its_file(tmp_path: Path, file: str) -> None:
    """Promise: SQLMesh's message has no model, and says nothing of the minute that it depends on."""
    (tmp_path / "models/marts").mkdir(parents=True)
    (tmp_path / "models/b.sql").write_text("MODEL (name b, cron '@daily');")
    (tmp_path / file).write_text("MODEL (name a, cron '*/7 * * * *');")
    message = "Invalid cron '*/7 * * * *': must run at a frequency of 5 minutes or slower."
    said = with_culprit(ValueError(message), message, tmp_path)
    assert said.startswith(f"{message} SQLMesh looks at its next ticks alone")
    assert said.endswith(f"In `{file}`.")


def test_a_gateway_that_the_config_lacks_is_told_as_the_setting_that_asked_for_it() -> None:
    """Promise: with its option; the config's own `default_gateway` stays in SQLMesh's words."""
    said = "Missing gateway with name 'nope'."
    told = with_gateway(said, "nope")
    assert told.startswith(
        "`gateway` is `nope`, which the project's config does not have. Use one of"
    )
    assert with_gateway(said, None) == with_gateway(said, "other") == said


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Europe/Berlinn", "Did you mean `Europe/Berlin`?"),
        ("Mars/Olympus", "Use a name such as `Europe/Berlin`."),
    ],
)
def test_an_unknown_time_zone_is_told_without_the_names_of_all(
    tmp_path: Path, zone: str, hint: str
) -> None:
    """Promise: SQLMesh's message ends with six hundred names; here is the one that is near."""
    said = f"'No time zone found with key {zone}'. {zone} must be in {available_timezones()}."
    told = with_culprit(ValueError(said), said, tmp_path)
    assert told == f"'No time zone found with key {zone}'. `{zone}` is no time zone. {hint}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SQLMESH__MODEL_DEFAULTS__START", "garbage", "Could not convert `garbage` to datetime."),
        ("SQLMESH__MODEL_DEFAULTS__DIALECT", "klingon", "Unknown dialect 'klingon'."),
        ("sqlmesh__no_such_thing", "1", "Invalid field 'no_such_thing': not permitted"),
        ("SQLMESH__GATEWAYS", "x", "Invalid field 'gateways': no dictionary"),
        ("SQLMESH__VARIABLES", "x", "Variables must be a dictionary, not <class 'str'>"),
    ],
)
def test_a_variable_that_overrides_the_config_is_named_where_it_is_the_reason(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    """Bug: a variable that made no sense was called a fault of a file that was in order."""
    variables = {name: value, "SQLMESH__SNAPSHOT_TTL": "", "OTHER__START": "garbage"}
    assert with_culprit(ValueError(message), message, tmp_path, variables) == (
        f"{message}\nThe environment variable `{name}` sets this, whatever the files say."
    )
    assert with_culprit(ValueError("bad"), "bad", tmp_path, variables) == "bad"
