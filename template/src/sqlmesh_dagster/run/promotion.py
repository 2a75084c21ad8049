"""Checks a promotion against the newest review: no rule is broken, and nothing has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.errors import PromotionStoppedError
from sqlmesh_dagster.facts.review import Basis, estimate_is_off
from sqlmesh_dagster.facts.rules import Rules, read_rules
from sqlmesh_dagster.options import PlanOptions
from sqlmesh_dagster.resource import SQLMeshResource
from sqlmesh_dagster.run.commits import commit_of
from sqlmesh_dagster.run.jobs import in_session
from sqlmesh_dagster.run.overrides import Override, obey, override_of
from sqlmesh_dagster.run.reviewed import PROMOTED_TAG, Reviewed, newest_review
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.upstream.dagster import add_run_tag

if TYPE_CHECKING:
    from sqlmesh_dagster.engine.session import Session


@dataclass(frozen=True)
class Promoting:
    """A promotion, and the review that it is checked against; None without a review."""

    context: dg.OpExecutionContext
    settings: ProjectSettings
    rules: Rules
    reviewed: Reviewed | None
    override: Override | None
    checked_out: str | None = None
    before: list[Basis] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        context: dg.OpExecutionContext,
        project: DagsterProject,
        settings: ProjectSettings,
        options: PlanOptions,
    ) -> Promoting:
        """Reads the rules and the newest review.

        Raises:
            PromotionStoppedError: A review is required and there is none, or it has broken a rule.
        """
        rules = read_rules(settings.project_path)
        override = override_of(rules.gates, options.override, options.override_by)
        found = None if options.without_review else newest_review(context.instance, project.name)
        if found is None and rules.gates.require_review:
            raise PromotionStoppedError(
                "`require_review` of `review.toml` lets nothing into production that was not reviewed."
                " Run `poe review`, then `poe promote`."
            )
        if found is not None:
            obey(context, found.stops, override)
        commit = commit_of(settings.project_path)
        return cls(context, settings, rules, found, override, commit)

    @property
    def environment(self) -> str | None:
        """In which the change was reviewed."""
        return self.reviewed.environment if self.reviewed else None

    def approve(self, now: Basis) -> None:
        """Refuses a plan that is not what was reviewed.

        Raises:
            PromotionStoppedError: Something has changed since; the message names each of it.
        """
        self.before.append(now)
        moved = self.reviewed.basis.moved_since(now) if self.reviewed else ()
        if moved:
            raise PromotionStoppedError(
                "This is not what was reviewed. "
                + " ".join(moved)
                + " Run `poe review` again; `without_review` promotes it all the same."
            )

    @property
    def commit(self) -> str | None:
        """Of the files: the reviewed one, which they still are."""
        return self.reviewed.commit if self.reviewed else self.checked_out

    @property
    def change(self) -> Mapping[str, Any]:
        """What production's assets show of the change that moved them."""
        facts: dict[str, Any] = {
            "sqlmesh/promoted_in": dg.MetadataValue.dagster_run(self.context.run_id)
        }
        if self.reviewed:
            facts["sqlmesh/reviewed_in"] = dg.MetadataValue.dagster_run(self.reviewed.run_id)
        if self.commit:
            facts["sqlmesh/commit"] = self.commit
        return facts

    def finish(self, resource: SQLMeshResource, seconds: float) -> dict[str, Any]:
        """Says how long it took, marks the review as used, and drops its environment.

        Args:
            seconds: That SQLMesh took to build.
        """
        facts: dict[str, Any] = {
            **self.change,
            **(self.override.metadata if self.override and self.is_stopped else {}),
        }
        if self.reviewed is None:
            return facts
        add_run_tag(self.context.instance, self.reviewed.run_id, PROMOTED_TAG, self.context.run_id)
        self._compare(seconds)
        self._drop(resource, self.reviewed.environment)
        return facts

    @property
    def is_stopped(self) -> bool:
        """Whether a rule is broken."""
        return self.reviewed is not None and bool(self.reviewed.stops)

    def _compare(self, seconds: float) -> None:
        estimate = self.reviewed.seconds if self.reviewed else None
        told = estimate_is_off(estimate, seconds, self.rules.promotion.cost_factor)
        if told:
            self.context.log.warning(told)

    def _drop(self, resource: SQLMeshResource, name: str) -> None:
        if not self.rules.promotion.drop_environment or name == resource.settings.environment:
            return

        def work(session: Session) -> bool:
            from sqlmesh_dagster.engine.plan import Planning  # imports SQLMesh

            return Planning(session).invalidate(is_dropped=True)

        settings = self.settings.model_copy(update={"environment": name})
        if in_session(self.context, resource, settings, work):
            self.context.log.info(f"Environment `{name}` is promoted, and dropped.")
