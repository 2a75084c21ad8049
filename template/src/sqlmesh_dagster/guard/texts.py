"""What keeps a file from being read as text, in words: another encoding, a byte order mark, a NUL byte."""

from __future__ import annotations

import codecs
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""In this order: the mark of UTF-16 begins that of UTF-32."""


def fault_of(data: bytes, *, may_have_mark: bool = True) -> str | None:
    """What is wrong with the bytes of a text, and what to do; None for UTF-8.

    Args:
        may_have_mark: Whether who reads it leaves out a byte order mark, as Python and YAML do.
    """
    for mark, name in _WIDE.items():
        if data.startswith(mark):
            return f"is {name}, and is read as UTF-8. Save it as UTF-8."
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start : error.start + 1]
        return (
            f"is not UTF-8: line {line} has the byte 0x{byte.hex()}, which would be"
            f" `{byte.decode('cp1252', errors='replace')}` in Windows-1252. Save it as UTF-8."
        )
    if (at := data.find(b"\0")) >= 0:
        return f"has a NUL byte in line {data.count(bytes([10]), 0, at) + 1}. Take it out."
    if data.startswith(codecs.BOM_UTF8) and not may_have_mark:
        return "begins with a byte order mark (BOM). Save it as UTF-8 without one."
    return None


def read_dotenv(path: Path) -> dict[str, str | None]:
    """What a `.env` sets; nothing if it is not there.

    Raises:
        OSError: It cannot be read; without a number of the system's, it is no text, and the error says why.
    """
    try:
        values = dotenv_values(path)
        if any("\0" in f"{name}{value}" for name, value in values.items()):
            raise ValueError
    except ValueError as error:
        raise OSError(f"`{path}` {fault_of(path.read_bytes())}".rstrip(".")) from error
    return values


def whole_dotenv(path: Path) -> dict[str, str | None]:
    """The same of a file that nobody else reads: what would be left out silently is an error.

    Raises:
        OSError: As above; or it is no file, or a line of it sets nothing.
    """
    if path.is_dir():  # Docker makes one where a file that is mounted is not there
        raise OSError(f"`{path}` is a folder. Put the file in its place, or remove it")
    if path.is_symlink() and not path.exists():
        raise OSError(f"`{path}` is a link to nothing. Let it lead to a file, or remove it")
    values = read_dotenv(path)
    if path.is_file() and (line := _broken_line(path)):
        raise OSError(
            f"`{path}` cannot be read: its line {line} sets no variable. Write it as `NAME=value`, with quotes"
            " that end, or as a comment that begins with `#`"
        )
    return values


def _broken_line(path: Path) -> int | None:
    with path.open(encoding="utf-8") as lines:
        return next((each.original.line for each in parse_stream(lines) if each.error), None)
