"""A CSV file becomes a table: the same on each engine, and what changed is known."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlmesh.core.config import GatewayConfig

from sqlmesh_dagster import UnreadableFileError
from sqlmesh_dagster.csv_files import LoadedFile, load_csv
from tests.postgres import postgres

_HEADER = "id,name,amount,is_paid,day,paid_at\n"
_ROWS = (
    "1,Ada,1.50,true,2025-01-01,2025-01-01 10:00:00\n"
    '2,"O\'Hara, ""Bo""",,false,,2025-01-02 11:00:00.25\n'
    "9007199254740993,,0.1,,2025-01-03,2025-01-03 12:00:00\n"
)
_VALUES = [
    (1, "Ada", 1.5, True, date(2025, 1, 1), datetime(2025, 1, 1, 10)),
    (2, 'O\'Hara, "Bo"', None, False, None, datetime(2025, 1, 2, 11, 0, 0, 250000)),
    (9007199254740993, None, 0.1, None, date(2025, 1, 3), datetime(2025, 1, 3, 12)),
]


def duckdb_connection(folder: Path) -> Iterator[dict[str, Any]]:
    """An empty file."""
    yield {"type": "duckdb", "database": str(folder / "warehouse.duckdb")}


def postgres_connection(_: Path) -> Iterator[dict[str, Any]]:
    """An empty database."""
    with postgres() as server:
        server.create_database("raw")
        yield {
            "type": "postgres",
            "host": "127.0.0.1",
            "port": server.port,
            "user": "postgres",
            "password": "none",
            "database": "raw",
        }


@pytest.fixture(
    params=[duckdb_connection, pytest.param(postgres_connection, marks=pytest.mark.slow)],
    ids=["duckdb", "postgres"],
    scope="module",
)
def adapter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """SQLMesh's engine adapter."""
    for given in request.param(tmp_path_factory.mktemp("warehouse")):
        connection = GatewayConfig(connection=given).connection
        assert connection is not None
        adapter = connection.create_engine_adapter()
        adapter.create_schema("raw")
        yield adapter
        adapter.close()


class Load:
    """Loads of one file into the table of a test."""

    def __init__(self, adapter: Any, folder: Path, name: str) -> None:
        self.adapter, self.path, self.name = adapter, folder / "file.csv", name

    def __call__(self, text: str, time: str | None = "paid_at", **types: str) -> LoadedFile:
        """What a load of a file with this text did."""
        self.path.write_text(text)
        return load_csv(self.adapter, self.path, ("raw", self.name), types=types, time=time)

    def rows(self, what: str = "*") -> list[tuple[Any, ...]]:
        """What is in the table."""
        found = self.adapter.fetchall(f'SELECT {what} FROM raw."{self.name}" ORDER BY 1')
        return [tuple(row) for row in found]


@pytest.fixture
def load(adapter: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Load:
    """A table of its own."""
    name = request.node.name.partition("[")[0].removeprefix("test_")[:30]
    return Load(adapter, tmp_path, name)


def test_values_arrive_as_they_are(load: Load) -> None:
    """Promise: quotes, missing values and large numbers, at the first load and when the table is there."""
    for _ in range(2):
        assert load(_HEADER + _ROWS).rows == 3
        assert load.rows() == _VALUES


def test_a_view_on_the_table_goes_on(load: Load) -> None:
    """Promise: models' views read the new rows; a new column arrives, too."""
    load("id,day\n1,2025-01-01\n", "day")
    load.adapter.execute(f'CREATE VIEW raw.on_it AS SELECT id FROM raw."{load.name}"')
    load("id,day,colour\n2,2025-01-02,red\n", "day")
    assert [tuple(row) for row in load.adapter.fetchall("SELECT id FROM raw.on_it")] == [(2,)]
    assert load.rows("colour") == [("red",)]


def test_a_header_in_upper_case_is_found_by_models(load: Load) -> None:
    """Promise: by the names that SQLMesh writes for DuckDB's dialect, on each engine; declared types and times count."""
    load.name = f"{load.name[:20]}_Upper"
    for day in ("2025-01-01", "2025-01-02"):
        loaded = load(f"ID,Zip,Paid\n1,007,{day}\n", "paid", zip="TEXT")
    load.name = load.name if load.adapter.dialect == "duckdb" else load.name.lower()
    assert load.rows('"id", "zip"') == [(1, "007")]
    assert loaded.changed == (date(2025, 1, 1), date(2025, 1, 2))
    kept = "_Kept" if load.adapter.dialect != "duckdb" else "ID"
    load.adapter.execute(f'ALTER TABLE raw."{load.name}" ADD COLUMN "_Kept" INT')
    load("_Kept,ID\n7,1\n", None)
    assert kept in load.adapter.columns(f'raw."{load.name}"'), "others may read it by this name"


def test_the_time_of_what_changed_is_known(load: Load) -> None:
    """Promise: of rows that are new, changed or gone; of the same file again, nothing is."""
    assert load(_HEADER + _ROWS).changed is None, "of a first load, everything is new"
    assert load(_HEADER + _ROWS).metadata == {"dagster/row_count": 3}
    more = _ROWS.replace("1.50", "2.50") + "4,Eve,1,true,2025-01-09,2025-01-09 10:00:00\n"
    assert load(_HEADER + more).metadata["sqlmesh/loaded_range"] == {
        "start": "2025-01-01T10:00:00",
        "end": "2025-01-09T10:00:00",
    }
    assert load(_HEADER + _ROWS.replace("Ada", "Ida"), None).changed is None
    assert load(_HEADER + _ROWS).changed == (datetime(2025, 1, 1, 10), datetime(2025, 1, 1, 10))


def test_a_file_without_rows_empties_the_table(load: Load) -> None:
    """Promise: at once, and as the first load, where the declared types make the table."""
    types = {"id": "BIGINT", "day": "DATE"}
    assert load("id,day\n", "day", **types).rows == 0
    load("id,day\n1,2025-01-01\n", "day", **types)
    emptied = load("id,day\n", "day", **types)
    assert (emptied.rows, emptied.changed) == (0, (date(2025, 1, 1), date(2025, 1, 1)))
    assert load.rows() == []


def test_declared_types_win_over_what_a_file_looks_like(load: Load) -> None:
    """Promise: a column of digits stays text; a value that does not fit fails, and the table stays."""
    load("id,code\n1,007\n", None, code="VARCHAR")
    assert load.rows("code") == [("007",)]
    with pytest.raises(UnreadableFileError, match="line 2: `one` of column `id` is no BIGINT"):
        load("id,code\none,007\n", None, id="BIGINT")
    assert load.rows("code") == [("007",)]


_BAD = {
    b"": "it is empty. Its first line must name the columns",
    b"\xef\xbb\xbf \r\n": "it is empty",
    b"id,name\n1,a\n2,b,c\n": "line 3: it has 3 fields, and the header 2",
    b"id,name,day\n1,a,\n2\n": "line 3: it has 1 fields, and the header 3",
    b"id;name\n1;a\n2;b;c\n": "line 3: it has 3 fields, and the header 2",
    b"id,name\n1,a\n2,b\n3,c,d\n4,e,f\n": "line 4: it has 3 fields, and the header 2",
    b"id,name\n" + b"1,a\n" * 30_000 + b"2\n": "line 30002: it has 1 fields, and the header 2",
    b"id,id\n1,2\n": "its columns `id`, `id` are of one name",
    b"# of May\nid,x, ID \n1,2,3\n": "its columns `id`, `ID` are of one name",
    b"id,name\r\n1,a\n2,b\r\n": "its lines end in CRLF and in LF",
    "id,name\n1,M\u00fcller\n".encode("latin-1"): "line 2: its text is not UTF-8",
    "id,name\n1,M\u00fcller\n".encode("utf-16"): "its text is UTF-16",
    gzip.compress(b"id,name\n1,a\n", mtime=0): "it is compressed with gzip",
    b"PK\x03\x04 of a spreadsheet": "it is a zip or Excel file",
    b"\xef\xbb\xbfsep=;\r\nid;name\r\n1;a\r\n": "its first line, `sep=;`, is for Excel alone",
    b"id,name\n1," + b"x" * 3_000_000 + b"\n": "a line of it is longer than 2 MB",
}
"""What a file holds, and what is told of it."""


@pytest.mark.parametrize("data", _BAD, ids=[*_BAD.values()])
def test_a_file_that_cannot_be_read_is_told_and_its_table_stays(load: Load, data: bytes) -> None:
    """Promise: no row is left out without a word, and no table is emptied by a file that was cut off."""
    load("id,name\n9,kept\n", None)
    load.path.write_bytes(data)
    with pytest.raises(UnreadableFileError) as refused:
        load_csv(load.adapter, load.path, ("raw", load.name))
    told = str(refused.value.description)
    assert told.startswith(f"The file `{load.path}` cannot be loaded: {_BAD[data]}")
    assert told.endswith("and load it again; its table is as it was.")
    assert len(told) < 1000
    assert load.rows() == [(9, "kept")]


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (gzip.compress(b"id,name\n1,\xc3\xbc\n", mtime=0), "gunzip"),
        ("id,name\n1,\u00fc\n".encode("latin-1"), "iconv"),
        ("id,name\n1,\u00fc\n".encode("utf-16"), "iconv"),
        ("id,name\r\n1,\u00fc\n2,b\r\n".encode(), "tr"),
        ("sep=;\nid;name\n1;\u00fc\n".encode(), "tail"),
    ],
    ids=["gzip", "latin-1", "utf-16", "two line ends", "a line for Excel"],
)
def test_the_command_that_is_told_mends_the_file(load: Load, data: bytes, command: str) -> None:
    """Promise: it can be pasted, whatever is in the file's name."""
    load.path = load.path.with_name("it's a file.csv")
    load.path.write_bytes(data)
    with pytest.raises(UnreadableFileError) as refused:
        load_csv(load.adapter, load.path, ("raw", load.name))
    told = str(refused.value.description).partition("as by `")[2].rpartition("`")[0]
    assert told.startswith(command)
    subprocess.run(["sh", "-c", told], check=True)
    load_csv(load.adapter, load.path, ("raw", load.name))
    assert load.rows()[0] == (1, "\u00fc")


def test_what_is_no_file_is_told(load: Load) -> None:
    """Promise: a folder, a link to nothing and a file that is gone are called so."""
    for number, what in enumerate(("a folder", "a link to nothing", "not there")):
        path = load.path.with_name(f"{number}.csv")
        if what == "a folder":
            path.mkdir()
        elif what == "a link to nothing":
            path.symlink_to("nowhere")
        with pytest.raises(
            UnreadableFileError, match=f"{number}.csv` cannot be loaded: it is {what}"
        ):
            load_csv(load.adapter, path, ("raw", load.name))


def test_what_a_spreadsheet_writes_is_read(load: Load) -> None:
    """Promise: a byte order mark, semicolons, CRLF, quotes over lines and a line above the header are no fault."""
    load.path.write_bytes('\ufeffid;name\r\n1;"a;\r\nb"\r\n'.encode())
    load_csv(load.adapter, load.path, ("raw", load.name))
    assert [row[0] for row in load.rows("id")] == [1]
    load("Report of May\n\nid,name\n1,a\n", None)
    assert load.rows() == [(1, "a")]
