"""What project a run works on, and how: plain data, checked once."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

UndeployedChanges = Literal["apply", "warn", "fail"]
Execution = Literal["shared", "per_step"]


def environment_name(text: str) -> str:
    """As SQLMesh's `Environment.sanitize_name`, without importing it: `PR 12` is `pr_12`."""
    return re.sub(r"\W", "_", text).lower()


@dataclass(frozen=True)
class ProjectSettings:
    """A SQLMesh project, gateway and environment.

    Attributes:
        project_dir: Absolute path of the folder that holds SQLMesh's config.
        gateway: None for the project's default gateway.
        concurrency_limit: Models that SQLMesh builds at once; None for the connection's own
            `concurrent_tasks`.
        undeployed_changes: What a run does when the files differ from what the environment runs.
        execution: `shared`, one sqlmesh run for each Dagster run, whose steps share a folder; or
            `per_step`, each step runs its own model, as steps on several hosts must.
        failing_rows_sample: Rows that a check shows of what its audit found; 0 shows none.
        wait_timeout: Seconds to wait for another run, plan or process that holds the project.
    """

    project_dir: str
    gateway: str | None
    environment: str
    concurrency_limit: int | None
    undeployed_changes: UndeployedChanges
    execution: Execution
    wait_timeout: float
    failing_rows_sample: int = 0

    @property
    def project_path(self) -> Path:
        """`project_dir` as a path."""
        return Path(self.project_dir)

    @property
    def plan_hint(self) -> str:
        """What to tell who has to deploy."""
        target = "" if self.environment == "prod" else f" {self.environment}"
        return f"Run `sqlmesh -p {self.project_dir} plan{target}` to deploy."

    @property
    def lock_name(self) -> str:
        """The same for every run that must not overlap with another.

        Environments of one project share it: on DuckDB they share the file.
        """
        identity = f"{self.project_dir}\0{self.gateway or ''}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunOptions:
    """How one sqlmesh run is done; the launchpad's choices.

    Attributes:
        start: Limits the missing intervals that are built; SQLMesh's own formats.
        end: As `start`.
        execution_time: The run's "now", in UTC.
        restate: Whether what is done between `start` and `end` is built again.
        restate_downstream: Whether what reads the restated models is, too; None if nobody said so.
        partitions: The time that the partitions of the Dagster run cover, in epoch milliseconds; it
            is built, and built again where it is done.
    """

    ignore_cron: bool = False
    start: str | None = None
    end: str | None = None
    execution_time: datetime | None = None
    skip_janitor: bool = False
    restate: bool = False
    restate_downstream: bool | None = None
    partitions: tuple[int, int] | None = None

    @property
    def is_restatement(self) -> bool:
        """Whether what is done may be built again."""
        return self.restate or self.partitions is not None
