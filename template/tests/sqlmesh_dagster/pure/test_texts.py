"""What keeps a file from being read as text: pure."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from sqlmesh_dagster.engine.culprit import with_culprit
from sqlmesh_dagster.guard.texts import fault_of, read_dotenv, whole_dotenv

TEXT = "SELECT 1\nAS größe\n"


_WIDE = ", and is read as UTF-8. Save it as UTF-8."


def _byte(line: int, byte: str, meant: str) -> str:
    return (
        f"is not UTF-8: line {line} has the byte {byte}, which would be `{meant}` in Windows-1252."
        " Save it as UTF-8."
    )


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (TEXT.encode("utf-16"), f"is UTF-16{_WIDE}"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), f"is UTF-16{_WIDE}"),
        (TEXT.encode("utf-32"), f"is UTF-32{_WIDE}"),
        (codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"), f"is UTF-32{_WIDE}"),
        (TEXT.encode("latin-1"), _byte(2, "0xf6", "ö")),
        (b"a\n\n\n\x81", _byte(4, "0x81", "\ufffd")),
        (b"\xff", _byte(1, "0xff", "ÿ")),
        (TEXT.encode().replace(b"AS", b"\0AS"), "has a NUL byte in line 2. Take it out."),
        (b"\0", "has a NUL byte in line 1. Take it out."),
        (b"\na\0\n\0", "has a NUL byte in line 2. Take it out."),
        (b"\n\xff", _byte(2, "0xff", "ÿ")),
        (
            codecs.BOM_UTF8 + TEXT.encode(),
            "begins with a byte order mark (BOM). Save it as UTF-8 without one.",
        ),
    ],
)
def test_other_bytes_are_named_with_what_to_do(data: bytes, fault: str) -> None:
    """Promise: the encoding or the line, and an order."""
    assert fault_of(data, may_have_mark=False) == fault


def test_a_dotenv_is_read_or_says_why_it_is_none(tmp_path: Path) -> None:
    """Promise: its values, and those without one; nothing where there is no file; the file and the line where it is no text."""
    file = tmp_path / ".env"
    assert read_dotenv(file) == {}
    file.write_text("NAME='a b' # why\nexport OTHER=1\nALONE\n", encoding="utf-8")
    assert read_dotenv(file) == {"NAME": "a b", "OTHER": "1", "ALONE": None}
    file.write_bytes(b"NAME=1\nOTHER=\xf6\n")
    with pytest.raises(OSError) as refused:
        read_dotenv(file)
    assert str(refused.value) == f"`{file}` {_byte(2, '0xf6', 'ö')}".rstrip(".")
    assert refused.value.errno is None


@pytest.mark.parametrize("data", [b"", TEXT.encode(), TEXT.replace("\n", "\r\n").encode()])
def test_utf_8_is_no_fault(data: bytes) -> None:
    """Promise: with either end of lines; with a mark where the reader knows it."""
    assert fault_of(data, may_have_mark=False) is None
    assert fault_of(codecs.BOM_UTF8 + data) is None


def _read(path: Path) -> None:
    path.read_text(encoding="utf-8").index("x")


def test_the_file_that_was_being_read_is_named(tmp_path: Path) -> None:
    """Promise: SQLMesh's message often has none; one that it has is not told twice."""
    for data, ends in (
        (b"\xff", "In `a.yaml`, which is not UTF-8"),
        (b"y", "not found\nIn `a.yaml`."),
    ):
        file = tmp_path / "a.yaml"
        file.write_bytes(data)
        with pytest.raises(ValueError) as raised:
            _read(file)
        said = with_culprit(raised.value, str(raised.value), tmp_path)
        assert ends in said and said.count("a.yaml") == 1
        named = f"cannot load '{file}'"
        assert with_culprit(raised.value, named, tmp_path).startswith(named)


def test_a_seeds_rows_are_named_where_the_message_has_its_model(tmp_path: Path) -> None:
    """Promise: SQLMesh names the model, whose text is fine."""
    model, rows = tmp_path / "s.sql", tmp_path / "s.csv"
    model.write_text("MODEL (name s, kind SEED (path 's.csv'));")
    rows.write_bytes("id\nü\n".encode("latin-1"))
    said = with_culprit(ValueError("x"), f"Failed to load '{model}'", tmp_path)
    assert "In `s.csv`, which is not UTF-8: line 2" in said
    rows.write_text("id\n1\n")
    assert (
        with_culprit(ValueError("x"), f"Failed to load '{model}'", tmp_path)
        == f"Failed to load '{model}'"
    )


@pytest.mark.parametrize("data", [b"A=1\nE\0=2\n", b"A=1\nE=2\0\n", b"A=1\nE=\xe9\n"])
def test_a_dotenv_that_no_variable_can_come_from_is_named(tmp_path: Path, data: bytes) -> None:
    """Promise: the file and the line; a NUL byte was an error without either."""
    (tmp_path / ".env").write_bytes(data)
    with pytest.raises(OSError, match=r"\.env` .*line 2"):
        read_dotenv(tmp_path / ".env")
    (tmp_path / ".env").write_bytes(b"# \0\nA=1\n")
    assert read_dotenv(tmp_path / ".env") == {"A": "1"}


@pytest.mark.parametrize(
    "line", ["SQLMESH_ENVIRONMENT: prod", "NAME='no end", "= x", "NAME = 'a' b"]
)
def test_a_line_that_sets_nothing_is_told_and_not_left_out(tmp_path: Path, line: str) -> None:
    """Promise: with its number, and not with its value, which may be a secret; else another environment is built."""
    file = tmp_path / ".env"
    good = "# why\n\nexport A=1\r\nALONE\nB='two\nlines'\nC = \"x # y\" # z\n"
    file.write_bytes(good.encode())
    assert whole_dotenv(file) == {"A": "1", "ALONE": None, "B": "two\nlines", "C": "x # y"}
    file.write_text(f"{good}{line}\nD=1\n")
    with pytest.raises(OSError) as told:
        whole_dotenv(file)
    assert str(told.value).startswith(
        f"`{file}` cannot be read: its line 8 sets no variable. Write"
    )


def test_a_dotenv_that_is_no_file_is_told(tmp_path: Path) -> None:
    """Promise: a folder, which Docker makes of a file that is not there, and a link to nothing; not one that is not there."""
    file = tmp_path / ".env"
    assert whole_dotenv(file) == {}
    file.symlink_to(tmp_path / "gone")
    with pytest.raises(OSError, match="is a link to nothing"):
        whole_dotenv(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(OSError, match="is a folder"):
        whole_dotenv(file)
