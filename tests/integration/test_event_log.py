"""The event log on pooled connections loses and invents nothing, whatever processes, threads and files do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster_shared.check import CheckError
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from tests.instance import POOLED_STORAGE

pytestmark = pytest.mark.slow

_STATEMENTS_OF_A_STEP = 38
"""Counted; a change that needs fewer writes its number here."""
_FILES_OF_AN_INSTANCE = 9
"""As above; times that a file is opened, those of SQLite's own aside."""
_RUN = "11111111-1111-1111-1111-111111111111"
_WRITE = """
import itertools, os, sys
import dagster as dg

def write(instance, who, count):
    for number in itertools.count() if count is None else range(count):
        instance.report_engine_event(f"{who} {number}", job_name="job", run_id=sys.argv[2])
        print(number, flush=True)

instance = dg.DagsterInstance.from_config(sys.argv[1])
"""
"""`write(…)` in a process of its own, on the instance and the run that are its arguments."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of an instance, empty but for its settings."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(POOLED_STORAGE.format(home=folder))
    return folder


@contextmanager
def _opened(home: Path, *, pooled: bool = True) -> Iterator[dg.DagsterInstance]:
    (home / "dagster.yaml").write_text(POOLED_STORAGE.format(home=home) if pooled else "")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def _write(instance: dg.DagsterInstance, *messages: str, run_id: str = _RUN) -> None:
    for message in messages:
        instance.report_engine_event(message, job_name="job", run_id=run_id)


def _read(instance: dg.DagsterInstance, run_id: str = _RUN) -> list[str]:
    entries = instance.all_logs(run_id)
    return [str(e.dagster_event.message) for e in entries if e.dagster_event]


def _start(home: Path, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITE + code, str(home), _RUN],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def _shard(home: Path, run_id: str = _RUN) -> Path:
    return home / "history" / "runs" / f"{run_id}.db"


def _is_intact(home: Path) -> bool:
    """Whether SQLite finds nothing wrong in any file of the log."""
    results = []
    for path in _shard(home).parent.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            results.append(connection.execute("PRAGMA integrity_check").fetchall())
    return bool(results) and all(result == [("ok",)] for result in results)


def _open_files(home: Path, process: str = "self") -> list[str]:
    """The log's files that a process holds open."""
    links = [os.path.realpath(link) for link in Path(f"/proc/{process}/fd").iterdir()]
    return [link for link in links if link.startswith(str(_shard(home).parent))]


def _checked_table(name: str) -> dg.AssetsDefinition:
    @dg.asset(name=name, check_specs=[dg.AssetCheckSpec("fine", asset=name)])
    def table() -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        yield dg.MaterializeResult()
        yield dg.AssetCheckResult(passed=True)

    return table


@contextmanager
def _counted_commits() -> Iterator[list[Connection]]:
    """The connections to the log's files that a transaction was committed on."""
    counted: list[Connection] = []

    def count(connection: Connection) -> None:
        if "history" in str(connection.engine.url):
            counted.append(connection)

    event.listen(Engine, "commit", count)
    yield counted
    event.remove(Engine, "commit", count)


@contextmanager
def _counted_statements() -> Iterator[list[str]]:
    """What SQLite is told for the log's files, transactions included."""
    counted: list[str] = []

    def listen(connection: sqlite3.Connection, record: object) -> None:
        files = connection.execute("PRAGMA database_list").fetchall()
        if "/history/runs/" in files[0][2]:
            connection.set_trace_callback(counted.append)

    event.listen(Engine, "connect", listen)
    yield counted
    event.remove(Engine, "connect", listen)


_needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux")


def test_a_run_leaves_the_events_that_it_leaves_on_the_default_storage(home: Path) -> None:
    """Promise: steps, materializations, checks and the run's status read the same."""

    @dg.asset(check_specs=[dg.AssetCheckSpec("fine", asset="table")])
    def table() -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        yield dg.MaterializeResult(tags={"a": "b"})
        yield dg.AssetCheckResult(passed=True)

    @dg.asset(deps=[table])
    def broken() -> None:
        raise ValueError("no")

    seen = []
    for pooled in (True, False):
        with _opened(home, pooled=pooled) as instance:
            run_id = dg.materialize([table, broken], instance=instance, raise_on_error=False).run_id
            run = instance.get_run_by_id(run_id)
            assert run is not None
            materialized = instance.get_latest_materialization_event(dg.AssetKey("table"))
            assert materialized is not None and materialized.run_id == run_id
            seen.append(
                (
                    run.status,
                    [e.dagster_event_type for e in instance.all_logs(run_id)],
                    {s.step_key: s.status for s in instance.get_run_step_stats(run_id)},
                )
            )
    assert seen[0] == seen[1]
    assert seen[0][0] is dg.DagsterRunStatus.FAILURE


def test_a_batch_is_stored_whole_or_not_at_all(home: Path) -> None:
    """Promise: an error leaves nothing of the batch behind, as Dagster then stores each event again."""
    with _opened(home) as instance:
        _write(instance, "before")
        entry = instance.all_logs(_RUN)[0]
        with pytest.raises(CheckError):
            instance.event_log_storage.store_event_batch([entry, "no event"])  # type: ignore[list-item]
        assert _read(instance) == ["before"]
        instance.event_log_storage.store_event_batch([entry, entry])
        _write(instance, "after")
        assert _read(instance) == ["before", "before", "before", "after"]


def test_each_file_has_one_transaction_for_a_record_and_for_a_batch(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a materialization and a check cost two, and so do all that a run plans."""
    assets = [_checked_table(f"table_{number}") for number in range(5)]
    commits = []
    for size in ("0", "0", "100"):  # the first run creates the files
        monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", size)
        with _opened(home) as instance, _counted_commits() as counted:
            assert dg.materialize(assets, instance=instance).success
        commits.append(len(counted))
    planned = 10  # a materialization and a check of each
    assert commits[1] - commits[2] == 2 * (planned - 1)


def test_a_step_costs_as_few_statements_as_when_they_were_counted_last(home: Path) -> None:
    """Promise: of an asset with a check, planned, materialized and read by the next; no more than a tenth more."""
    assets = [_checked_table(f"table_{number}") for number in range(15)]
    counts = []
    for tables in (assets[:5], assets, assets[:5], assets):  # the first two create files and rows
        with _opened(home) as instance, _counted_statements() as statements:
            assert dg.materialize(tables, instance=instance).success
        counts.append(len(statements))
    assert (counts[3] - counts[2]) / 10 <= 1.1 * _STATEMENTS_OF_A_STEP


def test_an_instance_opens_few_files_and_no_migration(home: Path) -> None:
    """Promise: each command, run and step opens it: its own files, once each, and none of Dagster's scripts."""
    with _opened(home) as instance:
        _write(instance, "made")
    opened: list[str] = []
    is_over = False

    def hear(name: str, arguments: tuple[object, ...]) -> None:
        if name in ("open", "sqlite3.connect") and not is_over:
            opened.append(str(arguments[0]))

    sys.addaudithook(hear)  # stays for ever
    with _opened(home) as instance:
        _write(instance, "again")
        assert instance.get_runs() == []
    is_over = True
    assert not [path for path in opened if "alembic" in path]
    assert len(opened) <= 1.1 * _FILES_OF_AN_INSTANCE, opened


@_needs_proc
def test_processes_that_open_a_new_instance_at_once_make_its_files_once(home: Path) -> None:
    """Promise: a web server and a daemon that start together do not fail at each other's tables."""
    fork = multiprocessing.get_context("fork")
    barrier, failed = fork.Barrier(4), fork.SimpleQueue()

    def opened() -> None:
        barrier.wait()
        try:
            with dg.DagsterInstance.from_config(str(home)) as instance:
                instance.get_asset_records()
                failed.put("")
        except Exception as error:
            failed.put(str(error))

    processes = [fork.Process(target=opened) for _ in range(barrier.parties)]
    for process in processes:
        process.start()
    assert [failed.get() for _ in processes] == [""] * len(processes)
    for process in processes:
        process.join()
    assert not list(home.rglob("*.db.*"))


def test_one_storage_goes_on_where_the_other_stopped(home: Path) -> None:
    """Promise: logs of the default storage are read and written, and so they are on the way back."""
    for turn, pooled in enumerate((False, True, False)):
        with _opened(home, pooled=pooled) as instance:
            _write(instance, f"turn {turn}")
            assert _read(instance) == [f"turn {number}" for number in range(turn + 1)]


def test_processes_write_one_run_while_others_read_it(home: Path) -> None:
    """Promise: no record is lost or refused, and readers see whole prefixes of each writer's."""
    with _opened(home) as reader:
        _write(reader, "first")
        writers = [_start(home, f"write(instance, 'writer {n}', 60)") for n in range(3)]
        while any(writer.poll() is None for writer in writers):
            found = _read(reader)
            for n in range(3):
                own = [message for message in found if message.startswith(f"writer {n} ")]
                assert own == [f"writer {n} {number}" for number in range(len(own))]
        assert [writer.returncode for writer in writers] == [0, 0, 0]
        assert len(_read(reader)) == 1 + 3 * 60
    for writer in writers:
        writer.communicate()
    assert _is_intact(home)


def test_a_watcher_hears_of_records_that_another_process_writes(home: Path) -> None:
    """Promise: the UI follows a run while it goes on, and its records are in no main file yet."""
    heard: list[str] = []
    arrived = threading.Event()

    def hear(entry: dg.EventLogEntry, cursor: str) -> None:
        heard.append(str(entry.dagster_event and entry.dagster_event.message))
        if heard[-1] == "writer 2":
            arrived.set()

    with _opened(home) as watching:
        _write(watching, "first")
        watching.watch_event_logs(_RUN, None, hear)
        writer = _start(home, "write(instance, 'writer', 3); sys.stdin.read()")
        assert arrived.wait(60)
        assert heard == ["first", "writer 0", "writer 1", "writer 2"]
        watching.end_watch_event_logs(_RUN, hear)
        writer.kill()
        writer.communicate()


def test_a_killed_writer_loses_nothing_that_it_has_written(home: Path) -> None:
    """Promise: what a call has stored is there after SIGKILL, and the file is intact."""
    writer = _start(home, "write(instance, 'writer', None)")
    assert writer.stdout is not None
    for line in writer.stdout:
        if line.strip() == "100":
            writer.kill()
            break
    stored = 100 + len(writer.stdout.readlines())
    writer.wait()
    assert writer.returncode == -signal.SIGKILL
    assert _shard(home).with_name(f"{_RUN}.db-wal").exists()  # nobody has closed it
    with _opened(home) as instance:
        found = _read(instance)
        assert found == [f"writer {number}" for number in range(len(found))]
        assert len(found) >= stored + 1
        _write(instance, "next")
        assert _read(instance)[-1] == "next"
    assert _is_intact(home)


_FORK = """
import threading

stop = threading.Event()
def go_on():
    number = 0
    while not stop.is_set():
        instance.report_engine_event(f"thread {number}", job_name="job", run_id=sys.argv[2])
        number += 1
thread = threading.Thread(target=go_on, daemon=True)
thread.start()
write(instance, "before", 10)
for child in range(3):
    pid = os.fork()
    if not pid:
        links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        inherited = [link for link in links if ".db" in link]
        write(instance, f"child {child}", 10)
        sys.exit(bool(inherited))  # an ordinary end, which would close what is open
    write(instance, f"beside {child}", 10)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set()
thread.join()
write(instance, "after", 10)
"""


@_needs_proc
def test_a_fork_shares_no_connection(home: Path) -> None:
    """Promise: forked children write for themselves, also while a thread of their parent's writes."""
    process = _start(home, _FORK)
    process.communicate(timeout=120)
    assert process.returncode == 0
    with _opened(home) as instance:
        found = _read(instance)
    threads = [message for message in found if message.startswith("thread")]
    assert threads == [f"thread {number}" for number in range(len(threads))]
    others = ["before", "after", *(f"{who} {n}" for who in ("child", "beside") for n in range(3))]
    expected = {f"{who} {number}" for who in others for number in range(10)}
    assert sorted(set(found) - set(threads)) == sorted(expected)
    assert len(found) == len(threads) + len(expected)
    assert _is_intact(home)


def test_threads_share_a_storage(home: Path) -> None:
    """Promise: as many records as were written, of each thread in its order."""
    with _opened(home) as instance:
        runs = [_RUN, _RUN, _RUN.replace("1", "2"), _RUN.replace("1", "3")]

        def write(name: int, run_id: str) -> None:
            for number in range(40):
                _write(instance, f"thread {name} {number}", run_id=run_id)
                _read(instance, run_id)

        threads = [threading.Thread(target=write, args=item) for item in enumerate(runs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, run_id in enumerate(runs):
            own = [m for m in _read(instance, run_id) if m.startswith(f"thread {name} ")]
            assert own == [f"thread {name} {number}" for number in range(40)]


@_needs_proc
def test_open_files_are_few_and_are_closed(home: Path) -> None:
    """Promise: a process that looks at many runs holds few files open, and none after its instance ends."""
    runs = [f"{number:08}-1111-1111-1111-111111111111" for number in range(24)]
    with _opened(home) as instance:
        for run_id in runs:
            _write(instance, "here", run_id=run_id)
        assert 0 < len(_open_files(home)) <= 50
        assert [_read(instance, run_id) for run_id in runs] == [["here"]] * len(runs)
    assert _open_files(home) == []
    assert not list(_shard(home).parent.glob("*-wal"))


def test_a_storage_can_be_used_after_it_was_disposed(home: Path) -> None:
    """Promise: `dispose` closes; it does not end."""
    with _opened(home) as instance:
        _write(instance, "before")
        instance.event_log_storage.dispose()
        _write(instance, "after")
        assert _read(instance) == ["before", "after"]


def test_a_run_is_deleted_for_everybody(home: Path) -> None:
    """Promise: what one process deletes or wipes is gone in another, which then goes on writing."""
    with _opened(home) as one, _opened(home) as other:
        other_run = _RUN.replace("1", "2")
        _write(one, "old")
        _write(other, "old")
        _write(other, "stays", run_id=other_run)
        one.delete_run(_RUN)
        assert _read(other) == []
        assert _read(other, other_run) == ["stays"]
        one.wipe()
        assert _read(other, other_run) == []
        _write(other, "new", run_id=other_run)
        assert _read(one, other_run) == ["new"]


def test_a_deleted_file_is_made_again(home: Path) -> None:
    """Promise: nothing goes on to be written into a file that is no longer there."""
    with _opened(home) as instance:
        _write(instance, "old")
        for path in _shard(home).parent.glob(f"{_RUN}.*"):
            path.unlink()
        _write(instance, "new")
        with _opened(home, pooled=False) as other:
            assert _read(other) == ["new"]


def test_an_old_log_is_migrated_while_it_is_open(home: Path) -> None:
    """Promise: `dagster instance migrate` works, also next to a process that has connections open."""
    with _opened(home) as instance, _opened(home) as other:
        _write(instance, "old")
        _write(other, "too")
        storage = instance.event_log_storage
        assert isinstance(storage, SqliteEventLogStorage)
        version, head = storage.alembic_version() or (None, None)
        assert version == head is not None
        for path in _shard(home).parent.glob("*.db"):  # as of Dagster 1.9
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE alembic_version SET version_num = '284a732df317'")
        assert storage.alembic_version() == ("284a732df317", head)
        instance.upgrade()
        assert storage.alembic_version() == (head, head)
        _write(other, "new")
        assert _read(instance) == ["old", "too", "new"]


@contextmanager
def _full_disk() -> Iterator[None]:
    """Meanwhile no file of SQLite may grow by a page, which it takes for a full disk."""

    def limit(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count=1")

    event.listen(Engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(Engine, "connect", limit)


def test_a_full_disk_is_named_and_nothing_is_half_written(home: Path) -> None:
    """Promise: SQLite says neither which file nor which disk; with room again, all goes on from what was written."""
    with _opened(home) as instance:
        _write(instance, "first")
    written = ["first"]
    with _full_disk(), _opened(home) as instance:
        with pytest.raises(OperationalError) as error:
            for number in range(1000):
                _write(instance, f"{number} " + "x" * 5000)
                written.append(f"{number} " + "x" * 5000)
        with pytest.raises(OperationalError) as of_run:
            instance.add_run(dg.DagsterRun("x" * 100_000))
        for told in (str(error.value), str(of_run.value)):
            assert told.startswith(
                f"Dagster's records in `{home}` (`DAGSTER_HOME`) cannot be written"
            )
            assert "disk is full" in told and "Make room on its disk" in told
        assert instance.get_runs() == []
    with _opened(home) as instance:
        _write(instance, "last")
        assert _read(instance) == [*written, "last"]
    assert _is_intact(home)


@pytest.mark.parametrize(("journal", "synchronous"), [("WAL", 1), ("DELETE", 2)])
def test_only_a_write_ahead_log_waits_less_for_the_disk(
    home: Path, journal: str, synchronous: int
) -> None:
    """Promise: where a power cut could corrupt a file, SQLite waits for the disk as it does by default."""
    with _opened(home) as instance:
        _write(instance, "first")
    with closing(sqlite3.connect(_shard(home))) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
    with _opened(home) as instance:
        _write(instance, "second")
        storage = instance.event_log_storage
        assert isinstance(storage, SqliteEventLogStorage)
        with storage.run_connection(_RUN) as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == synchronous
        assert _read(instance) == ["first", "second"]


_MOVED = """
import logging, sys
import dagster as dg
from dagster._core.storage.event_log.sqlite import sqlite_event_log as upstream

logging.basicConfig(format="%(message)s")
{change}
for _ in range(2):
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("table"))
        found = instance.get_latest_materialization_event(dg.AssetKey("table"))
        print(type(instance.event_log_storage).__name__, found is not None)
"""


@pytest.mark.parametrize(
    "change",
    [
        "upstream.SqliteEventLogStorage.run_connection = lambda self, name, options: None",
        "del upstream.SqliteEventLogStorageWatchdog",
    ],
)
def test_the_log_is_dagsters_own_where_dagster_has_moved(home: Path, change: str) -> None:
    """Promise: the event log is never what breaks: a name that moved makes it slower, and is reported once."""
    if not change.startswith("del"):  # as a version would whose own code goes on
        change = (
            "own = upstream.SqliteEventLogStorage.run_connection\n"
            "def moved(self, run_id=None, options=None):\n    return own(self, run_id)\n"
            "upstream.SqliteEventLogStorage.run_connection = moved"
        )
    result = subprocess.run(
        [sys.executable, "-c", _MOVED.format(change=change)],
        env={
            **os.environ,
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["SqliteEventLogStorage True"] * 2
    assert result.stderr.count("The faster event log does not fit this version of Dagster") == 1
