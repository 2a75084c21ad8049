"""Files that the template moved, split or dropped, and which edit belongs to which new path."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence

NAME = ".template/renames.json"

IsAtHome = Callable[[bytes, bytes, bytes], bool]
"""`is_at_home(mine, base, theirs)`: whether an edit merges into a file without conflict and changes it."""

_Hunk = tuple[int, int, list[bytes]]
"""Lines from … to … of the old text, and what the owner wrote there."""


def parse(text: str) -> dict[str, tuple[str, ...]]:
    """The new paths of each old one: one, several of a file that was split, or none.

    A string with spaces in between, never a list: the command of version 0.2.0 reads the file, too.
    """
    return {old: tuple(new.split()) for old, new in json.loads(text).items()}


def share_out(
    mine: bytes, base: bytes, places: Mapping[str, bytes], is_at_home: IsAtHome
) -> dict[str, bytes]:
    """For each new path, the old text with the edits that belong to it; paths without edits are left out.

    An edit belongs to the first path that it merges into; if there is none, to the first path.
    """
    if len(places) == 1:
        return dict.fromkeys(places, mine)
    old = base.splitlines(keepends=True)
    shares: dict[str, list[_Hunk]] = {}
    for hunk in _hunks(mine.splitlines(keepends=True), old):
        edited = _with(old, [hunk])
        fitting = (new for new, theirs in places.items() if is_at_home(edited, base, theirs))
        shares.setdefault(next(fitting, next(iter(places))), []).append(hunk)
    return {new: _with(old, hunks) for new, hunks in shares.items()}


def _hunks(mine: list[bytes], base: list[bytes]) -> list[_Hunk]:
    matcher = difflib.SequenceMatcher(None, base, mine, autojunk=False)
    return [
        (start, end, mine[new_start:new_end])
        for tag, start, end, new_start, new_end in matcher.get_opcodes()
        if tag != "equal"
    ]


def _with(lines: list[bytes], hunks: Sequence[_Hunk]) -> bytes:
    edited = list(lines)
    for start, end, written in reversed(hunks):
        edited[start:end] = written
    return b"".join(edited)
