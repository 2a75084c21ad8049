"""What a load opens and lists, seen by Python's audit hooks: its inputs, whoever reads them."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = f"{Path(__file__).resolve().parents[1]}{os.sep}"
"""The integration reads all variables, to set them back; the project does not read these."""
_STDLIB = tuple(
    f"{Path(sysconfig.get_path(name)).resolve()}{os.sep}" for name in ("stdlib", "platstdlib")
)
_LIBRARIES = tuple(
    str(Path(sysconfig.get_path(name)).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_SYSTEM = tuple(
    dict.fromkeys(
        f"{folder.rstrip(os.sep)}{os.sep}"
        for folder in (sys.prefix, sys.base_prefix, "/usr", "/etc", "/lib", "/lib64", "/opt")
    )
)
"""Where only what the project's own code reads is an input: no time zones, certificates, or the like."""
_NEVER = ("/proc/", "/sys/", "/dev/")
_SQLITE = "sqlite3.connect"
_EVENTS = ("open", "os.listdir", "os.scandir", _SQLITE)
_ASKED = "os.stat"
_WRITING = os.O_WRONLY | os.O_RDWR
_DBT = tuple(str(Path("site-packages", name)) + os.sep for name in ("dbt", "dbt_common"))
"""Packages that look for a project's files by themselves; SQLMesh's own folders are known."""
_CACHE = str(Path("sqlmesh", "utils", "cache.py"))


@dataclass
class Reads:
    """Absolute paths of what one thread has opened and listed.

    Attributes:
        written: What it made itself, which is no input.
        own: Those that the project's own code has opened or listed, and no library for it.
        asked: What that code has asked whether it is there.
        helpers: Threads that it has started meanwhile.
    """

    thread: int = field(default_factory=threading.get_ident)
    opened: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    helpers: list[threading.Thread] = field(default_factory=list)

    @property
    def files(self) -> set[str]:
        """What was read and not made meanwhile, whether it was there or not."""
        return {path for path in self.opened - self.written if "__pycache__" not in path}


@contextmanager
def recorded_reads() -> Iterator[Reads]:
    """Records what this thread opens, lists and asks for meanwhile; libraries are left out.

    What a child process opens, or a library of another language, such as DuckDB, Python does not tell.
    """
    reads = Reads()
    _install()
    with _lock:
        _recordings.append(reads)
        os.stat = _asking
        threading.Thread.start = _starting  # type: ignore[method-assign]
    try:
        yield reads
    finally:
        with _lock:
            _recordings[:] = [other for other in _recordings if other is not reads]
            if not _recordings:
                os.stat = _stat
                threading.Thread.start = _start  # type: ignore[method-assign]


_recordings: list[Reads] = []
_installed: list[bool] = []
_lock = threading.Lock()


def _install() -> None:
    """An audit hook stays for the process's life; it is there only in one that has loaded a project."""
    with _lock:
        if not _installed:
            _installed.append(True)
            sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _recordings or event not in _EVENTS:
        return
    thread = threading.get_ident()
    for reads in list(_recordings):
        is_helper = any(helper.ident == thread for helper in reads.helpers)
        if reads.thread == thread or is_helper:
            _note(reads, event, arguments, is_helper=is_helper)


def _asking(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
    """`os.stat`, which Python's audit hooks do not tell, while reads are recorded."""
    thread = threading.get_ident()
    for reads in list(_recordings):
        if reads.thread == thread:
            _note(reads, _ASKED, (path,))
    return _stat(path, *args, **kwargs)


_stat = os.stat
for _known in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
    if _stat in _known:  # the standard library looks there for what it may ask of it
        _known.add(_asking)


def _starting(self: threading.Thread) -> None:
    """`Thread.start`, which the hooks tell only from Python 3.12 on."""
    thread = threading.get_ident()
    for reads in list(_recordings):
        if reads.thread == thread and any(map(_is_own, _callers(sys._getframe(1)))):
            reads.helpers.append(self)
    _start(self)


_start = threading.Thread.start


def _note(reads: Reads, event: str, arguments: tuple[Any, ...], *, is_helper: bool = False) -> None:
    given = arguments[0] if arguments[0] is not None else "."
    if not isinstance(given, (str, bytes, os.PathLike)):
        return
    path = os.path.abspath(os.fsdecode(given))  # noqa: PTH100 - no file may be touched here
    if event == _ASKED and (path in reads.asked or path in reads.opened):
        return
    if path.startswith(_NEVER) or is_library(path):
        return
    if event == "open" and _is_written(*arguments[1:3]):
        reads.written.add(path)
        return
    frame = sys._getframe(2)
    if event != "open" and _is_for_modules(frame):
        return
    callers = list(_callers(frame))
    is_own = is_helper or any(_is_own(file) for file in callers)
    if event == _ASKED:
        reads.asked.update([path] if is_own else ())
        return
    if is_own:
        reads.own.add(path)
    if event not in ("open", _SQLITE):
        if is_own or _is_dbts(callers):
            reads.listed.add(path)
    elif (is_own or not path.startswith(_SYSTEM)) and not _is_of_cache(callers):
        reads.opened.add(path)


def _is_written(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & _WRITING)


def _is_for_modules(frame: FrameType | None) -> bool:
    """Whether Python looks for modules or packages, in every folder of its path."""
    while frame is not None and frame.f_code.co_filename.startswith(("<frozen", *_STDLIB)):
        if any(name in frame.f_code.co_filename for name in ("importlib", "pkgutil")):
            return True
        frame = frame.f_back
    return False


def _is_dbts(callers: list[str]) -> bool:
    """Whether dbt itself looks for files; SQLMesh's own folders are known, and it walks too many."""
    return bool(callers) and any(name in callers[0] for name in _DBT)


def _is_of_cache(callers: list[str]) -> bool:
    return bool(callers) and callers[0].endswith(_CACHE)


def _callers(frame: FrameType | None) -> Iterator[str]:
    """The files of who is calling, from within, without the standard library; up to this package."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            if file != __file__:
                return
        elif not file.startswith(("<frozen", *_STDLIB)) or "site-packages" in file:
            yield file
        frame = frame.f_back


@cache
def _is_own(file: str) -> bool:
    """Whether code is the project's; SQLMesh runs macros and models from a `<string>`."""
    return file == "<string>" or not (
        file.startswith("<") or is_library(file) or is_library(os.path.realpath(file))
    )


def is_project_code(file: str) -> bool:
    """Whether a file's code is the project's, and not a library's or this package's."""
    return not (file.startswith(_PACKAGE) or file.startswith("<")) and _is_own(file)


def is_library(file: str) -> bool:
    """Whether a file is one of Python's or of an installed package."""
    return file.startswith((*_LIBRARIES, _PACKAGE)) or "site-packages" in file
