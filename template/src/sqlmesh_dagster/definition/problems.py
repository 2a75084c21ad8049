"""What an error of the owner's own code says, in one line, and where."""

from __future__ import annotations

import traceback
from pathlib import Path

import dagster as dg

_PACKAGE = str(Path(__file__).resolve().parents[1])


def text_with_place(error: Exception) -> str:
    """What an error says, and the owner's line that raised it, if there is one."""
    text = error.description if isinstance(error, dg.Failure) else str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if _PACKAGE not in f.filename and "site-packages" not in f.filename]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text}{place}"
