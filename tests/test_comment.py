"""The comment of a review, in a stand-in of GitHub and of GitLab: one, brought up to date in place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
        if "wrong" in token:
            self.send_error(401)
            return
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


@dataclass
class Checkout:
    """A job's folder: the script of the comment, and programs that a pipeline has.

    `python -m pip` installs nothing here. `poe` is a stand-in, unless the job is to run the real one.
    """

    folder: Path
    page: str = f"{MARK}\n\n## Review"
    ended: int = 0
    tools: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Writes the programs."""
        (self.folder / ".template").mkdir(exist_ok=True, parents=True)
        shutil.copy(SCRIPT, self.folder / ".template/comment.py")
        self._program("python", f'[ "$2" = pip ] || exec {sys.executable} "$@"')

    def run(self, lines: Sequence[str], **variables: str) -> tuple[int, str]:
        """How a job's script ends, and what its log says."""
        if not self.tools:
            (self.folder / "page").write_text(self.page)
            said = f'case "$*" in review) exit {self.ended};; *summary) cat page;; esac'
            self._program("poe", said)
        path = [str(self.folder / "bin"), *self.tools, os.environ["PATH"]]
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", "\n".join(lines)],
            cwd=self.folder,
            env={"HOME": str(self.folder), **variables, "PATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def _program(self, name: str, text: str) -> None:
        file = self.folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)


def gitlab_script(render: Render) -> list[str]:
    """Of the job `review`."""
    file = render(sample="minimal", ci="gitlab") / ".gitlab-ci.yml"
    lines: list[str] = yaml.safe_load(file.read_text())["review"]["script"]
    return lines


def gitlab_variables(host: StandIn) -> dict[str, str]:
    """What GitLab gives a pipeline of a merge request."""
    return {
        "CI_API_V4_URL": f"http://127.0.0.1:{host.server_address[1]}",
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "7",
        "SQLMESH_ENVIRONMENT": "mr_7",
    }


def own(host: StandIn) -> list[str]:
    """The comments that are not a person's."""
    return [c["body"] for c in host.comments if c["body"] != "mine"]


def test_gitlabs_job_comments_in_place_and_ends_as_the_review(
    host: StandIn, tmp_path: Path, render: Render
) -> None:
    """Its whole script: a review that passes, one that a rule stops; without a token, as in a fork; a wrong one."""
    script, given = gitlab_script(render), gitlab_variables(host)
    job = Checkout(tmp_path)
    assert job.run(script, **given, REVIEW_TOKEN="secret")[0] == 0
    assert own(host) == [job.page]
    job.page, job.ended = f"{MARK}\n\n## Review\n\n**A promotion is stopped:**", 1
    code, log = job.run(script, **given, REVIEW_TOKEN="secret")
    assert code == 1 and "**A promotion is stopped:**" in log
    assert own(host) == [job.page]

    asked = len(host.asked)
    for ended in (0, 1):
        job.ended = ended
        code, log = job.run(script, **given)
        assert code == ended and "## Review" in log
    assert len(host.asked) == asked
    job.page = f"{MARK}\n\nnever there"
    code, log = job.run(script, **given, REVIEW_TOKEN="wrong")
    assert code != 0 and "never there" in log and "401" in log
    assert job.page not in own(host)


def test_githubs_jobs_hand_the_page_on_and_comment_in_place(
    host: StandIn, tmp_path: Path, render: Render
) -> None:
    """The scripts of both jobs: the page goes from the one that runs the change to the one that may write."""
    file = render(sample="minimal", ci="github") / ".github/workflows/plan.yml"
    jobs = yaml.safe_load(file.read_text())["jobs"]
    plan = {step.get("name"): step for step in jobs["plan"]["steps"]}
    (comment,) = [step for step in jobs["comment"]["steps"] if step.get("name") == "Comment"]
    assert plan["Show the review"]["if"] == "always()"
    for number, ended in enumerate((0, 1)):
        page = (
            f"{MARK}\n\n## Review {number}\n\n$(touch hacked) `touch hacked` 'q' \"q\"\npage<<EOF"
        )
        job = Checkout(tmp_path / str(number), page, ended)
        outputs, summary = job.folder / "outputs", job.folder / "summary"
        files = {"GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary)}
        assert job.run([plan["Review"]["run"]])[0] == ended
        assert job.run([plan["Show the review"]["run"]], **files)[0] == 0
        assert summary.read_text() == page
        name, _, rest = outputs.read_text().partition("<<")
        end, _, rest = rest.partition("\n")
        handed = rest.partition(f"\n{end}\n")[0].rstrip("\n")
        assert (name, handed) == ("page", page)
        values = {
            "${{ github.token }}": "secret",
            "${{ github.event.number }}": "7",
            "${{ needs.plan.outputs.page }}": handed,
        }
        environment = {key: values[value] for key, value in comment["env"].items()}
        url = f"http://127.0.0.1:{host.server_address[1]}"
        machine = {"GITHUB_API_URL": url, "GITHUB_REPOSITORY": "ada/platform"}
        assert job.run([comment["run"]], **machine, **environment)[0] == 0
        assert own(host) == [page]
        assert not list(tmp_path.rglob("hacked"))


@pytest.mark.storm
def test_gitlabs_job_reviews_a_real_change(host: StandIn, tmp_path: Path, render: Render) -> None:
    """With the real `poe`, from an empty database: two pushes, one comment."""
    root = tmp_path / "project"
    shutil.copytree(render(sample="minimal", ci="gitlab"), root)
    job = Checkout(root, tools=[str(Path(sys.executable).parent)])
    script = gitlab_script(render)
    given = {**gitlab_variables(host), "REVIEW_TOKEN": "secret", "PYTHONPATH": str(root / "src")}
    given |= {"SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true", "MAX_FORK_WORKERS": "1"}
    for _ in range(2):
        code, log = job.run(script, **given)
        assert code == 0, log
        (page,) = own(host)
        assert page.startswith(MARK) and "## Review of environment `mr_7`" in page and page in log
