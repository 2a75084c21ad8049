"""The business in pictures: `python -m <package>.dashboard` writes `dashboard.html`, one file without scripts.

Reads the marts in the environment that `SQLMESH_ENVIRONMENT` names; change the queries for marts of yours.
"""

import math
import os
import sys
import webbrowser
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from sqlmesh import Context

PROJECT = Path(__file__).resolve().parents[2]
COLOURS = ("#2f6fde", "#f2994a", "#27ae60", "#9b51e0", "#eb5757", "#56ccf2")
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 260, 56, 30
Rows = Sequence[tuple[Any, ...]]

REVENUE = """
SELECT DATE_TRUNC('month', revenue_date) AS month, workshop_name, SUM(revenue)
FROM {marts}.daily_revenue GROUP BY 1, 2 ORDER BY 1, 2
"""
SALES = """
SELECT category, SUM(sales), SUM(sales - cost)
FROM {marts}.part_sales GROUP BY 1 ORDER BY 2 DESC LIMIT 8
"""
ON_TIME = """
SELECT service_code, SUM(on_time_share * repairs) / SUM(repairs), SUM(repairs)
FROM {marts}.repair_turnaround GROUP BY 1 ORDER BY 2 DESC
"""
CUSTOMERS = """
SELECT tier, COUNT(*), SUM(spent) FROM {marts}.customer_value GROUP BY 1 ORDER BY 3 DESC
"""


def main() -> None:
    """Reads the marts, and writes the page; `--open` shows it."""
    environment = os.getenv("SQLMESH_ENVIRONMENT", "dev")
    marts = "marts" if environment == "prod" else f"marts__{environment}"
    context = Context(paths=str(PROJECT / "sqlmesh_project"))
    try:
        revenue, sales, on_time, customers = (
            context.engine_adapter.fetchall(query.format(marts=marts))
            for query in (REVENUE, SALES, ON_TIME, CUSTOMERS)
        )
    finally:
        context.close()
    path = PROJECT / "dashboard.html"
    path.write_text(page(environment, revenue, sales, on_time, customers), encoding="utf-8")
    print(f"Wrote {path}")
    if "--open" in sys.argv:
        webbrowser.open(path.as_uri())


def page(environment: str, revenue: Rows, sales: Rows, on_time: Rows, customers: Rows) -> str:
    """The whole page."""
    total = sum(float(row[2]) for row in revenue)
    repairs = sum(int(row[2]) for row in on_time)
    share = sum(float(row[1]) * int(row[2]) for row in on_time) / max(repairs, 1)
    numbers = (
        ("Revenue", f"{total:,.0f} €"),
        ("Finished repairs", f"{repairs:,}"),
        ("Ready on time", f"{share:.0%}"),
        ("Customers", f"{sum(int(row[1]) for row in customers):,}"),
    )
    tiles = "".join(f"<div><b>{value}</b>{escape(name)}</div>" for name, value in numbers)
    charts = (
        (
            "Revenue per month and workshop, in euros",
            stacked([(f"{m:%Y-%m}", w, r) for m, w, r in revenue]),
        ),
        (
            "Sales of parts by category, in euros",
            bars([(r[0], r[1], f"{r[1]:,.0f}") for r in sales]),
        ),
        (
            "Ready within the promised hours",
            bars([(r[0], r[1], f"{r[1]:.0%}") for r in on_time], 1),
        ),
        (
            "What customers have spent, in euros",
            bars([(f"{r[0]} ({r[1]})", r[2], f"{r[2]:,.0f}") for r in customers]),
        ),
    )
    cards = "".join(f"<section><h2>{escape(t)}</h2>{svg}</section>" for t, svg in charts)
    return PAGE.format(environment=escape(environment), tiles=tiles, cards=cards)


def stacked(rows: Rows) -> str:
    """Bars for each first value, in which each second value has its part."""
    groups = sorted({str(row[0]) for row in rows})
    parts = sorted({str(row[1]) for row in rows})
    values = {(str(row[0]), str(row[1])): float(row[2]) for row in rows}
    most = rounded(max((sum(values.get((g, p), 0) for p in parts) for g in groups), default=1))
    step = (WIDTH - LEFT) / max(len(groups), 1)
    plot, drawn = HEIGHT - BOTTOM - 30, [axis(most, HEIGHT - BOTTOM - 30)]
    for place, group in enumerate(groups):
        x, y = LEFT + place * step + step * 0.15, float(plot + 10)
        for colour, part in zip(COLOURS * len(parts), parts, strict=False):
            height = values.get((group, part), 0) / most * plot
            y -= height
            title = f"{group}, {part}: {values.get((group, part), 0):,.0f} €"
            drawn.append(rectangle(x, y, step * 0.7, height, colour, title))
        drawn.append(label(x + step * 0.35, plot + 28, group, "middle"))
    legend = "".join(
        f'<rect x="{LEFT + i * 145}" y="{HEIGHT - 14}" width="10" height="10" rx="2" fill="{c}"/>'
        + label(LEFT + i * 145 + 15, HEIGHT - 5, part)
        for i, (c, part) in enumerate(zip(COLOURS, parts, strict=False))
    )
    return drawing(HEIGHT, "".join(drawn) + legend)


def bars(rows: Rows, most: float = 0) -> str:
    """A bar for each name, with its value as text."""
    most = float(most or max((row[1] for row in rows), default=1) or 1)
    drawn = []
    for place, (name, value, shown) in enumerate(rows):
        y, width = place * 30 + 4, max(float(value) / most * (WIDTH - 260), 1)
        drawn.append(label(150, y + 15, str(name), "end"))
        drawn.append(rectangle(160, y, width, 20, COLOURS[0], f"{name}: {shown}"))
        drawn.append(label(168 + width, y + 15, shown))
    return drawing(len(rows) * 30 + 8, "".join(drawn))


def axis(most: float, plot: float) -> str:
    """Four lines with their values."""
    return "".join(
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{10 + plot * i / 4}" y2="{10 + plot * i / 4}" class="grid"/>'
        + label(LEFT - 6, 14 + plot * i / 4, f"{most * (4 - i) / 4:,.0f}", "end")
        for i in range(5)
    )


def rounded(most: float) -> float:
    """The next value whose quarters are easy to read."""
    unit = float(10 ** math.floor(math.log10(max(most, 1) / 4)))
    return 4 * unit * next(n for n in (1, 2, 2.5, 3, 5, 10) if 4 * unit * n >= most)


def rectangle(x: float, y: float, width: float, height: float, fill: str, title: str) -> str:
    """A rectangle that says what it stands for."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="{fill}">'
        f"<title>{escape(title)}</title></rect>"
    )


def label(x: float, y: float, text: str, anchor: str = "start") -> str:
    """A text at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def drawing(height: float, content: str) -> str:
    """An image of the page's width."""
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{content}</svg>'


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Spokewell in numbers</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2433; background: #f4f6fa; margin: 0 auto;
         max-width: 1360px; padding: 32px; }}
  h1 {{ margin: 0; font-size: 26px; }} h2 {{ font-size: 15px; margin: 0 0 12px; }}
  p {{ color: #66708a; margin: 4px 0 24px; }}
  .tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 16px; }}
  .tiles div, section {{ background: #fff; border-radius: 12px; padding: 20px;
                        box-shadow: 0 1px 3px #1d243318; color: #66708a; }}
  .tiles b {{ display: block; font-size: 28px; color: #1d2433; }}
  .cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 16px;
           margin-top: 16px; }}
  section {{ color: inherit; }} svg {{ width: 100%; }}
  text {{ font-size: 12px; fill: #4a5570; }} .grid {{ stroke: #e4e8f0; }}
</style>
<h1>Spokewell in numbers</h1>
<p>From the marts of the environment <code>{environment}</code>.</p>
<div class="tiles">{tiles}</div>
<div class="cards">{cards}</div>
</html>
"""

if __name__ == "__main__":
    main()
