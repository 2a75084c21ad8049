"""Which project a run works on, and how: plain data, checked once."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import dagster as dg
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sqlmesh_dagster.argument_types import INT_ENV_VAR, refuse_another_type
from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.layout import is_project_of, poe_root
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.surroundings import fault_of_surroundings

UndeployedChanges = Literal["apply", "warn", "fail"]
MissingUpstream = Literal["build", "wait"]
Promotion = Literal["after_build", "before_build"]
_PROMOTIONS: tuple[Promotion, ...] = get_args(Promotion)
NothingDue = Literal["materialize", "observe"]
_UNDEPLOYED_CHANGES: tuple[UndeployedChanges, ...] = get_args(UndeployedChanges)
_MISSING_UPSTREAM: tuple[MissingUpstream, ...] = get_args(MissingUpstream)
_NOTHING_DUE: tuple[NothingDue, ...] = get_args(NothingDue)
_EXECUTIONS = ("shared", "per_step")
WithoutRange = Literal["newest", "nothing"]
ScheduleLoads = Literal["none", "direct", "all"]
_SCHEDULE_LOADS: tuple[ScheduleLoads, ...] = get_args(ScheduleLoads)
_WITHOUT_RANGE: tuple[WithoutRange, ...] = get_args(WithoutRange)
_Choice = TypeVar("_Choice", bound=str)


def joined(folders: Folders) -> str:
    """Folders as one text, as in `PATH`: Dagster's config knows no choice of types."""
    if isinstance(folders, str):  # an `EnvVar` is one that must not be read before it is used
        return folders
    if isinstance(folders, Path):
        return str(folders)
    if not isinstance(folders, (list, tuple)):
        return folders  # type: ignore[return-value] # pydantic refuses it, with the setting's name
    return os.pathsep.join(str(folder) for folder in folders)


Folders = str | Path | Sequence[str | Path]
if TYPE_CHECKING:
    FoldersSetting = str | Sequence[str]
else:
    FoldersSetting = Annotated[str, BeforeValidator(joined)]
    """One folder, or several, of which Dagster sees one text."""


def environment_name(text: str) -> str:
    """As SQLMesh's `Environment.sanitize_name`, without importing it: `PR 12` is `pr_12`."""
    return re.sub(r"\W", "_", text).lower()


_LONGEST_ENVIRONMENT = 100
"""Characters of an environment's name. SQL Server takes 128 for a schema's, Postgres, by SQLMesh's own check, 63."""


_ENVIRONMENT = "SQLMESH_ENVIRONMENT"


def _seems(text: str) -> str:
    """What is wrong with a name that only looks like another one; empty for most."""
    seems = unicodedata.normalize("NFKC", text)
    if seems != text:
        return f"in characters ({text!a}) that only look like `{seems}`. Use `{environment_name(seems)}`."
    names = {c: unicodedata.name(c, "") for c in text if c.isalpha()}
    other = [c for c, name in names.items() if name.startswith(("CYRILLIC", "GREEK", "ARMENIAN"))]
    if other and any(name.startswith("LATIN") for name in names.values()):
        return (
            f"in which `{other[0]}` is {names[other[0]]}, among Latin letters, so that it only looks like"
            " another name. Use letters of one alphabet."
        )
    return ""


def checked_environment(option: str, text: str) -> str:
    """The name under which SQLMesh knows an environment.

    Raises:
        InvalidSettingError: SQLMesh would read it as another than it seems to be: `prod ` as `prod_`; or no
            database has such names.
    """
    given = os.environ.get(_ENVIRONMENT)
    whence = f" The variable `{_ENVIRONMENT}` says so." if given == text else ""
    if not text.isprintable() or len(text) > _LONGEST_ENVIRONMENT:
        shown = text if len(text) <= _LONGEST_ENVIRONMENT else f"{text[:40]}…{text[-10:]}"
        raise InvalidSettingError(
            f"`{option}` is `{shown!r}`, of {len(text)} characters. It is a part of schemas' names: use up to"
            f" {_LONGEST_ENVIRONMENT} letters and digits.{whence}"
        )
    if said := _seems(text):
        raise InvalidSettingError(f"`{option}` is `{text}`, {said}{whence}")
    name = environment_name(text)
    if not text:
        raise InvalidSettingError(
            f"`{option}` is empty. Use the name of an environment, such as `dev`.{whence}"
        )
    if not name.strip("_") or (name != text and (name[0] == "_" or name[-1] == "_")):
        proposal = name.strip("_")
        raise InvalidSettingError(
            f"`{option}` is `{text}`, which begins or ends with what no environment's name has, such as a"
            f" space. Use letters and digits{f', such as `{proposal}`' if proposal else ''}.{whence}"
        )
    return name


class ProjectSettings(BaseModel):
    """A SQLMesh project, gateway and environment, and how runs work on it.

    One line for each setting: the resource, the factory and the component take these, and show their
    descriptions. Settings may name environment variables; in `checked` ones these are replaced by
    their values.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid")

    project_dir: FoldersSetting = Field(
        default="sqlmesh_project",
        description="Folder of SQLMesh's config; a relative one starts at the working directory. Or"
        " several, a list or separated as in `PATH`, for SQLMesh's projects in several folders: the"
        " first has the connection and the state of all.",
    )
    gateway: str | None = Field(
        default=None, description="SQLMesh gateway; by default the project's `default_gateway`."
    )
    environment: str = Field(default=PRODUCTION, description="SQLMesh environment that runs build.")
    concurrency_limit: int | None = Field(
        default=None,
        description="Models that SQLMesh builds at once; by default the connection's"
        " `concurrent_tasks`.",
    )
    undeployed_changes: str | None = Field(
        default=None,
        description="What a run does about local changes that are not deployed, and about an"
        " environment that does not exist yet: `apply`, `warn` or `fail`. By default `fail` for"
        " `prod` and `apply` elsewhere.",
    )
    promotion: str | None = Field(
        default=None,
        description="When a run that deploys local changes, or a new environment, lets people see them:"
        " `after_build`, once all of them are built, as `sqlmesh plan` does, so that nobody reads an"
        " empty table; or `before_build`, so that the run builds what it selects and nothing else, and"
        " audits and Python models may read the views of what is new by name. By default `after_build`"
        " for `prod`. Elsewhere, by default, a new environment is promoted before it is built, and one"
        " that exists once what is changed and selected is built.",
    )
    execution: str = Field(
        default="shared",
        description="`shared`: one sqlmesh run for each Dagster run, whose steps share the instance's"
        " storage folder. `per_step`: each step runs its own model only, for steps on several hosts;"
        " let the SQLMesh state be on Postgres then, which also keeps runs of different hosts apart.",
    )
    missing_upstream: str = Field(
        default="build",
        description="What a run does where a model upstream of a selected one has not been built for"
        " the same time: `build` it first, as `sqlmesh run --select-model` does, or `wait`, and leave"
        " the selected model for that time. A model is never built on a gap.",
    )
    wait_timeout: float = Field(
        default=600.0,
        description="Seconds to wait for another run, plan or process that holds the project or its"
        " DuckDB file.",
    )
    cancel_timeout: float | None = Field(
        default=None,
        description="Seconds after which a run that is being stopped no longer waits for a model that"
        " cannot be interrupted, such as a Python model that sleeps: the process of the run, or of its"
        " step, ends at once, and nothing of that model is recorded. So it does in `before_all`, `after_all`,"
        " signals, unit tests and macros. By default it waits.",
    )
    failing_rows_sample: int = Field(
        default=0,
        description="Rows that a failed check shows of what its audit found. Dagster stores them and"
        " shows them to everybody who may see the check, so that none are by default.",
    )
    new_data_without_range: str = Field(
        default="newest",
        description="What is built again of a model that is built by time range when one of its inputs"
        " has new data, and the asset that loaded it does not say of which time, in its metadata"
        " `sqlmesh/loaded_range`: the `newest` intervals, or `nothing`.",
    )
    nothing_due: str = Field(
        default="materialize",
        description="What a selected asset gets whose model has nothing due: `materialize`, a"
        " materialization with the unchanged data version, so that Dagster shows the table as it is;"
        " or `observe`, an observation, so that its newest materialization is the one that built it.",
    )
    keep_checks_failed: bool = Field(
        default=True,
        description="Whether the check of an incremental model stays failed until the intervals in"
        " which its audit found rows have been audited again, and well. Otherwise it says what its"
        " last run found.",
    )
    manifest_dir: str | None = Field(
        default=None,
        description="Folder of the manifest that definitions are read from; by default"
        " `.cache/dagster` in `project_dir`. One that was made elsewhere, as in an image's build, is"
        " used as it is.",
    )
    keep_last_good: bool = Field(
        default=False,
        description="Whether definitions stay as they last were while the project cannot be loaded,"
        " instead of failing the code location.",
    )

    def checked(self) -> ProjectSettings:
        """The same, its environment variables read and its values checked.

        Raises:
            InvalidSettingError: A setting that makes no sense, such as an unset variable.
        """
        if fault := fault_of_surroundings():
            raise InvalidSettingError(fault)
        check_types(self)
        text = _text("project_dir", _given_folders(self.project_dir))
        folder_of("project_dir", text)
        given = _folders(text)
        folders = [str(folder_of("project_dir", folder)) for folder in given]
        settings = self.model_copy(
            update={
                "project_dir": joined(folders),
                "gateway": _text("gateway", self.gateway) if self.gateway else None,
                "environment": checked_environment(
                    "environment", _text("environment", self.environment)
                ),
                "concurrency_limit": _number("concurrency_limit", self.concurrency_limit),
            }
        )
        if settings.concurrency_limit is not None:
            _at_least(1, concurrency_limit=settings.concurrency_limit)
        _at_least(0, wait_timeout=self.wait_timeout, failing_rows_sample=self.failing_rows_sample)
        if self.cancel_timeout is not None:
            _at_least(0, cancel_timeout=self.cancel_timeout)
        choice("execution", settings.execution, _EXECUTIONS)
        choice("nothing_due", settings.nothing_due, _NOTHING_DUE)
        _ = settings.builds_before_promotion
        _ = settings.deployment_policy, settings.upstream_policy, settings.without_range
        return settings

    @property
    def deployment_policy(self) -> UndeployedChanges:
        """What a run does when the files differ from what the environment runs.

        Raises:
            InvalidSettingError: `undeployed_changes` is none of its choices.
        """
        default = "fail" if self.environment == PRODUCTION else "apply"
        value = default if self.undeployed_changes is None else self.undeployed_changes
        return choice("undeployed_changes", value, _UNDEPLOYED_CHANGES)

    @property
    def builds_before_promotion(self) -> bool:
        """Whether a deployment builds what it promotes.

        Raises:
            InvalidSettingError: `promotion` is none of its choices.
        """
        default: Promotion = "after_build" if self.environment == PRODUCTION else "before_build"
        value = default if self.promotion is None else self.promotion
        return choice("promotion", value, _PROMOTIONS) == "after_build"

    @property
    def builds_after_promotion(self) -> bool:
        """Whether the settings say that nothing is built before it is promoted."""
        return self.promotion == "before_build"

    @property
    def upstream_policy(self) -> MissingUpstream:
        """What a run does about time that a model upstream of a selected one lacks.

        Raises:
            InvalidSettingError: `missing_upstream` is none of its choices.
        """
        return choice("missing_upstream", self.missing_upstream, _MISSING_UPSTREAM)

    @property
    def without_range(self) -> WithoutRange:
        """What is built by time range when nobody says of which time the new data is.

        Raises:
            InvalidSettingError: `new_data_without_range` is none of its choices.
        """
        return choice("new_data_without_range", self.new_data_without_range, _WITHOUT_RANGE)

    @property
    def project_paths(self) -> tuple[Path, ...]:
        """The folders of `project_dir`."""
        return tuple(Path(folder) for folder in _folders(joined(self.project_dir)))

    @property
    def project_path(self) -> Path:
        """The first folder of `project_dir`, which has the config that holds for all."""
        return self.project_paths[0]

    @property
    def command(self) -> str:
        """SQLMesh's command on this project, for a message, from any folder.

        Where there is `poe sqlmesh`, it is that: with what `.env` says, and on the databases of runs.
        """
        gateway = f" --gateway {shlex.quote(self.gateway)}" if self.gateway else ""
        folders = self.project_paths
        root = poe_root(self.project_path)
        if root is not None:
            is_its_own = len(folders) == 1 and is_project_of(root, self.project_path)
            named = "" if is_its_own else _named(str(folder) for folder in folders)
            return f"poe -C {shlex.quote(str(root))} sqlmesh{named}{gateway}"
        first, *others = map(str, folders)
        named = _named([".", *others]) if others else ""
        # a relative DuckDB path would lead to another file
        return f"cd {shlex.quote(first)} && sqlmesh{named}{gateway}"

    @property
    def plan_hint(self) -> str:
        """The command to deploy, for a message."""
        return f"Run `{self.plan_command(self.environment)}` to deploy."

    def plan_command(self, environment: str) -> str:
        """The command that deploys to an environment, from any folder."""
        target = "" if environment == PRODUCTION else f" {environment}"
        return f"{self.command} plan{target}"

    @property
    def lock_name(self) -> str:
        """The same for every run that must not overlap with another.

        Environments of one project share it: on DuckDB they share the file.
        """
        identity = f"{self.project_dir}\0{self.gateway or ''}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _named(folders: Iterable[str]) -> str:
    return "".join(f" -p {shlex.quote(folder)}" for folder in folders)


class DefinitionOptions(ProjectSettings):
    """The other parameters of factory and component: how definitions are made."""

    external_asset_mapping: str | None = Field(
        default=None,
        description="Asset key of external tables, such as `raw/{node.schema}/{node.name}`; with"
        " `node.database`, `node.schema`, `node.name`, `node.fqn`. A translator wins over it.",
    )
    group_name: str = Field(default="sqlmesh", description="Asset group of models that name none.")
    op_tags: Mapping[str, str] | None = Field(default=None, description="Added to each op's tags.")
    owners: Sequence[str] | None = Field(
        default=None, description="E-mails or `team:<name>`, for models that name no owner."
    )
    schedule_name: str | None = Field(
        default=None, description="By default `<name>_adaptive_schedule`."
    )
    enable_schedule: bool = Field(
        default=False,
        description="Whether the schedule runs from the start; it can be switched in the UI.",
    )
    schedule_loads: str = Field(
        default="direct",
        description="What the schedule loads with the models that are due: the assets outside SQLMesh"
        " that they read, unless they are fresher than the tick (`direct`); these, and everything"
        " outside SQLMesh that leads to a due model (`all`); or `none`. Partitioned assets are left to"
        " their own schedule.",
    )
    enable_sync: bool = Field(
        default=False,
        description="Whether the sensor that reports what was built outside Dagster runs from the"
        " start.",
    )
    name: str = Field(
        default="sqlmesh",
        description="Keeps several projects of one code location apart: prefix of job and resource"
        " keys.",
    )


def loads_choice(text: str) -> ScheduleLoads:
    """What a schedule loads.

    Raises:
        InvalidSettingError: It is none of its choices.
    """
    return choice("schedule_loads", text, _SCHEDULE_LOADS)


def check_types(options: BaseModel) -> None:
    """Refuses values that are of another kind than their option: the factory takes whatever it is given.

    Raises:
        InvalidSettingError: With the option, its value, and what it takes.
    """
    for name, field in type(options).model_fields.items():
        if name != "project_dir":
            refuse_another_type(name, getattr(options, name), field.annotation)


def _given_folders(value: Any) -> str:
    parts = value if type(value) in (list, tuple) else [value]
    if not all(isinstance(part, (str, Path)) for part in parts):
        raise InvalidSettingError(
            f"`project_dir` is `{value!r}`. It must be a path, or a list of paths."
        )
    return joined(value)


def folder_of(name: str, text: str, base: Path | None = None) -> Path:
    """The folder that a setting names.

    Args:
        base: Where a relative one starts; by default the working directory.

    Raises:
        InvalidSettingError: No folder can have this path.
    """
    if not text.replace(os.pathsep, "").strip():
        raise InvalidSettingError(f"`{name}` is empty. Set it, or leave it out.")
    try:
        return (base or Path()).joinpath(Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidSettingError(
            f"`{name}` is `{text!r}`, which is no folder's path: {error}. Correct it."
        ) from error


def _text(name: str, value: Any) -> str:
    """A setting's text, an environment variable's value read.

    Raises:
        InvalidSettingError: The variable is not set, or the text is empty.
    """
    if isinstance(value, dg.EnvVar):
        text = value.get_value()
        if not text:
            raise InvalidSettingError(
                f"`{name}` is taken from the environment variable `{value.env_var_name}`, which is"
                " not set. Set it, e.g. in `.env`."
            )
        return text
    if not value:
        is_of_variable = name == "environment" and os.environ.get(_ENVIRONMENT) == ""
        whence = f" The variable `{_ENVIRONMENT}` is set to nothing." if is_of_variable else ""
        raise InvalidSettingError(f"`{name}` is empty.{whence} Set it, or leave it out.")
    return str(value)


def _folders(text: str) -> list[str]:
    """The folders in a text; one whose name has the separator in it is one."""
    if Path(text).expanduser().is_dir():
        return [text]
    return [folder for folder in text.split(os.pathsep) if folder] or [text]


def choice(name: str, value: Any, choices: tuple[_Choice, ...]) -> _Choice:
    """A setting's text, if it is one of the choices.

    Raises:
        InvalidSettingError: It is not.
    """
    text = _text(name, value)
    for each in choices:
        if text == each:
            return each
    raise InvalidSettingError(f"`{name}` is `{text}`. Use one of: {', '.join(choices)}.")


def _number(name: str, value: int | None) -> int | None:
    """A setting's number, an environment variable's value read.

    Raises:
        InvalidSettingError: The variable is not set, or holds no whole number.
    """
    if not isinstance(value, INT_ENV_VAR):
        return value
    variable = value.env_var_name
    text = _text(name, dg.EnvVar(variable))
    if not text.isdecimal():
        raise InvalidSettingError(
            f"`{name}` is taken from the environment variable `{variable}`, which holds `{text}`."
            " Set it to a whole number."
        )
    return int(text)


def _at_least(least: int, **values: float) -> None:
    for name, value in values.items():
        if value < least:
            raise InvalidSettingError(f"`{name}` is {value}. It must be {least} or more.")
