"""SQLMesh projects built by SQLMesh alone and through Dagster, on copies, compared: `poe conform FOLDER`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.factories import sqlmesh_definitions_factory
from sqlmesh_dagster.facts.conformity import Conformity, Held, Way, causes, table
from sqlmesh_dagster.guard.secrets import learn_of_project, mask
from sqlmesh_dagster.layout import project_folder
from sqlmesh_dagster.manifest.inputs import CONFIGS
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.surroundings import fault_of_surroundings
from sqlmesh_dagster.times import check_times, iso_moment

_LEFT_OUT = (".git", ".venv", "node_modules", ".cache", "__pycache__", "logs", "target")
_ERROR = re.compile(r"[\w.]+(Error|Exception)\b")
_TOOLS = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> int:
    """Compares every project in the given folders, and prints a table, and what broke a project.

    Returns:
        The exit status: 1 if a project differs, 2 if the arguments make no sense.
    """
    options = _parser().parse_args(arguments)
    try:
        at = _now() if options.now is None else iso_moment("--now", options.now)
        check_times(start=None, end=None, execution_time=at)
    except InvalidSettingError as error:
        print(error, file=sys.stderr)
        return 2
    if fault := fault_of_surroundings():
        print(fault, file=sys.stderr)
        return 2
    given = options.folders or [project_folder()]
    if missing := [folder for folder in given if not Path(folder).is_dir()]:
        print(f"There is no folder `{missing[0]}`.", file=sys.stderr)
        return 2
    projects = [project for folder in given for project in _projects(Path(folder).resolve())]
    if options.together and projects:
        names, paths = zip(*projects, strict=True)
        works = [(" + ".join(names), list(paths))]
    else:
        works = [(name, [path]) for name, path in projects]
    found: list[Conformity] = []
    try:
        for name, folders in works:
            print(f"{name} …", file=sys.stderr, flush=True)
            found.append(compared(name, folders, at))
    finally:  # also when a long one is interrupted
        print(table(found))
        print(causes(found), end="")
    if not found:
        print("No SQLMesh project was found: none of the folders has a config of SQLMesh's.")
    return 0 if found and all(conformity.is_equal for conformity in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="poe conform",
        description="Builds copies of SQLMesh projects by SQLMesh alone and through Dagster, and compares.",
    )
    parser.add_argument("folders", nargs="*", help="with projects in them; your own without it")
    parser.add_argument(
        "--now",
        metavar="TIME",
        help="the `now` of both, such as 2025-01-31: an early one leaves little to build",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="take all the projects as one, as `sqlmesh -p A -p B` does",
    )
    return parser


def _now() -> datetime:
    """A full hour that is over: what both ways build must not depend on when each begins."""
    return datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(
        hours=1
    )


def compared(name: str, projects: Sequence[Path], at: datetime) -> Conformity:
    """Builds copies of a project both ways, each in a process of its own.

    Args:
        projects: Its folders; the first has the config that holds for all.
        at: The "now" of both.
    """
    alone, integrated = (_built(way, projects, at) for way in ("alone", "integrated"))
    found = Conformity(name, alone, integrated)
    if not found.differing_rows:
        return found
    return replace(found, again=_built("alone", projects, at))


def _built(way: str, projects: Sequence[Path], at: datetime) -> Way:
    with tempfile.TemporaryDirectory(prefix="conform-") as folder:
        root = Path(folder).resolve()
        copies = [root / str(number) / project.name for number, project in enumerate(projects)]
        for project, copy in zip(projects, copies, strict=True):
            shutil.copytree(project, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        return _in_a_process(way, projects, copies, at)


def _projects(folder: Path) -> Iterator[tuple[str, Path]]:
    """The projects in a folder, or the folder itself; those inside another are its own matter."""
    if any((folder / name).is_file() for name in CONFIGS):
        yield folder.name, folder
        return
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name not in _LEFT_OUT:
            for name, project in _projects(inner):
                yield f"{folder.name}/{name}", project


def _in_a_process(way: str, projects: Sequence[Path], copies: Sequence[Path], at: datetime) -> Way:
    for project in projects:
        learn_of_project(project)
    before = _cpu()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            __spec__.name,
            "--build",
            way,
            str(projects[0]),
            at.isoformat(),
            *map(str, copies),
        ],
        cwd=copies[0] if way == "alone" else copies[0].parents[1],  # Dagster starts elsewhere
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
        return Way(None, cpu, problem=mask(_last_error(done.stderr)))
    found = json.loads(done.stdout.splitlines()[-1])
    found["problem"] = mask(found["problem"]) if found["problem"] else None
    state = Held(**found.pop("held")) if found["held"] else found.pop("held")
    return Way(held=state, cpu=cpu, **found)


def _last_error(text: str) -> str:
    """What a traceback ends with; a message may have several lines."""
    lines = text.strip().splitlines()
    starts = [n for n, line in enumerate(lines) if _ERROR.match(line)]
    return (
        "\n".join(lines[starts[-1] :] if starts else lines[-1:]) or "it ended and printed nothing"
    )


def _cpu() -> float:
    times = os.times()  # `resource` is not there on Windows
    return times.children_user + times.children_system


def _build(way: str, project: str, at: str, *copies: str) -> dict[str, Any]:
    """In the process of one way: builds the copies, and says what came of it."""
    from sqlmesh_dagster.engine import conformity

    # `python -m` puts it there, and the `sqlmesh` command does not
    sys.path.remove(str(Path.cwd()))
    moment = datetime.fromisoformat(at)
    conformity.work_on_copies(Path(project), Path(copies[0]).parents[1] / "databases")
    if way == "alone":
        facts: Mapping[str, Any] = {"problem": conformity.build_alone(copies, moment)}
    else:
        facts = _integrated(copies, at)
    os.chdir(copies[0])  # where it was built alone
    return {**facts, "held": asdict(conformity.held(copies))}


def _integrated(copies: Sequence[str], at: str) -> dict[str, Any]:
    definitions = sqlmesh_definitions_factory(
        project_dir=list(copies), environment=PRODUCTION, undeployed_changes="apply"
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
