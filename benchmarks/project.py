"""Writes a synthetic SQLMesh project of N models: `python benchmarks/project.py FOLDER N [--trivial] [--port PORT]`.

One seed, then layers of about √N models that each read 1 to 3 models of the layer above. Every model
has three CTEs, five columns with casts and one or two audits; every fourth is incremental. There are
90 rows, so that what is measured is the frameworks' own work and not DuckDB's. `--trivial` is the hardest
case: 10 rows, two columns and two audits each, so that SQLMesh itself has next to nothing to do.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS = 90
CONFIG = """
gateways:
  local:
    connection: {connection}
default_gateway: local
model_defaults:
  dialect: duckdb
  start: 2025-01-01
  cron: '@daily'
disable_anonymized_analytics: true
"""
SEED = """
MODEL (
  name bench.m_0000,
  kind SEED (path '../seeds/m_0000.csv'),
  columns (id INT, day DATE, amount DOUBLE, label TEXT, place INT),
  grain id,
  audits (not_null(columns := (id)))
);
"""
MODEL = """
MODEL (
  name bench.{name},
  kind {kind},
  grain id,
  audits ({audits})
);

WITH source AS (
  SELECT id, day, amount, label FROM bench.{first}{where}
), joined AS (
  SELECT source.id, source.day, source.label, source.amount{added} AS amount
  FROM source{joins}
), ranked AS (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY day ORDER BY amount, id) AS place FROM joined
)
SELECT
  id::INT AS id,
  day::DATE AS day,
  (amount / {sources})::DOUBLE AS amount,
  UPPER(label)::TEXT AS label,
  place::INT AS place
FROM ranked
"""
TRIVIAL = """
MODEL (
  name bench.{name},
  kind FULL,
  audits (not_null(columns := (id)), unique_values(columns := (id)))
);

{query}
"""


def write_project(
    folder: Path, models: int, *, is_trivial: bool = False, port: int | None = None
) -> None:
    """Writes the project into `folder`, with `warehouse.duckdb` as its database, or `bench` of a Postgres at `port`."""
    connection: dict[str, Any] = {"type": "duckdb", "database": str(folder / "warehouse.duckdb")}
    if port is not None:
        connection = {"type": "postgres", "host": "127.0.0.1", "port": port, "user": "postgres"}
        connection |= {"password": "", "database": "bench"}
    for name in ("models", "seeds"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(connection=json.dumps(connection)))
    (folder / "seeds" / "m_0000.csv").write_text("\n".join(_seed_lines()))
    model = _trivial if is_trivial else _model
    (folder / "models" / "m_0000.sql").write_text(model(0, []) if is_trivial else SEED)
    chance = random.Random(models)
    width = math.isqrt(models - 1) or 1
    for number in range(1, models):
        layer = (number - 1) // width
        above = range(1 + (layer - 1) * width, 1 + layer * width) if layer else range(1)
        parents = chance.sample(above, min(chance.randint(1, 3), len(above)))
        text = model(number, [_name(parent) for parent in parents])
        (folder / "models" / f"{_name(number)}.sql").write_text(text)


def _trivial(number: int, parents: list[str]) -> str:
    query = "SELECT range::INT AS id, (range * 2)::INT AS amount FROM range(10)"
    if parents:
        first, *others = parents
        joins = "".join(f" JOIN bench.{other} USING (id)" for other in others)
        query = f"SELECT f.id::INT AS id, f.amount::INT AS amount FROM bench.{first} AS f{joins}"
    return TRIVIAL.format(name=_name(number), query=query)


def _seed_lines() -> Iterator[str]:
    yield "id,day,amount,label,place"
    for row in range(ROWS):
        yield f"{row},2025-01-{row % 9 + 1:02},{row * 7 % 50}.5,label {row % 5},{row}"


def _model(number: int, parents: list[str]) -> str:
    first, *others = parents
    audits = ["not_null(columns := (id, day))", "unique_values(columns := (id))"]
    incremental = number % 4 == 0
    return MODEL.format(
        name=_name(number),
        kind="INCREMENTAL_BY_TIME_RANGE (time_column day)" if incremental else "FULL",
        audits=", ".join(audits[: 1 + number % 2]),
        first=first,
        where=" WHERE day BETWEEN @start_date AND @end_date" if incremental else "",
        added="".join(f" + COALESCE({other}.amount, 0)" for other in others),
        joins="".join(f" LEFT JOIN bench.{other} USING (id)" for other in others),
        sources=len(parents),
    )


def _name(number: int) -> str:
    return f"m_{number:04}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a synthetic SQLMesh project.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", type=int)
    parser.add_argument("--trivial", action="store_true")
    parser.add_argument("--port", type=int, help="of a Postgres with a database `bench`")
    given = parser.parse_args()
    write_project(given.folder, given.models, is_trivial=given.trivial, port=given.port)
