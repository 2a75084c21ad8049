"""What others cost for the same models, in one run: `python -m benchmarks.peers --models 100`.

The same trivial models and checks, built by dg-sqlmesh, dagster-sqlmesh, dagster-dbt (as a dbt project on
dbt-duckdb) and this integration, in process, each next to bare SQLMesh or bare dbt in its own environment. All
SQLMesh environments are planned before, without rows. Each peer is installed with the newest versions that go
together; one that cannot be installed, or whose run fails, has a line that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.project import write_project
from benchmarks.run import ENVIRONMENT

HERE = Path(__file__).resolve().parent
_CHECKS = "        data_tests: [not_null, unique]\n"


@dataclass(frozen=True)
class Peer:
    """A way to build the models.

    Attributes:
        packages: What is installed for it; nothing for this repository's own environment.
        bare: The job without Dagster, in the same environment.
    """

    name: str
    job: str
    packages: tuple[str, ...] = ()
    bare: str = "bare_sqlmesh"


PEERS = (
    Peer("this integration, event log of a generated project", "ours"),
    Peer("this integration, Dagster's default instance", "ours_stock"),
    Peer("dg-sqlmesh", "dg_sqlmesh", ("dg-sqlmesh", "duckdb<2")),
    Peer("dagster-sqlmesh", "dagster_sqlmesh", ("dagster-sqlmesh", "duckdb<2")),
    Peer("dagster-dbt", "dagster_dbt", ("dagster-dbt", "dbt-duckdb", "duckdb<2"), "bare_dbt"),
)
_Taken = Mapping[str, float]
"""CPU seconds of a process (`cpu`), how many assets it `materialized`, and how many tables have rows (`filled`)."""


class _FailedError(Exception):
    """A process failed, with the end of what it said."""


def main() -> None:
    """Prints a line for each peer as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100, metavar="N")
    parser.add_argument("--repeat", type=int, default=1, metavar="N")
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="keep them there")
    arguments = parser.parse_args()
    print(
        "CPU seconds of a process that loads and builds all models, and of the next one;"
        " in brackets the same without Dagster, and the ratio"
    )
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        environments = arguments.environments or Path(folder, "environments")
        for peer in PEERS:
            try:
                python = _environment(peer, environments)
                rounds = [
                    _measure(peer, python, Path(folder, f"{peer.job}-{n}"), arguments.models)
                    for n in range(arguments.repeat)
                ]
            except _FailedError as error:
                print(f"{peer.name}: {error}", flush=True)
            else:
                print(f"{peer.name}: {_told(rounds, arguments.models)}", flush=True)


def _environment(peer: Peer, folder: Path) -> Path:
    """The Python that has the peer."""
    if not peer.packages:
        return Path(sys.executable)
    place = folder / peer.job
    python = place / "bin" / "python"
    if not python.exists():
        _called([sys.executable, "-m", "venv", str(place)])
        uv = shutil.which("uv")
        install = (
            [uv, "pip", "install", "--python", str(python)]
            if uv
            else [str(python), "-m", "pip", "install"]
        )
        _called([*install, "--quiet", *peer.packages])
    return python


def _measure(peer: Peer, python: Path, folder: Path, models: int) -> Mapping[str, _Taken]:
    """A full run and the next one, by the peer and without Dagster, each pair on a project of its own."""
    taken: dict[str, _Taken] = {}
    for job in (peer.bare, peer.job):
        project = folder / job
        write = _write_dbt_project if peer.bare == "bare_dbt" else _write_sqlmesh_project
        write(project, models, python)
        for run in ("full", "again"):
            done = json.loads(
                _called([str(python), str(HERE / "peer_worker.py"), job, str(project)])
            )
            taken[f"{job} {run}"] = {**done, "filled": _filled(project)}
    kinds = {"bare": peer.bare, "own": peer.job}
    return {
        f"{kind} {run}": taken[f"{job} {run}"]
        for kind, job in kinds.items()
        for run in ("full", "again")
    }


def _told(rounds: Sequence[Mapping[str, _Taken]], models: int) -> str:
    def cpu(name: str) -> float:
        return median(taken[name]["cpu"] for taken in rounds)

    parts = [
        f"{cpu(f'own {run}'):.1f} ({cpu(f'bare {run}'):.1f}, {cpu(f'own {run}') / cpu(f'bare {run}'):.2f})"
        for run in ("full", "again")
    ]
    first, again = rounds[0]["own full"], rounds[0]["own again"]
    return (
        f"{parts[0]}, then {parts[1]}; {first['filled']:.0f} of {models} tables filled,"
        f" {first['materialized']:.0f} and then {again['materialized']:.0f} assets materialized"
    )


def _write_sqlmesh_project(project: Path, models: int, python: Path) -> None:
    """With its environment planned, without rows."""
    write_project(project, models, is_trivial=True)
    _called([str(python), str(HERE / "peer_worker.py"), "plan", str(project)])


def _write_dbt_project(project: Path, models: int, python: Path) -> None:
    """The same queries and checks, and dbt's manifest."""
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder, "sqlmesh"), models, is_trivial=True)
        files = {
            file.stem: file.read_text() for file in Path(folder, "sqlmesh/models").glob("*.sql")
        }
    (project / "models").mkdir(parents=True)
    for name, text in files.items():
        query = re.sub(
            r"bench\.(m_\d+)", r"{{ ref('\1') }}", text.split(");\n", 1)[1].replace(";", "")
        )
        (project / "models" / f"{name}.sql").write_text(query)
    columns = f"    columns:\n      - name: id\n{_CHECKS}"
    tested = "".join(f"  - name: {name}\n{columns}" for name in sorted(files))
    (project / "models" / "schema.yml").write_text(f"models:\n{tested}")
    (project / "dbt_project.yml").write_text(
        "name: bench\nversion: 1.0.0\nprofile: bench\nmodels: {bench: {+materialized: table}}\n"
    )
    output = {
        "type": "duckdb",
        "path": str(project / "warehouse.duckdb"),
        "schema": "bench",
        "threads": 1,
    }
    profile = {"bench": {"target": "dev", "outputs": {"dev": output}}}
    (project / "profiles.yml").write_text(json.dumps(profile))
    _called([str(python.with_name("dbt")), "--quiet", "parse"], project)


def _filled(project: Path) -> int:
    """How many of the models' tables or views have rows, asked in a process of its own."""
    return int(
        json.loads(
            _called([sys.executable, str(HERE / "worker.py"), "count_filled", str(project)])
        )["facts"]["filled"]
    )


def _called(command: Sequence[str], folder: Path | None = None) -> str:
    """The last line of what a command prints.

    Raises:
        _FailedError: It failed.
    """
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "PYTHONUNBUFFERED": "1",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        raise _FailedError(f"`{' '.join(map(str, command[:4]))} …` failed: {' '.join(lines[-1:])}")
    return (done.stdout.splitlines() or [""])[-1]


if __name__ == "__main__":
    main()
