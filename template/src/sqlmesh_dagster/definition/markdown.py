"""How SQL is shown in Dagster's metadata."""

from __future__ import annotations

import dagster as dg


def sql_block(query: str) -> dg.MarkdownMetadataValue:
    """SQL as a fenced Markdown block."""
    return dg.MetadataValue.md(f"```sql\n{query}\n```")
