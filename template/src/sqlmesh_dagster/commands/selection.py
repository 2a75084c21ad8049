"""Which assets of a project a command's run takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import dagster as dg

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.upstream.launch import LocatedAsset

_RUN_OPTIONS = "_run_options"


def is_model(asset: LocatedAsset) -> bool:
    """Whether it is a model of a SQLMesh project."""
    return any(key.endswith(_RUN_OPTIONS) for key in asset.resources)


def option_keys(assets: Iterable[LocatedAsset]) -> list[str]:
    """Resource keys of the run options of these assets' SQLMesh projects."""
    return sorted({key for a in assets for key in a.resources if key.endswith(_RUN_OPTIONS)})


def models_named(names: Sequence[str], assets: Iterable[LocatedAsset]) -> list[LocatedAsset]:
    """The models of these names: `marts.part_sales`, `marts/part_sales`, `part_sales`.

    Raises:
        InvalidSettingError: A name that no model has, or more than one.
    """
    models = [asset for asset in assets if is_model(asset)]
    return [_model_named(name, models) for name in names]


def _model_named(name: str, models: Sequence[LocatedAsset]) -> LocatedAsset:
    parts = name.replace("/", ".").replace('"', "").lower().split(".")
    found = [m for m in models if [part.lower() for part in m.key.path][-len(parts) :] == parts]
    if len(found) == 1:
        return found[0]
    if found:
        these = ", ".join(f"`{_dotted(model.key)}`" for model in found)
        raise InvalidSettingError(
            f"`{name}` is the name of {len(found)} models: {these}. Name one."
        )
    names = [_dotted(model.key) for model in models]
    close = get_close_matches(name, [*names, *(".".join(n.split(".")[-2:]) for n in names)])
    hint = f" Did you mean `{close[0]}`?" if close else " `dg list defs` shows the models."
    raise InvalidSettingError(f"There is no model `{name}`.{hint}")


def _dotted(key: dg.AssetKey) -> str:
    return ".".join(key.path)


def loads(assets: Sequence[LocatedAsset]) -> list[LocatedAsset]:
    """The assets outside SQLMesh that models read, directly or not."""
    by_key = {asset.key: asset for asset in assets}
    found: dict[dg.AssetKey, LocatedAsset] = {}
    pending = [key for asset in assets if is_model(asset) for key in asset.upstream]
    while pending:
        key = pending.pop()
        asset = by_key.get(key)
        if asset is None or key in found or is_model(asset):
            continue
        found[key] = asset
        pending.extend(asset.upstream)
    return sorted(found.values(), key=lambda asset: asset.key)
