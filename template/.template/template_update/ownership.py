"""Who owns a file, by `.template-ownership.yml`."""

import re
from dataclasses import dataclass

NAME = ".template-ownership.yml"
_LINE = re.compile(
    r"""^(?:(?P<owner>\w+):|\s+-\s+(?P<quote>["']?)(?P<pattern>.+?)(?P=quote))\s*$"""
)


@dataclass(frozen=True)
class Ownership:
    """The patterns of each owner; the last that matches decides, as in `.gitignore`."""

    patterns: dict[str, tuple[str, ...]]

    def is_owned_by(self, owner: str, path: str) -> bool:
        """Whether the patterns of `owner` match."""
        matches = False
        for pattern in self.patterns.get(owner, ()):
            if _matches(pattern.lstrip("!"), path):
                matches = not pattern.startswith("!")
        return matches


def parse(text: str, package_name: str) -> Ownership:
    """The patterns, for a project whose package has a name."""
    patterns: dict[str, list[str]] = {}
    for line in filter(None, map(_LINE.match, text.splitlines())):
        if line["owner"]:
            owner = patterns.setdefault(line["owner"], [])
        else:
            owner.append(line["pattern"].replace("<package_name>", package_name))
    return Ownership({name: tuple(found) for name, found in patterns.items()})


def _matches(pattern: str, path: str) -> bool:
    """`name` is a file or folder anywhere, `a/name` that path, `a/**` everything in that folder."""
    if pattern.endswith("/**"):
        return path.startswith(pattern[:-2])
    if "/" in pattern:
        return path == pattern or path.startswith(f"{pattern}/")
    return pattern in path.split("/")
