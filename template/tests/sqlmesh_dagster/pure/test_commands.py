"""What the commands show of a run, from runs of small assets without SQLMesh; and what they select."""

# No `from __future__ import annotations`: Dagster reads the type of a check's `context` unquoted.

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from sqlalchemy.exc import OperationalError

from sqlmesh_dagster.commands import __main__ as commands
from sqlmesh_dagster.commands.__main__ import main
from sqlmesh_dagster.commands.execution import explained, job_named
from sqlmesh_dagster.commands.following import past_run
from sqlmesh_dagster.commands.location import NotInAProjectError, code_location
from sqlmesh_dagster.commands.messages import Inbox, Outbox
from sqlmesh_dagster.commands.progress import AssetLine, Problem, RunProgress
from sqlmesh_dagster.commands.report import asset_line, ending, next_step, total
from sqlmesh_dagster.commands.request import RunRequest
from sqlmesh_dagster.commands.selection import loads, models_named, selection_of
from sqlmesh_dagster.commands.source import your_places
from sqlmesh_dagster.errors import InstanceError, InvalidSettingError
from sqlmesh_dagster.guard.instance import opened_instance
from sqlmesh_dagster.upstream.launch import LocatedAsset

ROOT = Path(__file__).parents[3]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance without runs."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@dg.asset
def loaded() -> dg.MaterializeResult[None]:
    """An asset that succeeds."""
    return dg.MaterializeResult(metadata={"dagster/row_count": 1200})


@dg.asset
def broken() -> None:
    """An asset that fails in a way that its author expects."""
    raise dg.Failure("The file is missing. Add it.")


@dg.asset
def wrong() -> None:
    """An asset that fails in a way that nobody expects."""
    raise KeyError("column")


@dg.asset(deps=[broken])
def after() -> None:
    """An asset that is not reached."""


@dg.asset_check(asset=loaded)
def warns(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """A check that warns, and says so in the log."""
    context.log.warning("Half of the rows are old.")
    context.log.warning("Half of the rows are old.")
    return dg.AssetCheckResult(
        passed=False, severity=dg.AssetCheckSeverity.WARN, description="600 rows are old"
    )


def _run(
    instance: dg.DagsterInstance, *what: dg.AssetsDefinition | dg.AssetChecksDefinition
) -> RunProgress:
    dg.materialize(list(what), instance=instance, raise_on_error=False)
    return past_run(instance, instance.get_run_records(limit=1)[0].dagster_run, ROOT)


def test_each_asset_ends_in_one_line(instance: dg.DagsterInstance) -> None:
    """Promise: number of number, what became of it, and how much."""
    progress = _run(instance, loaded, broken, after)
    lines = [asset_line(line, progress.width) for line in progress.lines.values()]
    assert sorted(line[6:] for line in lines) == [
        "FAILED        broken",
        "materialized  loaded  1,200 rows",
        "skipped       after",
    ]
    assert sorted(line[:5] for line in lines) == ["[1/3]", "[2/3]", "[3/3]"]


def test_what_a_step_had_loaded_before_it_failed_is_not_told_as_failed(
    instance: dg.DagsterInstance,
) -> None:
    """Promise: the file that is bad is named, and not the one that is loaded."""

    @dg.multi_asset(specs=[dg.AssetSpec("good"), dg.AssetSpec("bad")])
    def files() -> Iterator[dg.MaterializeResult[None]]:
        yield dg.MaterializeResult(asset_key="good")
        raise dg.Failure("The file `bad.csv` is empty.")

    progress = _run(instance, files)
    statuses = {name: line.status for name, line in progress.lines.items()}
    assert statuses == {"good": "materialized", "bad": "FAILED"}
    assert [problem.names for problem in progress.errors] == [("bad",)]


def test_what_is_wrong_stands_once(instance: dg.DagsterInstance) -> None:
    """Promise: a failure has its own words; another error the line of the project that raised it."""
    progress = _run(instance, loaded, warns, broken, wrong, after)
    text = "\n".join(ending(progress))
    assert text.count("The file is missing. Add it.") == 1
    assert text.count("Half of the rows are old.") == 1
    assert "check warns: 600 rows are old" in text
    named = {problem.message: problem.names for problem in progress.warnings}
    assert named["Half of the rows are old."] == ("loaded",), "as the check, under its asset"
    assert "wrong  (tests/sqlmesh_dagster/pure/test_commands.py:" in text
    assert "KeyError: 'column'" in text and "Traceback" not in text
    assert "Not built, because of what failed before them: after." in text
    last = total(progress, "0123456789", is_success=False)
    assert last.startswith("Run 01234567 failed: ") and last.endswith("0 of 1 checks passed.")
    assert "2 failed" in last and "1 skipped" in last and "1 materialized" in last


def test_only_a_run_that_succeeded_is_done() -> None:
    """Promise: the last line leads to the UI; after a failure it doesn't say done."""
    assert next_step(ROOT, is_success=True).startswith(
        "Done. Open the UI on http://localhost:3000:  cd "
    )
    assert next_step(ROOT, is_success=False).startswith("Not done. Repair what failed")
    assert next_step(ROOT, is_success=False, was_stopped=True).startswith("Not done. Run it again")


def test_a_run_that_is_stopped_did_not_fail(instance: dg.DagsterInstance) -> None:
    """Promise: nobody looks for an error that is not there."""

    @dg.asset
    def stopped() -> None:
        raise dg.DagsterExecutionInterruptedError

    @dg.asset(deps=[stopped])
    def next_one() -> None:
        """Not reached."""

    with pytest.raises(dg.DagsterExecutionInterruptedError):
        dg.materialize([stopped, next_one], instance=instance)
    run = instance.get_run_records(limit=1)[0].dagster_run
    progress = past_run(instance, run, ROOT)
    assert "Not built, because the run was stopped: next_one." in "\n".join(ending(progress))
    last = total(progress, "0123456789", is_success=False)
    assert last == "Run 01234567 was stopped: 1 stopped, 1 skipped."
    assert not progress.errors


def test_one_message_names_all_that_it_is_about() -> None:
    """Promise: an error of the whole run is not repeated for each model; a long one is cut."""
    progress = RunProgress()
    names = tuple(f"model_{number}" for number in range(7))
    progress.errors.append(Problem("\n".join(["a line"] * 100), names, "models/a.sql:1"))
    text = "\n".join(ending(progress))
    assert "model_4 and 2 more  (models/a.sql:1)" in text
    assert "… and 76 more lines in the run's log" in text and len(text.splitlines()) < 30


def test_what_an_audit_stopped_stands_under_its_model_once() -> None:
    """Promise: the failed check, and the model that is not built because of it, have one heading."""
    progress = RunProgress()
    for message in (
        "check no_null: found 1 row",
        "Model `a`: blocking audit `no_null` found 1 row.",
    ):
        progress.errors.append(Problem(message, ("a",), "models/a.sql:2"))
    progress.errors.append(Problem("Model `b` failed.", ("b",), "models/b.sql:1"))
    assert list(ending(progress)) == [
        "\nErrors:",
        "  a  (models/a.sql:2)",
        "    check no_null: found 1 row",
        "    Model `a`: blocking audit `no_null` found 1 row.",
        "  b  (models/b.sql:1)",
        "    Model `b` failed.",
    ]


def test_a_line_is_as_wide_as_the_longest_name() -> None:
    """Promise: columns are columns."""
    line = AssetLine("a/b", "built", 3, 120, ("68 rows", "0.1 s"))
    assert asset_line(line, 6) == "[  3/120] built         a/b     68 rows, 0.1 s"


def test_the_plan_of_a_job_is_kept(instance: dg.DagsterInstance) -> None:
    """Promise: what a step shows is there for the terminal, whether it succeeds or fails."""

    @dg.op(out=dg.Out(dg.Nothing))
    def plan() -> dg.Output[None]:
        return dg.Output(None, metadata={"sqlmesh/plan_summary": dg.MetadataValue.md("## Plan")})

    @dg.job
    def planned() -> None:
        plan()

    run = planned.execute_in_process(instance=instance).dagster_run
    assert past_run(instance, run, ROOT).plans == ["## Plan"]


# ---------------------------------------------------------------------------- selection


def _asset(key: str, *upstream: str, is_model: bool = True) -> LocatedAsset:
    return LocatedAsset(
        dg.AssetKey(key.split("/")),
        {},
        frozenset({"sqlmesh_run_options"} if is_model else {"io_manager"}),
        frozenset(dg.AssetKey(name.split("/")) for name in upstream),
    )


_ASSETS = (
    _asset("file", is_model=False),
    _asset("raw/a", "file", is_model=False),
    _asset("raw/unread", is_model=False),
    _asset("db/one/m", "raw/a", "outside/the/location"),
    _asset("db/two/m", "db/one/m"),
    _asset("report", "db/two/m", is_model=False),
)


@pytest.mark.parametrize("name", ["two.m", "db.two.m", "db/two/m", '"db"."TWO"."m"', "x.db.two.m"])
def test_a_model_has_many_names(name: str) -> None:
    """Promise: SQLMesh's name, also with its catalog, Dagster's key, and the end of either."""
    assert [m.key.path for m in models_named([name], _ASSETS)] == [["db", "two", "m"]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m", "`m` is the name of 2 models: `db.one.m`, `db.two.m`. Name one."),
        ("twoo.m", "There is no model `twoo.m`. Did you mean `two.m`?"),
        ("raw.a", "There is no model `raw.a`. `dg list defs` shows the models."),
    ],
)
def test_a_name_that_no_model_has_is_refused(name: str, message: str) -> None:
    """Promise: the message has the value and what to write instead."""
    with pytest.raises(InvalidSettingError) as refused:
        models_named([name], _ASSETS)
    assert refused.value.description == message


@pytest.mark.parametrize(
    ("given", "selection"),
    [
        (["two.m"], ['key:"db/two/m"']),
        (["db/two/m"], ['key:"db/two/m"']),
        (["raw.a", "+Two.M"], ['key:"raw/a"', '+key:"db/two/m"']),
        (["2+one.m+1"], ['2+key:"db/one/m"+1']),
        (["report"], ['key:"report"']),
        (["one.*"], ['key:"*/one/*"']),
        (["db/*+"], ['key:"db/*"+']),
        (["raw.*"], ['key:"raw/*"']),
        (["*"], ["*"]),
        (["*raw/a"], ["*raw/a"]),
        (["++raw/a"], ["++raw/a"]),
        (["group:marts"], ["group:marts"]),
        (['key:"raw/ a"+'], ['key:"raw/ a"+']),
        (["two.m or (group:x and not raw.a)"], ['key:"db/two/m" or (group:x and not key:"raw/a")']),
        (["two.m", "or", "raw.a"], ['key:"db/two/m" or key:"raw/a"']),
        (["sinks(db.two.m+)"], ['sinks(key:"db/two/m"+)']),
    ],
)
def test_a_selection_names_assets_as_sqlmesh_does_too(
    given: list[str], selection: list[str]
) -> None:
    """Promise: a name that works with `poe rebuild` works with `poe run`; Dagster's syntax stays."""
    assert selection_of(given, _ASSETS) == selection


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m", "`m` is the name of 2 assets: `db/one/m`, `db/two/m`. Name one."),
        ("twoo.m", "There is no asset `twoo.m`. Did you mean `two.m`?"),
        ("raw/unred+", "There is no asset `raw/unred`. Did you mean `raw.unread`?"),
        ("marts.*", "There is no asset `marts.*`. `dg list defs` shows the assets."),
    ],
)
def test_an_asset_that_is_not_there_is_named(name: str, message: str) -> None:
    """Promise: with the nearest that is."""
    with pytest.raises(InvalidSettingError) as refused:
        selection_of([name], _ASSETS)
    assert refused.value.description == message


def test_what_models_read_is_loaded_with_what_that_is_made_of() -> None:
    """Promise: `poe load` takes nothing that no model reads, and nothing that reads a model."""
    assert [asset.key.path for asset in loads(_ASSETS)] == [["file"], ["raw", "a"]]


@pytest.mark.parametrize(
    ("arguments", "planned", "step"),
    [
        ([], "dev", "`poe apply` applies"),
        (["--environment", "dev"], "dev", "`poe apply --environment dev` applies"),
        (["--environment", "PR-1"], "pr_1", "`poe apply --environment pr_1` applies"),
        ([], "dev_ada", "`poe apply --environment dev_ada` applies"),
        (["--environment", "prod"], "prod", "`poe promote` applies"),
    ],
)
def test_the_step_after_a_plan_applies_that_plan(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], planned: str, step: str
) -> None:
    """Promise: the command that is named, pasted into another shell, applies what was shown.

    Bug: after `poe plan --environment dev_ada` it was `poe apply`, which plans `dev`.
    """
    monkeypatch.setattr(commands, "_run_job", lambda *_, **__: {"sqlmesh/environment": planned})
    assert step in CliRunner().invoke(commands.plan, arguments).output


# ---------------------------------------------------------------------------- the process


def test_a_request_goes_through_a_pipe() -> None:
    """Promise: what arrives is what was asked for."""
    request = RunRequest("ab", None, "models", ("a.b",), {"build": "all"}, is_verbose=True)
    assert RunRequest.from_json(request.to_json()) == request


def test_a_message_is_read_once_and_whole(tmp_path: Path) -> None:
    """Promise: a command that reads while the run's process writes misses nothing, and doubles nothing."""
    path = tmp_path / "messages.jsonl"
    outbox, inbox = Outbox(path), Inbox(path)
    assert list(inbox.take()) == []
    outbox.put("asset", {"name": "Müll", "folder": tmp_path})
    assert list(inbox.take()) == [{"kind": "asset", "name": "Müll", "folder": str(tmp_path)}]
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "en')
    assert list(inbox.take()) == []
    with path.open("a", encoding="utf-8") as file:
        file.write('ded"}\n')
    assert [list(inbox.take()), list(inbox.take())] == [[{"kind": "ended"}], []]


def test_what_is_known_of_a_run_goes_through_a_file(instance: dg.DagsterInstance) -> None:
    """Promise: the command shows what the run's process has read."""
    progress = _run(instance, loaded, warns, broken, after)
    assert RunProgress.from_data(json.loads(json.dumps(progress.to_data()))) == progress


def test_a_command_imports_no_dagster() -> None:
    """Promise: a second is paid once, by the process that executes the run."""
    modules = "__main__", "launch", "report", "screen"
    imports = "; ".join(f"import sqlmesh_dagster.commands.{module}" for module in modules)
    code = f"import sys; {imports}; sys.exit('dagster' in sys.modules)"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=here, check=False).returncode == 0


def test_the_project_is_found_from_any_of_its_folders(tmp_path: Path) -> None:
    """Promise: module and name are those that `dg` takes; outside a project the message says so."""
    pyproject, below = tmp_path / "pyproject.toml", tmp_path / "a/b"
    below.mkdir(parents=True)
    with pytest.raises(NotInAProjectError, match="is in no project"):
        code_location(below)
    pyproject.write_text('[tool.dg.project]\nroot_module = "shop"\n')
    found = code_location(below)
    assert (found.root, found.module, found.name) == (tmp_path, "shop.definitions", tmp_path.name)
    pyproject.write_text(
        '[tool.dg.project]\nroot_module = "shop"\ncode_location_name = "s"\n'
        'code_location_target_module = "shop.main"\n'
    )
    assert (code_location(below).module, code_location(below).name) == ("shop.main", "s")


def test_an_error_of_loading_has_its_place_and_no_stack(tmp_path: Path) -> None:
    """Promise: file and line of the project, and the first cause, whatever wraps it."""
    file = tmp_path / "defs.py"
    file.write_text("def load():\n    raise ValueError('no such table')\n")
    names: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    try:
        try:
            names["load"]()  # type: ignore[operator]
        except ValueError as cause:
            raise RuntimeError("Dagster could not load it") from cause
    except RuntimeError as error:
        assert explained(error, tmp_path) == "defs.py:2: ValueError: no such table"
    try:
        compile("def (:", str(file), "exec")
    except SyntaxError as error:
        assert explained(error, tmp_path).startswith("defs.py:1: SyntaxError: ")
    assert explained(dg.Failure("Do this."), tmp_path) == "Do this."


def test_a_frame_of_a_library_is_not_yours(tmp_path: Path) -> None:
    """Promise: the line to open is one that the owner wrote."""
    frames = [
        tmp_path / "src/shop/defs/ingest.py",
        tmp_path / ".venv/lib/site-packages/dagster/a.py",
        tmp_path / "src/sqlmesh_dagster/factories.py",
        Path("/usr/lib/python3/json.py"),
    ]
    stack = "".join(f'  File "{path}", line {n}, in f\n' for n, path in enumerate(frames, 1))
    assert list(your_places(stack, tmp_path)) == ["src/shop/defs/ingest.py:1"]


def test_of_several_projects_a_job_is_that_of_the_default_one() -> None:
    """Promise: a second project takes no command away; without a default one the message names both."""
    assert job_named("_plan_job", ["finance_plan_job", "sqlmesh_plan_job"]) == "sqlmesh_plan_job"
    assert job_named("_plan_job", ["finance_plan_job", "other_job"]) == "finance_plan_job"
    with pytest.raises(InvalidSettingError) as refused:
        job_named("_plan_job", ["a_plan_job", "b_plan_job"])
    assert "`dg launch --job a_plan_job` or `dg launch --job b_plan_job`" in str(
        refused.value.description
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{base_dir: {env: PLACE_OF_LOGS}}", "are not set: `PLACE_OF_LOGS`. Set them"),
        ("{base_dir: }", "makes no sense"),
        ("{", "makes no sense"),
    ],
)
def test_an_instance_that_does_not_open_is_told_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, said: str
) -> None:
    """Bug: `poe run` with a variable of `dagster.yaml` that is not set ended in 118 lines of Python."""
    (tmp_path / "dagster.yaml").write_text(
        "local_artifact_storage:\n  module: dagster.core.storage.root\n"
        f"  class: LocalArtifactStorage\n  config: {settings}\n"
    )
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(InstanceError) as raised, opened_instance():
        pass
    assert said in str(raised.value.description) and str(tmp_path / "dagster.yaml") in str(
        raised.value.description
    )


def test_a_database_of_dagsters_history_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the driver's own words, and without Dagster's retries of it."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    def refused() -> dg.DagsterInstance:
        try:
            raise OperationalError("SELECT 1", {}, Exception("Connection refused"))
        except OperationalError as error:
            raise RuntimeError("too many retries for DB connection") from error

    monkeypatch.setattr(dg.DagsterInstance, "get", refused)
    with pytest.raises(InstanceError) as raised, opened_instance():
        pass
    assert str(raised.value.description).endswith(
        "does not answer: Connection refused. See that it is there and answers; then run again."
    )


def test_poe_sqlmesh_is_the_program_that_finds_the_databases_of_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Promise: with what was typed, and with its exit status; alone, `sqlmesh` takes a relative path from here."""
    (tmp_path / "pyproject.toml").write_text("[tool.dg.project]\nroot_module = 'one'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    started: list[list[str]] = []

    def started_program(program: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        started.append(program)
        return subprocess.CompletedProcess(program, 3)

    monkeypatch.setattr(subprocess, "run", started_program)
    with pytest.raises(SystemExit) as end:
        main(["sqlmesh", "plan", "dev", "--help"])
    assert end.value.code == 3
    assert started == [
        [sys.executable, "-m", "sqlmesh_dagster.engine.program", "plan", "dev", "--help"]
    ]


@pytest.mark.parametrize("command", ["check-models", "format", "doctor", "move", "sqlmesh", "run"])
def test_no_command_begins_where_sqlmesh_cannot_be_imported(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: the variable is named, also by those that start SQLMesh's own program."""
    (tmp_path / "pyproject.toml").write_text('[tool.dg]\nproject.root_module = "shop"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("MAX_FORK_WORKERS", "")
    done = CliRunner().invoke(commands.main, [command])
    assert done.exit_code == 1
    assert done.output.startswith(
        "Error: The environment variable `MAX_FORK_WORKERS` is ``. SQLMesh"
    )
