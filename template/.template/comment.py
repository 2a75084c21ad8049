"""Puts a page into a pull or merge request: one comment, which is brought up to date in place.

`python .template/comment.py FILE`, by the standard library alone. GitHub: GITHUB_API_URL, GITHUB_REPOSITORY,
PULL_REQUEST and GITHUB_TOKEN, which may write pull requests. GitLab: CI_API_V4_URL, CI_PROJECT_ID,
CI_MERGE_REQUEST_IID and REVIEW_TOKEN, an access token of the project with the scope `api`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

MARK = "<!-- sqlmesh_dagster review -->"
"""The page begins with it; so does the comment that is this one's."""
MOST = 60_000
"""Characters of a page; GitHub takes 65,536."""
_TIMEOUT = 30


@dataclass(frozen=True)
class Host:
    """Where the comments of one request are.

    Attributes:
        comments: Lists them, and takes a new one.
        comment: Changes one, its id in place of `{}`.
        change: The method that does so.
    """

    comments: str
    comment: str
    change: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Host:
        """The host that runs this, by its variables."""
        if "CI_MERGE_REQUEST_IID" in given:
            root = f"{given['CI_API_V4_URL']}/projects/{given['CI_PROJECT_ID']}"
            notes = f"{root}/merge_requests/{given['CI_MERGE_REQUEST_IID']}/notes"
            return cls(notes, f"{notes}/{{}}", "PUT", {"PRIVATE-TOKEN": given["REVIEW_TOKEN"]})
        root = f"{given['GITHUB_API_URL']}/repos/{given['GITHUB_REPOSITORY']}/issues"
        return cls(
            f"{root}/{given['PULL_REQUEST']}/comments",
            f"{root}/comments/{{}}",
            "PATCH",
            {"Authorization": f"Bearer {given['GITHUB_TOKEN']}"},
        )

    def say(self, page: str) -> None:
        """Changes the comment that is there already, or makes it."""
        known = next((c["id"] for c in self._comments() if c["body"].startswith(MARK)), None)
        body = json.dumps({"body": page}).encode()
        if known is None:
            self._ask("POST", self.comments, body)
        else:
            self._ask(self.change, self.comment.format(known), body)

    def _comments(self) -> Iterator[dict[str, Any]]:
        number = 1
        while True:
            answer = self._ask("GET", f"{self.comments}?per_page=100&page={number}")
            found: list[dict[str, Any]] = json.loads(answer)
            if not found:
                return
            yield from found
            number += 1

    def _ask(self, method: str, url: str, body: bytes | None = None) -> bytes:
        headers = {**self.headers, "Content-Type": "application/json"}
        with urlopen(Request(url, body, headers, method=method), timeout=_TIMEOUT) as answer:
            return bytes(answer.read())


def shortened(text: str) -> str:
    """As much of a page as a comment takes, marked as this one's."""
    page = text.strip() if text.strip().startswith(MARK) else f"{MARK}\n\n{text.strip()}"
    return page if len(page) <= MOST else f"{page[:MOST]}\n\n… the rest is in the job's log"


if __name__ == "__main__":
    Host.of(os.environ).say(shortened(Path(sys.argv[1]).read_text(encoding="utf-8")))
