"""Names that Dagster accepts, made from texts that SQLMesh accepts, without collisions.

Every text of a project that becomes a name, key, tag, kind, group, owner or description passes here.
"""

from __future__ import annotations

import hashlib
import keyword
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from string import ascii_lowercase, ascii_uppercase

from sqlmesh_dagster.production import PRODUCTION

_ILLEGAL = re.compile(r"[^A-Za-z0-9_]")
_ILLEGAL_IN_TAG = re.compile(r"[^A-Za-z0-9_.-]")
_TAG_LENGTH = 63
"""Longest tag key or value that Dagster takes (`dagster._core.definitions.tags`)."""
_CHECK_NAME_LENGTH = 80
"""Long enough to read in the UI; the rest is replaced by a digest."""
_SEGMENT_LENGTH = 255
"""Longest identifier of most engines. Postgres, as Dagster's storage, cannot index keys of some 2,700 bytes."""
_EMAIL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._%+-]*@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")
"""What Dagster takes for an e-mail (`dagster._core.utils.is_valid_email`)."""
_TEAM = "team:"
_UNPRINTABLE = re.compile(r"[\x00\ud800-\udfff]")
"""What neither UTF-8 nor a text of Postgres can hold."""
_RESERVED = frozenset(
    [
        "context",
        "conf",
        "config",
        "meta",
        "arg_dict",
        "dict",
        "input_arg_dict",
        "output_arg_dict",
        "int",
        "str",
        "float",
        "bool",
        "input",
        "output",
        "type",
    ]
)
"""Names that Dagster refuses for an op, as well as Python's keywords (`dagster._core.definitions.utils`)."""

_COLUMNS = re.compile(r"(.*_)?columns?")
"""Arguments that name columns: they are what a check's name consists of, next to its audit."""
_ARRAY = re.compile(r"^ARRAY\b")
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_IDENTIFIER = re.compile(r"[^\W\d]\w*(?!\w*\s*\()")
"""A word of SQL that calls no function."""
_KEYWORDS = re.compile(
    "all|and|any|as|asc|between|by|case|cast|current_date|current_timestamp|date|day|desc|distinct|else|end"
    "|exists|false|from|hour|in|interval|is|like|month|not|null|or|order|select|then|timestamp|true|when"
    "|where|year",
    re.IGNORECASE,
)
_FLAGS = ("TRUE", "FALSE")
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)

AuditCall = tuple[str, Mapping[str, str]]
"""An audit's name and its arguments as SQL text, `blocking` left out."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant; None if they have no more than the schema in common."""
    last = name.rpartition(".")[2]
    near = get_close_matches(name, sorted(known), 5)
    return next((n for n in near if get_close_matches(last, [n.rpartition(".")[2]])), None)


def name_for_models(name: str, dialect: str) -> str:
    """A loaded table's or column's name as models that are written in DuckDB's dialect ask an engine for it.

    DuckDB takes a name in any case, of the letters of ASCII; SQLMesh writes it in lower case, in quotes.
    """
    return name if dialect == "duckdb" else name.translate(_LOWER)


def digest(text: str, length: int = 6) -> str:
    """A short, stable hexadecimal digest of `text`."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def split_fqn(fqn: str) -> list[str]:
    """`"db"."sch.ema"."t"` → `["db", "sch.ema", "t"]`: dots inside quotes don't separate."""
    parts = re.findall(r'"((?:[^"]|"")*)"|([^".]+)', fqn)
    return [quoted.replace('""', '"') or plain for quoted, plain in parts]


def shown(text: str) -> str:
    """A text for people, such as a description, without what cannot be stored."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def key_segment(name: str) -> str:
    """One segment of an asset key.

    A name of letters, digits and underscores stays as it is; any other gets a digest of the
    original, so that `a-b`, `a.b` and `a_b` stay three assets.
    """
    clean = _ILLEGAL.sub("_", name)[:_SEGMENT_LENGTH]
    return clean if clean == name and name else f"{clean}__{digest(name)}"


def is_reserved(name: str) -> bool:
    """Whether it is a word that Dagster takes for no name of an op, a job, a schedule or a sensor."""
    return name in _RESERVED or keyword.iskeyword(name)


def op_name(path: Sequence[str]) -> str:
    """The name of the op that materializes the asset with this key path.

    Segments are joined by two underscores; where that would be ambiguous a digest is added.
    """
    joined = "__".join(_ILLEGAL.sub("_", segment) for segment in path)
    ambiguous = any(
        _ILLEGAL.search(s) or "__" in s or s.startswith("_") or s.endswith("_") or not s
        for s in path
    )
    if ambiguous or is_reserved(joined):
        return f"{joined}__{digest('/'.join(path))}"
    return joined


def tag_key(text: str) -> str:
    """A tag key or value of at most 63 characters out of `[A-Za-z0-9_.-]`; accents are dropped."""
    plain = unicodedata.normalize("NFKD", text.strip())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    clean = _ILLEGAL_IN_TAG.sub("_", plain).strip("_.-") or f"tag_{digest(text)}"
    if len(clean) <= _TAG_LENGTH:
        return clean
    return f"{clean[: _TAG_LENGTH - 7]}_{digest(text)}"


def dagster_tags(tags: Sequence[str]) -> dict[str, str]:
    """SQLMesh's tags as Dagster's: `finance team` → `finance_team: true`, `domain:sales` → `domain: sales`.

    Two tags that would become the same get a digest.
    """
    result: dict[str, str] = {}
    for tag in sorted(set(tags), key=lambda t: (tag_key(t) != t, t)):
        name, separator, value = tag.partition(":")
        key, text = tag_key(name), tag_key(value) if separator and value else "true"
        if key in result and (result[key] != text or not separator):
            key = f"{key[: _TAG_LENGTH - 7]}_{digest(tag)}"
        result[key] = text
    return result


def group_name(text: str) -> str | None:
    """A group name: segments of letters, digits and underscores, separated by `/`; None if none is left."""
    return "/".join(_ILLEGAL.sub("_", segment) for segment in text.split("/") if segment) or None


def owners(texts: Sequence[str]) -> list[str]:
    """Owners: an e-mail and `team:…` stay as they are, any other name becomes a team's."""
    found = dict.fromkeys(shown(text.strip()) for text in texts)
    return [o if _is_owner(o) else f"{_TEAM}{o}" for o in found if o]


def engine(dialect: str) -> str:
    """The engine of a dialect, which may have settings: `snowflake,normalization_strategy=lowercase`."""
    name = dialect.partition(",")[0].strip()
    return tag_key(name) if name else ""


def kinds(texts: Sequence[str]) -> set[str]:
    """The kinds of an asset; a kind is a tag's key."""
    return {tag_key(text) for text in texts if text}


def _is_owner(text: str) -> bool:
    return bool(_EMAIL.fullmatch(text)) or (text.startswith(_TEAM) and text != _TEAM)


def view_in(environment: str, suffix: str | None, catalog: str, schema: str, name: str) -> str:
    """What SQLMesh calls a model's view in an environment: `warehouse.marts__dev.orders`.

    Args:
        suffix: Which part gets the environment's name; see `Manifest.environment_suffix`.
    """
    parts = {"catalog": catalog, "schema": schema, "table": name}
    if environment != PRODUCTION and suffix in parts:
        own = environment.upper() if parts[suffix].isupper() else environment
        parts[suffix] = f"{parts[suffix]}__{own}"
    return ".".join(part for part in parts.values() if part)


def audit_identity(name: str, arguments: Mapping[str, str]) -> str:
    """The canonical text of an audit call: `not_null(columns=(id))`, arguments sorted by name."""
    shown = ", ".join(f"{key}={arguments[key]}" for key in sorted(arguments))
    return f"{name}({shown})" if shown else name


def check_names(calls: Sequence[AuditCall]) -> list[str]:
    """The check name of each audit call of one model, in the calls' order.

    A name is the audit and its columns (`accepted_range_amount`), so that it stays when a threshold
    changes. Only calls that would get the same name get more: the arguments that the others do not have
    (`accepted_range_amount_min_v`), else the values that differ, else a digest. Exact repetitions get a
    number after two underscores, which no other name has. The order of the calls does not matter.
    """
    identities = [audit_identity(name, arguments) for name, arguments in calls]
    names = _distinct(dict(zip(identities, calls, strict=True)))
    seen: Counter[str] = Counter()
    result = []
    for identity in identities:
        seen[identity] += 1
        name = names[identity]
        result.append(name if seen[identity] == 1 else f"{name}__{seen[identity]}")
    return result


def long_check_name(name: str, arguments: Mapping[str, str]) -> str:
    """The audit and all of its arguments: the check's name until 0.3, if it was no other's."""
    shown = [
        _words(_ARRAY.sub("", arguments[key]) if key in _SHORT else f"{key} {arguments[key]}")
        for key in sorted(arguments)
    ]
    return _named(name, shown, audit_identity(name, arguments))


def other_check_names(name: str, arguments: Mapping[str, str]) -> tuple[str, ...]:
    """What the check of an audit call may have been called, next to other calls or in an older version."""
    short = _short(name, arguments)
    given = "_".join(filter(None, (short, *_tellable(arguments))))
    return tuple(dict.fromkeys((short, given, long_check_name(name, arguments))))


_SHORT = ("column", "columns")
_Calls = Mapping[str, AuditCall]


def _distinct(calls: _Calls) -> dict[str, str]:
    """A name for each call, by its identity; what has one name is told apart step by step."""
    names = {identity: _short(*call) for identity, call in calls.items()}
    for telling in (_arguments_of_its_own, _values_that_differ):
        for group in _alike(names):
            for identity in group:
                name, arguments = calls[identity]
                others = [calls[other][1] for other in group]
                names[identity] = _short(name, arguments, telling(arguments, others))
    for group in _alike(names):
        for identity in group:
            names[identity] = f"{names[identity]}_{digest(identity)}"
    return names


def _alike(names: Mapping[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for identity, name in names.items():
        groups.setdefault(name, []).append(identity)
    return [group for group in groups.values() if len(group) > 1]


def _short(name: str, arguments: Mapping[str, str], telling: Sequence[str] = ()) -> str:
    stable = {key: text for key, text in arguments.items() if _COLUMNS.fullmatch(key)}
    whole = "_".join((audit_identity(name, stable), *telling))
    return _named(name, (*_columns(arguments), *telling), whole)


def _columns(arguments: Mapping[str, str]) -> list[str]:
    """The columns that an audit names as such; without any, those in its expressions."""
    named = [key for key in sorted(arguments) if _COLUMNS.fullmatch(key)]
    if named:
        return [_words(_ARRAY.sub("", arguments[key])) for key in named]
    found = [
        word
        for key in sorted(arguments)
        for word in _IDENTIFIER.findall(_LITERAL.sub(" ", arguments[key]).replace('"', " "))
        if not _KEYWORDS.fullmatch(word)
    ]
    return [_words(word) for word in dict.fromkeys(found)]


def _tellable(arguments: Mapping[str, str]) -> list[str]:
    """The names of arguments that say what is checked; `inclusive := FALSE` only says how."""
    return [
        _words(key)
        for key in sorted(arguments)
        if not _COLUMNS.fullmatch(key) and arguments[key].upper() not in _FLAGS
    ]


def _arguments_of_its_own(
    arguments: Mapping[str, str], group: Sequence[Mapping[str, str]]
) -> list[str]:
    """Those that not every call of the group has."""
    given = [set(_tellable(other)) for other in group]
    return [key for key in _tellable(arguments) if not all(key in others for others in given)]


def _values_that_differ(
    arguments: Mapping[str, str], group: Sequence[Mapping[str, str]]
) -> list[str]:
    return [
        _words(f"{key} {arguments[key]}")
        for key in sorted(arguments)
        if not _COLUMNS.fullmatch(key) and any(other.get(key) != arguments[key] for other in group)
    ]


def _named(name: str, shown: Iterable[str], whole: str) -> str:
    """The words as a name; of a long one the begin, and a digest of `whole`."""
    audit = _words(name) or f"audit_{digest(name)}"
    text = "_".join((audit, *filter(None, shown)))
    if len(text) <= _CHECK_NAME_LENGTH:
        return text
    return f"{text[: _CHECK_NAME_LENGTH - 7]}_{digest(whole)}"


def _words(text: str) -> str:
    return re.sub(r"_+", "_", _ILLEGAL.sub("_", text)).strip("_")
