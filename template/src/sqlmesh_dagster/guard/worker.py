"""SQLMesh work in a thread of its own; a Dagster step waits for it and can cancel it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait

import anyio.from_thread
import anyio.to_thread

from sqlmesh_dagster.guard.cancel import CancelToken


class Worker:
    """A function in an AnyIO worker thread."""

    def __init__(self, work: Callable[[CancelToken], None]) -> None:
        self.token = CancelToken()
        self._portal = anyio.from_thread.start_blocking_portal()
        self._future: Future[None] = self._portal.__enter__().start_task_soon(
            anyio.to_thread.run_sync, work, self.token
        )

    def is_done(self, timeout: float) -> bool:
        """Whether it has ended, after waiting for `timeout` seconds at most."""
        return bool(wait([self._future], timeout).done)

    def join(self) -> None:
        """Waits for its end; raises what it raised."""
        try:
            self._future.result()
        finally:
            self._portal.__exit__(None, None, None)
