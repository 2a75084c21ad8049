"""What a command asks of the process that it starts, as plain data that goes through a pipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Scope = Literal["all", "selection", "models", "loads"]
"""Which assets a run takes: all, a selection in Dagster's syntax, some models, what models read."""


@dataclass(frozen=True)
class RunRequest:
    """One Dagster run that a command starts.

    Attributes:
        launch: Tells this run from every other; the value of the run's tag `LAUNCH_TAG`.
        job: What is run; None is a run of assets.
        job_suffix: What the job's name ends with, after the SQLMesh project's name.
        scope: Which assets, in a run of assets.
        names: The selection, or the models.
        options: Run options, in a run of assets; an op's config, in a run of a job.
        is_verbose: Whether Dagster's own log is wanted in the terminal.
    """

    launch: str
    job_suffix: str | None = None
    scope: Scope = "all"
    names: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    is_verbose: bool = False

    def to_json(self) -> str:
        """For the other process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunRequest:
        """From the other process."""
        given = json.loads(text)
        return cls(**{**given, "names": tuple(given["names"])})


LAUNCH_TAG = "poe/launch"
"""The tag of a run that a command started."""
