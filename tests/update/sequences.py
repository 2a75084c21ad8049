"""Random days of an owner, and what must be true after each step: no byte of theirs is lost.

    python -m tests.update.sequences --count 2000

prints the count of sequences and steps, and stops at the first that loses something, with its seed.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.append(str(ROOT / "template/.template"))
from tests.update import small
from tests.update.projects import Project
from tests.update.small import VENDORED, Done, Small

TOKEN = re.compile(rb"token_\d+_")
NAMES = [
    *(f"{VENDORED}/{n}.py" for n in ("same", "changed", "moved", "split", "dropped", "into")),
    *(f"{VENDORED}/run/{n}.py" for n in ("moved", "upper", "lower")),
    *(f"{VENDORED}/added.py", f"{VENDORED}/changed.py.mine", f"{VENDORED}/changed.py.rej"),
    *("src/ours/defs.py", "README.md", "pyproject.toml", "notes.txt", ".gitignore"),
    *(f"{VENDORED}/logo.bin", f"{VENDORED}/same.bin"),
]
CALLS = 160
"""How often an update touches a file or starts a process, about."""


@dataclass
class Day:
    """One project, with the tokens that its owner has saved and not given up."""

    small: Small
    project: Project
    random: random.Random
    tokens: set[bytes] = field(default_factory=set)
    written: int = 0
    log: list[str] = field(default_factory=list)
    blobs: dict[str, frozenset[bytes]] = field(default_factory=dict)
    """Tokens by git's name of a content, which never changes."""

    # --- what the owner does --------------------------------------------------------

    def edit(self) -> None:
        """Insert a line with a new token somewhere in a file, which need not exist."""
        path = self._some_path()
        if path.is_dir() or path.is_symlink() or any(p.is_file() for p in path.parents):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        self.written += 1
        token = b"token_%d_" % self.written
        lines.insert(self.random.randint(0, len(lines)), b"# %s\n" % token)
        path.write_bytes(b"".join(lines))
        self.tokens.add(token)
        self.log.append(f"  {path.relative_to(self.project.root)} {token.decode()}")

    def delete(self) -> None:
        """Delete a file."""
        if (path := self._some_path()).is_file():
            path.unlink()

    def rename(self) -> None:
        """Rename a file."""
        path = self._some_path()
        if path.is_file():
            path.rename(path.with_name(f"renamed_{path.name}"))

    def chmod(self) -> None:
        """Make a file executable, or not."""
        if (path := self._some_path()).is_file():
            path.chmod(path.stat().st_mode ^ 0o111)

    def stage(self) -> None:
        """`git add`."""
        self._git("add", "--all")

    def commit(self) -> None:
        """Commit everything."""
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message", "Mine")

    def stash(self) -> None:
        """Put everything away."""
        self._git("stash", "--include-untracked")

    def pop(self) -> None:
        """Take it out again."""
        self._git("stash", "pop")

    def ignore(self) -> None:
        """Let git forget a file, which stays."""
        path = self._some_name()
        with (self.project.root / ".git/info/exclude").open("a") as stream:
            stream.write(f"/{path}\n")
        self._git("rm", "--quiet", "--cached", "--", path)

    def flag(self) -> None:
        """Tell the index to overlook a file, or not any more."""
        flags = ("skip-worktree", "no-skip-worktree", "assume-unchanged", "no-assume-unchanged")
        self._git("update-index", f"--{self.random.choice(flags)}", "--", self._some_name())

    def clean(self) -> None:
        """Clean up by hand, as after something went wrong."""
        self._git("reset", "--quiet", "--hard")
        self._git("clean", "--quiet", "--force", "-d")

    # --- what the update does -------------------------------------------------------

    def update(self) -> Done:
        """`poe update`."""
        return self._run("update")

    def preview(self) -> Done:
        """`poe update --preview`."""
        return self._run("update", "--preview")

    def review(self) -> Done:
        """`poe update --review`."""
        return self._run("update", "--review")

    def undo(self) -> Done:
        """`poe update --undo`."""
        return self._run("update", "--undo")

    def killed(self) -> Done:
        """One of them, killed at a random call."""
        mode = self.random.choice([[], [], ["--undo"], ["--review"]])
        number = self.random.randint(1, CALLS)
        self.log.append(f"  {mode} at {number}")
        return self._run("update", *mode, before=small.kill_at(number))

    def interrupted(self) -> Done:
        """One of them, while the owner saves a file at a random call."""
        mode = self.random.choice([[], [], ["--undo"], ["--review"]])
        number, path = self.random.randint(1, CALLS), self._some_path()
        self.written += 1
        token = b"token_%d_" % self.written
        saved = self.project.root / ".git/saved"
        saved.unlink(missing_ok=True)

        def save() -> None:
            if path.is_file():
                path.write_bytes(path.read_bytes() + b"# %s\n" % token)
                saved.touch()

        done = self._run("update", *mode, before=small.at(number, save))
        self.log.append(f"  {mode} at {number}: {path.relative_to(self.project.root)} {token!r}")
        if saved.exists():
            self.tokens.add(token)
        return done

    def plain_update(self) -> Done:
        """Plain `copier update`."""
        return small.plain_update(self.project)

    # --- where things are -----------------------------------------------------------

    def found(self) -> set[bytes]:
        """The tokens that are in the tree, in git where somebody can find them, or kept aside."""
        aside = small.undo_folder(self.project)
        files = [path for path in self.project.root.rglob("*") if path.is_file()]
        files = [path for path in files if ".git" not in path.relative_to(self.project.root).parts]
        files += [path for path in aside.rglob("*") if path.is_file()]
        tokens = {token for path in files for token in TOKEN.findall(path.read_bytes())}
        return tokens.union(*self._in_git())

    def _in_git(self) -> Iterator[frozenset[bytes]]:
        reachable = self._git("rev-list", "--objects", "--all", "--reflog").split("\n")
        staged = self._git("ls-files", "--stage").split("\n")
        names = {line[:40] for line in reachable} | {line[7:47] for line in staged}
        new = sorted(name for name in names - set(self.blobs) if name)
        given = "".join(f"{name}\n" for name in new).encode()
        command = ["git", "cat-file", "--batch"]
        said = subprocess.run(
            command, cwd=self.project.root, input=given, capture_output=True, check=True
        ).stdout
        position = 0
        for name in new:
            end = said.index(b"\n", position)
            size = int(said[position:end].split()[-1])
            self.blobs[name] = frozenset(TOKEN.findall(said[end : end + 1 + size]))
            position = end + size + 2
        yield from (self.blobs[name] for name in names if name in self.blobs)

    def in_the_open(self) -> set[bytes]:
        """The tokens in files of the tree."""
        return {token for c in self.project.contents().values() for token in TOKEN.findall(c)}

    def _some_name(self) -> str:
        return self.random.choice(NAMES)

    def _some_path(self) -> Path:
        return self.project.root / self._some_name()

    def _git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=self.project.root, capture_output=True, text=True, check=False
        )
        return done.stdout

    def _run(self, *arguments: str, before: Callable[[], object] | None = None) -> Done:
        return small.run(self.small, self.project, *arguments, before=before)


OWNERS: list[tuple[Callable[[Day], object], int]] = [
    (Day.edit, 30),
    (Day.delete, 3),
    (Day.rename, 3),
    (Day.chmod, 2),
    (Day.stage, 3),
    (Day.commit, 12),
    (Day.stash, 3),
    (Day.pop, 3),
    (Day.ignore, 4),
    (Day.flag, 6),
    (Day.clean, 3),
]
UPDATES: list[tuple[Callable[[Day], Done], int]] = [
    (Day.update, 10),
    (Day.preview, 2),
    (Day.review, 5),
    (Day.undo, 7),
    (Day.killed, 10),
    (Day.interrupted, 5),
    (Day.plain_update, 4),
]


def live(small_template: Small, folder: Path, seed: int) -> Counter[str]:
    """One sequence; returns how often each action was taken.

    Raises:
        AssertionError: Something is lost, or not reported.
    """
    chance = random.Random(seed)
    day = Day(small_template, small_template.project(folder), chance)
    counts: Counter[str] = Counter()
    for _ in range(chance.randint(4, 14)):
        if chance.random() < 0.62:
            act, weights = zip(*OWNERS, strict=True)
            (action,) = chance.choices(act, weights)
            day.log.append(action.__name__)
            action(day)
            day.tokens &= day.found()  # what the owner gives up is given up
        else:
            updates, weights = zip(*UPDATES, strict=True)
            (update,) = chance.choices(updates, weights)
            day.log.append(update.__name__)
            action_name = update.__name__
            _updated(day, update, seed)
            counts[action_name] += 1
            continue
        counts[action.__name__] += 1
    return counts


def _updated(day: Day, update: Callable[[Day], Done], seed: int) -> None:
    before, open_before = day.project.contents(), day.in_the_open()
    done = update(day)
    day.log.append(f"  -> {done.code}")
    told = f"seed {seed}:\n" + "\n".join(day.log) + f"\n{done.output}"
    if update is Day.plain_update:  # Copier's own losses: of ignored files and hidden edits
        day.tokens &= day.found()
        return
    assert day.tokens <= day.found(), f"lost {day.tokens - day.found()}, {told}"
    if update in (Day.killed, Day.interrupted):
        return
    assert "Traceback" not in done.output and done.code in (0, 1, 2), told
    if done.code == 2:
        assert day.project.contents() == before, f"2, and something has changed, {told}"
    committed = {t for tokens in (day.blobs.get(n) for n in _of_head(day)) for t in tokens or ()}
    hidden = (open_before - day.in_the_open() - committed) & day.tokens
    if hidden:
        assert "undone" in done.output, f"not told: {hidden}, {told}"


def _of_head(day: Day) -> set[str]:
    listed = day._git("ls-tree", "-r", "HEAD").split("\n")
    return {line.split("\t")[0].split(" ")[2] for line in listed if line}


@contextmanager
def _machine(folder: Path) -> Iterator[None]:
    """No setting of this machine's user reaches git or Copier."""
    (folder / "gitconfig").write_text(
        "[user]\nname = Ada\nemail = ada@example.com\n[core]\nfsync = none\n"
    )
    (folder / "copier.yml").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(folder / "gitconfig"))
        patch.setenv("COPIER_SETTINGS_PATH", str(folder / "copier.yml"))
        yield


def main() -> None:
    """Run many sequences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first sequence")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name, _machine(Path(name)):
        template = small.make(Path(name) / "small")
        for seed in range(options.first, options.first + options.count):
            with tempfile.TemporaryDirectory() as folder:
                counts += live(template, Path(folder), seed)
            if seed % 100 == 99:
                print(f"{seed + 1 - options.first} sequences, nothing lost", flush=True)
    minutes = (time.monotonic() - start) / 60
    print(f"{options.count} sequences, {counts.total()} steps, nothing lost; {minutes:.1f} minutes")
    print(", ".join(f"{name} {count}" for name, count in counts.most_common()))


if __name__ == "__main__":
    main()
