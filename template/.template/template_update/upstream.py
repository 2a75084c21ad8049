"""The template's own repository, as far as it is on this machine: a folder, or Copier's cache."""

import os
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from template_update.errors import Refused
from template_update.git import git

_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Upstream:
    """A git repository of the template, read without the network."""

    repository: Path
    is_cache: bool

    def newest(self) -> str | None:
        """The tag of the newest release; pre-releases don't count."""
        tags = git(self.repository, "tag", "--list").decode().split()
        releases = [tag for tag in tags if _RELEASE.fullmatch(tag)]
        return max(releases, key=_version, default=None)

    def has(self, ref: str) -> bool:
        """Whether it has a commit or a tag."""
        try:
            git(self.repository, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        except Refused:
            return False
        return True

    def text(self, ref: str, path: str) -> str | None:
        """A file of a commit, or None where there is none."""
        try:
            return git(self.repository, "show", f"{ref}:{path}").decode(errors="replace")
        except Refused:
            return None

    def as_of(self) -> str:
        """Where this is, or how old."""
        if not self.is_cache:
            return f"in `{self.repository}`"
        heads = [self.repository / name for name in ("FETCH_HEAD", "packed-refs", "HEAD")]
        fetched = max(path.stat().st_mtime for path in heads if path.exists())
        when = datetime.fromtimestamp(fetched, timezone.utc)
        return f"as Copier fetched it last, on {when:%Y-%m-%d %H:%M} UTC"


def find(source: str, root: Path) -> Upstream | None:
    """The repository behind `_src_path`, or None where this machine has not seen it."""
    local = root / Path(source).expanduser()
    if local.is_dir():
        return Upstream(local, is_cache=False)
    for config in sorted(_cache_dir().glob("*.git/config")):
        if re.search(rf"^\s*url = {re.escape(source)}$", config.read_text(), re.MULTILINE):
            return Upstream(config.parent, is_cache=True)
    return None


def _version(tag: str) -> tuple[int, ...]:
    return tuple(int(number) for number in tag.lstrip("v").split("."))


def _cache_dir() -> Path:
    """Where Copier mirrors templates; the same rules as platformdirs' `user_cache_dir`."""
    if override := os.environ.get("COPIER_CACHE_DIR"):
        return Path(override)
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
        return cache / "copier/Cache/git"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/copier/git"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "copier/git"
