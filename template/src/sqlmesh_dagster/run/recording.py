"""Shows what a plan, a review or a rollback did on the assets in Dagster."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from sqlmesh_dagster.definition.project import DagsterProject
from sqlmesh_dagster.facts.outcomes import ModelOutcome
from sqlmesh_dagster.facts.tables import BuiltTables
from sqlmesh_dagster.facts.verification import Verification
from sqlmesh_dagster.resource import SQLMeshResource
from sqlmesh_dagster.run.sync import OUTSIDE, report_moved, report_partitions
from sqlmesh_dagster.run.verification_results import report_verification
from sqlmesh_dagster.run.work import record


@dataclass(frozen=True)
class Recording:
    """Records in Dagster what was done in an environment, if it is the one that Dagster runs.

    Attributes:
        run_id: Of the Dagster run, where materializations say which has built them.
    """

    instance: dg.DagsterInstance
    project: DagsterProject
    resource: SQLMeshResource
    environment: str
    run_id: str | None = None

    @property
    def is_on(self) -> bool:
        """Whether Dagster's assets are those of the environment."""
        return self.environment == self.resource.settings.environment

    def outcome(self, outcome: ModelOutcome, more: Mapping[str, Any] | None = None) -> None:
        """A model that was built, or whose audits ran; `more` says for which change."""
        if not self.is_on:
            return
        asset = self.project.assets_by_fqn.get(outcome.fqn)
        checks = self.project.checks_of(outcome.fqn)
        if asset is None and not checks:  # this process began with older files
            name = outcome.fqn.replace('"', "")
            self.resource.say(
                logging.WARNING, f"Reload the code location to see `{name}` in Dagster."
            )
            return
        record(self.instance, asset, outcome, checks, self.run_id, more)

    def verified(self, verification: Verification) -> None:
        """What unit tests and linter say."""
        if self.is_on:
            report_verification(self.instance, self.project.verification_checks, verification)

    def applied(
        self,
        tables: BuiltTables,
        more: Mapping[str, Any] | None = None,
        description: str = OUTSIDE,
    ) -> tuple[dg.AssetKey, ...]:
        """What the environment shows now; the keys of what had been built before.

        Args:
            more: Which change has moved it.
            description: Of the materializations.
        """
        if not self.is_on:
            return ()
        moved = report_moved(
            self.instance, self.project, tables.tables, more=more, description=description
        )
        return (*moved, *report_partitions(self.instance, self.project, tables.tables))
