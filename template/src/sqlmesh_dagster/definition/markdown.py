"""How SQL and other texts are shown in Dagster's metadata."""

from __future__ import annotations

import re

import dagster as dg

_MOST_LINES = 200


def sql_block(query: str) -> dg.MarkdownMetadataValue:
    """SQL as a fenced Markdown block."""
    return dg.MetadataValue.md(fenced(query, "sql"))


def fenced(text: str, language: str = "") -> str:
    """A text as a fenced block, whose own fences don't end it."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def shortened_sql(query: str) -> str:
    """SQL as a fenced block for a page that people read; what is longer is cut, and says so."""
    return fenced("\n".join(shortened(query.splitlines(), _MOST_LINES, "lines")), "sql")


def counted(number: int, noun: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cell(text: str) -> str:
    """A text as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def shortened(lines: list[str], most: int, what: str) -> list[str]:
    """The first lines, and how many more there are."""
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"… and {len(lines) - most} more {what}"]
