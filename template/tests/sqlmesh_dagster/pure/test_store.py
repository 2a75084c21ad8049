"""The manifest on disk: what was written whole is read, and nothing else is."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sqlmesh_dagster.manifest.inputs import Inputs
from sqlmesh_dagster.manifest.store import ManifestStore, StoredManifest
from tests.sqlmesh_dagster.pure.records import audit, external, manifest, model

STORED = StoredManifest(
    Inputs(("A",), ("../x.py",)),
    "digest",
    manifest(model("m", audits=(audit("a"),), extra={"n": [1]}), externals=(external("t"),)),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Promise: all of it, from a folder that need not be there; others than its writer may read it."""
    store = ManifestStore.in_folder(tmp_path / "a" / "b", None)
    assert store.read() is None
    store.write(STORED)
    assert store.read() == STORED
    assert [path.name for path in store.path.parent.iterdir()] == ["manifest.json"]
    assert store.path.stat().st_mode & 0o777 == 0o644


def test_a_later_one_replaces_it(tmp_path: Path) -> None:
    """Promise: the last wins."""
    store = ManifestStore.in_folder(tmp_path, None)
    store.write(STORED)
    store.write(replace(STORED, digest="other"))
    assert store.read() == replace(STORED, digest="other")


@pytest.mark.parametrize("content", ["", "{", "{}", '{"inputs": 1}'])
def test_what_is_no_manifest_is_none(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: it is made again, which the log says, with the file and the reason; it is no error."""
    store = ManifestStore.in_folder(tmp_path, None)
    store.path.write_text(content)
    with caplog.at_level(logging.INFO):
        assert store.read() is None
    (line,) = caplog.messages
    text = f"The manifest `{store.path}` cannot be used and is made again: "
    assert line.startswith(text) and "validation error" in line


def test_a_manifest_that_is_not_there_is_nothing_to_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: the first load of a project is silent."""
    with caplog.at_level(logging.INFO):
        assert ManifestStore.in_folder(tmp_path, None).read() is None
    assert caplog.messages == []


def test_a_manifest_of_another_format_is_none(tmp_path: Path) -> None:
    """Promise: a version that writes otherwise says so."""
    store = ManifestStore.in_folder(tmp_path, None)
    store.write(replace(STORED, format=STORED.format + 1))
    assert store.read() is None


def test_gateways_of_one_project_share_a_folder_and_no_file(tmp_path: Path) -> None:
    """Promise: whatever a gateway is called."""
    paths = {ManifestStore.in_folder(tmp_path, gateway).path for gateway in (None, "a", "a/b", "b")}
    assert len(paths) == 4 and {path.parent for path in paths} == {tmp_path.resolve()}
    assert tmp_path / "manifest-a.json" in paths


def test_a_folder_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: as a person writes it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ManifestStore.in_folder(Path("~/x"), None).path == tmp_path / "x/manifest.json"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """Promise: the old manifest, and no litter."""
    store = ManifestStore.in_folder(tmp_path, None)
    store.path.mkdir()  # nothing can replace a folder
    (store.path / "x").touch()
    with pytest.raises(OSError):
        store.write(STORED)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert store.read() is None


def test_no_other_folder_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: the unfinished file is next to the finished one, as another disk may be full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    store = ManifestStore.in_folder(tmp_path / "a", None)
    for _ in range(2):
        store.write(STORED)
    assert store.read() == STORED


def test_an_empty_name_is_no_gateway(tmp_path: Path) -> None:
    """Promise: the project's default gateway has one manifest."""
    stores = [ManifestStore.in_folder(tmp_path, gateway) for gateway in (None, "")]
    assert stores[0] == stores[1]


def test_a_manifest_that_cannot_be_read_is_told_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise: as one that is broken."""
    store = ManifestStore.in_folder(tmp_path, None)
    store.path.mkdir()
    with caplog.at_level(logging.INFO):
        assert store.read() is None
    assert "cannot be used" in caplog.text and "directory" in caplog.text


def test_a_manifest_of_another_program_stays(tmp_path: Path) -> None:
    """Promise: dbt's `target` or a web site may have a file of the same name; in our own folder all is ours."""
    store = ManifestStore.in_folder(tmp_path, None)
    store.path.write_text('{"metadata": {"dbt_version": "1.9"}}')
    with pytest.raises(FileExistsError, match="manifest_dir"):
        store.write(STORED)
    assert "dbt_version" in store.path.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    own = ManifestStore.in_folder(tmp_path / ".cache/dagster", None)
    own.write(STORED)
    own.path.write_text("garbage")
    own.write(STORED)
    assert own.read() == STORED


def test_a_project_of_several_folders_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Promise: by which folders, in their order, beside the first one alone and other gateways."""
    folders = (
        (),
        (Path("/b"),),
        (Path("/b"), Path("/c")),
        (Path("/c"), Path("/b")),
        (Path("/bc"),),
    )
    names = [
        ManifestStore.in_folder(tmp_path, gateway, also).path.name
        for gateway in (None, "g")
        for also in folders
    ]
    assert len(set(names)) == len(names)
    assert names[1].startswith("manifest-with-") and names[6].startswith("manifest-g-with-")
    assert ManifestStore.in_folder(tmp_path, "g", (Path("/b"),)).path.name == names[6]


class _Payload:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def _edited(content: bytes) -> bytes:
    return content.replace(b'"digest":"digest"', b'"digest":"forged"')


def _nested(content: bytes) -> bytes:
    return content.replace(b'"n":[1]', b'"n":' + b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: pickle.dumps(_Payload()), "validation error"),
        (lambda _: b"!!python/object/apply:os.mkdir [executed]", "validation error"),
        (lambda whole: whole + whole, "validation error"),
        (lambda whole: whole[: len(whole) // 2], "validation error"),
        (lambda whole: whole.replace(b"demo.m", b"demo.\xff"), "validation error"),
        (_nested, "validation error"),
        (_edited, "changed after it was written"),
        (lambda whole: whole.replace(b'"m"', b'"n"', 1), "changed after it was written"),
        (lambda whole: whole[:-1] + b" }", "changed after it was written"),
    ],
)
def test_a_hostile_manifest_is_neither_executed_nor_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[bytes], bytes],
    reason: str,
) -> None:
    """Promise: it is made again with one line that says why; nothing of it was run, and no part of it used."""
    monkeypatch.chdir(tmp_path)
    store = ManifestStore.in_folder(tmp_path, None)
    store.write(STORED)
    store.path.write_bytes(spoil(store.path.read_bytes()))
    with caplog.at_level(logging.INFO):
        assert store.read() is None
    (line,) = caplog.messages
    assert "is made again" in line and reason in line
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    store.path.unlink()
    store.write(STORED)
    assert store.read() == STORED


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and owners of files")
@pytest.mark.parametrize("what", ["pipe", "device", "huge", "loop", "other's"])
def test_what_is_no_file_of_ours_where_the_manifest_is_stops_no_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Promise: a load waits for no pipe, reads no endless file, and trusts no other user's."""
    store = ManifestStore.in_folder(tmp_path, None)
    if what == "pipe":
        os.mkfifo(store.path)
    elif what == "loop":
        store.path.symlink_to(store.path)
    elif what == "device":
        store.path.symlink_to("/dev/zero")
    elif what == "huge":
        with store.path.open("wb") as file:
            file.truncate(2**40)  # no disk has it: the file is a hole
    elif os.geteuid() == 0:
        store.write(STORED)
        os.chown(store.path, 12345, 12345)
    else:
        pytest.skip("only root gives files away")
    with caplog.at_level(logging.INFO):
        assert store.read() is None
    (line,) = caplog.messages
    assert f"The manifest `{store.path}` cannot be used and is made again: " in line


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root gives files away"
)
def test_a_manifest_of_the_projects_owner_is_trusted(tmp_path: Path) -> None:
    """Promise: one user builds the image or deploys the project, and another one runs it."""
    store = ManifestStore.in_folder(tmp_path / "cache", None, project=tmp_path)
    store.write(STORED)
    os.chown(store.path, 12345, 12345)
    assert store.read() is None
    os.chown(tmp_path, 12345, 12345)
    assert store.read() == STORED
