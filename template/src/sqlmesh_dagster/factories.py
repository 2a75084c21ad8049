"""The factories: a SQLMesh project as Dagster assets, checks, a job, a schedule, or all of them."""

# No `from __future__ import annotations`: Dagster reads the type of an op's `context` unquoted.

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ParamSpec, TypeVar

import dagster as dg
from pydantic import Field

from sqlmesh_dagster.argument_types import refuse_another_type
from sqlmesh_dagster.consumers import consumer_specs
from sqlmesh_dagster.definition.names import digest, is_reserved, op_name
from sqlmesh_dagster.definition.problems import text_with_place
from sqlmesh_dagster.definition.project import (
    DagsterProject,
    ModelAsset,
    TableCheck,
    problem_metadata,
    results_key,
    stand_in,
    translate,
)
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.facts.rules import read_rules
from sqlmesh_dagster.guard.garbage import freeze_definitions, rare_collection
from sqlmesh_dagster.manifest.loading import project_manifest
from sqlmesh_dagster.resource import SQLMeshResource, SQLMeshRunOptions
from sqlmesh_dagster.run.plans import invalidate_job, plan_job
from sqlmesh_dagster.run.results import SQLMeshResultsResource
from sqlmesh_dagster.run.review import review_job
from sqlmesh_dagster.run.rollback import rollback_job
from sqlmesh_dagster.run.schedule import adaptive_schedule
from sqlmesh_dagster.run.steps import StepEvent, check_table, materialize_model
from sqlmesh_dagster.run.sync import sync_sensor
from sqlmesh_dagster.run.verification import verification_checks, verify_job
from sqlmesh_dagster.settings import (
    DefinitionOptions,
    Folders,
    ProjectSettings,
    ScheduleLoads,
    check_types,
    joined,
    loads_choice,
)
from sqlmesh_dagster.translator import SQLMeshTranslator, unknown_properties
from sqlmesh_dagster.upstream.dagster import (
    AssetJob,
    PartitionedAsset,
    loadable,
    mixed_asset_job,
)

_OP_TAGS = {"sqlmesh": "true", "dagster/priority": "-1"}
"""Lower priority than other ops', so that ingest goes first and one sqlmesh run takes all models."""

_OUTPUT = "table"
_P = ParamSpec("_P")
_Made = TypeVar("_Made")
_UPSTREAM = dg.In(dg.Nothing)
_CHECKED = dg.Out(is_required=False)
"""Shared by all ops, because Dagster resolves the type of each one that is made."""


def _refusing_other_types(factory: Callable[_P, _Made]) -> Callable[_P, _Made]:
    """The factory, which refuses arguments of another type than it takes."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _Made:
        for name, value in _bound(factory.__name__, signature, *args, **kwargs).items():
            refuse_another_type(name, value, signature.parameters[name].annotation)
        return factory(*args, **kwargs)

    return checked


def _bound(
    factory: str, signature: inspect.Signature, *args: object, **kwargs: object
) -> Mapping[str, Any]:
    """The arguments by name.

    Raises:
        TypeError: They are not those of the factory, which it names, with an argument that is near.
    """
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        unknown = (name for name in kwargs if name not in signature.parameters)
        near = get_close_matches(next(unknown, ""), signature.parameters, 1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise TypeError(f"`{factory}`: {error}.{hint}") from None


@_refusing_other_types
def sqlmesh_assets_factory(
    *,
    sqlmesh_resource: SQLMeshResource,
    name: str = "sqlmesh",
    group_name: str = "sqlmesh",
    op_tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
) -> list[dg.AssetsDefinition]:
    """One asset and op for each model, with its audits as checks, and an op for each standalone audit.

    The assets need the resources `<name>` and `<name>_results`, see `sqlmesh_resources`.

    Args:
        name: Keeps several projects of one code location apart.
        op_tags: Added to each op's tags.
        owners: E-mails or `team:<name>`, for models that name no owner.

    Raises:
        ProjectLoadError: The project cannot be loaded.
        DuplicateAssetKeyError: The translator gives two models one key.
    """
    project = _project(sqlmesh_resource, name, group_name, owners, option="name")
    return _assets(project, op_tags)


@_refusing_other_types
def sqlmesh_adaptive_schedule_factory(
    *,
    sqlmesh_resource: SQLMeshResource,
    name: str | None = None,
    project_name: str = "sqlmesh",
    group_name: str = "sqlmesh",
    op_tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED,
    schedule_loads: str = "direct",
) -> tuple[dg.ScheduleDefinition, AssetJob, list[dg.AssetsDefinition]]:
    """A schedule that asks SQLMesh at each tick what is due and requests only that, its job and assets.

    Its cron is the most frequent of the models' crons.

    Args:
        name: The schedule's name; by default `<project_name>_adaptive_schedule`.
        schedule_loads: See `sqlmesh_definitions_factory`.

    Raises:
        InvalidSettingError: The project has no model, or a parameter makes no sense.
    """
    check_name("name", name)
    project = _project(sqlmesh_resource, project_name, group_name, owners)
    assets = _assets(project, op_tags)
    loads = loads_choice(schedule_loads)
    job = _job(project, assets, loads)
    schedule = adaptive_schedule(
        project,
        job,
        sqlmesh_resource.settings,
        name or project.schedule_name,
        default_status,
        loads,
    )
    return schedule, job, assets


@_refusing_other_types
def sqlmesh_sync_sensor_factory(
    *,
    sqlmesh_resource: SQLMeshResource,
    name: str | None = None,
    project_name: str = "sqlmesh",
    is_enabled: bool = False,
) -> dg.SensorDefinition:
    """A sensor that reports models which SQLMesh built outside Dagster, once each.

    It compares the environment with the last materialization of each asset, and requests no run.

    Args:
        name: The sensor's name; by default `<project_name>_sync_sensor`.
        is_enabled: Whether it runs from the start; it can be switched in the UI.
    """
    check_name("name", name)
    project = _project(sqlmesh_resource, project_name, project_name, None)
    return _sync_sensor(project, sqlmesh_resource, name, is_enabled)


@_refusing_other_types
def sqlmesh_plan_job_factory(
    *, sqlmesh_resource: SQLMeshResource, project_name: str = "sqlmesh"
) -> dg.JobDefinition:
    """The job `<project_name>_plan_job`: shows the plan of an environment, and applies it if asked to.

    It needs the resource `<project_name>`. What it builds in the resource's own environment is recorded
    as materializations of the models' assets.
    """
    return plan_job(_project(sqlmesh_resource, project_name, project_name, None))


@_refusing_other_types
def sqlmesh_review_job_factory(
    *, sqlmesh_resource: SQLMeshResource, project_name: str = "sqlmesh"
) -> dg.JobDefinition:
    """The job `<project_name>_review_job`: what the project's files do to the data of production."""
    return review_job(_project(sqlmesh_resource, project_name, project_name, None))


@_refusing_other_types
def sqlmesh_rollback_job_factory(
    *, sqlmesh_resource: SQLMeshResource, project_name: str = "sqlmesh"
) -> dg.JobDefinition:
    """The job `<project_name>_rollback_job`: production goes back to what it ran before."""
    return rollback_job(_project(sqlmesh_resource, project_name, project_name, None))


@_refusing_other_types
def sqlmesh_invalidate_job_factory(
    *, sqlmesh_resource: SQLMeshResource, project_name: str = "sqlmesh"
) -> dg.JobDefinition:
    """The job `<project_name>_invalidate_job`: invalidates an environment, never production."""
    return invalidate_job(_project(sqlmesh_resource, project_name, project_name, None))


@_refusing_other_types
def sqlmesh_verify_job_factory(
    *, sqlmesh_resource: SQLMeshResource, project_name: str = "sqlmesh"
) -> dg.JobDefinition:
    """The job `<project_name>_verify_job`: SQLMesh's unit tests and linter; it builds nothing."""
    return verify_job(_project(sqlmesh_resource, project_name, project_name, None))


class FactoryOptions(DefinitionOptions):
    """The parameters of `sqlmesh_definitions_factory`."""

    project_dir: Folders = Field(  # type: ignore[assignment]
        default=ProjectSettings.model_fields["project_dir"].default,
        description=ProjectSettings.model_fields["project_dir"].description,
    )
    translator: SQLMeshTranslator | None = Field(
        default=None, description="How models look in Dagster."
    )


def _taking(
    options: Callable[_P, FactoryOptions],
) -> Callable[[Callable[[FactoryOptions], dg.Definitions]], Callable[_P, dg.Definitions]]:
    """A function that takes the options' fields as keyword arguments, and documents them."""

    def decorate(build: Callable[[FactoryOptions], dg.Definitions]) -> Callable[_P, dg.Definitions]:
        @functools.wraps(build)
        def factory(*args: _P.args, **kwargs: _P.kwargs) -> dg.Definitions:
            given = _bound(build.__name__, inspect.signature(options), *args, **kwargs)
            return build(FactoryOptions.model_construct(**given))

        factory.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]
        fields = FactoryOptions.model_fields.items()
        parameters = "".join(f"\n        {name}: {f.description}" for name, f in fields)
        factory.__doc__ = (build.__doc__ or "").replace("Args:", f"Args:{parameters}", 1)
        return factory

    return decorate


@_taking(FactoryOptions)
def sqlmesh_definitions_factory(options: FactoryOptions) -> dg.Definitions:
    """A whole SQLMesh project: assets, checks, jobs, the adaptive schedule, the sync sensor, resources.

    Args:

    Raises:
        ProjectLoadError: The project cannot be loaded.
        InvalidSettingError: A parameter makes no sense.
        DuplicateAssetKeyError: The translator gives two models one key.
    """
    check_types(options)
    if options.translator is not None and options.external_asset_mapping is not None:
        warnings.warn(
            "Both `translator` and `external_asset_mapping` are given: the translator is used, and"
            " the mapping is ignored.",
            UserWarning,
            stacklevel=3,
        )
    translator = options.translator or SQLMeshTranslator(options.external_asset_mapping)
    resource = resource_of(options, translator)
    return project_definitions(resource, project_manifest(resource), options)


def resource_of(options: ProjectSettings, translator: SQLMeshTranslator) -> SQLMeshResource:
    """The resource with the same settings."""
    settings = {name: getattr(options, name) for name in ProjectSettings.model_fields}
    settings["project_dir"] = joined(options.project_dir)
    return SQLMeshResource(**settings, translator=translator)


@rare_collection()
def project_definitions(
    resource: SQLMeshResource,
    manifest: Manifest,
    options: DefinitionOptions,
) -> dg.Definitions:
    """The definitions of a manifest that is loaded already.

    Raises:
        InvalidSettingError: `name` cannot begin the names of a job and of resources.
        DuplicateAssetKeyError: The translator gives two models one key.
    """
    name = options.name
    check_project_name("name", name)
    check_name("schedule_name", options.schedule_name)
    project = _translated(resource, manifest, name, options.group_name, options.owners)
    assets = _assets(project, options.op_tags)
    rules = read_rules(resource.settings.project_path)
    loads = loads_choice(options.schedule_loads)
    job = _job(project, assets, loads)
    schedules = []
    sensors = []
    if project.assets:
        status = (
            dg.DefaultScheduleStatus.RUNNING
            if options.enable_schedule
            else dg.DefaultScheduleStatus.STOPPED
        )
        schedule = options.schedule_name or project.schedule_name
        schedules.append(
            adaptive_schedule(project, job, resource.settings, schedule, status, loads)
        )
        sensors.append(_sync_sensor(project, resource, None, options.enable_sync))
    definitions = dg.Definitions(
        assets=[*assets, *project.externals, *consumer_specs(project, rules)],
        jobs=[
            job,
            plan_job(project),
            review_job(project),
            rollback_job(project),
            invalidate_job(project),
            verify_job(project),
        ],
        schedules=schedules,
        sensors=sensors,
        resources=sqlmesh_resources(resource, name=name),
        metadata=problem_metadata(project.manifest),
    )
    freeze_definitions()
    return definitions


@_refusing_other_types
def sqlmesh_resources(
    sqlmesh_resource: SQLMeshResource, *, name: str = "sqlmesh"
) -> dict[str, dg.ConfigurableResource[None]]:
    """The resources that the assets of a project need, by key.

    The run options, `<name>_run_options`, come with the assets.
    """
    return {
        name: sqlmesh_resource,
        results_key(name): SQLMeshResultsResource(),
    }


def _project(
    resource: SQLMeshResource,
    name: str,
    group_name: str,
    owners: Sequence[str] | None,
    option: str = "project_name",
) -> DagsterProject:
    """The project, as one of its factories is asked for it.

    Args:
        option: What that factory calls `name`.
    """
    check_project_name(option, name)
    refuse_another_type("translator", resource.translator, SQLMeshTranslator)
    return _translated(resource, project_manifest(resource), name, group_name, owners)


def _translated(
    resource: SQLMeshResource,
    manifest: Manifest,
    name: str,
    group_name: str,
    owners: Sequence[str] | None,
) -> DagsterProject:
    _warn_of_an_empty_project(manifest)
    _warn_of_unknown_properties(manifest)
    project = translate(
        manifest,
        resource.translator,
        name=name,
        group_name=group_name,
        owners=owners or (),
        environment=resource.settings.environment,
    )
    for culprit, problem in project.problems.items():
        _warn_of_problem(culprit, problem)
    return project


def check_project_name(option: str, name: str) -> None:
    """A prefix of names of jobs, resources and ops; Dagster would refuse it without the option's name."""
    if op_name([name]) != name or not name.isidentifier():
        raise InvalidSettingError(
            f"`{option}` is `{name}`. Use letters, digits and single underscores between them, a letter first."
        )


def check_name(option: str, name: str | None) -> None:
    """A name of a schedule or a sensor; Dagster would refuse it without the option's name."""
    if name and (not re.fullmatch(r"[A-Za-z0-9_]+", name) or is_reserved(name)):
        raise InvalidSettingError(
            f"`{option}` is `{name}`. Use letters, digits and underscores, and no word of Python's or Dagster's."
        )


def _warn_of_problem(name: str, problem: str) -> None:
    """`poe check` makes this an error, by its first words."""
    warnings.warn(
        f"Definition of `{name}` failed, so that its step will, too; the rest of the project is"
        f" loaded. {problem}",
        UserWarning,
        stacklevel=2,
    )


def _warn_of_an_empty_project(manifest: Manifest) -> None:
    if not manifest.models:
        warnings.warn(
            f"The SQLMesh project at `{manifest.project_dir}` has no models, so Dagster has no assets"
            " and no schedule of it. Add a file to its `models` folder and reload.",
            UserWarning,
            stacklevel=2,
        )


def _warn_of_unknown_properties(manifest: Manifest) -> None:
    for model in manifest.models:
        for tag in unknown_properties(model.tags):
            warnings.warn(
                f"The tag `{tag}` of model `{model.name}` sets nothing in Dagster. Known are"
                " `dagster:group_name:…`, `dagster:owner:…` and `dagster:description:…`.",
                UserWarning,
                stacklevel=2,
            )


def _assets(
    project: DagsterProject, op_tags: Mapping[str, str] | None
) -> list[dg.AssetsDefinition]:
    tags = {**_OP_TAGS, **(op_tags or {})}
    options = {project.options_key: SQLMeshRunOptions().get_resource_definition()}
    return [
        *(_asset_or_stand_in(project, asset, tags, options) for asset in project.assets),
        *(_table_check(project, check, tags, options) for check in project.table_checks),
        *verification_checks(project, tags, options),
    ]


def _asset_or_stand_in(
    project: DagsterProject,
    asset: ModelAsset,
    op_tags: Mapping[str, str],
    resource_defs: Mapping[str, dg.ResourceDefinition],
) -> dg.AssetsDefinition:
    """The asset; if Dagster refuses what an owner's translator says of it, one that says so."""
    try:
        return _model_asset(project, asset, op_tags, resource_defs)
    except Exception as error:  # whatever an owner's spec holds, the other models load
        problem = text_with_place(error)
        _warn_of_problem(asset.model.name, problem)
        instead = stand_in(asset.spec.key, asset.model, problem)
        return _model_asset(project, instead, op_tags, resource_defs)


def _model_asset(
    project: DagsterProject,
    asset: ModelAsset,
    op_tags: Mapping[str, str],
    resource_defs: Mapping[str, dg.ResourceDefinition],
) -> dg.AssetsDefinition:
    """An op and its asset, without Dagster's decorators.

    `multi_asset` would name inputs and outputs after the keys, where `a / b_c` and `a_b / c` are one
    name, and a model that reads both would silently lose a dependency. And `op` would resolve the
    type hints of each function six times.
    """
    inputs = {
        f"upstream_{digest('/'.join(dep.asset_key.path), 12)}": dep for dep in asset.spec.deps
    }
    checks = {f"check_{op_name([spec.name])}": spec for _, spec in asset.checks}

    def materialize(context: dg.OpExecutionContext, inputs: object) -> Iterator[StepEvent]:
        yield from materialize_model(context, project, asset)

    op = dg.OpDefinition(
        materialize,
        asset.op_name,
        description=asset.spec.description,
        ins=dict.fromkeys(inputs, _UPSTREAM),
        outs={
            _OUTPUT: dg.Out(dg.Nothing, is_required=False, code_version=asset.spec.code_version),
            **dict.fromkeys(checks, _CHECKED),
        },
        required_resource_keys={project.name, project.results_key, project.options_key},
        tags=op_tags,
    )
    definition = PartitionedAsset if asset.partitions else dg.AssetsDefinition
    return definition(
        node_def=op,
        keys_by_input_name={name: dep.asset_key for name, dep in inputs.items()},
        keys_by_output_name={_OUTPUT: asset.spec.key},
        specs=[asset.spec],
        check_specs_by_output_name=checks,
        resource_defs=resource_defs,
        backfill_policy=asset.backfill_policy,
        can_subset=True,
    )


def _table_check(
    project: DagsterProject,
    check: TableCheck,
    op_tags: Mapping[str, str],
    resource_defs: Mapping[str, dg.ResourceDefinition],
) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=check.op_name,
        specs=[spec for _, spec in check.checks],
        can_subset=True,
        required_resource_keys={project.name, project.results_key, project.options_key},
        resource_defs=resource_defs,
        op_tags=dict(op_tags),
    )
    def execute(context: dg.OpExecutionContext) -> Iterator[StepEvent]:
        yield from check_table(context, project, check)

    return execute


def _sync_sensor(
    project: DagsterProject, resource: SQLMeshResource, name: str | None, is_enabled: bool
) -> dg.SensorDefinition:
    running, stopped = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED
    return sync_sensor(
        project,
        resource.settings,
        name or project.sync_sensor_name,
        running if is_enabled else stopped,
    )


def _job(
    project: DagsterProject, assets: Sequence[dg.AssetsDefinition], loads: ScheduleLoads
) -> AssetJob:
    """The job of everything: the models, their checks, and what the schedule loads for them."""
    keys = [asset.spec.key for asset in project.assets]
    checks = dg.AssetSelection.checks(*assets)
    unplanned = dg.AssetSelection.checks(*project.unplanned_checks)
    selection: dg.AssetSelection = (dg.AssetSelection.assets(*keys) | checks) - unplanned
    if loads != "none":
        known = set(keys)
        outside = {dep.asset_key for asset in project.assets for dep in asset.spec.deps}
        outside -= known | project.others
        direct = dg.AssetSelection.assets(*sorted(outside))
        selection = selection | loadable(direct.upstream() if loads == "all" else direct)
    what = f"Everything that is due in the SQLMesh project `{project.manifest.project_dir}`."
    if len({asset.partitions for asset in project.assets if asset.partitions}) > 1:
        return mixed_asset_job(project.job_name, selection, what)
    return dg.define_asset_job(project.job_name, selection=selection, description=what)
