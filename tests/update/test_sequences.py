"""Whatever an owner does between updates, and wherever an update is killed: nothing is lost."""

from pathlib import Path

import pytest

from tests.update import sequences, small
from tests.update.small import Small


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Two versions of a small template; only read it."""
    return small.make(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("group", range(4))
def test_no_sequence_of_steps_loses_a_byte(template: Small, tmp_path: Path, group: int) -> None:
    """Sixty of them; `python -m tests.update.sequences` runs 2,000."""
    for seed in range(group * 15, group * 15 + 15):
        sequences.live(template, tmp_path / str(seed), seed)
