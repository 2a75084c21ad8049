"""What a person sees of models with nothing due: `python -m tests.screens [folder]` takes the screenshots again.

Four stages of one small project, served by Dagster's own webserver: a first run, nothing due, one failure
among idle models, and nothing due after a check warned. Needs Playwright (`pip install playwright`) and
Chromium (`CHROMIUM`, by default `/usr/bin/chromium`).
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from tests.conftest import ROOT
from tests.webserver import running

sys.path[:0] = [str(ROOT / "template/src"), str(ROOT / "template")]
from tests.sqlmesh_dagster.projects import Project, Run, run_in_process  # noqa: E402

IDLE = ("customers", "products", "shops", "calendar", "suppliers", "regions")
STAGES = ("first-run", "nothing-due", "one-failure", "a-warning-then-nothing-due")
IMAGES = ROOT / "docs/images/outcomes"
TUESDAY, WEDNESDAY, THURSDAY = (f"2025-01-0{day}T00:30:00" for day in (7, 8, 9))
"""Of one week: SQLMesh's weeks begin on Sundays."""
_STATE = """
query { assetNodes {
  assetKey { path } isExecutable
  assetMaterializations(limit: 1) { runId timestamp metadataEntries { label
    ... on TextMetadataEntry { text } } tags { key value } }
  assetChecksOrError { ... on AssetChecks { checks { name
    executionForLatestMaterialization { status evaluation { success severity
      metadataEntries { label } } } } } }
} }
"""
_LATEST = """
query ($keys: [AssetKeyInput!]!) { assetsLatestInfo(assetKeys: $keys) {
  assetKey { path } latestRun { id status endTime }
} }
"""


@dataclass(frozen=True)
class Shown:
    """What the UI shows of one asset, by its own rule for failed ones.

    Attributes:
        status: `sqlmesh/status` of its newest materialization; empty if it has none.
        checks: `passed`, `warned`, `failed`, or `-` where Dagster knows no result for the newest data.
        kept: Checks whose result is an earlier one.
    """

    status: str
    is_failed: bool
    data_version: str
    checks: Mapping[str, str] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()


@dataclass
class Stage:
    """A project, its instance on disk, and the webserver that shows them."""

    project: Project
    home: Path
    address: str

    def run(self, now: str, *names: str) -> Run:
        """Materializes models, in this process, at a time of SQLMesh's."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return run_in_process(self.project.definitions(), instance, *names, now=now)

    def ask(self, query: str, **variables: Any) -> Any:
        """The `data` of the webserver's answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.address}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def shown(self) -> dict[str, Shown]:
        """Each asset's state, by the last part of its key."""
        nodes = [node for node in self.ask(_STATE)["assetNodes"] if node["isExecutable"]]
        keys = [{"path": node["assetKey"]["path"]} for node in nodes]
        latest = {
            tuple(info["assetKey"]["path"]): info["latestRun"]
            for info in self.ask(_LATEST, keys=keys)["assetsLatestInfo"]
        }
        return {
            node["assetKey"]["path"][-1]: _shown(node, latest.get(tuple(node["assetKey"]["path"])))
            for node in nodes
        }


def _shown(node: Mapping[str, Any], run: Mapping[str, Any] | None) -> Shown:
    newest = next(iter(node["assetMaterializations"]), None)
    facts = {e["label"]: e.get("text") for e in newest["metadataEntries"]} if newest else {}
    tags = {tag["key"]: tag["value"] for tag in newest["tags"]} if newest else {}
    checks, kept = {}, set()
    for check in node["assetChecksOrError"]["checks"]:
        found = check["executionForLatestMaterialization"]
        evaluation = (found or {}).get("evaluation")
        checks[check["name"]] = _word(evaluation)
        labels = [e["label"] for e in evaluation["metadataEntries"]] if evaluation else []
        if "sqlmesh/found_at" in labels:
            kept.add(check["name"])
    # the UI's own rule: the last run failed, and the newest materialization is older and not of it
    is_failed = bool(
        run
        and run["status"] == "FAILURE"
        and not (
            newest
            and (
                newest["runId"] == run["id"]
                or float(newest["timestamp"]) > 1000 * float(run["endTime"])
            )
        )
    )
    version = tags.get("dagster/data_version", "")
    return Shown(facts.get("sqlmesh/status") or "", is_failed, version, checks, frozenset(kept))


def _word(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "-"
    if evaluation["success"]:
        return "passed"
    return "warned" if evaluation["severity"] == "WARN" else "failed"


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """The project, served until the context ends."""
    project, home = Project(folder / "project"), folder / "home"
    _write(project)
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    (home / "defs.py").write_text(
        "from sqlmesh_dagster import sqlmesh_definitions_factory\n"
        f"defs = sqlmesh_definitions_factory(project_dir={str(project.root)!r}, environment='dev')\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["dagster-webserver", "-h", "127.0.0.1", "-p", str(port), "-f", str(home / "defs.py")]
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT / "template/src"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with running(command, cwd=home, environment=environment, log=home / "web.log"):
        stage = Stage(project, home, f"http://127.0.0.1:{port}")
        _wait_until(lambda: _answers(stage.address), 300)
        yield stage


def _write(project: Project) -> None:
    audited = "kind FULL, cron '@weekly', start '2024-12-01', audits (not_null(columns := (id)))"
    for name in IDLE:
        project.model(f"marts.{name}", "SELECT 1::INT AS id", audited)
    project.execute("CREATE TABLE main.flag AS SELECT false AS is_down, 1 AS lowest")
    flaky = "CASE WHEN is_down THEN error('the source is down') ELSE 1 END::INT AS id"
    project.model("marts.orders", f"SELECT {flaky} FROM main.flag, marts.customers")
    range_audit = "accepted_range(column := lowest, min_v := 1, blocking := false)"
    project.model(
        "marts.stock",
        "SELECT lowest::INT AS lowest FROM main.flag",
        f"kind FULL, audits ({range_audit})",
    )


def first_run(stage: Stage) -> None:
    """Everything is built."""
    assert stage.run(TUESDAY).success


def nothing_due(stage: Stage) -> None:
    """The same moment again."""
    assert stage.run(TUESDAY).success


def one_failure(stage: Stage) -> None:
    """A daily model fails in a run in which weekly ones are idle."""
    stage.project.execute("UPDATE main.flag SET is_down = true")
    assert not stage.run(WEDNESDAY).success
    stage.project.execute("UPDATE main.flag SET is_down = false")


def warning_then_nothing_due(stage: Stage) -> None:
    """A check warns; then nothing is due."""
    stage.project.execute("UPDATE main.flag SET lowest = 0")
    assert stage.run(THURSDAY).success
    assert stage.run(THURSDAY).success


ACTS: Mapping[str, Callable[[Stage], None]] = dict(
    zip(STAGES, (first_run, nothing_due, one_failure, warning_then_nothing_due), strict=True)
)


def take(folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Plays the stages, and takes three screenshots of each; yields what the pages say."""
    sync_playwright = importlib.import_module("playwright.sync_api").sync_playwright

    with (
        tempfile.TemporaryDirectory() as temporary,
        staged(Path(temporary)) as stage,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(120_000)
        folder.mkdir(parents=True, exist_ok=True)
        for name, act in ACTS.items():
            act(stage)
            texts = {}
            for view, path, awaited in _views("stock" if name == STAGES[-1] else "customers"):
                page.goto(f"{stage.address}{path}", wait_until="domcontentloaded")
                page.get_by_text(awaited).filter(visible=True).first.wait_for()
                page.wait_for_timeout(6000)  # layout and fonts
                page.screenshot(path=str(folder / f"{name}-{view}.png"))
                texts[view] = page.inner_text("body")
            yield name, texts
        browser.close()


def _views(asset: str) -> tuple[tuple[str, str, str], ...]:
    return (
        ("asset", f"/assets/warehouse/marts/{asset}", "Latest materialization"),
        ("catalogue", "/assets", "warehouse"),
        ("lineage", "/asset-groups", "orders"),
    )


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/server_info", timeout=5):
            return True
    except OSError:
        return False


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    for stage_name, _ in take(target):
        sys.stdout.write(f"{stage_name}\n")
    of_review = target / "review.png" if len(sys.argv) > 1 else ROOT / "docs/images/review.png"
    importlib.import_module("tests.review_screen").take(of_review)
    sys.stdout.write("review\n")
