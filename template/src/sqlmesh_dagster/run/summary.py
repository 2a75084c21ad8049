"""What the last Dagster run did, in a few lines for a terminal: `python -m sqlmesh_dagster.run.summary`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

_MATERIALIZED = "materialized"
_SHOWN = ("sqlmesh/plan_summary", "sqlmesh/verification")


def summarize(instance: dg.DagsterInstance) -> Iterator[str]:
    """Lines on the newest run: its plan, each asset with its checks, what warns or failed, a total."""
    records = instance.get_run_records(limit=1)
    if not records:
        yield "There is no run yet."
        return
    run = records[0].dagster_run
    logged = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
    events = [event for event in logged if event is not None]
    checks = [
        event.event_specific_data
        for event in events
        if isinstance(event.event_specific_data, dg.AssetCheckEvaluation)
        and event.event_specific_data.partition is None  # the check as a whole has a result, too
    ]
    yield from (f"{text.value}\n" for event in events for text in _texts(event))
    done_by_key = dict(_done(events))
    for key, done in done_by_key.items():
        yield f"{done}  {key.to_user_string()}{_checked([c for c in checks if c.asset_key == key])}"
    yield from (
        f"{'warning' if check.severity is dg.AssetCheckSeverity.WARN else 'FAILED'}: check"
        f" {check.check_name} of {check.asset_key.to_user_string()}: {check.description}"
        for check in checks
        if not check.passed
    )
    yield from (
        f"FAILED: step {event.step_key}{_reason(event)}"
        for event in events
        if event.event_type is dg.DagsterEventType.STEP_FAILURE
    )
    yield from (f"stale: {key.to_user_string()}: {text}" for key, text in _stale(events))
    passed = sum(check.passed for check in checks)
    yield (
        f"Run {run.run_id[:8]} ended as {run.status.value}: {_counted(done_by_key.values())},"
        f" {passed} of {len(checks)} checks passed."
    )


def _done(events: Iterable[dg.DagsterEvent]) -> Iterator[tuple[dg.AssetKey, str]]:
    """Each asset, with `built`, or why it was left alone; an asset of yours is materialized."""
    for event in events:
        if event.asset_key is None:
            continue
        if event.is_step_materialization:
            yield event.asset_key, _status(event.materialization.metadata) or _MATERIALIZED
        elif event.is_asset_observation:
            observed = event.asset_observation_data.asset_observation
            yield event.asset_key, _status(observed.metadata) or "observed"


def _stale(events: Iterable[dg.DagsterEvent]) -> Iterator[tuple[dg.AssetKey, str]]:
    """Each model that is behind its inputs, with why, and how to build it."""
    for event in events:
        if event.asset_key and event.is_step_materialization:
            text = event.materialization.metadata.get("sqlmesh/stale")
            if isinstance(text, dg.TextMetadataValue) and text.text:
                yield event.asset_key, text.text


def _status(metadata: Mapping[str, dg.MetadataValue[Any]]) -> str | None:
    status = metadata.get("sqlmesh/status")
    return status.text if isinstance(status, dg.TextMetadataValue) else None


def _counted(done: Iterable[str]) -> str:
    """`6 materialized, 17 built, 3 up to date`, in the order in which they came first."""
    return (
        ", ".join(f"{count} {status}" for status, count in Counter(done).items()) or "nothing done"
    )


def _reason(event: dg.DagsterEvent) -> str:
    """The message of the integration's own errors."""
    failure = event.step_failure_data.user_failure_data
    return f": {failure.description}" if failure and failure.description else ""


def _texts(event: dg.DagsterEvent) -> Iterator[dg.MarkdownMetadataValue]:
    """What a plan or a verification shows, whether it succeeded or failed."""
    if event.event_type is dg.DagsterEventType.STEP_OUTPUT:
        metadata = event.step_output_data.metadata
    elif event.event_type is dg.DagsterEventType.STEP_FAILURE:
        failure = event.step_failure_data.user_failure_data
        metadata = failure.metadata if failure else {}
    else:
        return
    for key in _SHOWN:
        text = metadata.get(key)
        if isinstance(text, dg.MarkdownMetadataValue) and text.value:
            yield text


def _checked(checks: Sequence[dg.AssetCheckEvaluation]) -> str:
    if not checks:
        return ""
    passed = sum(check.passed for check in checks)
    return f"  ({passed} of {len(checks)} checks passed)"


def next_step(instance: dg.DagsterInstance) -> str:
    """What to do after the newest run, from the project's root."""
    records = instance.get_run_records(limit=1)
    is_done = bool(records) and records[0].dagster_run.is_success
    how = f"cd {Path.cwd()} && .venv/bin/poe dev  (or: uv run poe dev)"
    done = (
        "Done. Open the UI"
        if is_done
        else "Not done. Look at the logs of the failed steps in the UI"
    )
    return f"{done} on http://localhost:3000:  {how}"


def main(arguments: Sequence[str]) -> None:
    """Prints the summary of the instance in `DAGSTER_HOME`, and with `--next` what to do next."""
    with dg.DagsterInstance.get() as instance:
        sys.stdout.writelines(f"{line}\n" for line in summarize(instance))
        if "--next" in arguments:
            sys.stdout.write(f"{next_step(instance)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
