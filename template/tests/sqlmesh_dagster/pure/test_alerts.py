"""Alerts: what a failed run sends to a chat's webhook and to a mail server, both real and local."""

import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import dagster as dg
import pytest

from sqlmesh_dagster import InvalidSettingError, alert_sensors
from sqlmesh_dagster.alerts import Alert, send

ALERT = Alert("Run of nightly failed", ("step: broke\nin two",), "http://localhost:3000/runs/1")


class _Server(HTTPServer):
    """Keeps what was posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Posted)
        self.texts: list[str] = []


class _Posted(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.texts.append(body["text"])
        self.send_response(404 if self.path == "/gone" else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


class _Mails(socketserver.TCPServer):
    """Keeps the mails that it is given, without passing them on."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mail)
        self.mails: list[str] = []


class _Mail(socketserver.StreamRequestHandler):
    server: _Mails

    def handle(self) -> None:
        self._say("220 ready")
        for line in iter(self.rfile.readline, b""):
            word = line.decode().strip().upper()[:4]
            if word == "DATA":
                self._say("354 go on")
                body = iter(self.rfile.readline, b".\r\n")
                self.server.mails.append(b"".join(body).decode())
            self._say("221 bye" if word == "QUIT" else "250 ok")
            if word == "QUIT":
                return

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    """A chat, named by the variable."""
    server = _Server()
    monkeypatch.setenv("ALERT_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/hook")
    monkeypatch.setenv("ALERT_DAGSTER_URL", "https://dagster.example/")
    with _running(server):
        yield server


@dg.asset
def orders(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Fails where its run says so."""
    if context.run.tags.get("breaks"):
        raise dg.Failure("Relation `orders`\n  is gone.")
    return dg.MaterializeResult()


def _check(name: str, metadata: Mapping[str, Any]) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=orders, name=name)
    def check() -> dg.AssetCheckResult:
        severity = dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(
            passed=False, severity=severity, description="found 2 rows", metadata=metadata
        )

    return check


def _alert_of(instance: dg.DagsterInstance, *checks: dg.AssetChecksDefinition, **tags: str) -> None:
    """Runs the asset, and then the sensor of the run's status."""
    job = dg.Definitions(
        assets=[orders],
        asset_checks=checks,
        jobs=[dg.define_asset_job("nightly", dg.AssetSelection.all())],
    ).resolve_job_def("nightly")
    result = job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    on_failure, on_checks = alert_sensors()
    sensor, event = (
        (on_checks, result.get_run_success_event())
        if result.success
        else (on_failure, result.get_run_failure_event())
    )
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_event=event,
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    )
    assert callable(sensor)
    sensor(context if result.success else context.for_run_failure())


def test_a_failed_run_is_one_message_with_what_failed_and_where_to_look(chat: _Server) -> None:
    """Promise: the step and its error in a line, and a link to the run."""
    with dg.DagsterInstance.ephemeral() as instance:
        _alert_of(instance, breaks="yes")
        (run,) = instance.get_runs()
    (text,) = chat.texts
    assert text.splitlines() == [
        "Run of nightly failed",
        "- orders: Relation `orders` is gone.",
        f"https://dagster.example/runs/{run.run_id}",
    ]


def test_a_check_that_fails_is_a_message_though_the_run_succeeds(chat: _Server) -> None:
    """Promise: warnings, too; but not what a run with nothing due only repeats."""
    with dg.DagsterInstance.ephemeral() as instance:
        _alert_of(instance)
        _alert_of(instance, _check("repeated", {"sqlmesh/found_at": 1}))
        assert chat.texts == []
        _alert_of(instance, _check("amounts", {}), _check("repeated", {"sqlmesh/found_at": 1}))
    (text,) = chat.texts
    assert text.startswith("1 check of nightly failed\n- orders, check amounts: found 2 rows\n")


def test_a_mail_has_the_same_words() -> None:
    """Promise: to each receiver, from whom the variable names."""
    server = _Mails()
    with _running(server):
        environ = {
            "ALERT_EMAIL": "ada@example.com, jo@example.com",
            "ALERT_EMAIL_FROM": "dagster@example.com",
            "ALERT_SMTP_URL": f"smtp://127.0.0.1:{server.server_address[1]}",
        }
        send(ALERT, environ)
    (mail,) = server.mails
    for part in (
        "Subject: Run of nightly failed",
        "From: dagster@example.com",
        "To: ada@example.com, jo@example.com",
        "- step: broke in two",
    ):
        assert part in mail


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "There is nowhere to send alerts to"),
        ({"ALERT_WEBHOOK_URL": "file:///etc/passwd"}, "`ALERT_WEBHOOK_URL` is no web address"),
        ({"ALERT_EMAIL": "ada@example.com"}, "`ALERT_SMTP_URL` must name the mail server"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused_by_name(
    environ: dict[str, str], words: str
) -> None:
    """Promise: the variable to correct."""
    with pytest.raises(InvalidSettingError, match=words):
        send(ALERT, environ)


def test_a_chat_that_refuses_the_message_fails_the_tick(chat: _Server) -> None:
    """Promise: a wrong address is seen on the sensor's page."""
    with pytest.raises(OSError, match="404"):
        send(ALERT, {"ALERT_WEBHOOK_URL": f"http://127.0.0.1:{chat.server_port}/gone"})


def test_a_long_list_is_cut_and_says_so() -> None:
    """Promise: a message that a chat takes."""
    text = Alert("t", tuple("x" * 1000 for _ in range(12)), "l").text
    assert len(text) < 4000 and "… and 2 more" in text


def test_the_sensors_are_off_until_a_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a new project sends nothing, and one variable is enough."""
    for name in ("ALERT_WEBHOOK_URL", "ALERT_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    assert {s.default_status for s in alert_sensors()} == {dg.DefaultSensorStatus.STOPPED}
    monkeypatch.setenv("ALERT_EMAIL", "ada@example.com")
    assert {s.default_status for s in alert_sensors("ours")} == {dg.DefaultSensorStatus.RUNNING}
    assert [s.name for s in alert_sensors("ours")] == [
        "ours_alert_on_failure",
        "ours_alert_on_checks",
    ]


@pytest.mark.parametrize(
    "variables",
    [
        {"ALERT_WEBHOOK_URL": "https://hooks.example/services/canary 1"},
        {"ALERT_WEBHOOK_URL": "https://hooks.example:canary/services"},
        {"ALERT_EMAIL": "a@example.org", "ALERT_SMTP_URL": "smtp://me:canary/x@mail.example"},
        {"ALERT_EMAIL": "a@example.org", "ALERT_SMTP_URL": "smtp://me:canary#x@mail.example"},
    ],
)
def test_an_address_that_makes_no_sense_is_told_without_it(variables: Mapping[str, str]) -> None:
    """Promise: the variable is named; whoever knows its value could use it."""
    with pytest.raises(InvalidSettingError, match=r"ALERT_(WEBHOOK|SMTP)_URL") as raised:
        send(ALERT, variables)
    error: BaseException | None = raised.value
    while error is not None:
        assert "canary" not in str(error)
        error = error.__cause__


def test_a_secret_at_the_place_where_a_line_is_cut_is_masked() -> None:
    """Bug: its first characters were sent, as the line was cut first."""
    server = _Server()
    with _running(server):
        environ = {"ALERT_WEBHOOK_URL": f"http://127.0.0.1:{server.server_port}/x"}
        for before in range(280, 300):
            alert = Alert("Run failed", ("y" * before + " cnry-alert-1 and more",), "")
            send(alert, {**environ, "API_TOKEN": "cnry-alert-1"})
    assert len(server.texts) == 20 and "cn" not in "".join(server.texts)
