"""What is wrong with a CSV file, in words: found before its table is touched."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import duckdb

from sqlmesh_dagster.errors import UnreadableFileError

_BEGINNING = 2**16
_DELIMITERS = ",;\t|"
_SHOWN = 60
"""Characters of a value that a message shows."""
_COMMENTS = 20
"""Lines among which the header is looked for."""
_PACKED = {
    b"\x1f\x8b": ("compressed with gzip", "gunzip -c {file} > {other} && mv {other} {file}"),
    b"PK\x03\x04": ("a zip or Excel file", ""),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "zstd -dc {file} > {other} && mv {other} {file}"),
    b"BZh": ("compressed with bzip2", "bzip2 -dc {file} > {other} && mv {other} {file}"),
    b"PAR1": ("a Parquet file", ""),
}
_OF_EXCEL = re.compile(rb"(?:\xef\xbb\xbf)?(sep=[,;|\t])\r?\n", re.IGNORECASE)
"""A line that says which sign is between the columns; it would be taken for their names."""
_RECODE = "iconv -f {encoding} -t UTF-8 {file} > {other} && mv {other} {file}"
_LINE = re.compile(r"CSV Error on Line: (\d+)")
_CONVERTED = re.compile(
    r'Error when converting column "(?P<column>.*?)"\. Could not convert string "(?P<value>.*?)" to \'(?P<type>.*?)\''
)
_WIDTH = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")


def refuse(path: Path) -> None:
    """Looks at the beginning of a file.

    Raises:
        UnreadableFileError: It is none that can be read, or is empty, or something else than text.
    """
    if not path.is_file():
        raise _error(
            path, f"it is {_what_it_is(path)}", "Put a CSV file in its place, or remove it"
        )
    try:
        with path.open("rb") as file:
            begin = file.read(_BEGINNING)
    except OSError as error:
        step = f"Let this user read it, as by `chmod a+r {quote(str(path))}`"
        raise _error(path, f"it cannot be opened: {error.strerror}", step) from error
    for magic, (kind, command) in _PACKED.items():
        if begin.startswith(magic):
            raise _error(path, f"it is {kind}", _by("Save it as CSV", path, command))
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
        step = _by("Save it as UTF-8", path, _RECODE.replace("{encoding}", "UTF-16"))
        raise _error(path, "its text is UTF-16", step)
    if first := _OF_EXCEL.match(begin):
        step = _by("Remove the line", path, "tail -n +2 {file} > {other} && mv {other} {file}")
        raise _error(path, f"its first line, `{first[1].decode()}`, is for Excel alone", step)
    if not begin.strip(b"\xef\xbb\xbf \t\r\n"):
        raise _error(
            path,
            "it is empty",
            "Its first line must name the columns: write that, or remove the file",
        )


def refuse_columns(path: Path, columns: list[str], skipped: int, delimiter: str) -> None:
    """Looks at what DuckDB takes for the columns: it skips lines, and takes two fields for one, where rows differ.

    Args:
        skipped: How many lines DuckDB leaves out before those that it reads.

    Raises:
        UnreadableFileError: With the line.
    """
    lost = [line for line in _lines(path, skipped) if delimiter in line.rstrip(delimiter)]
    is_one = len(columns) == 1 and any(mark in columns[0] for mark in _DELIMITERS)
    if lost or is_one:
        raise _uneven(path)
    header = _header(path, delimiter, skipped, columns)
    names = Counter(name.strip().casefold() for name in header)
    if twice := [name for name in header if name.strip() and names[name.strip().casefold()] > 1]:
        listed = ", ".join(f"`{name.strip()}`" for name in twice)
        raise _error(path, f"its columns {listed} are of one name", "Rename all but one of them")


def _header(path: Path, delimiter: str, skipped: int, columns: list[str]) -> list[str]:
    """The fields of the line that names the columns, which comments may precede; none if there is none."""
    first = columns[0].casefold()
    rows = (row for _, row in zip(range(_COMMENTS), _rows(path, delimiter, skipped), strict=False))
    return next((row for row in rows if row and row[0].strip().casefold() == first), [])


def unreadable(path: Path, error: duckdb.Error) -> UnreadableFileError:
    """What DuckDB says of a file, in a sentence and with what to do."""
    text = str(error)
    found = _LINE.search(text)
    line = f"line {found[1]}: " if found else ""
    if "not utf-8 encoded" in text:
        step = _by("Save it as UTF-8", path, _RECODE.replace("{encoding}", "WINDOWS-1252"))
        return _error(path, f"{line}its text is not UTF-8", step)
    if wrong := _CONVERTED.search(text):
        told = (
            f"{line}`{wrong['value'][:_SHOWN]}` of column `{wrong['column']}` is no {wrong['type']}"
        )
        step = "Correct the value, or the column's type in `external_models`"
        return _error(path, told, step)
    if width := _WIDTH.search(text):
        return _error(path, f"{line}it has {width[2]} fields, and the header {width[1]}", _QUOTE)
    if "sniffing" in text or "state machine" in text.lower():
        return _uneven(path)
    if "aximum line size" in text or len(text) > _BEGINNING:
        return _error(
            path, "a line of it is longer than 2 MB", "Shorten it, or close its quotation mark"
        )
    first = text.partition("\n")[0][: 3 * _SHOWN]
    return _error(path, first.rstrip("."), "Correct the file")


_QUOTE = "Correct the line: put a field that has the delimiter in it in double quotes"


def _uneven(path: Path) -> UnreadableFileError:
    """Where the rows are not as wide as the header, by the delimiter that the header has most of."""
    if len(ends := _line_ends(path)) > 1:
        step = _by(
            "Give each line the same end",
            path,
            "tr -d '\\r' < {file} > {other} && mv {other} {file}",
        )
        return _error(path, f"its lines end in {' and in '.join(ends)}", step)
    header, *_ = [*_lines(path, 1), ""]
    delimiter = max(_DELIMITERS, key=header.count)
    width = 0
    for number, row in enumerate(_rows(path, delimiter, 0), 1):
        width = width or len(row)
        if row and len(row) != width:
            told = f"line {number}: it has {len(row)} fields, and the header {width}"
            return _error(path, told, _QUOTE)
    return _error(
        path,
        "its rows have no common delimiter",
        f"Use one of {' '.join(_DELIMITERS)!r} between the fields",
    )


def _line_ends(path: Path) -> list[str]:
    with path.open("rb") as file:
        begin = file.read(_BEGINNING)
    windows = begin.count(b"\r\n")
    return [
        name for name, count in (("CRLF", windows), ("LF", begin.count(b"\n") - windows)) if count
    ]


def _lines(path: Path, count: int) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return [line for line, _ in zip(file, range(count), strict=False)]


def _rows(path: Path, delimiter: str, skipped: int) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for _ in range(skipped):
            next(file, None)
        try:
            yield from csv.reader(file, delimiter=delimiter)
        except csv.Error:  # a field that is longer than any
            return


def _what_it_is(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.is_symlink():
        return "a link to nothing"
    return "no file" if path.exists() else "not there"


def _by(step: str, path: Path, command: str) -> str:
    """With a command of a POSIX shell, where one does it."""
    if not command:
        return step
    file, other = quote(str(path)), quote(f"{path}.new")
    return f"{step}, as by `{command.format(file=file, other=other)}`"


def _error(path: Path, fault: str, step: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"The file `{path}` cannot be loaded: {fault}. {step}, and load it again; its table is as it was."
    )
