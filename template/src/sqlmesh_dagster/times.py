"""Times that a person gives: parsed, and refused before anything changes if they make no sense."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime, timedelta, timezone

from sqlmesh_dagster.errors import InvalidSettingError

_CLOCKS_DIFFER = timedelta(minutes=1)
"""A daemon's clock may be ahead of a run's."""
_LONGEST = 60
"""Characters of a time in words: SQLMesh looks for seconds, and more, at a text that is long."""
_FIRST_YEAR, _LAST_YEAR = 1000, 9000
"""Beyond them a time in another time zone, or the next tick of a cron, is no date of Python's."""
_DIGITS = (8, 12, 13)
"""So many are a date, or the milliseconds that SQLMesh counts; fewer are a year, or seconds, which it does not."""
_DATE = re.compile(r"(\d{1,4})[-/.](\d{1,2})(?:$|[-/.](\d{1,4})(?!\d))")
_WEEK = re.compile(r"\d{4}-?w", re.IGNORECASE)
_SHORT_WORDS = frozenset(["a", "am", "an", "at", "h", "in", "of", "on", "pm", "t", "z"])


def moment(option: str, text: str) -> datetime:
    """A date or time in any of SQLMesh's forms, in UTC.

    Words such as `3 days ago` are read by SQLMesh, which is imported then.

    Raises:
        InvalidSettingError: It cannot be read, or only as a guess.
    """
    if odd := next((c for c in text if _only_looks_right(c)), None):
        raise InvalidSettingError(
            f"`{option}` is `{text}`, which is no date or time. Use one such as `2025-01-31`: `{odd}` is"
            f" {unicodedata.name(odd, 'another character')}, and only looks like what is on a keyboard."
        )
    try:
        return _within_reach(_utc(_iso(text.strip())), option, text)
    except InvalidSettingError:
        raise
    except (ValueError, OverflowError):
        from sqlmesh_dagster.engine.times import read_moment  # imports SQLMesh

    try:
        if len(text) > _LONGEST or is_guess(text):
            raise ValueError("too long, or a guess")
        read = read_moment(text)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidSettingError(
            f"`{option}` is `{text}`, which is no date or time. Use one such as `2025-01-31`,"
            " `2025-01-31T06:00:00` or `3 days ago`."
        ) from error
    return _within_reach(read, option, text)


def _only_looks_right(character: str) -> bool:
    """A digit or a hyphen of another alphabet, or of a word processor."""
    is_of_date = character.isdigit() or unicodedata.category(character) in ("Pd", "Sm")
    return is_of_date and not character.isascii()


def is_guess(text: str) -> bool:
    """Whether SQLMesh would read a time in the text that is hardly meant.

    `2025` as two seconds after 1970, `2025-01` and `2025-13-01` as a day of January, `01/02/2025` by the
    other side of an ocean, `-3 days ago` as three days ago, and `PR 12` as a year.
    """
    text = text.strip()
    if re.fullmatch(r"[+-]?\d*", text):
        return len(text) not in _DIGITS
    if date := _DATE.match(text):
        return not _is_date(*date.groups(default="0"))
    words = re.findall(r"[^\W\d_]+", text)
    is_word = any(character.isalnum() for character in text) and not (
        text[0] == "-" or _WEEK.match(text)
    )
    return not is_word or any(_is_odd(word, text) for word in words)


def _is_date(year: str, month: str, day: str) -> bool:
    try:
        return len(year) == 4 and bool(datetime(int(year), int(month), int(day)))
    except ValueError:
        return False


def _is_odd(word: str, text: str) -> bool:
    """One or two letters that are no word of a time, and no unit, as in `3d`."""
    is_unit = re.search(rf"\d ?{word}(?![^\W\d_])", text) is not None
    return len(word) < 3 and word.lower() not in _SHORT_WORDS and not is_unit


def iso_moment(option: str, text: str) -> datetime:
    """A date or time in ISO 8601, in UTC; without a time zone it is taken as UTC.

    Raises:
        InvalidSettingError: It is none.
    """
    try:
        return _within_reach(_utc(_iso(text)), option, text)
    except InvalidSettingError:
        raise
    except (ValueError, OverflowError) as error:
        raise InvalidSettingError(
            f"`{option}` is `{text}`, which is no ISO 8601 time. Use one such as"
            " `2025-01-31T06:00:00`."
        ) from error


def check_times(
    *,
    start: str | None,
    end: str | None,
    execution_time: datetime | None,
    effective_from: str | None = None,
) -> None:
    """Refuses times with which no run or plan can work.

    Raises:
        InvalidSettingError: With the option and its value: a time that cannot be read, an
            `execution_time` that has not come, or a `start` after `end` or after the run's "now".
    """
    now = datetime.now(timezone.utc)
    if execution_time and execution_time > now + _CLOCKS_DIFFER:
        raise InvalidSettingError(
            f"`execution_time` is `{execution_time.isoformat()}`, which has not come yet: it is"
            f" {now:%Y-%m-%dT%H:%M:%S} in UTC. What would be recorded as built up to then, no later"
            " run would build. Use a time that has passed, or leave it out."
        )
    at = execution_time or now
    begins, ends = _or_none("start", start), _or_none("end", end)
    if begins and ends and begins > ends:
        raise InvalidSettingError(
            f"`start` is `{start}`, which is after `end`, `{end}`. Use an earlier `start`, or a later `end`."
        )
    for option, text, time in (
        ("start", start, begins),
        ("effective_from", effective_from, _or_none("effective_from", effective_from)),
    ):
        if time and time > at + _CLOCKS_DIFFER:
            raise InvalidSettingError(
                f'`{option}` is `{text}`, which is after the "now" of the run, {at.isoformat()}. Use an earlier'
                " one, or leave it out."
            )


def _iso(text: str) -> datetime:
    """As each version of Python reads it; from 3.11 on it takes weeks, which SQLMesh reads otherwise."""
    if "W" in text.upper():
        raise ValueError("a week")
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _within_reach(time: datetime, option: str, text: str) -> datetime:
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise InvalidSettingError(
            f"`{option}` is `{text}`. Use a time between the years {_FIRST_YEAR} and {_LAST_YEAR}."
        )
    return time


def _or_none(option: str, text: str | None) -> datetime | None:
    return None if text is None else moment(option, text)


def _utc(time: datetime) -> datetime:
    if time.tzinfo is None:
        return time.replace(tzinfo=timezone.utc)
    return time.astimezone(timezone.utc)
