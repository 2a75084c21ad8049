"""One step of a Dagster run, with what it needs of its resources."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import dagster as dg

from sqlmesh_dagster.definition.partitions import Interval, existing_window
from sqlmesh_dagster.definition.project import DagsterProject, ModelAsset, VerificationCheck
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.reported import Reports
from sqlmesh_dagster.facts.staleness import Known
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.garbage import rare_collection
from sqlmesh_dagster.guard.locks import ProjectLock
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.resource import SQLMeshResource, SQLMeshRunOptions
from sqlmesh_dagster.run.code_checks import report_kept
from sqlmesh_dagster.run.inputs import known_inputs
from sqlmesh_dagster.run.marks import RunMarks
from sqlmesh_dagster.run.reported import last_reports
from sqlmesh_dagster.run.results import RunResults, SQLMeshResultsResource
from sqlmesh_dagster.run.work import record, session_of
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.dagster import partition_range, run_plan

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.sqlmesh_run import SQLMeshRun


@dataclass(frozen=True)
class Step:
    """A step that builds a model or audits a table."""

    context: dg.OpExecutionContext
    project: DagsterProject
    resource: SQLMeshResource
    store: SQLMeshResultsResource
    options: CheckedRunOptions
    lock: ProjectLock
    is_alone: bool = False
    """Whether it runs its own model only, whatever the settings say: it shares no folder with other steps."""

    @classmethod
    def of(cls, context: dg.OpExecutionContext, project: DagsterProject) -> Step:
        """The step in which `context` is."""
        resource: SQLMeshResource = getattr(context.resources, project.name)
        options: SQLMeshRunOptions = getattr(context.resources, project.options_key)
        return cls(
            context=context,
            project=project,
            resource=resource,
            store=getattr(context.resources, project.results_key),
            options=_options(context, project, options.resolve()),
            lock=ProjectLock(resource.settings.lock_name, resource.settings.project_path),
        )

    @property
    def settings(self) -> ProjectSettings:
        """How this step works on the project."""
        settings = self.resource.settings
        return settings.model_copy(update={"execution": "per_step"}) if self.is_alone else settings

    @property
    def results(self) -> RunResults:
        """What this Dagster run knows of its models so far."""
        return self.store.of_run(self.context.instance, self.context.run_id, self.project.name)

    @property
    def holder(self) -> str:
        """The name of this Dagster run for those who wait for the lock."""
        return self.resource.holder

    @property
    def reports(self) -> Reports:
        """What was reported to Dagster last of the models of this run."""
        context = self.context
        return self.store.reports(
            context.run_id,
            self.project.name,
            context.retry_number,
            lambda: last_reports(context.instance, self.project, run_plan(context)),
        )

    @property
    def remembers(self) -> bool:
        """Whether checks stay failed until the failed intervals pass."""
        return self.resource.settings.keep_checks_failed

    def is_observed(self, asset: ModelAsset, outcome: ModelOutcome) -> bool:
        """Whether a model that was not built is observed and not materialized.

        For Dagster each materialization is fresh data, which is wrong while a model waits for its
        data.
        """
        is_late = outcome.status == "not_ready" and asset.spec.freshness_policy is not None
        return is_late or self.resource.settings.nothing_due == "observe"

    def sqlmesh_run(
        self,
        cancel: CancelToken,
        known: Known | None = None,
        *,
        has_project_lock: bool = False,
        marks: RunMarks | None = None,
    ) -> SQLMeshRun:
        """SQLMesh's part; call it in the worker thread, because SQLMesh is imported here.

        Args:
            known: What is known of the models' inputs.
            marks: What the steps of this run tell each other, where each runs SQLMesh alone.
        """
        with rare_collection():
            from sqlmesh_dagster.engine.sqlmesh_run import SQLMeshRun

        session = session_of(
            self.resource, self.settings, cancel, has_project_lock=has_project_lock
        )
        return SQLMeshRun(session, self.options, self.project.manifest, known, marks)

    @property
    def marks(self) -> RunMarks:
        """What the steps of this Dagster run tell each other, on whichever hosts."""
        plan = run_plan(self.context)
        models = self.project.fqns_by_key
        steps = frozenset(step for key, step in plan.assets.items() if key in models)
        return RunMarks(self.context.instance, self.context.run_id, plan, steps)

    def known_inputs(self, fqns: Collection[str]) -> Known:
        """What Dagster knows of the inputs of these models, which one sqlmesh run takes."""
        return known_inputs(
            self.context.instance,
            self.project,
            self.resource.translator,
            fqns,
            run_id=self.context.run_id,
            build=self.options.build_policy,
            without_range=self.resource.settings.without_range,
            outcomes=self.results.latest(),
        )

    def code_checks(self, fqns: Collection[str]) -> Iterator[VerificationCheck]:
        """The checks of the code of these models that no step of this run evaluates."""
        keys = self.project.keys_by_fqn
        for fqn in fqns:
            if fqn in keys:
                yield from self.reports.code.get(keys[fqn], ())

    def report_besides(self, outcome: ModelOutcome, selected: Collection[str]) -> None:
        """Records a model that was built although no step of this Dagster run stands for it.

        A plan that deploys local changes builds such models, a restatement that goes downstream, and a
        run that finds intervals missing upstream.

        Args:
            selected: FQNs of the models that steps of this run report.
        """
        if outcome.fqn in selected and not outcome.is_late:
            return
        asset = self.project.assets_by_fqn.get(outcome.fqn)
        if asset is None and self._will_report(outcome.fqn):
            return
        checks = self.project.checks_of(outcome.fqn)
        record(self.context.instance, asset, outcome, checks, self.context.run_id)
        if not outcome.is_late:
            self.report_code_checks(asset)

    def _will_report(self, table: str) -> bool:
        """Whether a step of this run reports the audits of an external table, or has reported them."""
        checks = {spec.key for _, spec in self.project.checks_of(table)}
        return not self.results.is_unshared and bool(checks & run_plan(self.context).checks)

    def report_code_checks(self, asset: ModelAsset | None) -> None:
        """What is known of the code of a model that no step of this run reports."""
        if asset is not None and self.project.verification_checks:
            checks = self.project.code_checks_of({asset.spec.key})
            report_kept(self.context.instance, checks)


def _options(
    context: dg.OpExecutionContext, project: DagsterProject, options: CheckedRunOptions
) -> CheckedRunOptions:
    now = options.now or datetime.now(timezone.utc)
    checked = options.model_copy(update={"partitions": _partitions(context, project, now)})
    checked.refuse_unused()
    return checked


def _partitions(
    context: dg.OpExecutionContext, project: DagsterProject, now: datetime
) -> Interval | None:
    """The time of the partitions that the Dagster run was launched for.

    Raises:
        InvalidSettingError: They don't exist, or lie in the future.
    """
    keys = partition_range(context)
    if keys is None:
        return None
    plan = run_plan(context)
    selected = {*plan.assets, *(key.asset_key for key in plan.checks)}
    found = (a.partitions for a in project.assets if a.partitions and a.spec.key in selected)
    partitions = next(found, None)
    return existing_window(partitions, *keys, now) if partitions else None
