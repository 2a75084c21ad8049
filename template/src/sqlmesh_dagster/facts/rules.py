"""`review.toml` in the SQLMesh project's folder: what the owner says of reviews, promotions and consumers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.facts.gates import Gates

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "review.toml"
_Table = TypeVar("_Table")


@dataclass(frozen=True)
class Measure:
    """What a review reads and shows.

    Attributes:
        max_rows: Tables with more rows are compared in part.
        sample_rows: Rows that differ and are shown of each model; they leave the warehouse.
        masked: Columns no value of which is ever shown, as patterns of `model.column` or `column`.
        preview_days: Days of history that a forward-only change is previewed on.
    """

    max_rows: int = 5_000_000
    sample_rows: int = 0
    masked: tuple[str, ...] = ()
    preview_days: int = 7

    def is_masked(self, model: str, column: str) -> bool:
        """Whether a pattern takes a column of a model."""
        names = (f"{model}.{column}".lower(), column.lower())
        return any(fnmatchcase(name, p.lower()) for name in names for p in self.masked) or any(
            fnmatchcase(f"{'.'.join(model.split('.')[-parts:])}.{column}".lower(), p.lower())
            for p in self.masked
            for parts in (1, 2)
        )

    def shown_error(self, kinds: Iterable[str], text: str) -> str:
        """An error's text; where columns are masked, only if it is about names and not about values.

        Args:
            kinds: Names of the exceptions' types.
        """
        unsafe = sorted(set(kinds) - _WITHOUT_VALUES)
        if not self.masked or not unsafe:
            return text
        return (
            f"{', '.join(unsafe)}. The text of the error is not shown: it may have values of columns that"
            " `review.toml` masks."
        )


_WITHOUT_VALUES = frozenset(
    {
        *("BinderException", "CatalogException", "ParserException", "PermissionException"),
        *(
            "UndefinedColumn",
            "UndefinedTable",
            "UndefinedFunction",
            "SyntaxError",
            "DatatypeMismatch",
        ),
        *("InsufficientPrivilege", "PlanFailedError", "ProjectLoadError"),
    }
)
"""Errors of DuckDB, of Postgres and of this package whose texts name columns and tables, and no values."""


@dataclass(frozen=True)
class Promotion:
    """What happens with a promotion, and after it.

    Attributes:
        drop_environment: Whether the reviewed environment goes; never the one that Dagster runs.
        cost_factor: By how many times its time may differ from the estimate before it says so.
    """

    drop_environment: bool = True
    cost_factor: float = 3.0


@dataclass(frozen=True)
class Consumer:
    """A dashboard, an export, whatever reads models outside of SQLMesh and Dagster.

    Attributes:
        reads: Models, or columns of them: `marts.orders`, `marts.orders.amount`.
        kind: As its asset's badge says.
    """

    name: str
    reads: tuple[str, ...]
    kind: str = "dashboard"
    owner: str = ""
    description: str = ""
    url: str = ""


@dataclass(frozen=True)
class Rules:
    """The whole file; what is not in it has its default."""

    gates: Gates = field(default_factory=Gates)
    measure: Measure = field(default_factory=Measure)
    promotion: Promotion = field(default_factory=Promotion)
    consumers: tuple[Consumer, ...] = ()


def read_rules(folder: Path) -> Rules:
    """Of the SQLMesh project in that folder; a project without the file has the defaults.

    Raises:
        InvalidSettingError: It is no TOML, or has an unknown name or a value of the wrong type.
    """
    file = folder / FILE
    try:
        return parse_rules(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Rules()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettingError(f"`{file}` cannot be read: {error}") from error
    except InvalidSettingError as error:
        raise InvalidSettingError(f"`{file}`: {error.description}") from error


def parse_rules(text: str) -> Rules:
    """The rules in a text.

    Raises:
        InvalidSettingError: It has an unknown name or a value of the wrong type.
    """
    given = tomllib.loads(text)
    _known(given, [f.name for f in fields(Rules)], "a table")
    consumers = given.get("consumers", [])
    if not isinstance(consumers, list):
        raise InvalidSettingError("write each consumer below a line `[[consumers]]`.")
    return Rules(
        gates=_table(Gates, "gates", given.get("gates", {})),
        measure=_table(Measure, "measure", given.get("measure", {})),
        promotion=_table(Promotion, "promotion", given.get("promotion", {})),
        consumers=tuple(_consumer(each) for each in consumers),
    )


def consumed(consumer: Consumer, models: Iterable[str]) -> dict[str, frozenset[str] | None]:
    """The columns of each model that a consumer reads; None for all.

    A name is a model's if it is the end of the model's whole name, `marts.orders` of `db.marts.orders`;
    otherwise its last part is a column.
    """
    found: dict[str, frozenset[str] | None] = {}
    known = list(models)
    for text in consumer.reads:
        whole = [name for name in known if _is_end(text, name)]
        if whole:
            found.update(dict.fromkeys(whole))
            continue
        model, _, column = text.rpartition(".")
        for name in known:
            if model and _is_end(model, name) and found.get(name, frozenset()) is not None:
                found[name] = (found.get(name) or frozenset()) | {column}
    return found


def unknown_reads(consumer: Consumer, models: Iterable[str]) -> tuple[str, ...]:
    """What a consumer says it reads and no model is."""
    known = list(models)
    return tuple(
        text
        for text in consumer.reads
        if not any(_is_end(t, n) for t in (text, text.rpartition(".")[0]) for n in known if t)
    )


def _is_end(text: str, name: str) -> bool:
    wanted, whole = text.lower().split("."), name.lower().split(".")
    return whole[-len(wanted) :] == wanted


def _consumer(given: object) -> Consumer:
    made = _table(Consumer, "consumers", given, required=("name", "reads"))
    if not made.name or not made.reads:
        raise InvalidSettingError("a consumer needs a `name`, and names in `reads`.")
    return made


def _table(kind: type[_Table], name: str, given: object, required: Iterable[str] = ()) -> _Table:
    if not isinstance(given, Mapping):
        raise InvalidSettingError(f"`{name}` is no table.")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    _known(given, known, f"in `{name}`")
    lacking = [key for key in required if key not in given]
    if lacking:
        raise InvalidSettingError(f"`{lacking[0]}` is missing in `{name}`.")
    return kind(**{key: _value(name, key, str(known[key].type), v) for key, v in given.items()})


def _value(table: str, key: str, kind: str, value: object) -> Any:
    if kind.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
        raise InvalidSettingError(f"`{key}` in `{table}` is a list of texts.")
    if kind.startswith("float"):
        if kind.endswith("None") and value is False:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return float(value)
        off = ", or `false`" if kind.endswith("None") else ""
        raise InvalidSettingError(f"`{key}` in `{table}` is a number{off}.")
    wanted = {"bool": bool, "int": int, "str": str}[kind]
    is_bool = isinstance(value, bool)
    if not isinstance(value, wanted) or is_bool != (wanted is bool):
        raise InvalidSettingError(f"`{key}` in `{table}` is to be {_SAID[kind]}.")
    if isinstance(value, int) and value < 0:
        raise InvalidSettingError(f"`{key}` in `{table}` is negative.")
    return value


_SAID = {"bool": "`true` or `false`", "int": "a whole number", "str": "a text"}


def _known(given: Mapping[str, object], known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in given:
        if key not in names:
            raise InvalidSettingError(
                f"`{key}` is not known as {where}. Known are {', '.join(f'`{n}`' for n in names)}."
                if where == "a table"
                else f"`{key}` is not known {where}. Known are {', '.join(f'`{n}`' for n in names)}."
            )
