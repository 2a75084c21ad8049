"""The page of a review in Dagster: `python -m tests.review_screen [file]` takes the screenshot of docs/review.md again.

Needs what `tests.screens` needs, which takes it with all others.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

import dagster as dg

from tests.conftest import ROOT
from tests.screens import Stage, staged

IMAGE = ROOT / "docs/images/review.png"
_NOW = "2025-01-10T00:30:00"
_ORDERS = """
    SELECT
      i::INT AS order_id,
      (i % 40)::INT AS customer_id,
      ('2025-01-01'::DATE + (i % 9)::INT)::DATE AS ordered_on,
      {amount}::DECIMAL(10, 2) AS amount,
      {note}
    FROM range(1, 1001) AS t(i)
    {where}
"""
_RULES = """
[gates]
override_by = ["ada@example.com"]

[[consumers]]
name = "packing_list"
kind = "export"
owner = "ada@example.com"
reads = ["marts.orders.note"]

[[consumers]]
name = "revenue_board"
owner = "finance@example.com"
reads = ["marts.daily_revenue.revenue"]
"""


def reviewed(stage: Stage) -> str:
    """A change that removes a column, some rows and some cents; the id of its review's run."""
    project = stage.project
    for file in (project.root / "models").glob("*.sql"):
        file.unlink()
    _write(stage, "i * 1.10", "'gift' AS note", "")
    with dg.DagsterInstance.from_config(str(stage.home)) as instance:
        production = {"environment": "prod", "apply": True, "allow_production": True}
        _job(stage, instance, "plan", production)
        _write(
            stage, "CASE WHEN i % 8 = 0 THEN i ELSE i * 1.10 END", "NULL AS voucher", "WHERE i <> 7"
        )
        return _job(stage, instance, "review", {"environment": "pr_42"})


def _write(stage: Stage, amount: str, note: str, where: str) -> None:
    project = stage.project
    project.write("review.toml", _RULES)
    key = "kind FULL, grain order_id, audits (not_null(columns := (order_id)))"
    project.model("marts.orders", _ORDERS.format(amount=amount, note=note, where=where), key)
    project.model(
        "marts.daily_revenue",
        "SELECT ordered_on, SUM(amount)::DECIMAL(12, 2) AS revenue FROM marts.orders GROUP BY 1",
        "kind FULL, grain ordered_on",
    )
    project.model(
        "marts.customers",
        "SELECT DISTINCT customer_id FROM marts.orders",
        "kind FULL, grain customer_id",
    )


def _job(stage: Stage, instance: dg.DagsterInstance, what: str, options: dict[str, object]) -> str:
    job = stage.project.definitions().resolve_job_def(f"sqlmesh_{what}_job")
    config = {"execution_time": _NOW, **options}
    result = job.execute_in_process(
        instance=instance,
        run_config={"ops": {f"sqlmesh_{what}": {"config": config}}},
        raise_on_error=False,
    )
    return result.run_id


def take(file: Path) -> str:
    """Takes the screenshot; what the page says."""
    sync_playwright = importlib.import_module("playwright.sync_api").sync_playwright

    with (
        tempfile.TemporaryDirectory() as temporary,
        staged(Path(temporary)) as stage,
        sync_playwright() as playwright,
    ):
        run_id = reviewed(stage)
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1300})
        page.set_default_timeout(120_000)
        page.goto(f"{stage.address}/runs/{run_id}", wait_until="domcontentloaded")
        page.get_by_text("Show markdown", exact=False).first.click()
        page.get_by_text("Who is touched").first.wait_for()
        page.wait_for_timeout(3000)  # layout and fonts
        page.screenshot(path=str(file))
        text: str = page.inner_text("body")
        browser.close()
        return text


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGE)
