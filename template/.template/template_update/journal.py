"""Notes of what an update writes, made before it writes, so that it can always be undone.

In a folder inside `.git`, one for each project: the notes, `old/` with each file that was replaced,
byte for byte, and `undone/` with later work that an undo has taken out of the tree.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from template_update.errors import Refused
from template_update.git import Project
from template_update.trees import File, move, read, write

if sys.platform == "win32":
    import msvcrt

    def _lock(stream: IO[bytes]) -> None:
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(stream: IO[bytes]) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


GONE, UNKNOWN = "", "?"
_OLD = ("old", "ignored")
"""Folders of files that were replaced; the second is 0.2.0's."""
_FORMAT = 2  # 0.2.0 wrote its notes without a number


@dataclass(frozen=True)
class Notes:
    """One update."""

    head: str
    """The commit that it started from."""
    written: Mapping[str, str]
    """A digest of each file that it writes; `GONE` if it deletes the file, `UNKNOWN` if not known."""
    is_finished: bool = False
    is_of_0_2_0: bool = False
    """Whether the command of 0.2.0 wrote it, which does not know that files can move."""


@dataclass(frozen=True)
class Journal:
    """The notes of a project's last update."""

    folder: Path

    @classmethod
    def of(cls, project: Project) -> "Journal":
        """The journal of a project; it need not exist yet."""
        return cls(project.state_dir())

    @property
    def path(self) -> Path:
        """Where the notes are."""
        return self.folder / "journal.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time; the lock is released when its process ends.

        Raises:
            Refused: Another one is running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("ab") as stream:
            try:
                _lock(stream)
            except OSError as error:
                raise Refused(
                    "Another update of this project is running. Wait until it has ended."
                ) from error
            yield

    def read(self) -> Notes | None:
        """The notes, or None where no update is known.

        Raises:
            Refused: They cannot be read.
        """
        if not self.path.is_file():
            return None
        try:
            return _parse(json.loads(self.path.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(
                f"The notes of the last update, `{self.path}`, are incomplete, so it cannot be undone. The"
                f" files that it replaced are in `{self.folder / 'old'}`, and in the last commit. Look at"
                " `git status`, restore what you want, and delete the notes."
            ) from error

    def write(self, notes: Notes) -> None:
        """Write the notes; they are on the disk, complete, when this returns."""
        content = {
            "format": _FORMAT,
            "head": notes.head,
            "written": dict(notes.written),
            "is_finished": notes.is_finished,
        }
        new = self.path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(self.path)
        _sync_folder(self.folder)

    def begin(self, notes: Notes) -> None:
        """Delete the notes of the last update, and write those of the next one."""
        last = self._last_or_none()
        if last is None or not last.is_finished:
            self._put_aside()  # stopped in the middle: its files may be needed
        self.close()
        self.write(notes)

    def close(self) -> None:
        """Delete the notes of the last update."""
        self.path.unlink(missing_ok=True)
        for name in (*_OLD, "new"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def old(self, path: str) -> Path | None:
        """Where a file is that was replaced, or None."""
        places = (self.folder / name / path for name in _OLD)
        return next((place for place in places if read(place) is not None), None)

    def put_old(self, root: Path, path: str) -> File | None:
        """Move a file of the project to where an undo finds it; returns it."""
        if read(root / path) is None:
            return None
        target = self.folder / _OLD[0] / path
        move(root / path, target)
        return read(target)

    def new(self, path: str) -> Path:
        """Where a file is until it replaces one."""
        return self.folder / "new" / path

    def keep(self, files: Mapping[str, Path]) -> Path | None:
        """Copy files to a new folder of their own, and return that; None where there are none."""
        here = {path: file for path, place in files.items() if (file := read(place)) is not None}
        if not here:
            return None
        folder = self._free_folder()
        for path, file in here.items():
            write(folder / path, file)
        return folder

    def _free_folder(self) -> Path:
        numbers = range(1, 10**6)
        taken = self.folder / "undone"
        return next(place for n in numbers if not (place := taken / str(n)).exists())

    def _put_aside(self) -> None:
        if (old := self.folder / _OLD[0]).is_dir():
            (folder := self._free_folder()).parent.mkdir(parents=True, exist_ok=True)
            old.replace(folder)

    def _last_or_none(self) -> Notes | None:
        try:
            return self.read()
        except Refused:
            return None


def digest(file: File | None) -> str:
    """As the notes hold it."""
    return GONE if file is None else hashlib.sha256(repr(file).encode()).hexdigest()


def _parse(content: Mapping[str, object]) -> Notes:
    if content.get("format") == _FORMAT:
        head, written = content["head"], content["written"]
        if not (isinstance(head, str) and isinstance(written, dict)):
            raise TypeError
        return Notes(head, written, bool(content["is_finished"]))
    head, changed = content["head"], content["changed"]
    if not isinstance(head, str) or not isinstance(changed, dict | None):
        raise TypeError
    return Notes(head, changed or {}, is_finished=changed is not None, is_of_0_2_0=True)


def _sync_folder(folder: Path) -> None:
    """So that the notes are still there after a power cut."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
