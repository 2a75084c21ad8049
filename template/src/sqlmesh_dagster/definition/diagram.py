"""A picture of the columns of a model and of those that they are made of, as Dagster's pages can show it.

Dagster's web server shows no column lineage; its Markdown shows pictures.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sqlmesh_dagster.definition.names import split_fqn
from sqlmesh_dagster.definition.records import ColumnRecord

_MOST_ROWS = 40
"""Of either side: a picture of more is longer than a page, and grows each project's definitions."""
_MOST_LETTERS = 40
_ROW, _LETTER, _EDGE, _GAP = 18, 8, 10, 110
"""Pixels: a row's height, a letter's width, the space around text, and that between both sides."""
_STYLE = (
    "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#24323f}.t{font-weight:600}"
    "path{fill:none;stroke:#7a8fb5}rect{fill:#fff;stroke:#c6cedb}"
)
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_Source = tuple[str, str]


@dataclass(frozen=True)
class _Side:
    """One column of boxes.

    Attributes:
        boxes: A table's name, and the names of its rows.
        width: In pixels.
    """

    boxes: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def width(self) -> int:
        texts = [text for table, rows in self.boxes for text in (table, *rows)]
        return max(map(len, texts)) * _LETTER + 2 * _EDGE

    @property
    def height(self) -> int:
        return sum((len(rows) + 1) * _ROW + _EDGE for _, rows in self.boxes)


def column_diagram(name: str, columns: Sequence[ColumnRecord]) -> str | None:
    """Markdown of the picture: tables that are read on the left, the model's columns on the right.

    Args:
        name: What the model is called in the picture.

    Returns:
        None where no column is known to be made of another.
    """
    traced = [column for column in columns if column.sources][:_MOST_ROWS]
    sources = list(dict.fromkeys(source for column in traced for source in column.sources))
    shown = sources[:_MOST_ROWS]
    if not shown:
        return None
    rest = sum(1 for column in columns if column.sources) - len(traced), len(sources) - len(shown)
    left = _Side(_boxes_of(shown) + _more(rest[1]))
    right = _Side(((_cut(name), tuple(_cut(column.name) for column in traced)), *_more(rest[0])))
    picture = _svg(left, right, _edges(traced, shown))
    data = b64encode(picture.encode()).decode()
    return f"![Columns of {name}, and what they are made of](data:image/svg+xml;base64,{data})"


def _boxes_of(sources: Sequence[_Source]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (
            _cut(".".join(split_fqn(fqn)[-2:])),
            tuple(_cut(column) for table, column in sources if table == fqn),
        )
        for fqn in dict.fromkeys(fqn for fqn, _ in sources)
    )


def _more(number: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ((f"… {number} more", ()),) if number > 0 else ()


def _cut(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"


def _edges(traced: Sequence[ColumnRecord], shown: Sequence[_Source]) -> list[tuple[int, int]]:
    """Places of a source and of the column that is made of it, counted in the order of the rows."""
    tables = list(dict.fromkeys(fqn for fqn, _ in shown))
    ordered = sorted(shown, key=lambda source: tables.index(source[0]))
    places = {source: place for place, source in enumerate(ordered)}
    return [
        (places[source], place)
        for place, column in enumerate(traced)
        for source in column.sources
        if source in places
    ]


def _svg(left: _Side, right: _Side, edges: Sequence[tuple[int, int]]) -> str:
    begin = left.width + _GAP
    width, height = begin + right.width + 2, max(left.height, right.height) + 2
    of_left, left_rows = _drawn(left, 1)
    of_right, right_rows = _drawn(right, begin)
    middle = (left.width + begin) // 2
    lines = "".join(
        f"M{left.width + 1} {left_rows[a]}C{middle} {left_rows[a]} {middle} {right_rows[b]} {begin} {right_rows[b]}"
        for a, b in edges
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" stroke="none"/>'
        f'{of_left}{of_right}<path d="{lines}"/></svg>'
    )


def _drawn(side: _Side, x: int) -> tuple[str, list[int]]:
    """The boxes, and at which height the rows are that lines lead to."""
    drawn, rows_at, y = [], [], 1
    for table, rows in side.boxes:
        height = (len(rows) + 1) * _ROW + _EDGE // 2
        drawn.append(f'<rect x="{x}" y="{y}" width="{side.width}" height="{height}" rx="4"/>')
        drawn.append(_text(x, y + 14, table, ' class="t"'))
        for place, row in enumerate(rows, 1):
            drawn.append(_text(x, y + 14 + place * _ROW, row))
            rows_at.append(y + 10 + place * _ROW)
        y += height + _EDGE // 2
    return "".join(drawn), rows_at


def _text(x: int, y: int, text: str, more: str = "") -> str:
    words = escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", text), quote=False)
    return f'<text x="{x + _EDGE}" y="{y}"{more}>{words}</text>'
