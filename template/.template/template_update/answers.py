"""What `.copier-answers.yml` says, read without a YAML library."""

import re
from dataclasses import dataclass
from pathlib import Path

from template_update.errors import Refused

NAME = ".copier-answers.yml"
_ENTRY = re.compile(r"^([A-Za-z_]\w*): ?(.*(?:\n[ \t]+\S.*)*)$", re.MULTILINE)


@dataclass(frozen=True)
class Answers:
    """Where a project comes from, and what was answered."""

    source: str
    version: str
    answers: dict[str, str]


def parse(text: str) -> Answers:
    """The answers in the text of the file; a value is as YAML wrote it, without quotes.

    Raises:
        Refused: It does not say where the project comes from, and which version.
    """
    entries = {name: _scalar(value) for name, value in _ENTRY.findall(text)}
    source, version = entries.get("_src_path"), entries.get("_commit")
    if not source or not version:
        raise Refused(
            f"`{NAME}` names no `{'_commit' if source else '_src_path'}`, so that an update does not"
            " know where it starts: the project was not copied from a git repository. Copy it again"
            " from one, with `copier copy --overwrite <template> .`."
        )
    answers = {name: value for name, value in entries.items() if not name.startswith("_")}
    return Answers(source, version, answers)


def read(root: Path) -> Answers:
    """The answers of the project at a folder.

    Raises:
        Refused: There are none, or they lack what an update needs.
    """
    path = root / NAME
    if not path.is_file():
        raise Refused(f"`{path}` does not exist: this is not the root of a generated project.")
    return parse(path.read_text(encoding="utf-8"))


def _scalar(value: str) -> str:
    value = " ".join(line.strip() for line in value.splitlines())
    if value.startswith("'") and value.endswith("'"):
        return value[1:-1].replace("''", "'")
    return value.strip('"')
