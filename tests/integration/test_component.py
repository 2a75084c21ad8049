"""The component: the factories' definitions from a `defs.yaml`, on Dagster's own state."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from tests.sqlmesh_dagster.projects import Project, run_in_process

from sqlmesh_dagster import (
    ModelRecord,
    SQLMeshProjectComponent,
    SQLMeshResource,
    SQLMeshTranslator,
    sqlmesh_definitions_factory,
)
from sqlmesh_dagster.manifest.loading import bake_manifest

_SETTINGS: dict[str, Any] = {
    "environment": "dev",
    "group_name": "ours",
    "owners": ["ada@example.com"],
    "op_tags": {"team": "data"},
    "external_asset_mapping": "raw/{node.name}",
    "schedule_name": "often",
    "enable_schedule": True,
    "name": "platform",
}


def _write_models(project: Project) -> None:
    project.model("first", "SELECT id::INT AS id FROM raw.things")
    project.model(
        "second", "SELECT id FROM demo.first", "kind FULL, audits (not_null(columns := (id)))"
    )


def _described(definitions: dg.Definitions) -> dict[str, Any]:
    """What the UI would show, as text."""
    repository = definitions.get_repository_def()
    return {
        "assets": {
            spec.key: repr(spec.replace_attributes(metadata={}))
            for spec in definitions.resolve_all_asset_specs()
        },
        "checks": sorted(repr(key) for key in definitions.resolve_asset_graph().asset_check_keys),
        "jobs": sorted(job.name for job in repository.get_all_jobs()),
        "schedules": [
            (s.name, s.cron_schedule, s.default_status) for s in repository.schedule_defs
        ],
        "resources": sorted(repository.get_top_level_resources()),
        "op tags": {
            node.name: dict(node.tags)
            for node in repository.get_implicit_global_asset_job_def().nodes
        },
    }


def _from_yaml(
    attributes: Mapping[str, Any], component: type = SQLMeshProjectComponent
) -> dg.Definitions:
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=component,
            defs_yaml_contents={
                "type": f"{component.__module__}.{component.__name__}",
                "attributes": dict(attributes),
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, definitions):
            return definitions


@pytest.mark.parametrize("settings", [{}, _SETTINGS])
def test_the_component_gives_the_definitions_of_the_factory(
    project: Project, settings: dict[str, Any]
) -> None:
    """Promise: the same assets, dependencies, checks, jobs, schedules, resources and op tags."""
    _write_models(project)
    ours = sqlmesh_definitions_factory(project_dir=project.root, **settings)
    theirs = _from_yaml({"project_dir": str(project.root), **settings})
    assert _described(theirs) == _described(ours)


def test_its_definitions_run(project: Project, instance: dg.DagsterInstance) -> None:
    """Promise: not only shown."""
    project.model("first", "SELECT 1::INT AS id")
    definitions = _from_yaml({"project_dir": str(project.root), "environment": "dev"})
    assert run_in_process(definitions, instance).materialized == ["first"]


def test_yaml_translates_models(project: Project) -> None:
    """Promise: Dagster's `translation` block sees the model's record, and keeps what it does not name."""
    _write_models(project)
    translation = {
        "group_name": "{{ model.schema_name }}",
        "tags": {"kind": "{{ model.kind }}"},
    }
    definitions = _from_yaml(
        {"project_dir": str(project.root), "translation": translation, "owners": ["team:data"]}
    )
    spec = {s.key.path[-1]: s for s in definitions.resolve_all_asset_specs()}["second"]
    assert (spec.group_name, spec.tags["kind"], spec.owners) == ("demo", "FULL", ["team:data"])


class _Loud(SQLMeshTranslator):
    def get_asset_key(self, model: ModelRecord) -> dg.AssetKey:
        return dg.AssetKey(["loud", model.view_name])


class LoudComponent(SQLMeshProjectComponent):
    """A subclass, as an owner would write it."""

    def get_translator(self) -> SQLMeshTranslator:
        """Loud keys."""
        return _Loud()


def test_a_subclass_brings_its_own_translator(project: Project) -> None:
    """Promise: the way to what YAML cannot say; `translation` still comes on top."""
    project.model("first", "SELECT 1::INT AS id")
    attributes = {"project_dir": str(project.root), "translation": {"group_name": "g"}}
    component = LoudComponent.resolve_from_yaml(json.dumps(attributes))
    context: Any = None  # the component needs nothing of it
    (spec,) = component.build_defs_from_state(context, None).resolve_all_asset_specs()
    assert (spec.key.path, spec.group_name) == (["loud", "first"], "g")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Where Dagster would keep the component's state."""
    yield tmp_path / "state"


def test_a_baked_state_is_used_and_a_stale_one_is_not(
    project: Project, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: with a state that fits nothing is loaded; one of older files is never shown."""
    project.model("first", "SELECT 1::INT AS id")
    nowhere = str(tmp_path / "nowhere")
    bake_manifest(SQLMeshResource(project_dir=str(project.root), manifest_dir=nowhere), state)
    component = SQLMeshProjectComponent(
        project_dir=str(project.root), manifest_dir=str(tmp_path / "empty")
    )
    context: Any = None  # the component needs nothing of it

    def refuse(*arguments: Any) -> None:
        raise AssertionError("The project was loaded.")

    with monkeypatch.context() as patch:
        patch.setattr("sqlmesh_dagster.engine.context.load_manifest", refuse)
        baked = component.build_defs_from_state(context, state)
    assert len(list(baked.resolve_all_asset_specs())) == 1
    project.model("second", "SELECT 1::INT AS id")
    assert len(list(component.build_defs_from_state(context, state).resolve_all_asset_specs())) == 2
    assert len(list(component.build_defs_from_state(context, None).resolve_all_asset_specs())) == 2


def test_its_attributes_are_the_parameters_of_the_factory() -> None:
    """Promise: what a factory can, the component can; `translator` is a method there."""
    factory = set(inspect.signature(sqlmesh_definitions_factory).parameters)
    attributes = set(SQLMeshProjectComponent.model_fields)
    assert factory - {"translator"} == attributes - {"translation", "defs_state"}
