"""`SQLMeshProjectComponent`: a SQLMesh project in a `defs.yaml`, on the same manifest as the factories."""

# No `from __future__ import annotations`: Dagster reads the types of the attributes unquoted.

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import BaseModel, Field

from sqlmesh_dagster.definition.asked import translation_of
from sqlmesh_dagster.definition.records import ModelRecord
from sqlmesh_dagster.factories import project_definitions, resource_of
from sqlmesh_dagster.manifest.loading import bake_manifest, project_manifest
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.resource import SQLMeshResource
from sqlmesh_dagster.settings import DefinitionOptions, FoldersSetting, joined
from sqlmesh_dagster.translator import SQLMeshTranslator


class ScaffoldParameters(BaseModel):
    """What `dg scaffold defs` asks for."""

    project_dir: str = Field(
        default="sqlmesh_project",
        description="Folder of SQLMesh's config, from the project's root.",
    )
    environment: str = Field(default=PRODUCTION, description="SQLMesh environment that runs build.")


class SQLMeshProjectScaffolder(dg.Scaffolder[ScaffoldParameters]):
    """Writes the `defs.yaml` of a SQLMesh project that is there already."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParameters]:
        """What can be given on the command line."""
        return ScaffoldParameters

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParameters]) -> None:
        """Writes it, with the attributes that differ from project to project."""
        attributes = {
            "project_dir": "{{ context.project_root }}/" + request.params.project_dir,
            "environment": request.params.environment,
        }
        dg.scaffold_component(request, attributes)


@dg.scaffold_with(SQLMeshProjectScaffolder)
class SQLMeshProjectComponent(DefinitionOptions, dg.StateBackedComponent, dg.Model, dg.Resolvable):
    """A SQLMesh project: assets, checks, a job, the adaptive schedule and its resources.

    The attributes are the parameters of `sqlmesh_definitions_factory`, and give equal definitions.
    Its state is the manifest: `dg utils refresh-defs-state` writes it, and a state that no longer fits
    the project's files is not used. Subclass it to use a translator of your own.
    """

    project_dir: Annotated[
        FoldersSetting,
        dg.Resolver(lambda context, given: joined(given), model_field_type=str | Sequence[str]),
    ] = Field(
        default=DefinitionOptions.model_fields["project_dir"].default,
        description=DefinitionOptions.model_fields["project_dir"].description,
    )
    translation: (
        Annotated[
            TranslationFn[ModelRecord],
            TranslationFnResolver(template_vars_for_translation_fn=lambda model: {"model": model}),
        ]
        | None
    ) = None
    defs_state: ResolvedDefsStateConfig = Field(
        default_factory=DefsStateConfigArgs.local_filesystem
    )

    def get_translator(self) -> SQLMeshTranslator:
        """How models look in Dagster, before `translation`; override it to use your own."""
        return SQLMeshTranslator(self.external_asset_mapping)

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Where Dagster keeps the manifest."""
        key = f"{type(self).__name__}[{self.name}]"
        return DefsStateConfig.from_args(self.defs_state, default_key=key)

    def write_state_to_path(self, state_path: Path) -> None:
        """Writes the manifest of the project's files as they are now."""
        bake_manifest(self._resource(), state_path)

    def build_defs_from_state(
        self, context: dg.ComponentLoadContext, state_path: Path | None
    ) -> dg.Definitions:
        """The definitions: from the state if it fits the files, else as from the factories."""
        resource = self._resource()
        baked = [state_path] if state_path else []
        return project_definitions(resource, project_manifest(resource, *baked), self)

    def _resource(self) -> SQLMeshResource:
        return resource_of(self, translated(self.get_translator(), self.translation))


def translated(
    translator: SQLMeshTranslator, translation: TranslationFn[ModelRecord] | None
) -> SQLMeshTranslator:
    """The translator, with the changes that `defs.yaml` declares."""
    if translation is None:
        return translator
    kind: Any = type(translator)
    adjust = translation

    class Translated(kind):  # type: ignore[misc]
        def get_asset_spec(self, model: ModelRecord) -> dg.AssetSpec:
            return translation_of(super().get_asset_spec(model), model, adjust)

    translated = copy.copy(translator)
    translated.__class__ = Translated
    return translated
