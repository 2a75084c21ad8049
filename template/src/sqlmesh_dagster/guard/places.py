"""Files that this user may not use: whose they are, and the command that lets it."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from shlex import quote

_DENIED = re.compile(r"\[Errno (?:1|13|30)\] [^:']+: '(?P<path>[^'\n]+)'")
_KINDS = {
    stat.S_IFDIR: ("a folder", "rmdir"),
    stat.S_IFLNK: ("a link", "rm"),
    stat.S_IFIFO: ("a pipe", "rm"),
    stat.S_IFSOCK: ("a socket", "rm"),
}


def no_file(path: Path) -> str | None:
    """What is in the place of a file that is to be made, and how to remove it; None for a file, or nothing."""
    with suppress(OSError):
        kind = _KINDS.get(stat.S_IFMT(path.lstat().st_mode))
        return kind and f"`{path}` is {kind[0]}. Remove it: `{kind[1]} {quote(str(path))}`."
    return None


def owner_of(path: Path) -> str:
    """Whose a file is: a user's name, or its id where it has no name."""
    try:
        found = path.lstat().st_uid
    except OSError:
        return "another user"
    if hasattr(os, "geteuid") and found == os.geteuid():
        return "this user itself, which has taken its own rights"
    with suppress(OSError, KeyError, NotImplementedError):
        return f"user `{path.owner()}`"
    return f"the user with id `{found}`"


def opened_for_all(folder: Path) -> str:
    """The command with which the owner of a folder lets others use its files, also where each may remove only its own."""
    return f"chmod -R a+rwX,-t {quote(str(folder))}"


def with_remedy(message: str, project: Path) -> str:
    """A message of the system's about a file that this user may not use, with what helps."""
    found = _DENIED.search(message)
    if found is None:
        return message
    path = Path(found["path"])
    if not path.is_relative_to(project):  # no command opens what is not the project's
        return (
            f"{message}\nLet this user use it; or, if it is in its home folder, set the environment variable `HOME`"
            " to a folder that it may write, such as `HOME=/tmp`."
        )
    there = next(p for p in (path, *path.parents) if os.path.lexists(p) or p == project)
    others = _ELSEWHERE if _CACHE in path.parts else ""
    return f"{message}\nLet this user use it: `chmod -R a+rwX {quote(str(there))}`{others}."


_CACHE = ".cache"
_ELSEWHERE = ", or set `cache_dir` in SQLMesh's config to a folder that it may write"
