"""The changelog between two versions."""

import re
from pathlib import Path

from template_update import upstream
from template_update.answers import Answers

NAME = "CHANGELOG.md"
_HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\].*$", re.MULTILINE)

_DESCRIBED = re.compile(r"-\d+-g[0-9a-f]+$")
"""What git and Copier write behind the last release of a version that has no tag."""


def between(text: str, old: str, new: str) -> str:
    """The sections above the one of version `old`, newest first.

    What `text`, the changelog of version `new`, holds as unreleased is what that version brings.
    """
    kept = []
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=True):
        version, body = heading["version"], text[heading.end() : end].strip()
        if version == _DESCRIBED.sub("", old.lstrip("v")):
            break
        title = new.lstrip("v") if version == "Unreleased" else version
        if body:
            kept.append(f"## {title}\n\n{body}")
    return "\n\n".join(kept)


def news(root: Path, before: Answers, version: str) -> str:
    """What a version brings to a project, or where to read it; nothing if the project has that version."""
    if before.version == version:
        return ""
    repository = upstream.find(before.source, root)
    if repository is None:
        return f"What is new: see {NAME} of {before.source}"
    for ref in (version, f"v{version}"):
        if text := repository.text(ref, NAME):
            return between(text, before.version, version)
    return ""
