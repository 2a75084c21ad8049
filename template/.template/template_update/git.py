"""The git repository that a project lives in."""

import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from template_update.errors import Refused
from template_update.trees import File

REGULAR, EXECUTABLE, LINK = "100644", "100755", "120000"


def git(folder: Path, *arguments: str, given: bytes | None = None) -> bytes:
    """The output of a git command.

    Raises:
        Refused: It failed.
    """
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], input=given, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise Refused("`git` is not installed, or not on the PATH. Install it.") from error
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip()
        raise Refused(f"`git {' '.join(arguments[:2])}` failed: {said}")
    return result.stdout


def merge(mine: bytes, base: bytes, theirs: bytes) -> bytes | None:
    """The three-way merge of a text, or None where both changed the same lines."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("mine", "base", "theirs")]
        for path, content in zip(paths, (mine, base, theirs), strict=True):
            path.write_bytes(content)
        command = ["git", "merge-file", "--stdout", *map(str, paths)]
        result = subprocess.run(command, capture_output=True, check=False)
        return result.stdout if result.returncode == 0 else None


@dataclass(frozen=True)
class Project:
    """A project's root, and where that is in its repository: `""`, or a folder and a slash."""

    root: Path
    prefix: str

    @classmethod
    def at(cls, root: Path) -> "Project":
        """The project at a folder.

        Raises:
            Refused: It is not in a repository with a commit.
        """
        try:
            prefix = git(root, "rev-parse", "--show-prefix").decode().rstrip("\n")
        except Refused as error:
            raise Refused(
                f"`{root}` is not in a git repository, which an update needs to merge. Run"
                " `git init && git add --all && git commit --message Start`."
            ) from error
        return cls(root, prefix)

    def git(self, *arguments: str, given: bytes | None = None) -> bytes:
        """The output of a git command in the project's root."""
        return git(self.root, *arguments, given=given)

    def head(self) -> str:
        """The commit that is checked out."""
        return self.git("rev-parse", "--verify", "HEAD").decode().strip()

    def state_dir(self) -> Path:
        """A folder of git's own, for what must outlive a command and stay out of commits."""
        path = self.git("rev-parse", "--git-path", "template-update").decode().strip()
        return (self.root / path).resolve()

    def dirt(self) -> list[str]:
        """What git would say of a tree that is not clean."""
        return self.git("status", "--porcelain", "--no-renames", "--", ".").decode().splitlines()

    def changed(self) -> set[str]:
        """Paths that differ from HEAD, new and deleted ones included."""
        tracked = self.git("diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD")
        untracked = self.git("ls-files", "--others", "--exclude-standard", "-z")
        return _paths(tracked) | _paths(untracked)

    def unmerged(self) -> set[str]:
        """Paths with a conflict in the index."""
        return _paths(self.git("diff", "--name-only", "--diff-filter=U", "--relative", "-z"))

    def listing(self, ref: str = "HEAD") -> dict[str, str]:
        """The path and the mode of each file of a commit."""
        entries = self.git("ls-tree", "-r", "-z", ref).decode(errors="surrogateescape").split("\0")
        parted = (entry.partition("\t") for entry in entries if entry)
        return {path: facts.split()[0] for facts, _, path in parted}

    def files(self, paths: Iterable[str], ref: str = "HEAD") -> dict[str, File]:
        """Those of the paths that are files of a commit."""
        modes = self.listing(ref)
        wanted = [path for path in paths if modes.get(path) in (REGULAR, EXECUTABLE, LINK)]
        objects = "".join(f"{ref}:{self.prefix}{path}\n" for path in wanted)
        output = self.git("cat-file", "--batch", given=objects.encode(errors="surrogateescape"))
        files = {}
        for path in wanted:
            header, _, output = output.partition(b"\n")
            size = int(header.split()[-1])
            content, output = output[:size], output[size + 1 :]
            mode = modes[path]
            files[path] = File(content, is_executable=mode == EXECUTABLE, is_link=mode == LINK)
        return files


def _paths(listing: bytes) -> set[str]:
    return {path for path in listing.decode(errors="surrogateescape").split("\0") if path}
