"""The secrets that this process has met, and what keeps them out of texts, errors and logs.

SQLMesh and the engine write values of the environment and of connections into their messages. Dagster
stores what it is told for ever, and shows it to everybody.
"""

from __future__ import annotations

import builtins
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar, cast

from dotenv import dotenv_values

from sqlmesh_dagster.errors import SQLMeshDagsterError
from sqlmesh_dagster.guard.masking import Masks
from sqlmesh_dagster.guard.secret_values import (
    secrets_of_config,
    secrets_of_pgpass,
    secrets_of_python,
    secrets_of_variables,
    secrets_of_yaml,
)

_READERS = {
    "config.py": secrets_of_python,
    "config.yaml": secrets_of_yaml,
    "config.yml": secrets_of_yaml,
    "profiles.yml": secrets_of_yaml,  # dbt's
}
_lock = threading.Lock()
_T = TypeVar("_T")


class _Known:
    """What the process knows; it never forgets, since a text outlives the project that it is about."""

    masks = Masks()
    records: Any = None


def mask(text: str) -> str:
    """The text without secrets."""
    return _Known.masks.mask(text)


def masked_message(error: BaseException) -> str:
    """Its kind and text, masked. Cut it afterwards, and not before: the beginning of a secret is not known as one."""
    return mask(f"{type(error).__name__}: {error}")


def learn(values: Iterable[str]) -> None:
    """From now on these are masked, also in what this process logs."""
    with _lock:
        _Known.masks = _Known.masks.including(values)
        if _Known.records is None:
            _Known.records = logging.getLogRecordFactory()
            logging.setLogRecordFactory(_masked_record)


def learn_of_project(project: Path) -> None:
    """Learns the secrets of the environment, of the project's `.env`, and of its config as it is written.

    So they are known before SQLMesh reads the config, and where it cannot.
    """
    dotenv = project / ".env"
    with suppress(OSError, ValueError):
        own = dotenv_values(dotenv) if dotenv.is_file() else {}
        learn(secrets_of_variables(own))
    variables: dict[str, str | None] = {**os.environ, **own}
    learn(secrets_of_variables({n: v for n, v in variables.items() if not _is_folder(v)}))
    home = os.environ.get("SQLMESH_HOME") or "~/.sqlmesh"
    profiles = variables.get("DBT_PROFILES_DIR") or "~/.dbt"
    passwords = variables.get("PGPASSFILE") or "~/.pgpass"  # of Postgres' own clients
    files = [(_expanded(passwords), secrets_of_pgpass)]
    for folder in (project, _expanded(home), _expanded(profiles)):
        files += [(folder / name, read) for name, read in _READERS.items()]
    if instance := variables.get("DAGSTER_HOME"):
        files.append((_expanded(instance) / "dagster.yaml", secrets_of_yaml))
    for file, read in files:
        with suppress(OSError, ValueError):
            if file.is_file():  # reading a pipe would never end
                learn(read(file.read_text(), variables))


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 # no error without a home


def _is_folder(value: str | None) -> bool:
    """Whether a variable is the path of a folder, whatever its name says: `POE_PWD`, `OLDPWD`."""
    return value is not None and Path(value).is_absolute() and os.path.isdir(value)  # noqa: PTH112 # no error for any text


@contextmanager
def masked_output() -> Iterator[None]:
    """Meanwhile what this process prints shows no secret that it knows."""
    before = sys.stdout, sys.stderr
    own = tuple(cast(TextIO, _MaskedStream(stream)) if stream else stream for stream in before)
    sys.stdout, sys.stderr = own
    try:
        yield
    finally:
        if sys.stdout is own[0]:  # somebody else may have put theirs there meanwhile
            sys.stdout = before[0]
        if sys.stderr is own[1]:
            sys.stderr = before[1]


class _MaskedStream:
    """A stream as it is, but for what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> _MaskedBuffer:
        return _MaskedBuffer(self._stream.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _MaskedBuffer:
    """What is below such a stream, for those who write bytes."""

    def __init__(self, buffer: BinaryIO) -> None:
        self._buffer = buffer

    def write(self, data: bytes) -> int:
        text = bytes(data).decode(errors="surrogateescape")
        self._buffer.write(mask(text).encode(errors="surrogateescape"))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)


def learn_of_config(config: Mapping[str, object]) -> None:
    """Learns the secrets of a config that was read."""
    learn(secrets_of_config("", config))


def masked_texts(data: _T, names: Iterable[str]) -> _T:
    """Plain data, frozen dataclasses in tuples, with what stands in the named fields masked."""
    wanted = set(names)

    def masked(value: Any, *, is_text: bool) -> Any:
        if isinstance(value, str):
            return mask(value) if is_text else value
        if isinstance(value, (tuple, list)):
            return type(value)(masked(part, is_text=is_text) for part in value)
        if isinstance(value, Mapping):
            return {key: masked(part, is_text=is_text) for key, part in value.items()}
        if not is_dataclass(value) or isinstance(value, type):
            return value
        new = {
            f.name: masked(getattr(value, f.name), is_text=is_text or f.name in wanted)
            for f in fields(value)
        }
        return replace(value, **new)

    result: _T = masked(data, is_text=False)
    return result


def masked_error(error: BaseException) -> BaseException:
    """The error without secrets in its text, its causes and its traceback: itself, or what stands for it."""
    seen: set[int] = set()
    return _masked(error, seen)


def _masked(error: BaseException, seen: set[int]) -> BaseException:
    if id(error) in seen:
        return error
    seen.add(id(error))
    cause, context = error.__cause__, error.__context__
    is_hidden = error.__suppress_context__
    _mask_attributes(error)
    clean = error
    if sys.version_info >= (3, 11) and isinstance(error, builtins.BaseExceptionGroup):
        clean = _masked_group(error, seen)
    elif _shows_secret(str(error)) and isinstance(error, Exception):
        clean = _stand_in(error).with_traceback(error.__traceback__)
    if _shows_secret("".join(traceback.format_tb(clean.__traceback__))):
        clean = clean.with_traceback(None)
    clean.__cause__ = _masked(cause, seen) if cause else None
    clean.__context__ = _masked(context, seen) if context else None
    clean.__suppress_context__ = is_hidden
    return clean


if sys.version_info >= (3, 11):

    def _masked_group(
        group: builtins.BaseExceptionGroup[BaseException], seen: set[int]
    ) -> builtins.BaseExceptionGroup[BaseException]:
        """The group itself if none of its errors had to be replaced."""
        parts = [_masked(part, seen) for part in group.exceptions]
        is_same = all(part is old for part, old in zip(parts, group.exceptions, strict=True))
        if is_same and not _shows_secret(group.message):
            return group
        return builtins.BaseExceptionGroup(mask(group.message), parts).with_traceback(
            group.__traceback__
        )


def _mask_attributes(error: BaseException) -> None:
    with suppress(Exception):  # an error of a library may refuse
        error.args = tuple(_masked_value(argument) for argument in error.args)
    for name, value in list(getattr(error, "__dict__", {}).items()):
        masked = _masked_value(value)
        if masked is not value:
            with suppress(Exception):
                setattr(error, name, masked)


def _masked_value(value: Any) -> Any:
    """A text, or texts in plain containers."""
    if isinstance(value, str):
        return mask(value)
    if type(value) in (list, tuple):
        parts = [_masked_value(part) for part in value]
        is_same = all(part is before for part, before in zip(parts, value, strict=True))
        return value if is_same else type(value)(parts)
    if type(value) is dict:
        new = {key: _masked_value(part) for key, part in value.items()}
        return value if all(new[key] is value[key] for key in new) else new
    return value


def _stand_in(error: Exception) -> Exception:
    """An error of the same name whose text can be masked, for one that makes its own text."""
    kind = type(error)
    named = type(kind.__name__, (SQLMeshDagsterError,), {"__module__": kind.__module__})
    stand_in: Exception = named(mask(str(error)))
    return stand_in


def _shows_secret(text: str) -> bool:
    return mask(text) != text


def _masked_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record: logging.LogRecord = _Known.records(*args, **kwargs)
    try:
        text = record.getMessage()
        clean = mask(text)
    except Exception:  # logging itself reports a message that does not fit its arguments
        return record
    if clean != text:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[1] is not None:
        trace = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
        clean = mask(trace)
        if clean != trace:
            record.exc_info, record.exc_text = None, clean
    return record
