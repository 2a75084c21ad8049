"""Bad input names itself: one message, the option and its value, the next step, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.robustness.doors import PURE, fuzz


@pytest.mark.slow
def test_each_door_refuses_bad_input_in_words(tmp_path: Path) -> None:
    """Promise: no traceback of strptime's or of pydantic's, whatever is given; see `doors`."""
    report = fuzz(tmp_path, seed=1, pure=50, loads=8)
    assert report.findings == []
    assert len(report.given) == len(PURE) + 6
    assert all(report.refused[door] for door in report.given if "keep_last_good" not in door)
