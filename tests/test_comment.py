"""The comment of a review, in a stand-in of GitHub and of GitLab: one, brought up to date in place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from sqlmesh_dagster.facts.review_page import MARK
from tests.conftest import ROOT, Render

SCRIPT = ROOT / "template/.template/comment.py"


class StandIn(ThreadingHTTPServer):
    """Keeps comments as both hosts do, a hundred on a page."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: list[dict[str, Any]] = [{"id": n, "body": "mine"} for n in range(120)]
        self.asked: list[tuple[str, str, str]] = []


class Handler(BaseHTTPRequestHandler):
    """The few requests that are made."""

    server: StandIn

    def _answer(self, body: object) -> None:
        url = urlsplit(self.path)
        token = self.headers.get("PRIVATE-TOKEN") or self.headers.get("Authorization") or ""
        self.server.asked.append((self.command, url.path, token))
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        """A page of the comments."""
        page = int(parse_qs(urlsplit(self.path).query)["page"][0])
        self._answer(self.server.comments[100 * (page - 1) : 100 * page])

    def do_POST(self) -> None:
        """A new comment."""
        self.server.comments.append({"id": 1000, **self._body()})
        self._answer({})

    def do_PATCH(self) -> None:
        """Another body."""
        number = int(self.path.rsplit("/", 1)[1])
        next(c for c in self.server.comments if c["id"] == number).update(self._body())
        self._answer({})

    do_PUT = do_PATCH

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def host() -> Iterator[StandIn]:
    """Running."""
    server = StandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_the_comment_is_made_once_and_then_changed(
    host: StandIn, tmp_path: Path, name: str
) -> None:
    """By its first line, wherever it is among others; a long page is cut."""
    url = f"http://127.0.0.1:{host.server_address[1]}"
    github = {
        "GITHUB_API_URL": url,
        "GITHUB_REPOSITORY": "ada/platform",
        "PULL_REQUEST": "7",
        "GITHUB_TOKEN": "secret",
    }
    gitlab = {
        "CI_API_V4_URL": url,
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "7",
        "REVIEW_TOKEN": "secret",
    }
    page = tmp_path / "review.md"
    for text in (f"{MARK}\n\n## Review", "without a mark", f"{MARK}\n" + "x" * 70_000):
        page.write_text(text)
        subprocess.run(
            [sys.executable, str(SCRIPT), str(page)],
            env={"PATH": os.environ["PATH"], **(github if name == "github" else gitlab)},
            check=True,
        )
    own = [c["body"] for c in host.comments if c["body"] != "mine"]
    assert len(own) == 1 and len(own[0]) < 65_536
    assert own[0].startswith(MARK) and own[0].endswith("… the rest is in the job's log")
    written = [(method, path) for method, path, _ in host.asked if method != "GET"]
    if name == "github":
        issues = "/repos/ada/platform/issues"
        new, changed = ("POST", f"{issues}/7/comments"), ("PATCH", f"{issues}/comments/1000")
    else:
        notes = "/projects/3/merge_requests/7/notes"
        new, changed = ("POST", notes), ("PUT", f"{notes}/1000")
    assert written == [new, changed, changed]
    assert {token for _, _, token in host.asked} == {
        "Bearer secret" if name == "github" else "secret"
    }


def test_only_the_comment_may_write_and_forks_get_none(render: Render) -> None:
    """The job that runs the change's code has a token that may only read."""
    text = (render(sample="minimal", ci="github") / ".github/workflows/plan.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    assert [name for name, job in jobs.items() if "permissions" in job] == ["comment"]
    assert "head.repo.full_name == github.repository" in jobs["comment"]["if"]
    assert not any("pip" in step.get("run", "") for step in jobs["comment"]["steps"])
    gitlab = yaml.safe_load((render(sample="minimal", ci="gitlab") / ".gitlab-ci.yml").read_text())
    script = gitlab["review"]["script"]
    assert script[-1] == "exit ${ended:-0}" and "poe review || ended=$?" in script
