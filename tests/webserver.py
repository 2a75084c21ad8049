"""`dg dev` of a generated project: webserver, daemon and code server, asked over GraphQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Ask = Callable[..., dict[str, Any]]
"""`ask(query, **variables)` is the `data` of the answer."""

_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on InvalidSubsetError { message }
  }
}
"""
_REEXECUTE = """
mutation ($params: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
_TERMINATE = """
mutation ($id: String!) {
  terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) {
    __typename
    ... on TerminateRunFailure { message }
    ... on PythonError { message }
  }
}
"""
_STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
_ENDED = {"SUCCESS", "FAILURE", "CANCELED"}


@contextmanager
def served(root: Path, environment: Mapping[str, str]) -> Iterator[Ask]:
    """The project, served on a free port, until the context ends."""
    with served_at(root, environment) as address:
        yield asking(address)


@contextmanager
def served_at(root: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The same, with its address for a browser."""
    own = {**environment, "DAGSTER_HOME": str(root / "dagster_home")}
    with answering(["dg", "dev", "--port"], cwd=root, environment=own) as address:
        yield address


@contextmanager
def answering(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]
) -> Iterator[str]:
    """A web server on a free port, which is the command's last argument; its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}", cwd / "dev.log"
    with running([*command, str(port)], cwd=cwd, environment=environment, log=log):
        wait_until(lambda: _answers(f"{address}/server_info"), 120, log)
        yield address


def asking(address: str) -> Ask:
    """The server's GraphQL."""
    return lambda query, **variables: _ask(f"{address}/graphql", query, variables)


@contextmanager
def running(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path
) -> Iterator[None]:
    """A server that ends with the block, by Ctrl-C, and all of its processes with it."""
    with log.open("w") as output:
        server = subprocess.Popen(
            ["env", "--default-signal=INT,TERM", *command],
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def location_of(ask: Ask) -> str:
    """The name of the only code location, loaded without an error."""
    entries = """
        query { workspaceOrError { ... on Workspace { locationEntries {
          name locationOrLoadError { __typename ... on PythonError { message } }
        } } } }
    """
    (entry,) = ask(entries)["workspaceOrError"]["locationEntries"]
    assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation", entry
    return str(entry["name"])


def launch(ask: Ask, location: str, job: str, **selection: Any) -> tuple[str, str]:
    """Launches a run as the UI does, and waits for its end: run id and status."""
    run_id = start(ask, location, job, **selection)
    return run_id, end_of(ask, run_id)


def start(
    ask: Ask,
    location: str,
    job: str,
    *,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    **selection: Any,
) -> str:
    """Launches a run as the UI's launchpad does, and returns its id at once."""
    selector = {
        "repositoryLocationName": location,
        "repositoryName": "__repository__",
        "jobName": job,
        **selection,
    }
    launched = ask(
        _LAUNCH,
        params={
            "selector": selector,
            "runConfigData": json.dumps(config or {}),
            "executionMetadata": {
                "tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]
            },
        },
    )
    return _id_of(launched["launchRun"])


def terminate(ask: Ask, run_id: str) -> None:
    """Cancels a run as the UI does, and returns at once."""
    asked = ask(_TERMINATE, id=run_id)["terminateRun"]
    assert asked["__typename"] == "TerminateRunSuccess", asked


def reexecute(ask: Ask, run_id: str, strategy: str) -> tuple[str, str]:
    """Re-executes a run as the UI does, and waits for its end: run id and status."""
    parameters = {"parentRunId": run_id, "strategy": strategy}
    again = _id_of(ask(_REEXECUTE, params=parameters)["launchRunReexecution"])
    return again, end_of(ask, again)


def status_of(ask: Ask, run_id: str) -> str:
    """A run's status, as the UI shows it."""
    return str(ask(_STATUS, id=run_id)["runOrError"]["status"])


def end_of(ask: Ask, run_id: str) -> str:
    """Waits for a run's end: its status."""
    wait_until(lambda: status_of(ask, run_id) in _ENDED, 180)
    return status_of(ask, run_id)


def _id_of(launched: Mapping[str, Any]) -> str:
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def _ask(url: str, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer
    return dict(answer["data"])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def wait_until(
    condition: Callable[[], bool], seconds: float, log: Path | None = None, every: float = 0.5
) -> None:
    """Waits for a condition, or fails with what the log says."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log else "waited in vain"
        time.sleep(every)
