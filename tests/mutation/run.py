"""Changes the pure modules in a thousand small ways, and says which changes no test notices.

By hand, with mutmut next to the tools of the tests: `python -m pip install "mutmut>=3.8,<4"`, then
`python -m tests.mutation.run <an empty folder> [words of modules' paths | update]`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT

TEMPLATE = ROOT / "template"
PURE = (
    "alerts.py",
    "checks.py",
    "commands/location.py",
    "commands/messages.py",
    "commands/progress.py",
    "commands/report.py",
    "commands/request.py",
    "commands/selection.py",
    "commands/source.py",
    "definition/crons.py",
    "definition/declared.py",
    "definition/diagram.py",
    "definition/markdown.py",
    "definition/names.py",
    "definition/new_data.py",
    "definition/partitions.py",
    "definition/problems.py",
    "definition/project.py",
    "engine/culprit.py",
    "engine/explanation.py",
    "engine/lock_sql.py",
    "events.py",
    "facts/diagnosis.py",
    "facts/gaps.py",
    "facts/gates.py",
    "facts/ledger.py",
    "facts/moving.py",
    "facts/outcomes.py",
    "facts/plan_summary.py",
    "facts/reaching.py",
    "facts/reported.py",
    "facts/review.py",
    "facts/review_page.py",
    "facts/rights.py",
    "facts/rivals.py",
    "facts/rules.py",
    "facts/staleness.py",
    "facts/tables.py",
    "facts/verification.py",
    "facts/versions.py",
    "guard/cancel.py",
    "guard/environment.py",
    "guard/garbage.py",
    "guard/heartbeat.py",
    "guard/locks.py",
    "guard/masking.py",
    "guard/modules.py",
    "guard/places.py",
    "guard/secret_values.py",
    "guard/secrets.py",
    "guard/signals.py",
    "guard/stopping.py",
    "guard/texts.py",
    "guard/worker.py",
    "guard/written_secrets.py",
    "manifest/credentials.py",
    "manifest/store.py",
    "options.py",
    "run/active.py",
    "run/liveness.py",
    "run/marks.py",
    "run/overrides.py",
    "run/results.py",
    "run/selection.py",
    "settings.py",
    "times.py",
    "translator.py",
    "warehouses.py",
)
"""Modules below `sqlmesh_dagster` that have tests of their own in `pure/`."""
UPDATE = ("merge.py", "moves.py")
"""Modules below `template_update` that decide what becomes of an edit, with `test_merge.py`."""
_CONFIG = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = {modules}
pytest_add_cli_args = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
timeout_constant = 60.0 # each mutant collects its tests anew, which may take a busy machine long
pytest_add_cli_args_test_selection = ["{tests}"]

[tool.pytest.ini_options]
pythonpath = [".", "src"]
addopts = "--import-mode=importlib"
"""
_FORGET = '''\
"""A mutant runs in a fork of the process that has run all tests once: what that has kept is no result of its own."""

import functools
import gc
import resource



def pytest_sessionstart() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))  # a mutant may never stop to grow
    for kept in gc.get_objects():
        if isinstance(kept, functools._lru_cache_wrapper) and kept.__module__.startswith("sqlmesh_dagster"):
            kept.cache_clear()
'''


def prepare(folder: Path, words: Sequence[str]) -> None:
    """A project of the package and its pure tests, as mutmut wants it."""
    for name in ("src/sqlmesh_dagster", "tests/sqlmesh_dagster"):
        ignored = shutil.ignore_patterns("__pycache__", "test_*.py" if "tests" in name else "")
        shutil.copytree(TEMPLATE / name, folder / name, ignore=ignored)
    for test in (TEMPLATE / "tests/sqlmesh_dagster/pure").glob("test_*.py"):
        shutil.copy(test, folder / "tests/sqlmesh_dagster/pure")
    (folder / "tests/sqlmesh_dagster/pure/conftest.py").write_text(_FORGET)
    modules = [
        f"src/sqlmesh_dagster/{name}" for name in PURE if any(word in name for word in words)
    ]
    tests = "tests/sqlmesh_dagster/pure"
    (folder / "pyproject.toml").write_text(_CONFIG.format(modules=modules, tests=tests))


def prepare_update(folder: Path) -> None:
    """The same of the update command and the tests of its merge."""
    ignored = shutil.ignore_patterns("__pycache__")
    package = folder / "src/template_update"
    shutil.copytree(TEMPLATE / ".template/template_update", package, ignore=ignored)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests/update/test_merge.py", folder / "tests")
    modules = [f"src/template_update/{name}" for name in UPDATE]
    (folder / "pyproject.toml").write_text(_CONFIG.format(modules=modules, tests="tests"))


if __name__ == "__main__":
    work = Path(sys.argv[1])
    words = sys.argv[2:] or [""]
    if words == ["update"]:
        prepare_update(work)
    else:
        prepare(work, words)
    mutmut = [sys.executable, "-m", "mutmut"]
    subprocess.run([*mutmut, "run", "--max-children", "2"], cwd=work, check=True)
    subprocess.run([*mutmut, "results"], cwd=work, check=True)
