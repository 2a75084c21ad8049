"""Workflows: actions are pinned by hash, tokens reach what needs them, and zizmor finds nothing."""

import re
import shutil
import subprocess
from collections import defaultdict

import pytest
import yaml

from tests.answers import ANSWERS
from tests.conftest import ROOT, Render

PINNED = re.compile(r"uses: (?P<action>[\w./-]+)@(?P<hash>[0-9a-f]{40}) # v\d+\.\d+\.\d+$")
SOURCES = [*(ROOT / ".github").rglob("*.yml"), *(ROOT / "template/.github").rglob("*.yml*")]


def test_every_action_is_pinned_by_one_hash_with_its_version_beside_it() -> None:
    """The same one in this repository and in what projects get; the update bot moves them."""
    pins = defaultdict(set)
    for path in SOURCES:
        for line in path.read_text().splitlines():
            if "uses:" in line:
                found = PINNED.search(line)
                assert found, f"{path.name}: {line}"
                pins[found["action"]].add(found["hash"])
    assert set(pins) == {"actions/checkout", "actions/setup-python"}
    assert {len(hashes) for hashes in pins.values()} == {1}


def test_the_token_reaches_only_the_step_that_pushes() -> None:
    """Neither the checkout, which would store it, nor the update has it; rights are the job's."""
    text = (ROOT / "template/.github/workflows/template-update.yml").read_text()
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    with_token = [step["name"] for step in job["steps"] if "secrets." in str(step)]
    assert with_token == ["Propose"] and "secrets." not in str(job.get("env"))
    assert job["steps"][0]["with"] == {"persist-credentials": False}
    assert workflow["permissions"] == {} and set(job["permissions"]) == {
        "contents",
        "pull-requests",
    }


def test_the_weekly_job_installs_what_is_locked() -> None:
    """Copier and what it needs, each with its hashes, on both hosts."""
    text = (ROOT / "template/.template/copier.txt").read_text()
    entries = re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE)
    assert any(entry.startswith("copier==9.") for entry in entries) and len(entries) > 10
    assert text.count("--hash=sha256:") >= len(entries) and "http" not in text
    for name in (".github/workflows/template-update.yml", ".gitlab-ci.yml.jinja"):
        installing = "pip install --require-hashes --requirement .template/copier.txt"
        assert installing in (ROOT / "template" / name).read_text()


def test_zizmor_finds_nothing(render: Render) -> None:
    """At its default level, in each set of answers and in this repository."""
    zizmor = shutil.which("zizmor")
    if zizmor is None:
        pytest.skip("zizmor is not installed; the development group has it")
    projects = [render(**given) for given in ANSWERS.values() if given.get("ci") == "github"]
    folders = [ROOT / ".github", *(project / ".github" for project in projects)]
    done = subprocess.run(
        [zizmor, "--offline", "--no-progress", *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(projects) > 1
