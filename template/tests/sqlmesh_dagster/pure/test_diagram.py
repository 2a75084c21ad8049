"""The picture of a model's columns: what stands in it, and that each line leads from and to a row."""

from __future__ import annotations

import re
from base64 import b64decode
from xml.etree import ElementTree

from sqlmesh_dagster.definition.diagram import column_diagram
from sqlmesh_dagster.definition.records import ColumnRecord

_SVG = "{http://www.w3.org/2000/svg}"


def _picture(*columns: ColumnRecord) -> ElementTree.Element:
    markdown = column_diagram("marts.sales", columns)
    assert markdown
    found = re.fullmatch(r"!\[[^\]]*\]\(data:image/svg\+xml;base64,([\w+/=]+)\)", markdown)
    assert found
    return ElementTree.fromstring(b64decode(found[1]).decode())


def _rows(picture: ElementTree.Element) -> dict[tuple[int, int], str]:
    """Texts by their place."""
    texts = picture.iter(f"{_SVG}text")
    return {(int(text.attrib["x"]), int(text.attrib["y"])): text.text or "" for text in texts}


def _lines(picture: ElementTree.Element) -> set[tuple[str, str]]:
    """The texts at both ends of each line."""
    rows = _rows(picture)
    found = set()
    for line in picture.findall(f"{_SVG}path")[-1].attrib["d"].split("M")[1:]:
        (_, begin), *_, (end_x, end) = re.findall(r"(\d+) (\d+)", line)
        left = next(
            text for (x, y), text in rows.items() if abs(y - 4 - int(begin)) < 2 and x < 100
        )
        right = next(
            text for (x, y), text in rows.items() if abs(y - 4 - int(end)) < 2 and x > int(end_x)
        )
        found.add((left, right))
    return found


def test_each_line_leads_from_a_column_to_the_one_that_is_made_of_it() -> None:
    """Promise: tables on the left, once each; a column of two is reached twice."""
    payments, parts = '"db"."raw"."payments"', '"db"."raw"."parts"'
    picture = _picture(
        ColumnRecord("day", "DATE", sources=((payments, "paid_at"),)),
        ColumnRecord("margin", "INT", sources=((payments, "amount"), (parts, "cost"))),
        ColumnRecord("net", "INT", sources=((payments, "amount"),)),
        ColumnRecord("loaded", "DATE"),
    )
    assert sorted(_rows(picture).values()) == [
        *("amount", "cost", "day", "margin", "marts.sales", "net"),
        *("paid_at", "raw.parts", "raw.payments"),
    ]
    assert _lines(picture) == {
        ("paid_at", "day"),
        ("amount", "margin"),
        ("cost", "margin"),
        ("amount", "net"),
    }


def test_rows_of_a_table_stand_together_in_whatever_order_they_are_read() -> None:
    """A line leads to where the row is drawn, which is not where it was found."""
    a, b = '"a"', '"b"'
    picture = _picture(
        ColumnRecord("x", "INT", sources=((a, "a1"), (b, "b1"), (a, "a2"))),
        ColumnRecord("y", "INT", sources=((a, "a2"),)),
    )
    assert _lines(picture) == {("a1", "x"), ("a2", "x"), ("b1", "x"), ("a2", "y")}


def test_a_model_whose_columns_are_made_of_none_has_no_picture() -> None:
    """As a Python model, or a seed."""
    assert column_diagram("seeds.days", [ColumnRecord("day", "DATE")]) is None
    assert column_diagram("python.model", []) is None


def test_any_name_is_text() -> None:
    """Promise: no name of a column breaks the picture or the page."""
    odd = '<b a="1">&]]> \x01 ü'
    texts = _rows(_picture(ColumnRecord(odd, "INT", sources=(('"t"', odd),)))).values()
    assert list(texts).count('<b a="1">&]]> \ufffd ü') == 2


def test_a_wide_model_has_a_bounded_picture() -> None:
    """Promise: the pictures of a project do not make its definitions many times larger."""
    wide = [
        ColumnRecord(f"c{n:04}" + "x" * 100, "INT", sources=(('"t"', f"s{n}"),))
        for n in range(2000)
    ]
    markdown = column_diagram("marts.wide", wide)
    assert markdown and len(markdown) < 16_000
    assert sorted(text for text in _rows(_picture(*wide)).values() if "more" in text) == [
        "… 1960 more"
    ]


def test_a_whole_picture_is_drawn_so() -> None:
    """Promise: boxes beside each other, with room for their texts, and a line from the middle of each row."""
    columns = [
        ColumnRecord("day", "DATE", sources=(('"db"."raw"."payments"', "paid_at"),)),
        ColumnRecord("n", "INT", sources=(('"db"."raw"."payments"', "id"), ('"t"', "x"))),
    ]
    markdown = column_diagram("sales", columns)
    assert markdown
    title, _, data = markdown.partition("](data:image/svg+xml;base64,")
    assert title == "![Columns of sales, and what they are made of"
    assert b64decode(data[:-1]).decode() == (
        '<svg xmlns="http://www.w3.org/2000/svg" width="288" height="112">'
        "<style>text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#24323f}.t{font-weight:600}"
        "path{fill:none;stroke:#7a8fb5}rect{fill:#fff;stroke:#c6cedb}</style>"
        '<rect width="288" height="112" stroke="none"/>'
        '<rect x="1" y="1" width="116" height="59" rx="4"/>'
        '<text x="11" y="15" class="t">raw.payments</text>'
        '<text x="11" y="33">paid_at</text>'
        '<text x="11" y="51">id</text>'
        '<rect x="1" y="65" width="116" height="41" rx="4"/>'
        '<text x="11" y="79" class="t">t</text>'
        '<text x="11" y="97">x</text>'
        '<rect x="226" y="1" width="60" height="59" rx="4"/>'
        '<text x="236" y="15" class="t">sales</text>'
        '<text x="236" y="33">day</text>'
        '<text x="236" y="51">n</text>'
        '<path d="M117 29C171 29 171 29 226 29M117 47C171 47 171 47 226 47M117 93C171 93 171 47 226 47"/></svg>'
    )


def test_the_longest_names_and_sides_that_fit_are_whole() -> None:
    """Promise: 40 letters and 40 rows; one more is cut, and says so."""
    fits, long = "c" * 40, "d" * 41
    columns = [
        ColumnRecord(fits, "INT", sources=(('"t"', long),)),
        *(ColumnRecord(f"n{n}", "INT", sources=(('"t"', f"s{n}"),)) for n in range(39)),
    ]
    texts = list(_rows(_picture(*columns)).values())
    assert fits in texts and "d" * 39 + "…" in texts and long not in texts
    assert not [text for text in texts if "more" in text] and "s38" in texts and "n38" in texts
    one_more = ColumnRecord("last", "INT", sources=(('"t"', "of_last"),))
    cut = list(_rows(_picture(*columns, one_more)).values())
    assert [text for text in cut if "more" in text] == ["… 1 more"] and "last" not in cut
    wide = ColumnRecord("w", "INT", sources=tuple(('"t"', f"s{n}") for n in range(41)))
    assert [text for text in _rows(_picture(wide)).values() if "more" in text] == ["… 1 more"]
