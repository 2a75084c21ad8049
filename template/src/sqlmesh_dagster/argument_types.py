"""Whether an argument is of a type that its annotation takes, and, if not, the message that says so."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import dagster as dg

from sqlmesh_dagster.errors import InvalidSettingError

INT_ENV_VAR: Any = type(dg.EnvVar.int("_"))
"""What `EnvVar.int` returns; Dagster exports no name for it."""
_WORDS: Mapping[type, str] = {
    str: "a text",
    bool: "`True` or `False`",
    int: "a whole number",
    float: "a number",
    Path: "a path",
}


def refuse_another_type(name: str, value: Any, annotation: Any) -> None:
    """Python passes any value on, and what it meets fails in words of its own.

    Raises:
        InvalidSettingError: With the option, its value, and what it takes.
    """
    if isinstance(value, (dg.EnvVar, INT_ENV_VAR)) or _is_a(value, annotation):
        return
    raise InvalidSettingError(
        f"`{name}` is `{value!r:.200}`. It must be {' or '.join(_words(annotation))}."
    )


def _is_a(value: Any, annotation: Any) -> bool:
    """Whether a value is of this type; what is in a mapping is for those to check who read it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_is_a(key, parts[0]) for key in value)
    if origin is Sequence:
        is_list = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))
        return is_list and all(_is_a(part, parts[0]) for part in value)
    if annotation is Any or not isinstance(annotation, type):
        return True
    if isinstance(value, bool) or annotation is bool:
        return isinstance(value, bool) and annotation is bool
    if annotation is float:
        return isinstance(value, (int, float)) and value == value  # not NaN
    return isinstance(value, annotation)


def _words(annotation: Any) -> Iterator[str]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        for part in parts:
            yield from _words(part)
    elif origin is Mapping:
        yield "a mapping of texts"
    elif origin is Sequence:
        yield "a list of texts"
    elif annotation is not NoneType:
        yield _WORDS.get(annotation) or f"a `{getattr(annotation, '__name__', annotation)}`"
