"""The exceptions on Dagster's side that a command leans on: `dg launch` gives a run no tags.

The contract tests fail clearly when one of them moves. Verified on Dagster 1.13.27.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from dagster._core.workspace.autodiscovery import loadable_targets_from_python_module
from dagster._utils.interrupts import capture_interrupts

ASSET_JOB = IMPLICIT_ASSET_JOB_NAME
"""The job of all assets, which the UI launches too when assets are materialized."""


@dataclass(frozen=True)
class LocatedAsset:
    """An asset that a run can materialize.

    Attributes:
        resources: Keys of the resources that it needs.
        upstream: Keys of the assets that it reads.
    """

    key: dg.AssetKey
    metadata: Mapping[str, Any]
    resources: frozenset[str]
    upstream: frozenset[dg.AssetKey]


class LocatedProject:
    """The definitions of a code location, as `dagster` loads them from a module.

    Args:
        module: The module that holds them.
        root: The working directory of the location.
        name: What the location is called in the UI.
    """

    def __init__(self, module: str, root: str, name: str) -> None:
        (target, *_) = loadable_targets_from_python_module(module, root)
        self._pointer = ReconstructableRepository.for_module(module, target.attribute, root)
        self._repository: dg.RepositoryDefinition = self._pointer.get_definition()
        # by this tag the UI finds the runs of a location and of its jobs
        self._tags = {REPOSITORY_LABEL_TAG: f"{self._repository.name}@{name}"}

    @property
    def job_names(self) -> tuple[str, ...]:
        """Every job that is not Dagster's own."""
        return tuple(job for job in self._repository.job_names if job != ASSET_JOB)

    @property
    def assets(self) -> tuple[LocatedAsset, ...]:
        """Every asset that a run can materialize."""
        graph = self._repository.asset_graph
        return tuple(
            LocatedAsset(
                key,
                graph.get(key).metadata,
                frozenset(self._repository.assets_defs_by_key[key].required_resource_keys),
                frozenset(graph.get(key).parent_keys),
            )
            for key in sorted(graph.materializable_asset_keys)
        )

    def select(self, selection: Iterable[str]) -> set[dg.AssetKey]:
        """The assets of a selection in Dagster's syntax."""
        graph = self._repository.asset_graph
        selected = dg.AssetSelection.from_coercible(list(selection)).resolve(graph)
        return set(selected & graph.materializable_asset_keys)

    def has_console_logger(self, job: str) -> bool:
        """Whether the job logs to the terminal as Dagster does by itself."""
        return "console" in self._repository.get_job(job).loggers

    def execute(
        self,
        instance: dg.DagsterInstance,
        job: str,
        assets: Iterable[dg.AssetKey] | None,
        run_config: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> bool:
        """Runs a job in this process, or in those of its executor; whether it succeeded.

        Args:
            assets: Of a run of assets, those that it takes; None is all of the job.
        """
        with _loaded_once(self._pointer, self._repository):
            return dg.execute_job(
                self._pointer.get_reconstructable_job(job),
                instance=instance,
                run_config=dict(run_config),
                tags={**tags, **self._tags},
                asset_selection=None if assets is None else sorted(assets),
            ).success


@contextmanager
def _loaded_once(
    pointer: ReconstructableRepository, repository: dg.RepositoryDefinition
) -> Iterator[None]:
    """Dagster would load the definitions three times more: for the run's tags, for its record and for its job."""
    load = ReconstructableRepository.get_definition

    def get_definition(self: ReconstructableRepository) -> dg.RepositoryDefinition:
        return repository if self.pointer == pointer.pointer else load(self)

    ReconstructableRepository.get_definition = get_definition  # type: ignore[method-assign]
    try:
        yield
    finally:
        ReconstructableRepository.get_definition = load  # type: ignore[method-assign]


def interruptible() -> AbstractContextManager[None]:
    """Ends a run as Dagster's own commands do when the process is asked to stop."""
    return capture_interrupts()


def run_events(
    instance: dg.DagsterInstance, run_id: str, cursor: str | None
) -> tuple[list[EventLogEntry], str]:
    """What was logged of a run since a cursor, and the cursor to go on from."""
    page = instance.get_records_for_run(run_id, cursor=cursor)
    return [record.event_log_entry for record in page.records], page.cursor
