"""What one run or one plan does: the options that are set in the launchpad, each declared once."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.settings import checked_environment, choice
from sqlmesh_dagster.times import check_times, iso_moment, moment

Build = Literal["due", "stale", "all"]
"""What a run builds: what is due by cron; that, and what is stale; or everything again."""
_BUILDS: tuple[Build, ...] = get_args(Build)


class _Options(BaseModel):
    """Options of the launchpad, in which `build:` without a value is YAML's null: as if it were left out."""

    @field_validator("*", mode="before")
    @classmethod
    def _as_left_out(cls, value: object, info: ValidationInfo) -> object:
        return cls.model_fields[str(info.field_name)].default if value is None else value


class RunOptions(_Options):
    """How one sqlmesh run is done.

    One line for each option: the launchpad takes these, and shows their descriptions.
    """

    model_config = ConfigDict(frozen=True)

    build: str = Field(
        default="stale",
        description="`stale`: what is due, and what is stale because an input has new data since it was"
        " built. `due`: what is due, and what is stale because of assets that this very run loads, as"
        " in the schedule's runs. `all`: all that is selected is built again, as with `restate`.",
    )
    ignore_cron: bool = Field(
        default=False,
        description="Build every missing interval, also of models whose cron has not elapsed.",
    )
    start: str | None = Field(
        default=None,
        description="Build no interval before this date or time. A run of partitions builds these,"
        " whatever it says.",
    )
    end: str | None = Field(default=None, description="Build no interval after this date or time.")
    execution_time: str | None = Field(
        default=None,
        description='The run\'s "now", ISO 8601; UTC where it names no time zone. Default: the time of'
        " the run.",
    )
    skip_janitor: bool = Field(
        default=False,
        description="Leave expired environments and tables alone; production runs clean up otherwise.",
    )
    restate: bool = Field(
        default=False,
        description="Build the selected models again between `start` and `end`, both of which are by"
        " default those of all that is done. If other models read them, set `restate_downstream`, too.",
    )
    restate_downstream: bool | None = Field(
        default=None,
        description="Whether models that read the restated ones, directly or not, are built again for"
        " the same time, though they are not selected. A restatement of a model that others read fails"
        " until this is set, and names them. A backfill of partitions leaves them alone unless this is"
        " set.",
    )

    @property
    def now(self) -> datetime | None:
        """`execution_time` in UTC; None for the time of the run.

        Raises:
            InvalidSettingError: It cannot be read.
        """
        text = self.execution_time
        return None if text is None else iso_moment("execution_time", text)

    @property
    def build_policy(self) -> Build:
        """`build`, as one of its choices.

        Raises:
            InvalidSettingError: It is none of them.
        """
        return choice("build", self.build, _BUILDS)


class CheckedRunOptions(RunOptions):
    """The options of a run, checked; and its partitions, which are chosen where it is launched.

    Attributes:
        partitions: The time that they cover, in epoch milliseconds; it is built, and built again where
            it is done.
    """

    partitions: tuple[int, int] | None = None

    @classmethod
    def of(cls, options: RunOptions) -> CheckedRunOptions:
        """The same, checked.

        Raises:
            InvalidSettingError: A time that cannot be read, or that makes no sense, or no choice of `build`.
        """
        check_times(start=options.start, end=options.end, execution_time=options.now)
        given = {name: getattr(options, name) for name in RunOptions.model_fields}
        is_restated = options.restate or options.build_policy == "all"
        return cls(**{**given, "restate": is_restated})

    def refuse_unused(self) -> None:
        """Refuses an option that would do nothing.

        Raises:
            InvalidSettingError: Models downstream are to be built again, and nothing is.
        """
        if self.restate_downstream and not self.is_restatement:
            raise InvalidSettingError(
                "`restate_downstream` is `true`, and nothing is built again: set `restate` to `true`, too, or"
                " leave `restate_downstream` out."
            )

    @property
    def is_restatement(self) -> bool:
        """Whether what is done may be built again."""
        return self.restate or self.partitions is not None

    @property
    def is_narrowed(self) -> bool:
        """Whether it is said of which time something is built."""
        return self.is_restatement or self.start is not None or self.end is not None


class PlannedOptions(_Options):
    """What a plan and a review have in common; one line for each option, as above."""

    model_config = ConfigDict(frozen=True)

    start: str | None = Field(default=None, description="Backfill from this date or time.")
    end: str | None = Field(default=None, description="Backfill up to this date or time.")
    execution_time: str | None = Field(default=None, description='The plan\'s "now".')
    forward_only: bool = Field(default=False, description="Keep the history as it is.")
    override: str | None = Field(
        default=None,
        description="Why production may be changed though a rule of `review.toml` stops the change.",
    )
    override_by: str | None = Field(default=None, description="Who says so, as in `review.toml`.")


class PlanOptions(PlannedOptions):
    """How an environment is planned; one line for each option, as above."""

    environment: str | None = Field(
        default=None,
        description="Environment that is planned; by default the one that Dagster runs.",
    )
    apply: bool = Field(default=False, description="Apply the plan after it is shown.")
    allow_production: bool = Field(
        default=False, description="`prod` is changed only if this is on as well as `apply`."
    )
    select_models: list[str] = Field(
        default=[], description="SQLMesh's selectors of the changes that are taken; by default all."
    )
    skip_backfill: bool = Field(default=False, description="Build nothing; the next run does.")
    effective_from: str | None = Field(
        default=None, description="Rebuild forward-only changes from this date."
    )
    create_from: str | None = Field(
        default=None, description="Environment that a new one begins as; by default `prod`."
    )
    include_unmodified: bool | None = Field(
        default=None, description="Give the environment views of unchanged models, too."
    )
    without_review: bool = Field(
        default=False,
        description="Promote to `prod` though the newest review is of something else, or of what has moved.",
    )

    def check(self) -> None:
        """Refuses what no plan could do.

        Raises:
            InvalidSettingError: A time that cannot be read, or that makes no sense, or options that don't go
                together.
        """
        if self.create_from is not None:
            checked_environment("create_from", self.create_from)
        if self.effective_from is not None and not self.forward_only:
            raise InvalidSettingError(
                f"`effective_from` is `{self.effective_from}`, which is for changes that keep the history: set"
                " `forward_only` to `true`, too, or leave `effective_from` out."
            )
        check_times(
            start=self.start,
            end=self.end,
            execution_time=moment("execution_time", self.execution_time)
            if self.execution_time is not None
            else None,
            effective_from=self.effective_from,
        )


class ReviewOptions(PlannedOptions):
    """How a change is reviewed; one line for each option, as above."""

    environment: str | None = Field(
        default=None,
        description="Environment in which the change is built; by default the one that Dagster runs."
        " Never `prod`.",
    )


class RollbackOptions(_Options):
    """How production goes back to what it ran before; one line for each option, as above."""

    model_config = ConfigDict(frozen=True)

    apply: bool = Field(
        default=False, description="Do it after it is shown; otherwise nothing is changed."
    )
    to: str | None = Field(
        default=None,
        description="The plan whose version production goes back to, by its id; by default the one before."
        " The run's page shows all that are known.",
    )
    of: str | None = Field(
        default=None,
        description="The plan that production has to be at, by its id, as when it was shown.",
    )


class InvalidateOptions(_Options):
    """Which environment is invalidated, and how; one line for each option, as above."""

    model_config = ConfigDict(frozen=True)

    environment: str | None = Field(
        default=None,
        description="Environment to invalidate; by default the one that Dagster runs. Never `prod`.",
    )
    drop: bool = Field(
        default=True,
        description="Drop its views and schemas at once. SQLMesh's janitor does otherwise, with the"
        " next production run; it is also what drops the tables.",
    )
