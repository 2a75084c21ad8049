"""The manifest on disk: plain data, used only if its inputs are still the same."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sqlmesh_dagster.definition.names import digest, op_name
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.manifest.inputs import Inputs

_log = logging.getLogger(__name__)
_FORMAT = 4
_BEGIN = b'{"inputs":'
"""How each file of ours begins."""
DEFAULT_FOLDER = ".cache/dagster"
"""Next to SQLMesh's own cache, relative to the project's folder."""


@dataclass(frozen=True)
class StoredManifest:
    """A manifest with the inputs that it was made from.

    Attributes:
        looked_up: Of what the project's own code looked up, see `Inputs.looked_up_digest`.
    """

    inputs: Inputs
    digest: str
    manifest: Manifest
    looked_up: str = ""
    format: int = _FORMAT


@dataclass(frozen=True)
class ManifestStore:
    """The file for the manifest of one project and gateway; it may not exist yet."""

    path: Path

    @classmethod
    def in_folder(
        cls, folder: Path, gateway: str | None, also: Sequence[Path] = ()
    ) -> ManifestStore:
        """The store of a gateway, which may share its folder with others.

        Args:
            also: The project's other folders; the first may be a project alone, too.
        """
        suffix = f"-{op_name([gateway])}" if gateway else ""
        if also:
            suffix += f"-with-{digest(os.pathsep.join(map(str, also)))}"
        return cls(folder.expanduser().resolve() / f"manifest{suffix}.json")

    def read(self) -> StoredManifest | None:
        """The stored manifest; None if there is none that this version wrote completely."""
        try:
            stored = _json().validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            _log.info("The manifest `%s` cannot be used and is made again: %s", self.path, error)
            return None
        return stored if stored.format == _FORMAT else None

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
        data = _json().dump_json(stored)
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


@lru_cache(maxsize=1)
def _json() -> TypeAdapter[StoredManifest]:
    return TypeAdapter(StoredManifest)
