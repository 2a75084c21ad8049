"""Files that this user may not use: what is said, and what can be pasted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.guard.places import with_remedy
from sqlmesh_dagster.settings import ProjectSettings


def denied(path: Path) -> str:
    """As the system says it."""
    return f"[Errno 13] Permission denied: '{path}'"


def test_what_is_in_the_project_can_be_opened_with_the_command(tmp_path: Path) -> None:
    """Promise: it names what is there: the file, or the folder in which one cannot be made."""
    project = tmp_path / "a project"
    (project / ".cache").mkdir(parents=True)
    (project / "model.sql").touch(mode=0o000)
    for path, opened in (
        (project / "model.sql", project / "model.sql"),
        (project / ".cache" / "x" / "y", project / ".cache"),
    ):
        opened.chmod(0o000)
        told = with_remedy(f"Failed: {denied(path)}", project)
        command = told.partition("Let this user use it: `")[2].partition("`")[0]
        subprocess.run(["sh", "-c", command], check=True)
        assert opened.stat().st_mode & 0o666 == 0o666
        assert ("`cache_dir`" in told) == (path != opened)


@pytest.mark.parametrize("path", ["/.sqlmesh", "/nonexistent", "/etc/shadow"])
def test_nothing_outside_the_project_is_opened_by_a_command(tmp_path: Path, path: str) -> None:
    """Promise: nobody is told to open the root folder; a home folder can be another."""
    told = with_remedy(denied(Path(path)), tmp_path)
    assert "chmod" not in told and "`HOME=/tmp`" in told


def test_other_messages_stay_as_they_are(tmp_path: Path) -> None:
    """Promise: nothing is added to what is none of this."""
    assert with_remedy("[Errno 2] No such file: '/x'", tmp_path) == "[Errno 2] No such file: '/x'"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX system")
def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: Kubernetes' `runAsUser` without `HOME` gets a sentence, and no traceback of a path."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(InvalidSettingError, match=r"`HOME` is not set, .* such as `HOME=/tmp`"):
        ProjectSettings(project_dir=".").checked()
