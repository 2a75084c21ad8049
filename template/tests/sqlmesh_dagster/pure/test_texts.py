"""What keeps a file from being read as text: pure."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from sqlmesh_dagster.engine.culprit import told
from sqlmesh_dagster.guard.texts import fault_of, read_dotenv

TEXT = "SELECT 1\nAS größe\n"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (TEXT.encode("utf-16"), "is UTF-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "is UTF-16"),
        (TEXT.encode("utf-32"), "is UTF-32"),
        (TEXT.encode("latin-1"), "line 2 has the byte 0xf6, which would be `ö`"),
        (TEXT.encode().replace(b"AS", b"\0AS"), "a NUL byte in line 2"),
        (codecs.BOM_UTF8 + TEXT.encode(), "a byte order mark"),
        (b"\xff", "line 1 has the byte 0xff"),
    ],
)
def test_other_bytes_are_named_with_what_to_do(data: bytes, fault: str) -> None:
    """Promise: the encoding or the line, and an order."""
    said = fault_of(data, may_have_mark=False)
    assert said is not None and fault in said and ("Save it" in said or "Take it" in said)


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
        said = told(raised.value, str(raised.value), tmp_path)
        assert ends in said and said.count("a.yaml") == 1
        named = f"cannot load '{file}'"
        assert told(raised.value, named, tmp_path).startswith(named)


def test_a_seeds_rows_are_named_where_the_message_has_its_model(tmp_path: Path) -> None:
    """Promise: SQLMesh names the model, whose text is fine."""
    model, rows = tmp_path / "s.sql", tmp_path / "s.csv"
    model.write_text("MODEL (name s, kind SEED (path 's.csv'));")
    rows.write_bytes("id\nü\n".encode("latin-1"))
    said = told(ValueError("x"), f"Failed to load '{model}'", tmp_path)
    assert "In `s.csv`, which is not UTF-8: line 2" in said
    rows.write_text("id\n1\n")
    assert (
        told(ValueError("x"), f"Failed to load '{model}'", tmp_path) == f"Failed to load '{model}'"
    )


@pytest.mark.parametrize("data", [b"A=1\nE\0=2\n", b"A=1\nE=2\0\n", b"A=1\nE=\xe9\n"])
def test_a_dotenv_that_no_variable_can_come_from_is_named(tmp_path: Path, data: bytes) -> None:
    """Promise: the file and the line; a NUL byte was an error without either."""
    (tmp_path / ".env").write_bytes(data)
    with pytest.raises(OSError, match=r"\.env` .*line 2"):
        read_dotenv(tmp_path / ".env")
    (tmp_path / ".env").write_bytes(b"# \0\nA=1\n")
    assert read_dotenv(tmp_path / ".env") == {"A": "1"}
