"""The changelog between two versions."""

import re

NAME = "CHANGELOG.md"
_HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\].*$", re.MULTILINE)


def between(text: str, old: str, new: str) -> str:
    """The sections above the one of version `old`, newest first.

    What `text`, the changelog of version `new`, holds as unreleased is what that version brings.
    """
    kept = []
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=True):
        version, body = heading["version"], text[heading.end() : end].strip()
        if version == old.lstrip("v"):
            break
        title = new.lstrip("v") if version == "Unreleased" else version
        if body:
            kept.append(f"## {title}\n\n{body}")
    return "\n\n".join(kept)
