"""The git repository that a project lives in."""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from template_update.errors import Refused
from template_update.merge import Merged
from template_update.trees import File, read_all

REGULAR, EXECUTABLE, LINK = "100644", "100755", "120000"
LABELS = ("before updating", "last update", "after updating")
"""Of conflict markers, as Copier writes them."""

_WHERE = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH"),
)


def forget_the_callers_repository() -> None:
    """Let git find the project's repository by its folder; a git hook names its own."""
    for name in _WHERE:
        os.environ.pop(name, None)


def git(folder: Path, *arguments: str, given: bytes | None = None) -> bytes:
    """The output of a git command.

    Raises:
        Refused: It failed.
    """
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            input=given,
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},  # messages are looked at
        )
    except FileNotFoundError as error:
        raise Refused("`git` is not installed, or not on the PATH. Install it.") from error
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip()
        raise Refused(f"`git {' '.join(arguments[:2])}` failed: {said}")
    return result.stdout


def merge(mine: bytes, base: bytes, theirs: bytes) -> Merged:
    """The three-way merge of a text, by git."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("mine", "base", "theirs")]
        for path, content in zip(paths, (mine, base, theirs), strict=True):
            path.write_bytes(content)
        options = [option for label in LABELS for option in ("-L", label)]
        command = ["git", "merge-file", "--stdout", *options, *map(str, paths)]
        result = subprocess.run(command, capture_output=True, check=False)
    return Merged(result.stdout, is_clean=result.returncode == 0)


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
            prefix = git(root, "rev-parse", "--show-prefix").decode(errors="surrogateescape")
            git(root, "rev-parse", "--verify", "--quiet", "HEAD")
        except Refused as error:
            raise Refused(_why_no_repository(root, str(error))) from error
        return cls(root, prefix.rstrip("\n"))

    def git(self, *arguments: str, given: bytes | None = None) -> bytes:
        """The output of a git command in the project's root."""
        return git(self.root, *arguments, given=given)

    def head(self) -> str:
        """The commit that is checked out."""
        return self.git("rev-parse", "--verify", "HEAD").decode().strip()

    def state_dir(self) -> Path:
        """A folder of git's own, for what must outlive a command and stay out of commits.

        Each project of a repository has one.
        """
        path = self.git("rev-parse", "--git-path", "template-update")
        state = (self.root / os.fsdecode(path).rstrip("\n")).resolve()
        return state / "in" / self.prefix if self.prefix else state

    def dirt(self, below: str = ".") -> list[str]:
        """What git would say of a tree that is not clean, whatever is set to hide some of it."""
        options = ("--porcelain", "--no-renames", "--untracked-files=all")
        listed = self.git("-c", "core.quotePath=false", "status", *options, "--", below)
        return listed.decode(errors="backslashreplace").splitlines()

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
        contents = self._contents(f"{ref}:{self.prefix}{path}" for path in wanted)
        return {
            path: File(content, modes[path] == EXECUTABLE, is_link=modes[path] == LINK)
            for path, content in zip(wanted, contents, strict=True)
        }

    def on_disk(self, paths: Iterable[str]) -> dict[str, File]:
        """Those of the paths that are files here, as git would store them.

        So an edit counts that the index is told to overlook, and ends of lines don't.
        """
        here = read_all(self.root, sorted(paths))
        texts = [path for path, file in here.items() if not file.is_link]
        contents = self._contents(self._store(f"{self.prefix}{path}" for path in texts))
        stored = dict(zip(texts, contents, strict=True))
        modes = {} if self._knows_modes() else self.listing()
        return {
            path: File(
                stored.get(path, file.content),
                modes.get(path) == EXECUTABLE if path in modes else file.is_executable,
                file.is_link,
            )
            for path, file in here.items()
        }

    def as_checked_out(self, files: Mapping[str, File]) -> dict[str, File]:
        """The files as git would put them on disk: ends of lines, filters such as LFS's."""
        texts = {path: file for path, file in files.items() if not file.is_link}
        ids = self.store(file.content for file in texts.values())
        names = (f"{name} {self.prefix}{path}" for name, path in zip(ids, texts, strict=True))
        contents = dict(zip(texts, self._contents(names, "--filters"), strict=True))
        return {
            path: File(contents.get(path, file.content), file.is_executable, file.is_link)
            for path, file in files.items()
        }

    def store(self, contents: Iterable[bytes]) -> list[str]:
        """Store contents in git as they are; returns their names."""
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for number, content in enumerate(contents):
                paths.append(Path(folder, str(number)))
                paths[-1].write_bytes(content)
            return self._store(map(str, paths), "--no-filters")

    def mark_as_conflicts(self, conflicts: Mapping[str, tuple[File | None, ...]]) -> None:
        """Put base, mine and theirs into the index, so that git knows of each conflict."""
        if not conflicts:
            return
        blobs = [file for stages in conflicts.values() for file in stages if file]
        names = iter(self.store(file.content for file in blobs))
        empty = "0" * len(self.head())
        lines = []
        for path, stages in conflicts.items():
            lines.append(f"0 {empty}\t{self.prefix}{path}")
            lines += [
                f"{EXECUTABLE if file.is_executable else REGULAR} {next(names)} {number}"
                f"\t{self.prefix}{path}"
                for number, file in enumerate(stages, start=1)
                if file
            ]
        given = "\0".join(lines).encode(errors="surrogateescape")
        self.git("update-index", "-z", "--index-info", given=given)

    def reset_index(self, paths: Iterable[str]) -> None:
        """Make the index of some paths that of HEAD; no file is touched."""
        known = set(self.listing())
        paths = set(paths)
        if listed := sorted(paths & known):
            # literal: a path may hold what git takes for a pattern
            spec = "\0".join(f":(literal){path}" for path in listed)
            self.git(
                *("restore", "--source=HEAD", "--staged"),
                *("--pathspec-from-file=-", "--pathspec-file-nul"),
                given=spec.encode(errors="surrogateescape"),
            )
        if created := sorted(paths - known):
            listed_too = "\0".join(created).encode(errors="surrogateescape")
            self.git("update-index", "--force-remove", "-z", "--stdin", given=listed_too)

    def _knows_modes(self) -> bool:
        said = self.git("config", "--type=bool", "--default=true", "core.fileMode")
        return said.strip() == b"true"

    def _store(self, paths: Iterable[str], *options: str) -> list[str]:
        """The names of files, whose paths start at the repository's root: git takes no others."""
        top = self.root.joinpath(*[".."] * self.prefix.count("/"))
        given = "".join(f"{path}\n" for path in paths).encode(errors="surrogateescape")
        said = git(top, "hash-object", "-w", *options, "--stdin-paths", given=given)
        return said.decode().split()

    def _contents(self, names: Iterable[str], *options: str) -> list[bytes]:
        objects = "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
        output = self.git("cat-file", "--batch", *options, given=objects)
        contents, position = [], 0
        for _ in range(objects.count(b"\n")):
            start = output.index(b"\n", position) + 1
            size = int(output[position:start].split()[-1])
            contents.append(output[start : start + size])
            position = start + size + 1
        return contents


def _why_no_repository(root: Path, said: str) -> str:
    if "not a git repository" in said:
        return (
            f"`{root}` is not in a git repository, which an update needs to merge. Run"
            " `git init && git add --all && git commit --message Start`."
        )
    if "--verify" in said:
        return (
            "The repository has no commit yet, and an update needs one to merge. Run"
            " `git add --all && git commit --message Start`."
        )
    return said


def _paths(listing: bytes) -> set[str]:
    return {path for path in listing.decode(errors="surrogateescape").split("\0") if path}
