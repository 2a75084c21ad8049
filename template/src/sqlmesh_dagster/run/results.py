"""`SQLMeshResultsResource`: the append-only record of outcomes that the steps of one Dagster run share."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import dagster as dg
from pydantic import Field, PrivateAttr, ValidationError

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.facts.outcomes import ModelOutcome, from_line, to_line
from sqlmesh_dagster.facts.reported import Reports
from sqlmesh_dagster.guard.folder import started_in
from sqlmesh_dagster.run.liveness import give_sign, read_sign
from sqlmesh_dagster.settings import folder_of

_log = logging.getLogger(__name__)
RECORDS = "sqlmesh"
"""Folder of the records in an instance's storage folder; a folder for each run is in it."""
SIGN = "process.json"
"""The file with the run's sign of life, next to its records."""
_SIGN_SECONDS = 60
_DAY = 86400
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Dagster's run ids are UUIDs."""


class RunResults:
    """The outcomes of one project's models in one Dagster run, in the order they became known.

    A file of JSON lines, appended to by the process that leads the sqlmesh run and read by every
    other step, in this process and in others on this host.

    Attributes:
        is_unshared: Whether steps of the Dagster run turned out to have other files than this one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signed_at = 0.0
        self.is_unshared = False
        self._offset = 0
        self._lock = threading.Lock()
        self._outcomes: dict[str, list[ModelOutcome]] = {}
        self.appended = threading.Condition()

    def append(self, outcome: ModelOutcome) -> None:
        """Records an outcome for every step of this Dagster run; those that wait are notified."""
        with self._lock:
            try:
                self._write(to_line(outcome))
            except OSError as error:
                _log.warning("The record `%s` cannot be written: %s", self._path, error)
                self.is_unshared = True
                self._outcomes.setdefault(outcome.fqn, []).append(outcome)
        with self.appended:
            self.appended.notify_all()

    def _write(self, line: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a leader was killed while it wrote
            file.write(line)

    def of(self, fqn: str) -> list[ModelOutcome]:
        """Every outcome of a model so far, oldest first; more than one after a retry of its step."""
        self._read()
        return self._outcomes.get(fqn, [])

    def latest(self) -> Mapping[str, ModelOutcome]:
        """The last outcome of each model so far."""
        self._read()
        return {fqn: outcomes[-1] for fqn, outcomes in self._outcomes.items()}

    def every(self) -> Mapping[str, Sequence[ModelOutcome]]:
        """Every outcome of each model so far, oldest first."""
        self._read()
        return {fqn: tuple(outcomes) for fqn, outcomes in self._outcomes.items()}

    def wait(self, seconds: float) -> None:
        """Returns when this process appended an outcome, or after `seconds`; gives a sign of life."""
        if time.monotonic() - self._signed_at > _SIGN_SECONDS:
            self._signed_at = time.monotonic()
            give_sign(self._path.parent / SIGN)
        with self.appended:
            self.appended.wait(seconds)

    def _read(self) -> None:
        with self._lock:
            for line in self._new_lines():
                with suppress(ValidationError):  # torn by a killed leader
                    outcome = from_line(line)
                    self._outcomes.setdefault(outcome.fqn, []).append(outcome)

    def _new_lines(self) -> Iterator[bytes]:
        try:
            if self._path.stat().st_size <= self._offset:
                return
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:  # nothing yet, or steps that share no folder
            return
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        yield from (line for line in complete.split(b"\n") if line)


class SQLMeshResultsResource(dg.ConfigurableResource[None]):
    """The outcomes that the steps of a Dagster run share: files in the instance's storage folder."""

    storage_dir: str | None = Field(
        default=None,
        description="Folder in which the folder `sqlmesh` of the records is; a relative one starts at the working"
        " directory. By default the instance's storage folder.",
    )
    keep_days: int = Field(
        default=7,
        description="Records are only needed while their run lasts; later runs delete those that are"
        " older than this many days, at least 1.",
    )

    _open: dict[Path, RunResults] = PrivateAttr(default_factory=dict)
    _reports: dict[tuple[str, str, int], Reports] = PrivateAttr(default_factory=dict)
    _verified: dict[str, list[dg.AssetCheckEvaluation]] = PrivateAttr(default_factory=dict)

    def of_run(
        self, instance: dg.DagsterInstance, run_id: str, project: str = "sqlmesh"
    ) -> RunResults:
        """The record of one Dagster run; one reader for all steps that share this resource.

        Args:
            project: The name that the factory was given, where a code location has several.
        """
        path = self._root(instance) / run_id / f"{project}.jsonl"
        return self._open.setdefault(path, RunResults(path))

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Writes on which host the run is, for ticks that find it active."""
        if context.run is not None and context.instance is not None:
            with suppress(InvalidSettingError):  # a step says it, in fewer words than Dagster here
                give_sign(self._root(context.instance) / context.run.run_id / SIGN)

    def reports(
        self, run_id: str, project: str, attempt: int, look: Callable[[], Reports]
    ) -> Reports:
        """What was reported to Dagster last of a run's models; read once in each process.

        Args:
            attempt: How often the step was retried; a retry reads again.
        """
        key = (run_id, project, attempt)
        if key not in self._reports:
            self._reports.clear()
            self._reports[key] = look()
        return self._reports[key]

    def put_verified(self, run_id: str, results: Iterable[dg.AssetCheckEvaluation]) -> None:
        """Keeps what unit tests and linter said, for the next step of this process to report."""
        self._verified.setdefault(run_id, []).extend(results)

    def take_verified(self, run_id: str) -> list[dg.AssetCheckEvaluation]:
        """What is to be reported, once."""
        return self._verified.pop(run_id, [])

    def forget_old_runs(self, instance: dg.DagsterInstance) -> None:
        """Deletes the records of runs that ended more than `keep_days` ago, and nothing else.

        Raises:
            InvalidSettingError: `keep_days` is less than 1.
        """
        if self.keep_days < 1:
            raise InvalidSettingError(f"`keep_days` is {self.keep_days}. It must be 1 or more.")
        oldest = int(time.time()) - self.keep_days * _DAY
        for path in _records_in(self._root(instance)):
            if _is_old_record(path, oldest):
                path.unlink(missing_ok=True)
                with suppress(OSError):  # it has other files
                    path.parent.rmdir()

    def _root(self, instance: dg.DagsterInstance) -> Path:
        if not self.storage_dir:
            return Path(instance.storage_directory()) / RECORDS
        return folder_of("storage_dir", self.storage_dir, started_in()) / RECORDS


def _records_in(root: Path) -> Iterator[Path]:
    """Files with the name of a record, in folders of runs; links to folders are left out, as they lead elsewhere."""
    for folder in root.glob("*"):
        if _RUN_ID.fullmatch(folder.name) and not folder.is_symlink():
            yield from (*folder.glob("*.jsonl"), *folder.glob(SIGN))


def _is_old_record(path: Path, oldest: int) -> bool:
    """Whether `RunResults` wrote a file, long enough ago."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_mtime >= oldest:
            return False
        if path.name == SIGN:
            return read_sign(path) is not None
        with path.open("rb") as file:
            from_line(file.readline())
    except (OSError, ValidationError):
        return False
    return True
