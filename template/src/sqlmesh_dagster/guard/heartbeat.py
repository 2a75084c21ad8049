"""Looks every few seconds, in a thread of its own, and gives a message if a look does not end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beating(
    look: Callable[[], None], when_silent: Callable[[], None], *, every: float, silent: float
) -> Iterator[None]:
    """Meanwhile `look` is called, which also keeps a connection from being idle.

    Args:
        look: Asks a server.
        when_silent: Is called once for each look that takes long, while it goes on.
        every: Seconds between two looks.
        silent: Seconds that a look may take.
    """
    end = threading.Event()

    def beat() -> None:
        while not end.wait(every):
            waiting = threading.Timer(silent, when_silent)
            waiting.daemon = True
            waiting.start()
            try:
                look()
            finally:
                waiting.cancel()

    thread = threading.Thread(target=beat, name="sqlmesh_dagster heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
