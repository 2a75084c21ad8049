"""Writes template/.template/manifest.json: `python -m tests.manifest`."""

import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.tree import tracked

sys.path.append(str(ROOT / "template/.template"))
from template_update import manifest, ownership

PATH = ROOT / "template" / manifest.NAME


def current() -> manifest.Manifest:
    """What the manifest of the files on disk must be."""
    template = ROOT / "template"
    owners = ownership.parse((template / ownership.NAME).read_text(), "{{package_name}}")
    sources = {_name(path): path for path in tracked(template)}

    def digests(owner: str) -> dict[str, str]:
        return {
            name: manifest.digest(path.read_bytes())
            for name, path in sorted(sources.items())
            if owners.is_owned_by(owner, name) and name != manifest.NAME
        }

    # the answers file alone is the template's and rendered
    return manifest.Manifest(digests("template"), digests("shared"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT / "template").as_posix().removesuffix(".jinja")


if __name__ == "__main__":
    PATH.write_text(current().as_json())
    print(f"Wrote {PATH.relative_to(ROOT)}: {len(current().template)} files.")
