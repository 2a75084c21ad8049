"""Which assets of a project a command's run takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

import dagster as dg

from sqlmesh_dagster.definition.names import nearest
from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.upstream.launch import LocatedAsset

_RUN_OPTIONS = "_run_options"
_TOKEN = re.compile(r'[^\s()"]*:"[^"]*"\S*|[^\s()]+')
_NAME = re.compile(r"(?P<above>\d*\+)?(?P<name>[^+:]+)(?P<below>\+\d*)?")
_OPERATORS = frozenset({"and", "or", "not"})
_WORDS = _OPERATORS | {"*", "roots", "sinks"}


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
    return [_named(name, models, "model", _dotted) for name in names]


def selection_of(names: Sequence[str], assets: Sequence[LocatedAsset]) -> list[str]:
    """Selections in Dagster's syntax, of some that may name assets as SQLMesh does.

    So `marts.part_sales+` is `key:"marts/part_sales"+`, and `marts.*` is `key:"marts/*"`.

    Raises:
        InvalidSettingError: An asset is named that is not there.
    """
    texts = [" ".join(names)] if _OPERATORS & set(names) else names
    return [_TOKEN.sub(lambda token: _in_dagsters_syntax(token[0], assets), text) for text in texts]


def _in_dagsters_syntax(token: str, assets: Sequence[LocatedAsset]) -> str:
    found = _NAME.fullmatch(token)
    if found is None or token in _WORDS:
        return token
    above, name, below = (found[group] or "" for group in ("above", "name", "below"))
    if "*" in name:
        is_older_syntax = any(a.key.to_user_string() == name.strip("*") for a in assets)
        if is_older_syntax:  # `*marts/part_sales`: with all that is upstream
            return token
        return f'{above}key:"{_pattern(name, assets)}"{below}'
    asset = _named(name, assets, "asset", dg.AssetKey.to_user_string)
    return f'{above}key:"{asset.key.to_user_string()}"{below}'


def _pattern(name: str, assets: Sequence[LocatedAsset]) -> str:
    """The name with slashes, from the first part of the keys on."""
    keys = [asset.key.to_user_string() for asset in assets]
    plain = name.replace(".", "/")
    for pattern in (plain, f"*/{plain}"):
        if any(fnmatchcase(key, pattern) for key in keys):
            return pattern
    raise InvalidSettingError(f"There is no asset `{name}`. `dg list defs` shows the assets.")


def _named(
    name: str,
    assets: Sequence[LocatedAsset],
    kind: str,
    shown: Callable[[dg.AssetKey], str],
) -> LocatedAsset:
    """The asset whose key is the name, or else ends with it, or is its end: keys may lack the catalog."""
    whole = name.replace('"', "")
    parts = whole.replace("/", ".").lower().split(".")
    paths = [(asset, [part.lower() for part in asset.key.path]) for asset in assets]
    found = (
        [asset for asset in assets if asset.key.to_user_string() == whole]
        or [asset for asset, path in paths if path[-len(parts) :] == parts]
        or [asset for asset, path in paths if len(path) > 1 and parts[-len(path) :] == path]
    )
    if len(found) == 1:
        return found[0]
    if found:
        these = ", ".join(f"`{shown(asset.key)}`" for asset in found)
        raise InvalidSettingError(
            f"`{name}` is the name of {len(found)} {kind}s: {these}. Name one."
        )
    names = [".".join(asset.key.path[at:]) for at in (0, -2) for asset in assets]
    near = nearest(".".join(parts), names)
    hint = f"Did you mean `{near}`?" if near else f"`dg list defs` shows the {kind}s."
    raise InvalidSettingError(f"There is no {kind} `{name}`. {hint}")


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
