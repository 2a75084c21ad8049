"""SQLMesh work in a thread of its own; a Dagster step waits for it and can cancel it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

import anyio
import anyio.to_thread

from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.guard.signals import StopSignals


class Worker:
    """A function in an AnyIO worker thread, which a signal to stop this process stops, too.

    Whoever gets the signal: the error that Dagster makes of it may reach another step, or the end of
    this one, when nobody waits there for the work.
    """

    def __init__(self, work: Callable[[CancelToken], None]) -> None:
        self.token = CancelToken()
        self._signals = StopSignals()
        self._future: Future[None] = Future()
        # not a portal: one that is left, because a model does not end, hangs the end of the process
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def is_done(self, timeout: float) -> bool:
        """Whether it has ended, after waiting for `timeout` seconds at most; call it again and again."""
        is_done = bool(wait([self._future], timeout).done)
        if not is_done and self._signals.has_come:
            self.token.cancel()
        return is_done

    def join(self) -> None:
        """Waits for its end; raises what it raised."""
        try:
            self._future.result()
        finally:
            self._signals.close()
            self._thread.join()

    def _run(self, work: Callable[[CancelToken], None]) -> None:
        try:
            anyio.run(anyio.to_thread.run_sync, work, self.token)
        except BaseException as error:  # of whoever joins
            self._future.set_exception(error)
        else:
            self._future.set_result(None)
