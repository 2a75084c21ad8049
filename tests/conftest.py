"""Renders of the template as it is on disk, isolated from the machine's own settings."""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import plumbum
import pytest
from copier import run_copy
from filelock import FileLock

from tests.compiled import compiled_once, no_git_to_ask
from tests.tree import tracked

ROOT = Path(__file__).parents[1]
PYTHON = Path(sys.executable)
"""The interpreter itself, whatever `warm_processes` has put in its place."""
Render = Callable[..., Path]
_GIT_CONFIG = """\
[user]
name = Ada
email = ada@example.com
[core]
fsync = none # nothing here must survive a power cut, and a render is hundreds of files
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the matrix of updates: what became of all edits."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "edits" and isinstance(value, dict):
                counts.update(value)
    for what, number in sorted(counts.items()):
        terminalreporter.write_line(f"edits {what}: {number}")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of this machine's user reaches git, Copier, SQLMesh or Dagster, nor a file their temp folder."""
    home = tmp_path_factory.mktemp("home")
    (home / "gitconfig").write_text(_GIT_CONFIG)
    (home / "copier.yml").write_text("{}")
    settings = {
        "PIP_CACHE_DIR": os.getenv("PIP_CACHE_DIR", str(Path.home() / ".cache/pip")),
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "COPIER_SETTINGS_PATH": str(home / "copier.yml"),
        "TMPDIR": str(tmp_path_factory.mktemp("tmp")),
    }
    with pytest.MonkeyPatch.context() as patch, plumbum.local.env(**settings):  # Copier's git
        patch.setattr("tempfile.tempdir", settings["TMPDIR"])
        for name, value in settings.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session", autouse=True)
def _templates_are_compiled_once() -> Iterator[None]:
    with compiled_once():
        yield


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers of this session; what is made there is made under a lock."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def mypy_cache(session_folder: Path) -> Iterator[Path]:
    """What mypy has found out of the tests' own environment; its tests wait for each other."""
    with FileLock(session_folder / "mypy.lock"):
        yield session_folder / "mypy"


@pytest.fixture(scope="session")
def source(session_folder: Path) -> Path:
    """The files of this repository, uncommitted ones too, outside git; only read it."""
    copy = session_folder / "template"
    with FileLock(f"{copy}.lock"):
        if not copy.exists():
            begun = copy.with_name("template-begun")
            for path in tracked(ROOT):
                target = begun / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
            begun.rename(copy)
    return copy


@pytest.fixture(scope="session")
def render(source: Path, session_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """`render(sample="minimal")` is a project with these answers; one for all workers, so only read it."""

    def render_once(**answers: str) -> Path:
        key = hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()[:12]
        folder = session_folder / f"render-{key}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                project = tmp_path_factory.mktemp("render") / "project"
                with no_git_to_ask():
                    run_copy(
                        str(source), project, data=answers, defaults=True, unsafe=False, quiet=True
                    )
                project.parent.rename(folder)
        return folder / "project"

    return render_once


@pytest.fixture(scope="module")
def warm_processes(warm_python: Path) -> Iterator[None]:
    """What a module's tests start of Dagster and of the integration, as processes of their own, costs no import."""
    with pytest.MonkeyPatch.context() as patch:
        if (warm_python / "python").exists():
            tools = [str(warm_python), str(PYTHON.parent)]
            patch.setenv("PATH", os.pathsep.join(tools), prepend=os.pathsep)
            patch.setattr(sys, "executable", str(warm_python / "python"))
        yield


@pytest.fixture
def cold_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process of this test imports all by itself: it is looked at what."""
    monkeypatch.setattr(sys, "executable", str(PYTHON))


def with_warm_processes(item: pytest.Item, mark: str) -> None:
    """Gives `warm_processes` to a test that has the mark."""
    if item.get_closest_marker(mark) and isinstance(item, pytest.Function):
        item.fixturenames.insert(0, "warm_processes")


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `python` and a `dg` that have imported Dagster and SQLMesh; see `tests/warm.py`."""
    folder = tmp_path_factory.mktemp("warm")
    if sys.platform != "linux":
        yield folder
        return
    from tests.warm_python import serving

    with serving(folder):
        yield folder
