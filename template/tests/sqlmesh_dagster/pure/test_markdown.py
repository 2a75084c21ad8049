"""How texts are shown: whatever is in them, they stay inside their block, cell or list."""

from __future__ import annotations

from sqlmesh_dagster.definition.markdown import cell, fenced, shortened, sql_block


def test_sql_is_a_block_of_sql() -> None:
    """Promise: the UI colours it."""
    assert sql_block("SELECT 1").value == "```sql\nSELECT 1\n```"


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    """Promise: a text with fences of its own does not end the block."""
    assert fenced("plain `code`") == "```\nplain `code`\n```"
    assert fenced("a ``` b `````") == "``````\na ``` b `````\n``````"


def test_a_cell_is_one_line_without_bars() -> None:
    """Promise: no text breaks its table."""
    assert cell("a |\n  b\t|| c") == "a \\| b \\|\\| c"


def test_a_long_list_says_how_much_is_left_out() -> None:
    """Promise: cut where it was asked to, and only if it is longer."""
    lines = ["a", "b", "c"]
    assert shortened(lines, 3, "lines") == lines
    assert shortened(lines, 2, "lines") == ["a", "b", "… and 1 more lines"]
