"""What Dagster's webserver shows of new data: what was built of it, and what was left alone, and why."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.screens import TUESDAY, Stage, staged

pytestmark = pytest.mark.generated

_RELOAD = "mutation { reloadWorkspace { __typename } }"
_WEEKLY = "cron '@weekly', start '2024-12-01'"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Models of two kinds that read a loaded table, built, and then a load of other data, and a run."""
    with staged(tmp_path_factory.mktemp("stale")) as found:
        project = found.project
        project.execute("CREATE SCHEMA raw")
        project.execute("CREATE TABLE raw.loads AS SELECT 1 AS id")
        query = "SELECT id::INT AS id FROM raw.loads"
        project.model("marts.whole", query, f"kind FULL, {_WEEKLY}")
        keyed = f"kind INCREMENTAL_BY_UNIQUE_KEY (unique_key id), {_WEEKLY}"
        project.model("marts.keyed", query, keyed)
        for version in ("1", "2"):
            _load(found.home, version)
            assert found.run(TUESDAY).success
        found.ask(_RELOAD)
        yield found


def _load(home: Path, version: str) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                ["warehouse", "raw", "loads"], tags={"dagster/data_version": version}
            )
        )


def test_what_new_data_made_of_a_model_is_its_status(stage: Stage) -> None:
    """Promise: built again, left alone and stale, or untouched; none of them is failed."""
    shown = stage.shown()
    words = {name: shown[name].status for name in ("whole", "keyed", "customers")}
    assert words == {"whole": "built", "keyed": "stale", "customers": "up to date"}
    assert not [name for name, each in shown.items() if each.is_failed]


def test_the_page_of_a_stale_model_says_what_to_do(stage: Stage) -> None:
    """Promise: in a browser, why it was left, since when, until when, and how to build it now."""
    pytest.importorskip("playwright")
    sync_playwright = importlib.import_module("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(f"{stage.address}/assets/warehouse/marts/keyed", wait_until="domcontentloaded")
        page.get_by_text("There is new data in").first.wait_for()
        text = page.inner_text("body")
        browser.close()
    for words in ("(since 20", "`build: all`", "By its cron, it is due next at 2025-01-12"):
        assert words in text
