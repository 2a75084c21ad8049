"""What a run that is being stopped says while it waits, and when it waits no longer. Pure but for its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

_FIRST_PAUSE = 10.0
_LONGEST_PAUSE = 60.0
_SAME_SIGNAL = 5.0
"""Seconds: a terminal's Ctrl-C reaches each process of a run, and is then passed on to it once more."""


class Patience(Enum):
    """What to do while the work goes on."""

    WAIT = "wait"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class OtherWork:
    """What SQLMesh does where no model is built, for who waits for it.

    Attributes:
        what: Such as "`before_all`"; empty for SQLMesh's own work.
        seconds: Since when.
        can_be_left: Whether it may be given up, as a model may.
    """

    what: str = ""
    seconds: float = 0.0
    can_be_left: bool = True


_NOTHING = OtherWork()


class Stopping:
    """From the moment at which the work was told to stop until it has ended.

    Args:
        limit: Seconds after which it is given up; None for never.
        say: Receives what it waits for: at once, and again at pauses that grow up to a minute.
    """

    def __init__(
        self,
        limit: float | None,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._say = say
        self._clock = clock
        self._began_at: float | None = None
        self._says_at = 0.0
        self._pause = _FIRST_PAUSE
        self._has_given_up = False

    def is_told_again(self) -> bool:
        """Whether somebody who stops it now wants it to wait no longer: some seconds after it began to."""
        return self._began_at is not None and self._clock() - self._began_at >= _SAME_SIGNAL

    def look(
        self,
        running: Mapping[str, float],
        *,
        can_interrupt: bool = True,
        other: OtherWork = _NOTHING,
    ) -> Patience:
        """Call it again and again.

        Args:
            running: The models that are being built or audited, each with the seconds that it has taken.
            can_interrupt: Whether the drivers can end their queries.
            other: What is done where no model is.

        Returns:
            Once `GIVE_UP`: the limit is over, and a model, or Python or SQL of the project, is what it
            waits for.
        """
        now = self._clock()
        if self._began_at is None:
            self._began_at = self._says_at = now
        if now >= self._says_at:
            self._says_at, self._pause = now + self._pause, min(self._pause * 2, _LONGEST_PAUSE)
            waited = now - self._began_at
            self._say(_waiting(running, other, waited, self._limit, can_interrupt))
        is_over = self._limit is not None and now - self._began_at >= self._limit
        is_theirs = bool(running) or (bool(other.what) and other.can_be_left)
        if is_over and is_theirs and not self._has_given_up:
            self._has_given_up = True
            return Patience.GIVE_UP
        return Patience.WAIT


def _waiting(
    running: Mapping[str, float],
    other: OtherWork,
    waited: float,
    limit: float | None,
    can_interrupt: bool,
) -> str:
    since = f" It was told to stop {waited:.0f} s ago." if waited >= 1 else ""
    if not running and not other.what:
        return f"This run is being stopped, and waits for SQLMesh to end what it does.{since}"
    models = ", ".join(
        f"`{name}` (for {seconds:.0f} s)" for name, seconds in sorted(running.items())
    )
    what = f"what is being built: {models}" if running else _told(other)
    if not running and not other.can_be_left:
        return f"This run is being stopped, and waits for {what}.{since}"
    until = (
        f" After {limit:g} s it is given up."
        if limit is not None
        else " `cancel_timeout` limits how long that may take."
    )
    how = (
        f"Queries are interrupted; {'a Python model' if running else 'Python'} ends by itself."
        if can_interrupt
        else "The engine's driver cannot interrupt a query: what is being built ends by itself."
    )
    return f"This run is being stopped, and waits for {what}.{since} {how}{until}"


def _told(other: OtherWork) -> str:
    return f"{other.what} (for {other.seconds:.0f} s)"
