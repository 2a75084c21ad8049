"""A translator whose answers are checked: an override that gives nothing, or something else, is named."""

from __future__ import annotations

import functools
import inspect
import traceback
import typing
from collections.abc import Callable, Collection, Mapping
from copy import copy
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import dagster as dg

from sqlmesh_dagster.definition.records import ModelRecord
from sqlmesh_dagster.errors import InvalidSettingError, SQLMeshDagsterError
from sqlmesh_dagster.translator import SQLMeshTranslator

_UNCHECKED = ("__init__", "read_model")
"""`read_model` is asked while SQLMesh loads the project."""
_MADE_OF_PARTS = ("get_asset_spec", "get_external_asset_spec", "get_check_spec")
"""Where Dagster refuses what other methods gave."""
_METADATA = {
    "dagster/column_schema": dg.TableSchema,
    "dagster/column_lineage": dg.TableColumnLineage,
    "dagster/table_name": str,
}
"""Entries that Dagster reads, and what they must be."""


def checked(translator: SQLMeshTranslator) -> SQLMeshTranslator:
    """The translator, with the overrides of its class watched; itself if it has none."""
    kind = type(translator)
    methods = {
        name: _watched(getattr(kind, name), base, None)
        for name, base in vars(SQLMeshTranslator).items()
        if inspect.isfunction(base)
        and name not in _UNCHECKED
        and inspect.isfunction(getattr(kind, name))
        and getattr(kind, name) is not base
    }
    if not methods:
        return translator
    parts = ", ".join(f"`{kind.__name__}.{name}`" for name in methods)
    for name in _MADE_OF_PARTS:
        if name not in methods:
            methods[name] = _watched(getattr(kind, name), getattr(SQLMeshTranslator, name), parts)
    watched = copy(translator)
    watched.__class__ = type(kind.__name__, (kind,), {**methods, "__module__": kind.__module__})
    return watched


def translation_of(
    spec: dg.AssetSpec,
    model: ModelRecord,
    adjust: Callable[[dg.AssetSpec, ModelRecord], dg.AssetSpec],
) -> dg.AssetSpec:
    """What the `translation` of a component's `defs.yaml` makes of a model's asset.

    Raises:
        InvalidSettingError: It fails, as a template does, or makes something that Dagster would not take.
    """
    try:
        given = adjust(spec, model)
    except Exception as error:
        said, trace, reason = str(error).partition("\nTraceback (most recent call last):\n")
        last = reason.strip().splitlines()[-1:] if trace else []
        told = " ".join([said.strip(), *last]).rstrip(".")
        raise InvalidSettingError(
            f"`translation` failed for `{model.name}` with {type(error).__name__}: {told}. Correct it in"
            " `defs.yaml`."
        ) from error
    if fault := _fault_of(given):
        raise InvalidSettingError(
            f"`translation` gave for `{model.name}` {fault}. Correct it in `defs.yaml`."
        )
    return given


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a type hint says, as far as its parts can be looked at without using them up."""
    if hint is Any:
        return True
    if hint is None or hint is NoneType:
        return value is None
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if isinstance(value, (str, bytes)) and kind is not str:
        return False
    if not isinstance(value, kind):
        return False
    if isinstance(value, Mapping) and len(parts) == 2:
        return all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if isinstance(value, Collection) and len(parts) == 1:
        return all(fits(part, parts[0]) for part in value)
    return True


def _watched(
    method: Callable[..., Any], base: Callable[..., Any], parts: str | None
) -> Callable[..., Any]:
    hint = typing.get_type_hints(base)["return"]
    name = method.__qualname__

    @functools.wraps(method)
    def answer(self: SQLMeshTranslator, subject: Any, *args: Any, **kwargs: Any) -> Any:
        of = f"for `{getattr(subject, 'name', None) or getattr(subject, 'fqn', subject)}`"
        try:
            given = method(self, subject, *args, **kwargs)
        except SQLMeshDagsterError:
            raise
        except Exception as error:
            raise InvalidSettingError(
                f"The translator's `{name}` failed {of} with {type(error).__name__}: {error}. Correct"
                f" {parts or f'it in {_place(method, error)}'}."
            ) from error
        if not fits(given, hint):
            raise InvalidSettingError(
                f"The translator's `{name}` gave `{given!r}` {of}. It must return {_words(hint)}. Correct it"
                f" in {_place(method)}."
            )
        if fault := _fault_of(given):
            raise InvalidSettingError(
                f"The translator's `{name}` gave {of} {fault}. Correct {parts or f'it in {_place(method)}'}."
            )
        return given

    return answer


def _fault_of(given: Any) -> str | None:
    """What Dagster refuses only when it puts all assets together."""
    if isinstance(given, dg.AssetKey) and not all(given.path or [""]):
        return f"the asset key `{given.path!r}`, which must have parts, and none that is empty"
    if not isinstance(given, dg.AssetSpec):
        return None
    for entry, kind in _METADATA.items():
        value = given.metadata.get(entry)
        plain = value.value if isinstance(value, dg.MetadataValue) else value
        if plain is not None and not isinstance(plain, kind):
            return f"the metadata `{entry}`: `{plain!r}`, which must be a `{kind.__name__}`"
    return _fault_of(given.key)


def _place(method: Callable[..., Any], error: BaseException | None = None) -> str:
    """The method's line that failed, or its first one."""
    code = method.__code__
    frames = traceback.extract_tb(error.__traceback__) if error else ()
    lines = [frame.lineno for frame in frames if frame.filename == code.co_filename]
    return f"`{code.co_filename}, line {lines[-1] if lines else code.co_firstlineno}`"


def _words(hint: Any) -> str:
    text = inspect.formatannotation(hint)
    for prefix in ("collections.abc.", "typing.", "dagster."):
        text = text.replace(prefix, "")
    return f"`{text}`"
