"""Several processes on one project at once: they are serialised, say whom they wait for, and duplicate nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import dagster as dg
import pytest

from tests.answers import EXAMPLE
from tests.conftest import Render
from tests.robustness.rivals import LIMIT, Platform, Worker, sqlmesh_cli, wait_until, workers

pytestmark = pytest.mark.generated

_ROUNDS = 20
_ROWS_A_DAY = 20
_MODELS = ("daily.sql", "appended.sql", "unrelated.sql")
_HASTY = "2"
"""Seconds that an impatient run waits, as text."""


@pytest.fixture(scope="module")
def platform(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """One project for all tests; each works on later days than those before it."""
    return Platform.of(render(**EXAMPLE), tmp_path_factory.mktemp("rivals") / "project", *_MODELS)


@pytest.fixture(scope="module")
def pair(platform: Platform) -> Iterator[tuple[Worker, Worker]]:
    """Two warm processes; the environment is deployed, and built until the third of January."""
    with workers(platform, "first", "second") as (first, second):
        assert first.tell("materialize", now="2025-01-04T00:30:00", tag="start") == "SUCCESS"
        yield first, second


@pytest.fixture(scope="module")
def hasty(platform: Platform, pair: tuple[Worker, Worker]) -> Iterator[Worker]:
    """A warm process whose runs give up soon."""
    with workers(platform, "hasty", WAIT_TIMEOUT=_HASTY) as (worker,):
        yield worker


@pytest.fixture
def now(platform: Platform, pair: tuple[Worker, Worker]) -> str:
    """A day after the last one that was built."""
    return _next_day(platform)


def test_two_runs_started_in_the_same_second_are_serialised(
    platform: Platform, pair: tuple[Worker, Worker]
) -> None:
    """Twenty times: both succeed, one of them builds, and no row is there twice."""
    waited = 0
    for number in range(_ROUNDS):
        tags = [f"round {number}, {name}" for name in ("first", "second")]
        now, moment = _next_day(platform), time.time() + 0.1
        for worker, tag in zip(pair, tags, strict=True):
            worker.ask("materialize_at", moment=moment, now=now, tag=tag)
        ended = [worker.answer() for worker in pair]
        assert ended == ["SUCCESS", "SUCCESS"], (number, _errors(platform, *tags))
        runs = [platform.run(tag) for tag in tags]
        built = [
            sum("ASSET_MATERIALIZATION " in line and "Nothing is due" not in line for line in said)
            for _, said in runs
        ]
        assert sorted(built) == [0, 3], (number, built)
        _assert_each_day_is_there_once(platform, now)
        waited += sum(
            any(f"Waiting for Dagster run {other.run_id}" in line for line in said)
            for (_, said), (other, _) in zip(runs, reversed(runs), strict=True)
        )
    assert waited >= _ROUNDS / 2, f"only {waited} of {_ROUNDS} met the other"


def test_a_run_says_which_run_it_waits_for_and_goes_on_after_it(
    platform: Platform, pair: tuple[Worker, Worker], now: str
) -> None:
    """The second says it once, while it waits, and finds nothing left to do."""
    first, second = pair
    with _held(platform, first, now, "a run in its middle") as holder:
        second.ask("materialize", now=now, tag="the second")
        words = f"Waiting for Dagster run {holder.run_id}, which works on the same SQLMesh project"
        wait_until(lambda: _says(platform, "the second", words), words)
    assert second.answer() == "SUCCESS", _errors(platform, "the second")
    _, said = platform.run("the second")
    assert sum(words in line and "STEP" not in line for line in said) == 1
    _assert_each_day_is_there_once(platform, now)


def test_a_run_gives_up_after_its_limit_and_names_whom_it_waited_for(
    platform: Platform, pair: tuple[Worker, Worker], hasty: Worker, now: str
) -> None:
    """`wait_timeout` is that limit; the run that works is not disturbed."""
    with _held(platform, pair[0], now, "a long run") as holder:
        assert hasty.tell("materialize", now=now, tag="gave up on a run") == "FAILURE"
        words = f"Waited {_HASTY} s for Dagster run {holder.run_id}"
        assert _says(platform, "gave up on a run", words)
        assert _says(platform, "gave up on a run", "raise `wait_timeout`")
    _assert_each_day_is_there_once(platform, now)


_Start = Callable[[Platform, str], subprocess.Popen[str]]


def _plan(platform: Platform, now: str) -> subprocess.Popen[str]:
    more = ["--auto-apply", "--no-prompts", "--run", "--execution-time", now]
    return sqlmesh_cli(platform, "plan", "dev", *more)


def _bare_run(platform: Platform, now: str) -> subprocess.Popen[str]:
    code = "from sqlmesh import Context; Context(load=False).run('dev', execution_time={!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code.format(now)],
        cwd=platform.root / "sqlmesh_project",
        env=platform.environment,
        text=True,
    )


def _duckdb(platform: Platform, now: str) -> subprocess.Popen[str]:
    code = """
import duckdb, pathlib, sys, time
warehouse, holds = map(pathlib.Path, sys.argv[1:])
with duckdb.connect(str(warehouse)):
    while (holds / "audit").exists():
        (holds / "reached").touch()
        time.sleep(0.01)
"""
    files = [str(platform.warehouse), str(platform.root / "holds")]
    return subprocess.Popen([sys.executable, "-c", code, *files], text=True)


@pytest.mark.parametrize(
    "start", [_plan, _bare_run, _duckdb], ids=["sqlmesh-plan", "sqlmesh-run", "duckdb"]
)
def test_a_run_waits_for_a_process_that_holds_the_duckdb_file(
    platform: Platform, pair: tuple[Worker, Worker], hasty: Worker, now: str, start: _Start
) -> None:
    """One that knows nothing of our lock: a run says so, gives up in time, or goes on after it."""
    _hold(platform)
    outsider = start(platform, now)
    reached = platform.root / "holds/reached"
    wait_until(lambda: reached.exists() or outsider.poll() is not None, "the outsider")
    assert outsider.poll() is None, outsider.stdout and outsider.stdout.read()
    tags = [f"{name} beside {start.__name__}" for name in ("hasty", "patient")]
    assert hasty.tell("materialize", now=now, tag=tags[0]) == "FAILURE"
    words = f"The DuckDB file is in use by another process, and stayed so for {_HASTY} s"
    assert _says(platform, tags[0], words), platform.run(tags[0])
    pair[0].ask("materialize", now=now, tag=tags[1])
    words = "Waiting for the process that holds the DuckDB file"
    wait_until(lambda: _says(platform, tags[1], words), words)
    assert _says(platform, tags[1], f"PID {outsider.pid}")
    _release(platform)
    assert outsider.wait(LIMIT) == 0
    assert pair[0].answer() == "SUCCESS", platform.run(tags[1])
    _assert_each_day_is_there_once(platform, now)


def test_sqlmeshs_own_command_cannot_disturb_a_run_that_works(
    platform: Platform, pair: tuple[Worker, Worker], now: str
) -> None:
    """DuckDB refuses it the file, so that it fails at once; what the run builds is whole."""
    with _held(platform, pair[0], now, "a run beside the command"):
        command = sqlmesh_cli(platform, "run", "dev")
        said, _ = command.communicate(timeout=LIMIT)
        assert command.returncode != 0, said
    _assert_each_day_is_there_once(platform, now)


def test_a_run_that_deploys_changes_waits_for_a_run_that_works(
    platform: Platform, pair: tuple[Worker, Worker], now: str
) -> None:
    """`undeployed_changes=apply` plans in its own turn, and its new version is what is there then."""
    model = platform.root / "sqlmesh_project/models/unrelated.sql"
    before = model.read_text()
    with _held(platform, pair[0], now, "a run before a change") as holder:
        model.write_text(before.replace("1::INT", "2::INT"))
        with workers(platform, "deployer") as (deployer,):
            deployer.ask("materialize", now=now, tag="the change")
            words = f"Waiting for Dagster run {holder.run_id}"
            wait_until(lambda: _says(platform, "the change", words), words)
            _release(platform)
            assert deployer.answer() == "SUCCESS"
    assert _says(platform, "the change", "Deploying the project's files")
    assert platform.query("SELECT id FROM demo__dev.unrelated") == [(2,)]
    _assert_each_day_is_there_once(platform, now)


@contextlib.contextmanager
def _held(platform: Platform, worker: Worker, now: str, tag: str) -> Iterator[dg.DagsterRun]:
    """Meanwhile a run is in the middle of its sqlmesh run; it has succeeded afterwards."""
    _hold(platform)
    worker.ask("materialize", now=now, tag=tag)
    wait_until((platform.root / "holds/reached").exists, tag)
    try:
        yield platform.run(tag)[0]
    finally:
        _release(platform)
        assert worker.answer() == "SUCCESS", platform.run(tag)


def _hold(platform: Platform) -> None:
    _release(platform)
    (platform.root / "holds/audit").touch()


def _release(platform: Platform) -> None:
    for hold in (platform.root / "holds").iterdir():
        hold.unlink()


def _says(platform: Platform, tag: str, words: str) -> bool:
    with platform.instance() as instance:
        if not instance.get_runs(dg.RunsFilter(tags={"trial": tag})):
            return False
    return any(words in line for line in platform.run(tag)[1])


def _errors(platform: Platform, *tags: str) -> str:
    """What the logs of these runs say of their end."""
    return "\n".join("\n".join(platform.run(tag)[1][-40:]) for tag in tags)


def _next_day(platform: Platform) -> str:
    ((last,),) = platform.query("SELECT max(end_ts) FROM sqlmesh._intervals")
    day = datetime.fromtimestamp(last / 1000) + timedelta(days=1)
    return f"{day:%Y-%m-%d}T00:30:00"


def _assert_each_day_is_there_once(platform: Platform, now: str) -> None:
    """Every day before `now`, with all of its rows, in both incremental models."""
    days = (datetime.fromisoformat(now) - datetime(2025, 1, 1)).days
    for model in ("daily", "appended"):
        counts = platform.query(
            f"SELECT count(*), count(DISTINCT (day, id)) FROM demo__dev.{model}"
        )
        assert counts == [(days * _ROWS_A_DAY,) * 2], model
    platform.intervals()
