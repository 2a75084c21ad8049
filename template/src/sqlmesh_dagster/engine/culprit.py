"""Which file made the load of a project fail, if SQLMesh's message does not say it. Pure."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from sqlmesh_dagster.guard.texts import fault_of
from sqlmesh_dagster.upstream.reading import causes, files_being_read

_PACKAGE = Path(__file__).resolve().parents[1]
_SEED = re.compile(r"\bSEED\s*\(\s*path\s+'([^'\n]+)'", re.IGNORECASE)
_QUOTED = re.compile(r"'([^'\n]+)'")
_CRON = re.compile(r"Invalid cron '([^'\n]+)': must run at a frequency")
_ZONE = re.compile(r"(\S+) must be in (?:\{[^{}]*'Europe/Berlin'[^{}]*\})\.?")
"""SQLMesh's word on an unknown time zone, with the names of all 600."""
_GATEWAY = re.compile(r"Missing gateway with name '([^'\n]+)'\.?")
_SOME_TICKS = (
    "SQLMesh looks at its next ticks alone, so that a cron such as `*/7 * * * *`, whose last tick of an hour is"
    " close to the first one of the next, is refused in some minutes and taken in others: use `*/5 * * * *`, or"
    " a cron that comes less often."
)


def is_of_project(error: BaseException, project: Path, *, is_stopped: bool) -> bool:
    """Whether a load failed because of a project's file; else the process itself is being stopped.

    A file may call `sys.exit`, or raise `KeyboardInterrupt` or another error that is no `Exception`: it
    must not end the process that loads it. Dagster stops its processes with such errors of its own.

    Args:
        is_stopped: Whether a signal to stop has come since the load began.
    """
    if isinstance(error, Exception):
        return True
    if isinstance(error, GeneratorExit):  # or of whoever leaves the load
        return _place(error, project) is not None
    is_of_dagster = type(error).__module__.partition(".")[0] == "dagster"
    return not is_of_dagster and not (isinstance(error, KeyboardInterrupt) and is_stopped)


def with_culprit(
    error: BaseException, message: str, project: Path, variables: Mapping[str, str] = os.environ
) -> str:
    """The message, with the kind of error where it says little, and the file or variable where it names none."""
    message = _ZONE.sub(_of_a_zone, message)
    text = _with_file(error, message, project)
    names = [f"`{name}`" for name in _variables_in(message, variables) if name not in message]
    if not names:
        return text
    which, sets = ("variables", "set") if len(names) > 1 else ("variable", "sets")
    return (
        f"{text}\nThe environment {which} {', '.join(names)} {sets} this, whatever the files say."
    )


def with_gateway(message: str, asked: str | None) -> str:
    """SQLMesh's word on a gateway that its config lacks does not say who asked for it.

    Args:
        asked: The setting `gateway`.
    """
    found = _GATEWAY.search(message)
    if found is None or found[1] != asked:
        return message
    return message.replace(
        found[0],
        f"`gateway` is `{asked}`, which the project's config does not have. Use one of its `gateways`, or leave it"
        " out.",
    )


def _of_a_zone(found: re.Match[str]) -> str:
    near = get_close_matches(found[1], _QUOTED.findall(found[0]), 1)
    hint = f"Did you mean `{near[0]}`?" if near else "Use a name such as `Europe/Berlin`."
    return f"`{found[1]}` is no time zone. {hint}"


def _variables_in(message: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Those that override a key of SQLMesh's config which the message names, or whose value it has."""
    for name, value in sorted(variables.items()):
        prefix, _, path = name.partition("__")
        key = path.rpartition("__")[2]
        if prefix.lower() == "sqlmesh" and key:
            is_value = bool(value) and any(f"{q}{value}{q}" in message for q in "'`\"")
            if is_value or re.search(rf"\b{re.escape(key)}\b", message, re.IGNORECASE):
                yield name


def _with_file(error: BaseException, message: str, project: Path) -> str:
    is_clear = isinstance(error, Exception) and not isinstance(error, RecursionError) and message
    text = message if is_clear else f"{type(error).__name__}: {message}".rstrip(": ")
    text = _with_kind(error, text)
    places = (place for link in causes(error) if (place := _place(link, project)))
    place, file = next(places, None), _file(error, message, project)
    fault = _fault(file)
    if place is not None and not fault:
        return text if place.partition(", ")[2] in text else f"{text}\nIn `{place}`."
    if _CRON.search(message):
        text = f"{text} {_SOME_TICKS}"
    if file is None or (not fault and _shown(file, project) in text):
        return text
    return f"{text}\nIn `{_shown(file, project)}`{f', which {fault}' if fault else '.'}"


def _with_kind(error: BaseException, message: str) -> str:
    """SQLMesh repeats an error's text alone, which `assert False` has none of, and `KeyError` a name of."""
    *_, origin = causes(error)
    kind, said = type(origin).__name__, str(origin).strip()
    if origin is not error and not said and message.endswith(":"):
        return f"{message} {kind}"
    if origin is not error and isinstance(origin, KeyError) and message.endswith(said):
        return f"{message.removesuffix(said)}{kind}: {said}"
    return message


def _file(error: BaseException, message: str, project: Path) -> Path | None:
    """The file that the message names, or that was being read, as far as SQLMesh's own variables tell."""
    for quoted in _QUOTED.findall(message):
        if Path(quoted).is_file():
            return _seed_of(Path(quoted)) if _fault(Path(quoted)) is None else Path(quoted)
    if str(project) in message:
        return None
    if found := _CRON.search(message):
        return _file_with(found[1], project)
    return next(
        (path for path in files_being_read(error) if path.is_relative_to(project.resolve())), None
    )


def _file_with(text: str, project: Path) -> Path | None:
    for file in (*sorted((project / "models").rglob("*")), *sorted(project.glob("config.*"))):
        with suppress(OSError, ValueError):
            if file.is_file() and text in file.read_text(encoding="utf-8"):
                return file
    return None


def _seed_of(file: Path) -> Path:
    """The file of a seed model's rows, if they are what cannot be read; else the model's."""
    if file.suffix != ".sql":
        return file
    with suppress(OSError, ValueError):
        for match in _SEED.finditer(file.read_text(encoding="utf-8")):
            rows = file.parent / match[1]
            if _fault(rows):
                return rows
    return file


def _fault(file: Path | None) -> str | None:
    """Why it cannot be read as text, if that is why."""
    if file is None:
        return None
    try:
        return fault_of(file.read_bytes(), may_have_mark=file.suffix != ".sql")
    except OSError:
        return None


def _shown(file: Path, project: Path) -> str:
    folder, path = project.resolve(), file.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else file)


def _place(error: BaseException, project: Path) -> str | None:
    """The last line of the project's own code that ran.

    A project at a repository's root has the environment of Python and this package in its folder, too.
    """
    folder = project.resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        is_foreign = "site-packages" in path.parts or path.is_relative_to(_PACKAGE)
        if Path(frame.filename).is_absolute() and path.is_relative_to(folder) and not is_foreign:
            return f"{path.relative_to(folder)}, line {frame.lineno}"
    return None
