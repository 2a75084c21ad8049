"""Alerts: a message to a chat or by e-mail when a run fails, or when a check of it does."""

from __future__ import annotations

import http.client
import json
import os
import smtplib
import ssl
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import dagster as dg

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.guard.secret_values import secrets_of_variables
from sqlmesh_dagster.guard.secrets import learn, mask

WEBHOOK, EMAIL, SMTP = "ALERT_WEBHOOK_URL", "ALERT_EMAIL", "ALERT_SMTP_URL"
"""Variables: where a chat takes messages; who gets mails, with commas; the server that sends them."""
SENDER, UI = "ALERT_EMAIL_FROM", "ALERT_DAGSTER_URL"
"""Variables: who a mail is from; where people open Dagster, for the link to the run."""
_MOST_LINES = 10
_LONGEST_LINE = 300
_SECONDS = 15


@dataclass(frozen=True)
class Alert:
    """What one run has to say.

    Attributes:
        title: One line.
        lines: What failed, each in one line.
        link: Where to look.
    """

    title: str
    lines: tuple[str, ...]
    link: str

    @property
    def text(self) -> str:
        """The whole message; a long list is cut, and says so."""
        shown = [f"- {_one_line(line)}" for line in self.lines[:_MOST_LINES]]
        more = len(self.lines) - len(shown)
        return "\n".join(
            [self.title, *shown, *([f"… and {more} more"] if more > 0 else []), self.link]
        )


def alert_sensors(prefix: str = "sqlmesh") -> list[dg.SensorDefinition]:
    """A sensor for runs that fail, and one for checks that fail in runs that do not.

    They run from the start once `ALERT_WEBHOOK_URL`, or `ALERT_EMAIL` and `ALERT_SMTP_URL`, is set, and are
    off until then. A result that a run only repeats, because nothing was due, is no alert again.

    Args:
        prefix: Of the sensors' names.
    """
    is_on = is_configured(os.environ)
    status = dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED

    @dg.run_failure_sensor(
        name=f"{prefix}_alert_on_failure",
        description=f"Sends a message when a run fails. {_WHERE}",
        default_status=status,
    )
    def on_failure(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        steps = [_step_line(event) for event in context.get_step_failure_events()]
        lines = [*steps, *_failed_checks(context.instance, run.run_id)]
        told = lines or [context.failure_event.message or "Dagster's log has the reason."]
        send(Alert(f"Run of {run.job_name} failed", tuple(told), _link(run.run_id)), os.environ)

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name=f"{prefix}_alert_on_checks",
        description=f"Sends a message when checks of a run fail that else succeeds. {_WHERE}",
        default_status=status,
    )
    def on_checks(context: dg.RunStatusSensorContext) -> None:
        run = context.dagster_run
        lines = tuple(_failed_checks(context.instance, run.run_id))
        if lines:
            number = f"{len(lines)} {'check' if len(lines) == 1 else 'checks'}"
            send(Alert(f"{number} of {run.job_name} failed", lines, _link(run.run_id)), os.environ)

    return [on_failure, on_checks]


_WHERE = (
    f"`{WEBHOOK}` names a webhook of Slack, Mattermost or another chat; `{EMAIL}` with `{SMTP}` sends"
    " mails. It is off until one is set."
)


def is_configured(environ: Mapping[str, str]) -> bool:
    """Whether alerts have somewhere to go."""
    return bool(environ.get(WEBHOOK) or environ.get(EMAIL))


def send(alert: Alert, environ: Mapping[str, str]) -> None:
    """Sends an alert to each place that is configured.

    Raises:
        InvalidSettingError: No place is configured, or one makes no sense.
        OSError: A place cannot be reached, or refuses the message.
    """
    learn(secrets_of_variables(environ))
    webhook, receivers = environ.get(WEBHOOK), environ.get(EMAIL)
    if not is_configured(environ):
        raise InvalidSettingError(
            f"There is nowhere to send alerts to. Set `{WEBHOOK}`, or `{EMAIL}` and `{SMTP}`, where Dagster"
            " runs, and start it again."
        )
    if webhook:
        with _told(WEBHOOK):
            _post(webhook, alert)
    if receivers:
        with _told(SMTP):
            _mail(receivers, environ.get(SMTP), environ.get(SENDER), alert)


@contextmanager
def _told(variable: str) -> Iterator[None]:
    """What a library says of an address names the variable in place of its value, which is a secret."""
    try:
        yield
    except InvalidSettingError:
        raise
    except (ValueError, http.client.HTTPException) as error:
        raise InvalidSettingError(
            f"`{variable}` cannot be used: {type(error).__name__}. Set it to an address as it is issued, with"
            " signs such as `/` in a password quoted (`%2F`)."
        ) from None


def _post(url: str, alert: Alert) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidSettingError(f"`{WEBHOOK}` is no web address. It begins with `https://`.")
    request = urllib.request.Request(
        url,
        json.dumps({"text": mask(alert.text)}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_SECONDS):
        pass


def _mail(receivers: str, server: str | None, sender: str | None, alert: Alert) -> None:
    to = [each.strip() for each in receivers.split(",") if each.strip()]
    parts = urlsplit(server or "")
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise InvalidSettingError(
            f"`{SMTP}` must name the mail server, such as `smtp://user:password@mail.example.com:587`."
        )
    message = EmailMessage()
    message["Subject"] = mask(_one_line(alert.title))
    message["From"] = sender or to[0]
    message["To"] = ", ".join(to)
    message.set_content(mask(alert.text))
    with _connected(parts.scheme, parts.hostname, parts.port) as smtp:
        if parts.username:
            smtp.login(unquote(parts.username), unquote(parts.password or ""))
        smtp.send_message(message)


def _connected(scheme: str, host: str, port: int | None) -> smtplib.SMTP:
    """A connection, encrypted where the server can."""
    if scheme == "smtps":
        return smtplib.SMTP_SSL(
            host, port or 465, timeout=_SECONDS, context=ssl.create_default_context()
        )
    smtp = smtplib.SMTP(host, port or 587, timeout=_SECONDS)
    smtp.ehlo()
    if smtp.has_extn("starttls"):
        smtp.starttls(context=ssl.create_default_context())
        smtp.ehlo()
    return smtp


def _step_line(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    failure, error = data.user_failure_data, data.error
    told = (failure.description if failure else None) or (error.message if error else None)
    return f"{event.step_key}: {told or 'failed'}"


def _failed_checks(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    """What the run found; not what it only repeats of an earlier one."""
    found = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    for check in _evaluations(record.event_log_entry.dagster_event for record in found.records):
        if not check.passed and "sqlmesh/found_at" not in check.metadata:
            key = check.asset_key.to_user_string()
            yield f"{key}, check {check.check_name}: {check.description or 'failed'}"


def _evaluations(events: Iterable[dg.DagsterEvent | None]) -> Iterator[dg.AssetCheckEvaluation]:
    """The last result of each check."""
    results: dict[tuple[dg.AssetCheckKey, str | None], dg.AssetCheckEvaluation] = {}
    for event in events:
        if event is not None:
            check = event.asset_check_evaluation_data
            results[check.asset_check_key, check.partition] = check
    whole = {key for key, partition in results if partition is None}
    for (key, partition), check in results.items():
        if partition is None or key not in whole:
            yield check


def _one_line(text: str) -> str:
    """Masked before it is cut: the beginning of a secret is no longer known as one."""
    line = " ".join(mask(text).split())
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"


def _link(run_id: str) -> str:
    return f"{os.environ.get(UI, 'http://localhost:3000').rstrip('/')}/runs/{run_id}"
