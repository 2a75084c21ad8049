"""`SQLMeshResultsResource`: what the steps of a Dagster run share."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import dagster as dg
import pytest

from sqlmesh_dagster import InvalidSettingError, SQLMeshResultsResource
from sqlmesh_dagster.facts.outcomes import AuditOutcome, ErrorOutcome, ModelOutcome, to_line
from sqlmesh_dagster.facts.reported import Reports
from sqlmesh_dagster.guard.folder import at_home
from sqlmesh_dagster.run.liveness import give_sign, read_sign
from sqlmesh_dagster.run.results import RECORDS, SIGN, RunResults

_OUTCOME = ModelOutcome(
    fqn='"db"."s"."m"',
    status="audit_failed",
    intervals=((1, 2), (2, 3)),
    audits=(
        AuditOutcome("not_null", "not_null(columns=(id))", "not_null_id", True, 3, "SELECT 1"),
    ),
    error=ErrorOutcome("audit", "3 rows\nand a line", "SELECT 'ü'"),
)


def test_an_outcome_is_read_as_it_was_written_by_another_reader(tmp_path: Path) -> None:
    """Promise: a step in another process sees exactly what the leader reported."""
    writer, reader = (RunResults(tmp_path / "run" / "sqlmesh.jsonl") for _ in range(2))
    assert reader.of(_OUTCOME.fqn) == []
    writer.append(_OUTCOME)
    assert reader.of(_OUTCOME.fqn) == [_OUTCOME]
    writer.append(_OUTCOME)
    assert reader.of(_OUTCOME.fqn) == [_OUTCOME, _OUTCOME]


def test_a_torn_line_of_a_killed_leader_costs_nothing_else(tmp_path: Path) -> None:
    """Promise: what was reported before and after it is read."""
    path = tmp_path / "sqlmesh.jsonl"
    results = RunResults(path)
    results.append(_OUTCOME)
    with path.open("ab") as file:
        file.write(b'{"fqn": "half')
    RunResults(path).append(ModelOutcome("later", "executed"))
    assert set(RunResults(path).latest()) == {_OUTCOME.fqn, "later"}
    assert set(results.latest()) == {_OUTCOME.fqn, "later"}


def test_a_step_that_waits_is_woken_by_an_outcome(tmp_path: Path) -> None:
    """Promise: in the leader's process nobody waits for a poll."""
    results = RunResults(tmp_path / "sqlmesh.jsonl")
    threading.Timer(0.2, lambda: results.append(_OUTCOME)).start()
    began = time.monotonic()
    results.wait(30)
    assert time.monotonic() - began < 10
    assert results.of(_OUTCOME.fqn)


_OLD, _NEW = "0b1ac5ed-1f58-4b66-8d38-2a3b1c9c4f10", "f3b7c1de-6a56-4e0a-8f8e-1d1f2a0b9c77"


def _age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_records_of_runs_that_ended_long_ago_are_deleted(tmp_path: Path) -> None:
    """Promise: the instance's storage does not grow for ever."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path), keep_days=7)
    with dg.DagsterInstance.ephemeral() as instance:
        for run_id in (_OLD, _NEW):
            resource.of_run(instance, run_id).append(_OUTCOME)
        _age(tmp_path / "sqlmesh" / _OLD / "sqlmesh.jsonl", 8)
        resource.forget_old_runs(instance)
    assert [folder.name for folder in (tmp_path / "sqlmesh").iterdir()] == [_NEW]


def test_nothing_but_old_records_is_deleted(tmp_path: Path) -> None:
    """Promise: a folder that holds other things, `.git` among them, keeps them, whatever their age."""
    others = [
        ".git/HEAD",
        "precious/data.jsonl",
        f"sqlmesh/{_OLD}/notes.txt",
        f"sqlmesh/{_OLD}/other.jsonl",
        "sqlmesh/precious/sqlmesh.jsonl",
    ]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine\n")
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        resource.of_run(instance, _OLD).append(_OUTCOME)
        for path in tmp_path.rglob("*"):
            _age(path, 400)
        resource.forget_old_runs(instance)
    assert not (tmp_path / "sqlmesh" / _OLD / "sqlmesh.jsonl").exists()
    assert [name for name in others if not (tmp_path / name).is_file()] == []


def test_a_link_to_a_folder_of_somebodys_is_not_followed(tmp_path: Path) -> None:
    """Promise: what is behind it stays, though it looks like old records; a pipe is not waited for."""
    theirs = tmp_path / "theirs"
    RunResults(theirs / "sqlmesh.jsonl").append(_OUTCOME)
    give_sign(theirs / SIGN)
    (tmp_path / RECORDS / _NEW).mkdir(parents=True)
    (tmp_path / RECORDS / _OLD).symlink_to(theirs)
    for name in (SIGN, "sqlmesh.jsonl"):
        os.mkfifo(tmp_path / RECORDS / _NEW / name)
    for path in tmp_path.rglob("*"):
        _age(path, 400)
    with dg.DagsterInstance.ephemeral() as instance:
        SQLMeshResultsResource(storage_dir=str(tmp_path)).forget_old_runs(instance)
    assert {path.name for path in theirs.iterdir()} == {SIGN, "sqlmesh.jsonl"}
    assert len(list((tmp_path / RECORDS / _NEW).iterdir())) == 2


def test_records_may_be_kept_for_ever(tmp_path: Path) -> None:
    """Promise: any number of days is one, however large."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path), keep_days=10**400)
    with dg.DagsterInstance.ephemeral() as instance:
        resource.of_run(instance, _OLD).append(_OUTCOME)
        _age(tmp_path / RECORDS / _OLD / "sqlmesh.jsonl", 4000)
        resource.forget_old_runs(instance)
    assert (tmp_path / RECORDS / _OLD / "sqlmesh.jsonl").exists()


def test_a_relative_folder_stays_where_it_is_while_sqlmesh_works_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: it starts where Dagster was started; `~` is the user's home."""
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "config.yaml").write_text("data/raw.csv\n")
    (project / "data/raw.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with dg.DagsterInstance.ephemeral() as instance, at_home([project]):
        assert Path.cwd() == project
        SQLMeshResultsResource(storage_dir="here").of_run(instance, _NEW).append(_OUTCOME)
        SQLMeshResultsResource(storage_dir="~/there").of_run(instance, _NEW).append(_OUTCOME)
    for folder in ("here", "home/there"):
        assert (tmp_path / folder / RECORDS / _NEW / "sqlmesh.jsonl").is_file()


@pytest.mark.parametrize("text", [" ", "a\0b", "\ud800", "~nobody-of-this-name/x"])
def test_a_folder_that_none_can_be_is_named(text: str) -> None:
    """Promise: with the setting, before anything is built."""
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(InvalidSettingError, match="`storage_dir` is "),
    ):
        SQLMeshResultsResource(storage_dir=text).of_run(instance, _NEW)


def test_a_folder_that_cannot_be_read_has_no_outcomes() -> None:
    """Promise: as one that is not there."""
    assert RunResults(Path("x" * 5000, "sqlmesh.jsonl")).latest() == {}


@pytest.mark.parametrize("days", [0, -1])
def test_records_are_kept_for_a_day_at_least(tmp_path: Path, days: int) -> None:
    """Promise: no setting deletes the record of a run that goes on."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path), keep_days=days)
    with dg.DagsterInstance.ephemeral() as instance:
        resource.of_run(instance, _NEW).append(_OUTCOME)
        with pytest.raises(InvalidSettingError, match=f"`keep_days` is {days}"):
            resource.forget_old_runs(instance)
        assert resource.of_run(instance, _NEW).of(_OUTCOME.fqn)


def test_steps_of_one_process_share_one_reader(tmp_path: Path) -> None:
    """Promise: whichever step appends, the others of its process are woken."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        waiting, leading = (resource.of_run(instance, "run") for _ in range(2))
    threading.Timer(0.2, lambda: leading.append(_OUTCOME)).start()
    began = time.monotonic()
    waiting.wait(30)
    assert time.monotonic() - began < 10


def test_all_steps_that_wait_are_woken_at_once(tmp_path: Path) -> None:
    """Promise: one outcome, however many wait."""
    results = RunResults(tmp_path / "sqlmesh.jsonl")
    waiting = [threading.Thread(target=results.wait, args=(30,)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(0.1)
    began = time.monotonic()
    results.append(_OUTCOME)
    for thread in waiting:
        thread.join()
    assert time.monotonic() - began < 10


def test_waiting_ends_after_its_time(tmp_path: Path) -> None:
    """Promise: another process may have written meanwhile."""
    began = time.monotonic()
    RunResults(tmp_path / "sqlmesh.jsonl").wait(0.05)
    assert 0.04 < time.monotonic() - began < 10


def test_a_step_that_waits_gives_a_sign_of_life_each_minute(tmp_path: Path) -> None:
    """Promise: the first time at once, and not at each poll."""
    results = RunResults(tmp_path / "run" / "sqlmesh.jsonl")
    sign = tmp_path / "run" / SIGN
    results.wait(0)
    assert read_sign(sign) is not None
    sign.unlink()
    results.wait(0)
    assert not sign.exists()


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """Promise: once, and after those before it."""
    path = tmp_path / "sqlmesh.jsonl"
    reader = RunResults(path)
    whole = to_line(_OUTCOME) + to_line(ModelOutcome("b", "executed"))
    path.write_bytes(whole[:-10])
    assert list(reader.latest()) == [_OUTCOME.fqn]
    path.write_bytes(whole)
    assert reader.of("b") == [ModelOutcome("b", "executed")]
    assert reader.of(_OUTCOME.fqn) == [_OUTCOME]


def test_the_last_outcome_of_a_model_counts(tmp_path: Path) -> None:
    """Promise: after a retry, its own; the others are kept, oldest first."""
    results = RunResults(tmp_path / "sqlmesh.jsonl")
    later = ModelOutcome(_OUTCOME.fqn, "executed")
    for outcome in (_OUTCOME, ModelOutcome("b", "not_ready"), later):
        results.append(outcome)
    assert results.latest() == {_OUTCOME.fqn: later, "b": ModelOutcome("b", "not_ready")}
    assert results.of(_OUTCOME.fqn) == [_OUTCOME, later]
    assert results.of("c") == []


def test_a_folder_that_is_not_there_has_no_outcomes(tmp_path: Path) -> None:
    """Promise: nor one whose place a file has."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "x.jsonl", tmp_path / "file" / "x.jsonl"):
        assert RunResults(path).latest() == {}


def test_records_are_where_the_instance_stores_its_own(tmp_path: Path) -> None:
    """Promise: a file for each project, in a folder for each run; or below `storage_dir`."""
    with dg.DagsterInstance.ephemeral(str(tmp_path / "home")) as instance:
        SQLMeshResultsResource().of_run(instance, _NEW).append(_OUTCOME)
        SQLMeshResultsResource().of_run(instance, _NEW, "two").append(_OUTCOME)
        storage = Path(instance.storage_directory())
        elsewhere = SQLMeshResultsResource(storage_dir=str(tmp_path / "other"))
        elsewhere.of_run(instance, _NEW).append(_OUTCOME)
    names = sorted(path.name for path in (storage / RECORDS / _NEW).iterdir())
    assert names == ["sqlmesh.jsonl", "two.jsonl"]
    assert (tmp_path / "other" / RECORDS / _NEW / "sqlmesh.jsonl").is_file()


def test_what_was_reported_last_is_read_once_in_each_attempt() -> None:
    """Promise: the steps of a process share it; a retry, another run and another project read again."""
    resource = SQLMeshResultsResource()
    looks: list[int] = []

    def look() -> Reports:
        looks.append(1)
        return Reports()

    first = resource.reports("run", "x", 0, look)
    assert resource.reports("run", "x", 0, look) is first and len(looks) == 1
    for key in (("run", "x", 1), ("run", "y", 1), ("other", "y", 1)):
        again = resource.reports(*key, look)
        assert again is not first and resource.reports(*key, look) is again
    assert len(looks) == 4


@pytest.mark.parametrize(("days", "is_kept"), [(6.9, True), (7.1, False)])
def test_records_and_signs_are_kept_for_a_week(tmp_path: Path, days: float, is_kept: bool) -> None:
    """Promise: by default; then the run's folder goes, too."""
    resource = SQLMeshResultsResource(storage_dir=str(tmp_path))
    folder = tmp_path / RECORDS / _OLD
    with dg.DagsterInstance.ephemeral() as instance:
        resource.of_run(instance, _OLD).append(_OUTCOME)
        give_sign(folder / SIGN)
        for path in folder.iterdir():
            _age(path, days)
        resource.forget_old_runs(instance)
    assert folder.exists() is is_kept
    assert not is_kept or len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("name", [SIGN, "sqlmesh.jsonl"])
def test_a_file_that_only_has_the_name_of_a_record_is_kept(tmp_path: Path, name: str) -> None:
    """Promise: a link is not followed, and what holds something else is somebody's."""
    folder = tmp_path / RECORDS
    (folder / _OLD).mkdir(parents=True)
    (folder / _NEW).mkdir()
    (folder / _OLD / name).write_text("mine\n")
    target = tmp_path / "target"
    if name == SIGN:
        give_sign(target)
    else:
        RunResults(target).append(_OUTCOME)
    (folder / _NEW / name).symlink_to(target)
    _age(target, 400)
    _age(folder / _OLD / name, 400)
    with dg.DagsterInstance.ephemeral() as instance:
        SQLMeshResultsResource(storage_dir=str(tmp_path)).forget_old_runs(instance)
    assert (folder / _OLD / name).is_file() and (folder / _NEW / name).is_symlink()


def test_a_resource_without_a_run_gives_no_sign(tmp_path: Path) -> None:
    """Promise: as in a test or a sensor, nothing is written."""
    with dg.DagsterInstance.ephemeral(str(tmp_path / "home")) as instance:
        context = dg.build_init_resource_context(instance=instance)
        SQLMeshResultsResource().setup_for_execution(context)
        assert not (Path(instance.storage_directory()) / RECORDS).exists()


def test_an_outcome_that_cannot_be_written_is_kept_for_this_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: the steps of the leader's process have it; that others have not is known, and told."""
    (tmp_path / "run").write_text("no folder")
    results = RunResults(tmp_path / "run" / "sqlmesh.jsonl")
    assert results.is_unshared is False
    results.append(_OUTCOME)
    results.append(_OUTCOME)
    assert results.is_unshared is True
    assert results.of(_OUTCOME.fqn) == [_OUTCOME, _OUTCOME]
    told = f"The record `{tmp_path / 'run' / 'sqlmesh.jsonl'}` cannot be written: [Errno"
    assert told in caplog.text


def test_a_record_grows_by_whole_lines(tmp_path: Path) -> None:
    """Promise: one line for each outcome, and none between them; each reader goes on where it was."""
    path = tmp_path / "sqlmesh.jsonl"
    results = RunResults(path)
    for place in range(3):
        results.append(ModelOutcome(f"m{place}", "executed"))
        assert list(results.latest()) == [f"m{n}" for n in range(place + 1)]
        assert len(results.of(f"m{place}")) == 1
    assert path.read_bytes() == b"".join(
        to_line(ModelOutcome(f"m{place}", "executed")) for place in range(3)
    )


def test_what_was_verified_is_reported_once_by_its_own_run() -> None:
    """Promise: in the order in which it was found."""
    one, two, other = (
        dg.AssetCheckEvaluation(dg.AssetKey("m"), name, passed=True, metadata={})
        for name in ("one", "two", "other")
    )
    results = SQLMeshResultsResource()
    results.put_verified("a", [one])
    results.put_verified("a", [two])
    results.put_verified("b", [other])
    assert results.take_verified("a") == [one, two]
    assert results.take_verified("a") == []
    assert results.take_verified("b") == [other]


def test_a_run_says_at_its_start_on_which_host_it_is(tmp_path: Path) -> None:
    """Promise: next to its records, for ticks that find it active."""
    results = SQLMeshResultsResource(storage_dir=str(tmp_path))

    @dg.op(required_resource_keys={"results"})
    def look() -> None:
        assert [path.name for path in (tmp_path / RECORDS).glob("*/*")] == [SIGN]

    @dg.job(resource_defs={"results": results})
    def job() -> None:
        look()

    run_id = job.execute_in_process().run_id
    sign = read_sign(tmp_path / RECORDS / run_id / SIGN)
    assert sign is not None and sign.pid == os.getpid()
