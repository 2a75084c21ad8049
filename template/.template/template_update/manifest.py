"""What the template's files were, byte for byte, at the project's version."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

NAME = ".template/manifest.json"


@dataclass(frozen=True)
class Manifest:
    """SHA-256 of each file that is the template's, and of the source of each that is shared."""

    template: Mapping[str, str]
    shared: Mapping[str, str]

    def as_json(self) -> str:
        """One line for each file, so that a merge meets few conflicts."""
        content = {"template": dict(self.template), "shared": dict(self.shared)}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def without(self, prefixes: tuple[str, ...]) -> "Manifest":
        """The manifest of a project that has not got the files of some folders."""
        template, shared = (
            {path: digest for path, digest in files.items() if not path.startswith(prefixes)}
            for files in (self.template, self.shared)
        )
        return Manifest(template, shared)


def parse(text: str) -> Manifest:
    """The manifest in the text of its file."""
    content = json.loads(text)
    return Manifest(content["template"], content["shared"])


def digest(content: bytes) -> str:
    """As the manifest holds it; ends of lines as git stores them."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
