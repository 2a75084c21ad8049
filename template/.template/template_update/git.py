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
    *("GIT_NAMESPACE", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_REPLACE_REF_BASE"),
)
_NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")
"""The owner's hooks are for the owner's commands; one that fails must not stop a preview."""


def forget_the_callers_repository() -> None:
    """Let git find the project's repository by its folder; a git hook sets variables that name another."""
    for name in _WHERE:
        os.environ.pop(name, None)


def git(
    folder: Path, *arguments: str, given: bytes | None = None, index: Path | None = None
) -> bytes:
    """The output of a git command.

    Args:
        index: A file to use in the place of the repository's index.

    Raises:
        Refused: It failed.
    """
    other_index = {} if index is None else {"GIT_INDEX_FILE": str(index)}
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *_NO_HOOKS, *arguments],
            input=given,
            capture_output=True,
            check=False,
            env={**os.environ, **other_index, "LC_ALL": "C"},  # messages are read below
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
        """A folder inside `.git`, for what must outlive a command and stay out of commits.

        Each project of a repository has one.
        """
        path = self.git("rev-parse", "--git-path", "template-update")
        state = (self.root / os.fsdecode(path).rstrip("\n")).resolve()
        return state / "in" / self.prefix if self.prefix else state

    def dirt(self, below: str = ".") -> list[str]:
        """What `git status` lists, whatever options are set to hide some of it."""
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
        return {path: mode for path, (mode, _) in self._entries(ref).items()}

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

        So edits count that the index is told to ignore, and line endings do not.
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
        """The files as git would write them to disk: with line endings, and filters such as LFS's."""
        texts = {path: file for path, file in files.items() if not file.is_link}
        ids = self.store(file.content for file in texts.values())
        entries = {path: (REGULAR, name) for path, name in zip(texts, ids, strict=True)}
        with tempfile.TemporaryDirectory() as folder:
            index, place = Path(folder, "index"), Path(folder, "files")
            self._set_index(entries, index=index)
            git(self._top(), "checkout-index", "--all", f"--prefix={place}/", index=index)
            contents = {path: (place / self.prefix / path).read_bytes() for path in texts}
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
        """Put base, mine and theirs into the index, so that git knows each conflict."""
        if not conflicts:
            return
        blobs = [file for stages in conflicts.values() for file in stages if file]
        names = iter(self.store(file.content for file in blobs))
        self._set_index(dict.fromkeys(conflicts))
        lines = [
            f"{EXECUTABLE if file.is_executable else REGULAR} {next(names)} {number}"
            f"\t{self.prefix}{path}"
            for path, stages in conflicts.items()
            for number, file in enumerate(stages, start=1)
            if file
        ]
        self._index_info(lines)

    def reset_index(self, paths: Iterable[str]) -> None:
        """Reset the index of some paths to HEAD; no file is changed.

        Entries that are the same are not written: that would drop `--skip-worktree`.
        """
        listed = self.git("diff", "--cached", "--name-only", "--no-renames", "--relative", "-z")
        differing = _paths(listed) & set(paths)
        if differing:
            entries = self._entries("HEAD")
            self._set_index(dict.fromkeys(differing))  # all stages go
            self._set_index({path: entries[path] for path in differing if path in entries})

    def _set_index(
        self, entries: Mapping[str, tuple[str, str] | None], index: Path | None = None
    ) -> None:
        """Mode and blob of each path; None where there is to be no entry."""
        nothing = ("0", "0" * len(self.head()))
        facts = {path: entry or nothing for path, entry in entries.items()}
        lines = [f"{mode} {name}\t{self.prefix}{path}" for path, (mode, name) in facts.items()]
        self._index_info(lines, index)

    def _index_info(self, lines: Iterable[str], index: Path | None = None) -> None:
        given = "".join(f"{line}\0" for line in lines).encode(errors="surrogateescape")
        git(self._top(), "update-index", "-z", "--index-info", given=given, index=index)

    def _entries(self, ref: str) -> dict[str, tuple[str, str]]:
        listed = self.git("ls-tree", "-r", "-z", ref).decode(errors="surrogateescape").split("\0")
        parted = (entry.partition("\t") for entry in listed if entry)
        return {path: (facts.split()[0], facts.split()[2]) for facts, _, path in parted}

    def _top(self) -> Path:
        return self.root.joinpath(*[".."] * self.prefix.count("/"))

    def _knows_modes(self) -> bool:
        said = self.git("config", "--type=bool", "--default=true", "core.fileMode")
        return said.strip() == b"true"

    def _store(self, paths: Iterable[str], *options: str) -> list[str]:
        """The names of files, whose paths start at the repository's root: git takes no others."""
        given = "".join(f"{path}\n" for path in paths).encode(errors="surrogateescape")
        said = git(self._top(), "hash-object", "-w", *options, "--stdin-paths", given=given)
        return said.decode().split()

    def _contents(self, names: Iterable[str]) -> list[bytes]:
        objects = "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
        output = self.git("cat-file", "--batch", given=objects)
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
