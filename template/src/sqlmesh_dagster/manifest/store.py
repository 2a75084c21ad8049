"""The manifest on disk: plain data, used only if its inputs are still the same."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from sqlmesh_dagster.definition.names import digest, op_name
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.manifest.inputs import Inputs

_log = logging.getLogger(__name__)
_FORMAT = 6
_BEGIN = b'{"inputs":'
"""How each file of ours begins."""
_SEAL = b',"seal":"%s"}'
"""How it ends: the digest of what is before. It tells an edit, not a forger."""
_MOST_BYTES = 2**28
"""A hundred times the manifest of 2,000 models."""
DEFAULT_FOLDER = ".cache/dagster"
"""Next to SQLMesh's own cache, relative to the project's folder."""


@dataclass(frozen=True)
class StoredManifest:
    """A manifest with the inputs that it was made from.

    Attributes:
        looked_up: Of what the project's own code looked up, see `Inputs.looked_up_digest`.
        sql_models: Of the files of SQL models, by path; see `inputs.Files`.
        rest: Of everything else.
    """

    inputs: Inputs
    digest: str
    manifest: Manifest
    looked_up: str = ""
    sql_models: tuple[tuple[str, str], ...] = ()
    rest: str = ""
    format: int = _FORMAT


@dataclass(frozen=True)
class ManifestStore:
    """The file for the manifest of one project and gateway; it may not exist yet.

    It is data: reading it runs nothing, whoever wrote it.

    Attributes:
        project: The project's folder, whose owner is trusted, as this user and root are.
    """

    path: Path
    project: Path | None = None

    @classmethod
    def in_folder(
        cls,
        folder: Path,
        gateway: str | None,
        also: Sequence[Path] = (),
        project: Path | None = None,
    ) -> ManifestStore:
        """The store of a gateway, which may share its folder with others.

        Args:
            also: The project's other folders; the first may be a project alone, too.
            project: The first of them.
        """
        suffix = f"-{op_name([gateway])}" if gateway else ""
        if also:
            suffix += f"-with-{digest(os.pathsep.join(map(str, also)))}"
        return cls(folder.expanduser().resolve() / f"manifest{suffix}.json", project)

    def read(self) -> StoredManifest | None:
        """The stored manifest; None if there is none that this version wrote completely."""
        try:
            content = self._content()
            stored = _json().validate_json(content)
            if stored.format != _FORMAT:
                return None
            _check_seal(content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.info("The manifest `%s` cannot be used and is made again: %s", self.path, error)
            return None
        return stored

    def _content(self) -> bytes:
        """All of the file.

        Raises:
            OSError: It cannot be read, is no manifest by its size, or another user put it there.
        """
        with open(self.path, "rb", opener=_open_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError("it is a pipe or a device")
            if found.st_size > _MOST_BYTES:
                raise OSError(f"its {found.st_size} bytes are no manifest's")
            if hasattr(os, "getuid") and found.st_uid not in self._trusted():
                raise PermissionError(
                    f"it belongs to the user with id {found.st_uid}, who is not the project's owner"
                )
            return file.read()

    def _trusted(self) -> set[int]:
        own = os.getuid() if hasattr(os, "getuid") else 0
        owners = {0, own}  # an image is made by root, and run by another user
        return owners if self.project is None else {*owners, self.project.stat().st_uid}

    def write(self, stored: StoredManifest) -> None:
        """Replaces the file in one step, so that no reader ever sees half of it.

        Raises:
            OSError: The folder cannot be written, or has such a file of somebody else's.
        """
        if not self._is_ours():
            raise FileExistsError(
                f"`{self.path}` is another program's file and stays as it is: let `manifest_dir` name a"
                " folder of its own"
            )
        data = _sealed(_json().dump_json(stored))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".manifest-")
        unfinished = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            unfinished.chmod(0o644)  # other users than the one who made the image may read it
            unfinished.replace(self.path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def _is_ours(self) -> bool:
        """Whether the file may be replaced: `manifest.json` is the name of other programs' files, too."""
        if self.path.parent.as_posix().endswith(f"/{DEFAULT_FOLDER}"):
            return True
        try:
            with self.path.open("rb") as file:
                return file.read(len(_BEGIN)) in (b"", _BEGIN)
        except FileNotFoundError:
            return True


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _sealed(data: bytes) -> bytes:
    return data[:-1] + _SEAL % hashlib.sha256(data[:-1]).hexdigest().encode()


def _check_seal(content: bytes) -> None:
    size = len(_SEAL % (b"0" * 64))
    if _sealed(content[:-size] + b"}") != content:
        raise ValueError("it was changed after it was written")


@lru_cache(maxsize=1)
def _json() -> TypeAdapter[StoredManifest]:
    return TypeAdapter(StoredManifest)
