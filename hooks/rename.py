"""Carries the owner's edits over, when a major version renames a file that the template owns.

In `copier.yml`, for the version that renames `old` to `new`, both relative to the project:

    _migrations:
      - version: v2.0.0
        command: ["{{ _copier_python }}", "{{ _copier_conf.src_path }}/hooks/rename.py", old, new]

Copier runs it in the project after it has updated the tree; HEAD still is the project before the
update. It merges three ways: the old file as the template had it, the old file with the owner's
edits, the new file of the template. What both changed stays between conflict markers, in the index
too. Run twice, it does nothing the second time; what the owner changed in between is left alone.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]
MARKER = b"<<<<<<< before updating"


def git(folder: Path, *arguments: str, given: bytes | None = None) -> bytes:
    """The output of a git command; an error of git's ends the migration, and so the update."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, input=given, check=True, stdout=subprocess.PIPE).stdout


def blob(folder: Path, ref: str, path: str) -> bytes | None:
    """A file of a commit; `path` is relative to the folder if it starts with `./`."""
    command = ["git", "-C", str(folder), "cat-file", "blob", f"{ref}:{path}"]
    result = subprocess.run(command, check=False, capture_output=True)
    return None if result.returncode else result.stdout


def merge(mine: bytes, base: bytes, theirs: bytes) -> bytes:
    """The three-way merge, with markers as Copier writes them."""
    labels = ["before updating", "last update", "after updating"]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("mine", "base", "theirs")]
        for path, content in zip(paths, (mine, base, theirs), strict=True):
            path.write_bytes(content)
        options = [option for label in labels for option in ("-L", label)]
        command = ["git", "merge-file", "--stdout", *options, *map(str, paths)]
        return subprocess.run(command, check=False, stdout=subprocess.PIPE).stdout


def mark_as_unmerged(project: Path, path: str, stages: tuple[bytes, bytes, bytes]) -> None:
    """Put base, mine and theirs into the index, so that git knows of the conflict."""
    prefix = git(project, "rev-parse", "--show-prefix").decode().strip()
    lines = [f"0 {'0' * 40}\t{prefix}{path}"]
    for number, content in enumerate(stages, start=1):
        name = git(project, "hash-object", "-w", "--stdin", given=content).decode().strip()
        lines.append(f"100644 {name} {number}\t{prefix}{path}")
    git(project, "update-index", "--index-info", given="\n".join(lines).encode())


def rename(project: Path, old: str, new: str, version: str) -> str:
    """Carry the edits in `old` over to `new`; returns what was done, in words.

    Args:
        version: The template's version before the update.
    """
    mine = blob(project, "HEAD", f"./{old}")
    base = blob(TEMPLATE, version, f"template/{old}")
    theirs = blob(TEMPLATE, "HEAD", f"template/{new}")
    target = project / new
    if theirs is None:
        raise SystemExit(f"`template/{new}` is not in this version of the template.")
    if base is None:
        return f"`{old}` was not part of version {version}."
    if mine is None or mine == base:
        return f"`{old}` was not edited here."
    if not target.is_file() or target.read_bytes() != theirs:
        return f"`{new}` is merged already, or was changed since."
    merged = merge(mine, base, theirs)
    target.write_bytes(merged)
    if MARKER in merged.splitlines():
        mark_as_unmerged(project, new, (base, mine, theirs))
        return f"The edits in `{old}` are in conflict in `{new}`."
    return f"The edits in `{old}` are in `{new}`."


if __name__ == "__main__":
    _, old_path, new_path = sys.argv
    print(rename(Path.cwd(), old_path, new_path, os.environ["VERSION_FROM"]), file=sys.stderr)
