"""Random projects and histories: what a selected run leaves is what SQLMesh alone leaves.

`GAP_CASES=500 python -m pytest tests/integration/test_gaps_property.py` tries more of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest

from tests.integration.histories import (
    planned_twice,
    random_case,
    run_alone,
    run_in_dagster,
    warehouse,
)

FIRST, CASES = int(os.environ.get("GAP_FIRST", "0")), int(os.environ.get("GAP_CASES", "30"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + CASES))
@pytest.mark.slow
def test_a_selected_run_leaves_what_sqlmesh_alone_leaves(
    seed: int, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Promise: the same rows, intervals and end as `sqlmesh run --select-model`, run for run."""
    case = random_case(seed)
    ours, theirs = planned_twice(case, tmp_path)
    definitions = ours.definitions()
    for launch in case.launches:
        expected = run_alone(theirs, launch)
        assert run_in_dagster(definitions, instance, launch) == expected, launch
        assert warehouse(ours, list(case.models)) == warehouse(theirs, list(case.models)), launch
