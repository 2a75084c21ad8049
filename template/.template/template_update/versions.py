"""The template's versions: tags such as `v1.2.0`, wherever the template is."""

import re
import subprocess
from pathlib import Path

from template_update import answers, manifest, upstream
from template_update.copier import Copier
from template_update.errors import Refused

_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)")
_COMMIT = re.compile(r"HEAD|[0-9a-f]{4,64}")
_NUMBERS = re.compile(r"v?(\d+(?:\.\d+)+)")


def newest(root: Path, here: answers.Answers, copier: Copier) -> str | None:
    """The tag of the newest release, or None where the project is up to date.

    Raises:
        Refused: The template cannot be asked.
    """
    releases = [tag for tag in _names(root, here.source) if _RELEASE.fullmatch(tag)]
    if not releases or not _RELEASE.fullmatch(here.version):
        return copier.newest(
            root
        )  # which explains what is wrong, and can order other versions, too
    found = max(releases, key=_numbers)
    return found if _numbers(found) > _numbers(here.version) else None


def fetch(root: Path, here: answers.Answers, version: str, copier: Copier) -> None:
    """Fetch the template, if this machine does not have a version of it."""
    repository = upstream.find(here.source, root)
    if repository is None or not repository.has(version):
        copier.newest(root)


def resolve(root: Path, here: answers.Answers, version: str) -> str:
    """The tag or commit that a version is, with or without its `v`.

    Raises:
        Refused: The template has no such version, or it is older than the project's.
    """
    tags = _names(root, here.source)
    names = (version, f"v{version}", version.removeprefix("v"))
    found = next((name for name in names if name in tags), None)
    if found is None and tags and not _is_other(root, here.source, version):
        known = ", ".join(sorted(tags, key=_numbers)[-5:])
        raise Refused(f"The template has no version `{version}`. Its newest are: {known}.")
    if _NUMBERS.match(version) and _numbers(version) < _numbers(here.version):
        raise Refused(
            f"`{version}` is older than `{here.version}`, which the project has, and an update cannot go"
            " back. Revert the commit of the update instead."
        )
    return found or version


def of_files(root: Path, here: answers.Answers) -> str | None:
    """The release after the one that the answers name whose files are in the tree, if one is."""
    repository = upstream.find(here.source, root)
    listed = root / manifest.NAME
    if repository is None or not listed.is_file():
        return None
    text = listed.read_bytes().decode(errors="replace")
    releases = filter(_RELEASE.fullmatch, _names(root, here.source))
    newer = [tag for tag in releases if _numbers(tag) > _numbers(here.version)]
    places = {tag: repository.text(tag, f"template/{manifest.NAME}") for tag in newer}
    return min((tag for tag in newer if places[tag] == text), key=_numbers, default=None)


def _is_other(root: Path, source: str, version: str) -> bool:
    """Whether a version that is no tag may be a commit, or is a branch."""
    is_commit = bool(_COMMIT.fullmatch(version))
    return is_commit or version in _names(root, source, "heads")


def _names(root: Path, source: str, kind: str = "tags") -> list[str]:
    """The tags, or heads, of the template's repository; none if git cannot tell."""
    place = root / Path(source).expanduser()
    address = str(place) if place.is_dir() else source
    result = subprocess.run(
        ["git", "ls-remote", f"--{kind}", "--refs", "--", address],
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return [line.rpartition(f"refs/{kind}/")[2] for line in result.stdout.splitlines()]


def _numbers(version: str) -> tuple[int, ...]:
    found = _NUMBERS.match(version) or _RELEASE.fullmatch(version)
    return tuple(int(number) for number in found[1].split(".")) if found else ()
