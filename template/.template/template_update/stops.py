"""Signals that stop a command: each of them undoes the update, and none stops the undo."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, a CI that cancels or a shutdown, a terminal that is closed; Windows has no `SIGHUP`."""
STOPS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


def as_interrupts() -> None:
    """Let each signal raise `KeyboardInterrupt`; one that is ignored, as under `nohup`, stays so."""
    for stop in STOPS:
        if signal.getsignal(stop) is not signal.SIG_IGN:
            signal.signal(stop, signal.default_int_handler)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore the signals meanwhile, here and in the processes that are started."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread set a handler, and interrupts none
        return
    before = {stop: signal.signal(stop, signal.SIG_IGN) for stop in STOPS}
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
