"""What `.copier-answers.yml` says, read without a YAML library."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from template_update.errors import Refused

NAME = ".copier-answers.yml"
_ENTRY = re.compile(r"""^["']?([A-Za-z_]\w*)["']? *: ?(.*(?:\n[ \t]+\S.*)*)$""", re.MULTILINE)
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*(?:#.*)?""", re.DOTALL)
_MARKERS = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)
_COMMENT = re.compile(r"(?:^|[ \t]+)#.*$", re.MULTILINE)


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
    if _MARKERS.search(text):
        raise Refused(
            f"`{NAME}` has conflict markers. Keep the side with the newer `_commit`, commit, and try"
            " again."
        )
    entries = {name: _scalar(value) for name, value in _ENTRY.findall(text)}
    source, version = entries.get("_src_path"), entries.get("_commit")
    if not source or not version:
        raise Refused(
            f"`{NAME}` names no `{'_commit' if source else '_src_path'}`, so an update does not"
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
    return parse_file(path.read_bytes())


def parse_file(content: bytes) -> Answers:
    """The answers in the bytes of the file.

    Raises:
        Refused: They are no UTF-8, or lack what an update needs.
    """
    try:
        return parse(content.decode())
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Refused(
            f"Line {line} of `{NAME}` is not UTF-8, so that Copier cannot read it either. Save the"
            " file as UTF-8, commit, and try again."
        ) from error


def _scalar(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    value = quoted[1] if quoted else _COMMENT.sub("", value)
    if value.startswith('"'):
        # YAML breaks long text with a backslash, and JSON knows neither \x nor \U
        joined = re.sub(r"\\\n\s*(?:\\(?= ))?", "", value)
        escaped = re.sub(r"\\x(\w\w)", r"\\u00\1", joined)
        return str(json.loads(re.sub(r"\\U(\w{8})", _surrogates, escaped)))
    value = " ".join(line.strip() for line in value.splitlines())
    return value[1:-1].replace("''", "'") if value.startswith("'") else value


def _surrogates(escape: re.Match[str]) -> str:
    return json.dumps(chr(int(escape[1], 16)))[1:-1]
