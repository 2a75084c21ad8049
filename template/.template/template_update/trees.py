"""Files by their paths, on disk or in git."""

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """What git keeps of a file; the content of a link is where it points to."""

    content: bytes
    is_executable: bool = False
    is_link: bool = False

    @property
    def is_binary(self) -> bool:
        """As git tells: a NUL byte near the start."""
        return b"\0" in self.content[:8000]


Tree = Mapping[str, File]
"""Files by POSIX paths that start at the project's root."""


def read(path: Path) -> File | None:
    """The file at a path, or None where there is none."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(mode):
        return File(os.fsencode(path.readlink()), is_link=True)
    if stat.S_ISREG(mode):
        return File(path.read_bytes(), is_executable=bool(mode & stat.S_IXUSR))
    return None


def read_all(root: Path, paths: Iterable[str]) -> dict[str, File]:
    """Those of the paths that are files."""
    files = ((path, read(root / path)) for path in paths)
    return {path: file for path, file in files if file is not None}


def read_tree(root: Path) -> dict[str, File]:
    """Every file below a folder."""
    found = (Path(folder) / name for folder, _, names in os.walk(root) for name in names)
    return read_all(root, (path.relative_to(root).as_posix() for path in found))


def write(path: Path, file: File) -> None:
    """Write a file to a path, and replace what is there; it is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        _create(new, file)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _create(path: Path, file: File) -> None:
    path.unlink(missing_ok=True)
    if file.is_link:
        path.symlink_to(os.fsdecode(file.content))
        return
    path.write_bytes(file.content)
    if file.is_executable:
        path.chmod(path.stat().st_mode | 0o111)


def move(source: Path, target: Path) -> None:
    """Move a file, to another file system, too; what is at `target` is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV or (file := read(source)) is None:
            raise
        write(target, file)
        source.unlink()


def remove(root: Path, name: str) -> None:
    """Delete a file, and the folders that it leaves empty."""
    (root / name).unlink(missing_ok=True)
    remove_empty_folders(root, name)


def remove_empty_folders(root: Path, name: str) -> None:
    """Delete the folders of a file that is gone, as far as they are empty."""
    for folder in (root / name).parents:
        if folder == root or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()
