"""Which of the template's files differ from the template, here or there; without the network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from template_update import answers, manifest, upstream
from template_update.errors import Refused
from template_update.trees import read


@dataclass(frozen=True)
class Drift:
    """Paths of the template's files; a path is in one list at most."""

    version: str
    edited: list[str]
    """Edited or deleted here."""
    changed: list[str]
    """Changed, dropped or new in the newest release of the template."""
    both: list[str]
    newest: str | None
    """The release that was compared with; None if the template is not on this machine."""
    as_of: str

    @property
    def exit_code(self) -> int:
        """1 if anything differs, else 0."""
        return int(bool(self.edited or self.changed or self.both))

    def as_json(self) -> str:
        """Every field."""
        return json.dumps({**vars(self), "exit_code": self.exit_code}, indent=2)

    def as_text(self) -> str:
        """A list for each kind of difference, and what was compared."""
        titles = {
            "edited here and changed in the template": self.both,
            "edited here": self.edited,
            "changed in the template": self.changed,
        }
        lines = [
            line
            for title, paths in titles.items()
            if paths
            for line in (f"{len(paths)} {title}:", *(f"  {path}" for path in paths))
        ]
        lines = lines or ["The template's files are as the template has them."]
        if self.newest is None:
            return "\n".join([*lines, f"Compared with {self.version}; {self.as_of}"])
        both = dict.fromkeys((self.version, self.newest))
        return "\n".join([*lines, f"Compared with {' and '.join(both)}, {self.as_of}."])


def find(root: Path) -> Drift:
    """The differences of the project at a folder.

    Raises:
        Refused: The project has no manifest.
    """
    stored = answers.read(root)
    path = root / manifest.NAME
    if not path.is_file():
        raise Refused(
            f"`{path}` does not exist. Restore it with `git checkout -- {manifest.NAME}`."
        )
    left_out = _left_out(stored.answers)
    known = manifest.parse(path.read_text(encoding="utf-8")).without(left_out)
    edited = {name for name, digest in known.template.items() if _digest(root / name) != digest}
    repository = upstream.find(stored.source, root)
    newest = repository.newest() if repository else None
    text = repository.text(newest, f"template/{manifest.NAME}") if repository and newest else None
    there = manifest.parse(text).without(left_out) if text else known
    changed = _differing(known, there)
    return Drift(
        stored.version,
        sorted(edited - changed),
        sorted(changed - edited),
        sorted(edited & changed),
        newest if text else None,
        repository.as_of()
        if repository and text
        else "the template is not on this machine: `poe update --check` asks for a newer version",
    )


def _left_out(given: Mapping[str, str]) -> tuple[str, ...]:
    """Beginnings of paths that the answers leave out; a file of such a name is the owner's."""
    deployment = given.get("deployment", "none")
    left_out = {
        ".github/": given.get("ci") != "github",
        "Dockerfile": deployment == "none",
        "deploy/": deployment == "none",
        "compose.yaml": deployment != "docker-compose",
        "deploy/kubernetes/": deployment != "kubernetes",
    }
    return tuple(path for path, is_left_out in left_out.items() if is_left_out)


def _digest(path: Path) -> str | None:
    file = read(path)
    return manifest.digest(file.content) if file and not file.is_link else None


def _differing(here: manifest.Manifest, there: manifest.Manifest) -> set[str]:
    old, new = ({**known.template, **known.shared} for known in (here, there))
    return {path for path in {*old, *new} if old.get(path) != new.get(path)}
