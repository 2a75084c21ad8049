"""What owners do to files of the template's, and what the template does to them meanwhile."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Change = Callable[[Path], object]

MINE = "# mine: kept for ever"
THEIRS = "# theirs: a fix"


def _insert(line: str, where: Callable[[int], int]) -> Change:
    def change(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines.insert(where(len(lines)), line)
        path.write_text("\n".join(lines) + "\n")

    return change


def _replace(line: str, where: Callable[[int], int]) -> Change:
    def change(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines[where(len(lines))] = line
        path.write_text("\n".join(lines) + "\n")

    return change


def _first(_: int) -> int:
    return 0


def _middle(length: int) -> int:
    return length // 2


def _last(length: int) -> int:
    return length - 1


def _end(length: int) -> int:
    return length


def _text(change: Callable[[str], str]) -> Change:
    return lambda path: path.write_text(change(path.read_text()))


def _bytes(change: Callable[[bytes], bytes]) -> Change:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _delete(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name(f"renamed_{path.name}"))


def _rename_and_edit(path: Path) -> None:
    _insert(MINE, _middle)(path)
    _rename(path)


def _move(path: Path) -> None:
    target = path.parent / "moved" / path.name
    target.parent.mkdir(exist_ok=True)
    path.rename(target)


def _copy(path: Path) -> None:
    path.with_name(f"copy_of_{path.name}").write_text(path.read_text() + MINE + "\n")


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def _make_executable(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o111)


def _delete_middle(path: Path) -> None:
    lines = path.read_text().splitlines()
    del lines[len(lines) // 2 : len(lines) // 2 + 3]
    path.write_text("\n".join(lines) + "\n")


def _everywhere(path: Path) -> None:
    for where in (_first, _middle, _end):
        _insert(MINE, where)(path)


EDITS: Mapping[str, Change] = {
    "insert_first": _insert(MINE, _first),
    "insert_middle": _insert(MINE, _middle),
    "append": _insert(MINE, _end),
    "insert_everywhere": _everywhere,
    "replace_first": _replace(MINE, _first),
    "replace_middle": _replace(MINE, _middle),
    "replace_last": _replace(MINE, _last),
    "delete_middle": _delete_middle,
    "rewrite": lambda path: path.write_text(f"{MINE}\n" * 5),
    "empty": lambda path: path.write_text(""),
    "indent": _text(lambda text: "".join(f"    {line}\n" for line in text.splitlines())),
    "blank_lines": _text(lambda text: text.replace("\n", "\n\n")),
    "no_final_newline": _text(lambda text: text.rstrip("\n")),
    "crlf": _bytes(lambda content: content.replace(b"\n", b"\r\n") + b"# mine\r\n"),
    "latin_1": _bytes(lambda content: content + "# caf\xe9\n".encode("latin-1")),
    "nul_byte": _bytes(lambda content: content + b"# mine\0\n"),
    "conflict_markers": _text(lambda text: f"{text}<<<<<<< mine\n=======\n>>>>>>> mine\n"),
    "the_same_fix": _replace(THEIRS, _middle),
    "executable": _make_executable,
    "delete": _delete,
    "rename": _rename,
    "rename_and_edit": _rename_and_edit,
    "move": _move,
    "copy": _copy,
    "link": _link,
    "untouched": lambda path: None,
}
"""By name; each takes the file that it is done to."""

FIXES: Mapping[str, Change] = {
    "replaces_first": _replace(THEIRS, _first),
    "replaces_middle": _replace(THEIRS, _middle),
    "replaces_last": _replace(THEIRS, _last),
    "appends": _insert(THEIRS, _end),
    "rewrites": lambda path: path.write_text(f"{THEIRS}\n" * 5),
    "makes_executable": _make_executable,
    "makes_binary": _bytes(lambda content: content + b"# theirs\0\n"),
    "drops": _delete,
    "renames": _rename,
    "leaves": lambda path: None,
}
"""What a release does to a file, by name."""


@dataclass(frozen=True)
class Fate:
    """One file: the template's old and new one, the owner's, and what the update made of them.

    Contents as they lie on disk; None where there is no file.
    """

    name: str
    base: bytes | None
    theirs: bytes | None
    mine: bytes | None
    now: bytes | None
    modes: tuple[bool, bool, bool, bool]
    """Whether each of the four is executable."""

    @property
    def is_edit_there(self) -> bool:
        """Whether all that the owner added is there, and all that the owner removed is not."""
        if self.mine == self.base:
            return True
        if self.mine is None:
            return self.now is None
        if self.now is None:
            return False
        return self.mine == self.now or _has_difference(self.base, self.mine, self.theirs, self.now)

    @property
    def is_mode_there(self) -> bool:
        """Whether the file can be executed if the owner, or else the template, says so."""
        base, theirs, mine, now = self.modes
        return self.now is None or self.mine is None or now == (mine if mine != base else theirs)

    @property
    def is_fix_there(self) -> bool:
        """Whether what the template changed has arrived."""
        if self.theirs in (self.base, self.now):
            return True
        if self.theirs is None or self.now is None:
            return self.now == self.theirs
        return _has_difference(self.base, self.theirs, self.mine, self.now)


def _has_difference(before: bytes | None, after: bytes, other: bytes | None, now: bytes) -> bool:
    """Whether `now` has the lines that `after` adds to `before`, and lacks those that it removes.

    Unless `other` adds such lines, too.
    """
    counts = [Counter((content or b"").splitlines(keepends=True)) for content in (before, after)]
    lines, others = (
        Counter(now.splitlines(keepends=True)),
        Counter((other or b"").splitlines(keepends=True)),
    )
    added, removed = counts[1] - counts[0], counts[0] - counts[1]
    others_added = others - counts[0]
    return added <= lines and all(
        lines[line] <= counts[1][line] + others_added[line] for line in removed
    )
