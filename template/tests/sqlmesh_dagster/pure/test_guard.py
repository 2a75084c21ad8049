"""Locks, patience, cancelling and the worker thread, without SQLMesh."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from sqlmesh_dagster.errors import EnvironmentBusyError, SQLMeshDagsterError
from sqlmesh_dagster.guard import locks
from sqlmesh_dagster.guard.cancel import CancelToken, RunCancelled
from sqlmesh_dagster.guard.locks import Patience, ProjectLock, wait_for
from sqlmesh_dagster.guard.worker import Worker
from sqlmesh_dagster.upstream.interrupting import Interrupter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only while somebody sleeps; its one item is now."""
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    own_time = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(locks, "time", own_time)
    return now


def test_a_lock_is_taken_once_until_it_is_given_back() -> None:
    """Promise: neither another object nor the very one that took it gets in meanwhile.

    The very one is a step that looks again while the run that it leads goes on: letting it in
    started a second sqlmesh run.
    """
    lock, other = ProjectLock("one"), ProjectLock("one")
    lease = lock.take("me")
    assert lease is not None
    assert lock.take("me") is None and other.take("you") is None
    lease.release()
    with other.take("you") or pytest.fail("it is free"):
        assert lock.take("me") is None
    again = lock.take("me")
    assert again is not None
    again.release()


def test_locks_of_other_projects_are_others() -> None:
    """Promise: the name decides."""
    with ProjectLock("one").take("me") or pytest.fail("it is free"):
        other = ProjectLock("two").take("me")
        assert other is not None
        other.release()


def test_a_lock_names_its_last_holder() -> None:
    """Promise: nobody is nobody; a record that is half written is nobody, too."""
    lock = ProjectLock("one")
    assert lock.holder() == ""
    with lock.take("Dagster run 1") or pytest.fail("it is free"):
        assert ProjectLock("one").holder() == "Dagster run 1"
        assert ProjectLock("one").take("Dagster run 2") is None
        assert lock.holder() == "Dagster run 1"
    (record,) = Path(tempfile.gettempdir()).glob("sqlmesh_dagster-*/one.json")
    for broken in (b"{", b"{}", b"[1]", b"5", b"\xff\x00", b""):
        record.write_bytes(broken)
        assert lock.holder() == ""
    record.unlink()
    os.mkfifo(record)
    assert lock.holder() == ""


def test_the_folder_of_the_locks_is_its_users_own() -> None:
    """Promise: nobody else on the host can hold a lock up."""
    ProjectLock("one")
    (folder,) = Path(tempfile.gettempdir()).glob("sqlmesh_dagster-*")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_project_has_its_lock_in_its_own_folder(tmp_path: Path) -> None:
    """Promise: users and containers that share the folder share the lock, whatever their temp folders."""
    with ProjectLock("one", tmp_path).take("Dagster run 1") or pytest.fail("it is free"):
        other = ProjectLock("one", tmp_path)
        assert other.take("Dagster run 2") is None and other.holder() == "Dagster run 1"
    assert (tmp_path / ".cache/dagster/locks/one.lock").exists()
    assert list(Path(tempfile.gettempdir()).glob("sqlmesh_dagster-*")) == []


def test_a_project_that_cannot_be_written_has_its_lock_in_the_temp_folder(tmp_path: Path) -> None:
    """Promise: an image with a read-only project runs."""
    (tmp_path / ".cache").write_text("not a folder")
    with ProjectLock("one", tmp_path).take("me") or pytest.fail("it is free"):
        assert ProjectLock("one", tmp_path).take("you") is None
    assert list(Path(tempfile.gettempdir()).glob("sqlmesh_dagster-*/one.lock"))


@pytest.mark.parametrize("plant", ["link", "open"])
def test_a_folder_that_somebody_else_planted_is_refused(tmp_path: Path, plant: str) -> None:
    """Promise: nobody makes a run write through a link of theirs, or into a folder that they can change."""
    folder = Path(tempfile.gettempdir()) / f"sqlmesh_dagster-{os.getuid()}"
    if plant == "link":
        folder.symlink_to(tmp_path)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(EnvironmentBusyError, match="TMPDIR"):
        ProjectLock("one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o600])
def test_a_folder_of_this_user_that_it_may_not_use_is_opened_again(
    shared_folder: Path, mode: int
) -> None:
    """Promise: what is ours alone is no reason to refuse work."""
    folder = shared_folder / f"sqlmesh_dagster-{_OTHER}"
    folder.mkdir()
    os.chown(folder, _OTHER, _OTHER)
    folder.chmod(mode)
    assert _as_another_user(None, shared_folder) == "True other"


@pytest.mark.parametrize("kind", ["none", "file", "gone", "read only", "of another user"])
def test_a_temporary_folder_that_cannot_be_used_names_its_variable(
    shared_folder: Path, kind: str
) -> None:
    """Promise: one message, whether Python finds none, or the one that it found is not there any more."""
    place: Path | None = shared_folder / "place"
    if kind == "none":
        place = None
    elif kind == "file":
        (shared_folder / "place").touch()
    elif kind != "gone":
        (shared_folder / "place").mkdir()
    if kind == "of another user":
        (shared_folder / "place" / f"sqlmesh_dagster-{_OTHER}").mkdir()
    told = _as_another_user(None, place)
    assert "environment variable `TMPDIR` to a" in told and "folder" in told


def test_the_owner_of_a_shared_folder_is_named_where_the_lock_is_not_made_yet(
    shared_folder: Path,
) -> None:
    """Promise: the one who can open it, not just another user."""
    with ProjectLock("another", shared_folder).take("first") or pytest.fail("it is free"):
        (shared_folder / ".cache/dagster/locks").chmod(0o755)
    told = _as_another_user(shared_folder, shared_folder)
    assert "one.lock`, belongs to user `root`" in told


def _forked(work: Callable[[Callable[[str], None]], None]) -> tuple[int, Iterator[str]]:
    """The id of a fork of this process that does the work, and the lines that it says."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            with os.fdopen(writer, "w", encoding="utf-8") as stream:
                work(lambda line: print(line, file=stream, flush=True))
        finally:
            os._exit(0)
    os.close(writer)
    return process, _lines(reader)


def _lines(descriptor: int) -> Iterator[str]:
    with os.fdopen(descriptor, encoding="utf-8") as stream:
        yield from map(str.rstrip, stream)


_OTHER = 54321


def _as_another_user(project: Path | None, temp: Path | None) -> str:
    """What a user with no name is told who takes the lock, in a process of their own.

    Args:
        temp: The folder for temporary files; None if Python finds none.
    """

    def work(say: Callable[[str], None]) -> None:
        os.environ.clear()
        tempfile.tempdir = str(temp) if temp else None
        if temp is None:
            tempfile._candidate_tempdir_list = list  # type: ignore[attr-defined]
        os.setgid(_OTHER)
        os.setuid(_OTHER)  # an id without a name, as Kubernetes gives one
        try:
            lock = ProjectLock("one", project)
            say(f"{lock.take('other') is not None} {lock.holder()}")
        except EnvironmentBusyError as error:
            say(str(error.description))

    process, lines = _forked(work)
    said = "\n".join(lines)
    os.waitpid(process, 0)
    return said


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users may enter; pytest's own are their user's alone."""
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_two_users_wait_for_each_other_or_are_told_why_they_cannot(shared_folder: Path) -> None:
    """Promise: a shared folder gives a shared lock; one of the first user's alone is named."""
    project, temp = shared_folder / "project", shared_folder / "temp"
    project.mkdir()
    temp.mkdir()
    temp.chmod(0o777)
    with ProjectLock("one", project).take("first") or pytest.fail("it is free"):
        told = _as_another_user(project, temp)
        assert "belongs to user `root`" in told
        subprocess.run(["sh", "-c", command_in(told)], check=True)
        assert _as_another_user(project, temp) == "False first"
    assert _as_another_user(project, temp) == "True other"


@pytest.mark.parametrize("mode", [0o3775, 0o000])
def test_the_command_that_is_told_opens_a_folder_of_locks(shared_folder: Path, mode: int) -> None:
    """Promise: whatever the folder's mode, also where each may remove only its own; pasted by its owner, it helps."""
    project = shared_folder / "it's a project"
    with ProjectLock("one", project).take("first") or pytest.fail("it is free"):
        (project / ".cache/dagster/locks").chmod(mode)
        told = _as_another_user(project, shared_folder)
        assert "belongs to user `root`, and this user may not take it" in told
        subprocess.run(["sh", "-c", command_in(told)], check=True)
        assert (project / ".cache/dagster/locks").stat().st_mode & 0o1777 == 0o777


def command_in(told: str) -> str:
    """What a message says to paste, which it ends with."""
    return told.rstrip(".").rpartition(" `")[2].rstrip("`")


def test_a_user_without_a_name_has_a_lock(shared_folder: Path) -> None:
    """Promise: Kubernetes' `runAsUser` needs no entry in the list of users."""
    assert _as_another_user(None, shared_folder) == "True other"


def test_a_note_that_cannot_be_written_keeps_no_lock(tmp_path: Path) -> None:
    """Promise: on a full disk the lock is taken and given back all the same; who holds it has no name."""
    lock = ProjectLock("one", tmp_path)
    (tmp_path / ".cache/dagster/locks/one.json").mkdir()  # nothing can be written in its place
    for _ in range(2):
        lease = lock.take("me")
        assert lease is not None and ProjectLock("one", tmp_path).take("you") is None
        assert lock.holder() == ""
        lease.release()


def test_a_lock_whose_file_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Promise: the message has the file, the reason and the next step, and nobody believes to hold it."""
    lock = ProjectLock("one", tmp_path)
    place = tmp_path / ".cache/dagster/locks/one.lock"
    for what in ("a folder", "a link", "a socket"):
        if what == "a folder":
            place.mkdir()
        elif what == "a link":
            place.symlink_to(tmp_path / "victim")
        else:
            os.mknod(place, stat.S_IFSOCK | 0o600)
        with pytest.raises(
            SQLMeshDagsterError, match=rf"one\.lock` is {what}\. Remove it: `rm"
        ) as refused:
            lock.take("me")
        command = str(refused.value.description).partition("Remove it: `")[2].partition("`")[0]
        subprocess.run(["sh", "-c", command], check=True)
    assert not (tmp_path / "victim").exists()
    (lock.take("me") or pytest.fail("it is free")).release()


def test_a_lock_is_free_again_when_its_process_dies() -> None:
    """Promise: the operating system gives it back; its record stays, and misleads nobody."""

    def work(say: Callable[[str], None]) -> None:
        lease = ProjectLock("one").take("dead")
        say("taken" if lease else "refused")
        time.sleep(60)

    holder, lines = _forked(work)
    assert next(lines) == "taken"
    lock = ProjectLock("one")
    assert lock.take("me") is None and lock.holder() == "dead"
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    lease = lock.take("me")
    assert lease is not None and lock.holder() == "me"
    lease.release()


def test_who_holds_a_lock_gives_it_back_whatever_happens() -> None:
    """Promise: also after an error."""
    lock = ProjectLock("one")
    with pytest.raises(ValueError), lock.held("me", 0):
        assert ProjectLock("one").take("you") is None
        raise ValueError
    with ProjectLock("one").held("you", 0):
        pass


def test_who_waits_gets_the_lock_when_it_is_given_back(clock: list[float]) -> None:
    """Promise: it says once whom it waits for."""
    answers = iter([None, None, nullcontext("taken")])
    said: list[str] = []
    patience = Patience("me", 10, said.append)
    with wait_for(lambda: next(answers), patience, lambda: "Dagster run 1") as taken:
        assert taken == "taken"
    assert said == [
        "Waiting for Dagster run 1, which works on the same SQLMesh project, for 10 s at most."
    ]
    assert clock[0] == 100.5


def test_patience_ends_after_its_limit_and_names_whom_it_waited_for(clock: list[float]) -> None:
    """Promise: not before; the error says what to do."""
    with pytest.raises(EnvironmentBusyError) as caught:
        wait_for(lambda: None, Patience("me", 3, lambda text: None), lambda: "")
    assert caught.value.description == (
        "Waited 3 s for another process, which works on the same SQLMesh project."
        " Let it finish, or raise `wait_timeout`."
    )
    assert clock[0] == 103.25
    patience = Patience("me", 3, lambda text: None)
    clock[0] += 3
    patience.check("other")  # the limit itself is in time


def test_other_steps_of_the_same_run_are_waited_for_without_limit(clock: list[float]) -> None:
    """Promise: and the limit for anybody else begins again after them."""
    said: list[str] = []
    patience = Patience("me", 3, said.append)
    clock[0] += 100
    patience.check("me")
    clock[0] += 3
    patience.check("other")
    clock[0] += 1
    with pytest.raises(EnvironmentBusyError):
        patience.check("other")
    assert len(said) == 1


def test_each_new_holder_is_named(clock: list[float]) -> None:
    """Promise: once each, in the order in which they come."""
    said: list[str] = []
    patience = Patience("me", 3, said.append)
    for other in ("a", "a", "", "b"):
        patience.check(other)
    assert [text.split(",")[0] for text in said] == [
        "Waiting for a",
        "Waiting for another process",
        "Waiting for b",
    ]


def test_who_is_cancelled_stops_waiting(clock: list[float]) -> None:
    """Promise: at the next look, and not if it is free by then."""
    token = CancelToken()
    token.cancel()
    patience = Patience("me", 3, lambda text: None)
    with pytest.raises(RunCancelled):
        wait_for(lambda: None, patience, lambda: "", token)
    assert wait_for(lambda: "taken", patience, lambda: "", token) == "taken"
    assert clock[0] == 100


def test_a_held_lock_is_waited_for_and_told(clock: list[float]) -> None:
    """Promise: `held` waits as long as it is asked to, and says so where it is asked to."""
    said: list[str] = []
    with ProjectLock("one").held("Dagster run 1", 0):
        waiting = ProjectLock("one").held("me", 2, say=said.append)
        with pytest.raises(EnvironmentBusyError, match="Waited 2 s for Dagster run 1"), waiting:
            pass
        token = CancelToken()
        token.cancel()
        with pytest.raises(RunCancelled), ProjectLock("one").held("me", 2, token):
            pass
    assert len(said) == 1
    (record,) = Path(tempfile.gettempdir()).glob("sqlmesh_dagster-*/one.json")
    assert json.loads(record.read_text())["holder"] == "Dagster run 1"


# ------------------------------------------------------------ cancelling


class _Cursor:
    """A connection whose query ends when it is interrupted."""

    def __init__(self) -> None:
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        self.interrupted.set()


def test_nothing_is_cancelled_until_it_is_said() -> None:
    """Promise: a check goes through, and what runs is left alone."""
    token = CancelToken()
    cursor = _Cursor()
    with token.watching(Interrupter(cursor)):
        token.check()
    assert not token.is_cancelled and not cursor.interrupted.is_set()


def test_cancelling_interrupts_every_query_that_is_watched() -> None:
    """Promise: those that run, and none that has ended."""
    token, running, also, ended = CancelToken(), _Cursor(), _Cursor(), _Cursor()
    with token.watching(Interrupter(ended)):
        pass
    with (
        pytest.raises(RunCancelled),
        token.watching(Interrupter(running)),
        token.watching(Interrupter(also)),
    ):
        token.cancel()
        token.check()
    assert running.interrupted.is_set() and also.interrupted.is_set()
    assert not ended.interrupted.is_set()


def test_no_query_begins_once_it_is_cancelled() -> None:
    """Promise: it is not even sent."""
    token = CancelToken()
    token.cancel()
    began = False
    with pytest.raises(RunCancelled), token.watching(Interrupter(_Cursor())):
        began = True
    assert not began


def test_an_interrupted_query_is_a_cancelled_one_and_an_error_stays_an_error() -> None:
    """Promise: the engine's own exception is the cause."""
    token = CancelToken()
    error = ValueError("INTERRUPT")
    with pytest.raises(ValueError) as plain, token.watching(Interrupter(_Cursor())):
        raise error
    assert plain.value is error
    with pytest.raises(RunCancelled) as cancelled, token.watching(Interrupter(_Cursor())):
        token.cancel()
        raise error
    assert cancelled.value.__cause__ is error


def test_cancelling_again_reaches_a_query_that_began_meanwhile() -> None:
    """Promise: it can be repeated until the work has ended."""
    token, cursor = CancelToken(), _Cursor()
    with pytest.raises(RunCancelled), token.watching(Interrupter(cursor)):
        for _ in range(2):
            cursor.interrupted.clear()
            token.cancel()
            assert cursor.interrupted.is_set()
        raise ValueError


# ------------------------------------------------------------ the worker


def _until(go_on: threading.Event) -> Callable[[CancelToken], None]:
    def work(token: CancelToken) -> None:
        assert go_on.wait(10)

    return work


def test_a_worker_works_in_another_thread_until_it_is_done() -> None:
    """Promise: whoever waits for it gets control back after so many seconds."""
    go_on = threading.Event()
    worker = Worker(_until(go_on))
    began = time.monotonic()
    assert not worker.is_done(0.05)
    assert time.monotonic() - began >= 0.04
    go_on.set()
    assert worker.is_done(10)
    worker.join()


def test_a_worker_raises_what_its_work_raised() -> None:
    """Promise: where it is joined, and not before."""

    def fail(token: CancelToken) -> None:
        raise ValueError("boom")

    worker = Worker(fail)
    assert worker.is_done(10)
    with pytest.raises(ValueError, match="boom"):
        worker.join()


def test_a_worker_can_be_told_to_stop() -> None:
    """Promise: its work has the token that its owner cancels."""
    seen = threading.Event()

    def work(token: CancelToken) -> None:
        while not token.is_cancelled:
            time.sleep(0.01)
        seen.set()

    worker = Worker(work)
    worker.token.cancel()
    worker.join()
    assert seen.is_set()
