"""SQLMesh projects built by SQLMesh alone and through Dagster, on copies, compared: `poe conform FOLDER`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg

from sqlmesh_dagster.factories import sqlmesh_definitions_factory
from sqlmesh_dagster.facts.conformity import Conformity, Held, Way, table
from sqlmesh_dagster.manifest.inputs import CONFIGS

_LEFT_OUT = (".git", ".venv", "node_modules", ".cache", "__pycache__", "logs", "target")
_ERROR = re.compile(r"[\w.]+(Error|Exception)\b")
_TOOLS = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> int:
    """Compares every project in the given folders, and prints a table.

    Returns:
        The exit status: 1 if a project differs.
    """
    given = arguments or [os.environ.get("SQLMESH_PROJECT_DIR", "sqlmesh_project")]
    projects = [project for folder in given for project in _projects(Path(folder).resolve())]
    at = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    found = []
    for name, project in projects:
        print(f"{name} …", file=sys.stderr, flush=True)
        found.append(compared(name, project, at))
    print(table(found))
    if not found:
        print("No SQLMesh project was found: none of the folders has a config of SQLMesh's.")
    return 0 if found and all(conformity.is_equal for conformity in found) else 1


def compared(name: str, project: Path, at: datetime) -> Conformity:
    """Builds copies of a project both ways, each in a process of its own.

    Args:
        at: The "now" of both.
    """
    ways = {}
    for way in ("alone", "integrated"):
        with tempfile.TemporaryDirectory(prefix="conform-") as folder:
            copy = Path(folder).resolve() / project.name
            shutil.copytree(project, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
            ways[way] = _in_a_process(way, project, copy, at)
    return Conformity(name, ways["alone"], ways["integrated"])


def _projects(folder: Path) -> Iterator[tuple[str, Path]]:
    """The projects in a folder, or the folder itself; those inside another are its own matter."""
    if any((folder / name).is_file() for name in CONFIGS):
        yield folder.name, folder
        return
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name not in _LEFT_OUT:
            for name, project in _projects(inner):
                yield f"{folder.name}/{name}", project


def _in_a_process(way: str, project: Path, copy: Path, at: datetime) -> Way:
    before = _cpu()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            __spec__.name,
            "--build",
            way,
            str(project),
            str(copy),
            at.isoformat(),
        ],
        cwd=copy,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_TOOLS), os.environ.get("PYTHONPATH", "")]),
            "SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    cpu = _cpu() - before
    if done.returncode:
        return Way(None, cpu, problem=_last_error(done.stderr))
    found = json.loads(done.stdout.splitlines()[-1])
    state = Held(**found.pop("held")) if found["held"] else found.pop("held")
    return Way(held=state, cpu=cpu, **found)


def _last_error(text: str) -> str:
    """What a traceback ends with; a message may have several lines."""
    lines = text.strip().splitlines()
    starts = [n for n, line in enumerate(lines) if _ERROR.match(line)]
    return "\n".join(lines[starts[-1] :] if starts else lines[-1:]) or "it ended without a word"


def _cpu() -> float:
    times = os.times()  # `resource` is not there on Windows
    return times.children_user + times.children_system


def _build(way: str, project: str, copy: str, at: str) -> dict[str, Any]:
    """In the process of one way: builds the copy, and says what came of it."""
    from sqlmesh_dagster.engine import conformity

    root, moment = Path(copy), datetime.fromisoformat(at)
    conformity.work_on_copies(Path(project), root.parent / "databases")
    if way == "alone":
        facts: Mapping[str, Any] = {"problem": conformity.build_alone(root, moment)}
    else:
        facts = _integrated(root, at)
    return {**facts, "held": asdict(conformity.held(root))}


def _integrated(root: Path, at: str) -> dict[str, Any]:
    definitions = sqlmesh_definitions_factory(
        project_dir=root, environment="prod", undeployed_changes="apply"
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    config = {"resources": {"sqlmesh_run_options": {"config": {"execution_time": at}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
        failed = [
            event.step_failure_data.error for event in result.all_events if event.is_step_failure
        ]
    graph = definitions.resolve_asset_graph()
    causes = [(error.cause or error).message for error in failed if error]
    return {
        "problem": causes[0] if causes else None,
        "assets": len(graph.executable_asset_keys),
        "checks": len(graph.asset_check_keys),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        print(json.dumps(_build(*sys.argv[2:])))
    else:
        sys.exit(main(sys.argv[1:]))
