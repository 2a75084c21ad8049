"""Steps of a Dagster run that share no folder tell each other what is done by a tag of the run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from sqlmesh_dagster.definition.names import digest
from sqlmesh_dagster.upstream.dagster import RunPlan, add_run_tag, failed_steps

_TAG = ".dagster/sqlmesh_steps"
"""Hidden in the UI, as all that begin like this."""


@dataclass(frozen=True)
class RunMarks:
    """Whether `before_all` has run, and which steps of models are done.

    A retry of the whole run begins from the start, though Dagster copies its tags. Changes are made under the lock
    on SQLMesh's state.

    Attributes:
        models: Steps of the run that build a model.
    """

    instance: dg.DagsterInstance
    run_id: str
    plan: RunPlan
    models: frozenset[str]

    def has_begun(self) -> bool:
        """Whether `before_all` has run."""
        return bool(self._read()["begun"])

    def begin(self) -> None:
        """Notes that it has."""
        self._write({**self._read(), "begun": True})

    def finish(self, *, is_success: bool) -> bool:
        """Notes that this step is done; whether all others are, too, or will never start."""
        noted = self._read()
        noted["done"][digest(self.plan.own_step, 10)] = is_success
        self._write(noted)
        done = {step: noted["done"].get(digest(step, 10)) for step in self.models}
        if all(known is not None for known in done.values()):
            return True
        failed = {step for step, known in done.items() if known is False}
        failed |= failed_steps(self.instance, self.run_id) - self.models
        finished = {step for step, known in done.items() if known is not None}
        return are_all_done(self.models, self.plan.upstream, finished, failed)

    def _read(self) -> dict[str, Any]:
        run = self.instance.get_run_by_id(self.run_id)
        noted: dict[str, Any] = json.loads(run.tags.get(_TAG, "{}")) if run else {}
        return noted if noted.get("run") == self.run_id else {"begun": False, "done": {}}

    def _write(self, noted: Mapping[str, Any]) -> None:
        add_run_tag(self.instance, self.run_id, _TAG, json.dumps({**noted, "run": self.run_id}))


def are_all_done(
    models: Collection[str],
    upstream: Mapping[str, Collection[str]],
    finished: Collection[str],
    failed: Collection[str],
) -> bool:
    """Whether each step of a model is finished, or is skipped because one above it has failed.

    Args:
        upstream: Each step of the run, with its direct upstream steps in it.
    """
    skipped = dict.fromkeys(failed, True)

    def is_skipped(step: str) -> bool:
        pending = [step]
        while pending:
            current = pending[-1]
            unknown = [above for above in upstream.get(current, ()) if above not in skipped]
            if current not in skipped and unknown:
                pending.extend(unknown)
                continue
            above = upstream.get(current, ())
            skipped.setdefault(current, any(skipped[each] for each in above))
            pending.pop()
        return skipped[step]

    return all(step in finished or is_skipped(step) for step in models)
