"""Which models one sqlmesh run takes: pure functions, tested without a database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from sqlmesh_dagster.definition.records import ModelRecord
from sqlmesh_dagster.facts.outcomes import ModelOutcome


@dataclass(frozen=True)
class Selection:
    """What one sqlmesh run may do.

    Attributes:
        taken: FQNs of the selected models that it builds, sorted.
        held: FQNs of models, selected or not, that it must not build, though a taken one may read them.
    """

    taken: tuple[str, ...]
    held: frozenset[str] = frozenset()


def select_models(
    *,
    models: Mapping[str, str],
    upstream: Mapping[str, Collection[str]],
    succeeded: Collection[str],
    own_step: str,
    attempted: Collection[str],
    failed: Collection[str],
    unselected: Mapping[str, str] | None = None,
) -> Selection:
    """Every selected model that may be built now.

    A model may be built when all steps *outside SQLMesh* that it depends on in this Dagster run,
    directly or through other models, have succeeded: an ingest asset that is still running never has
    its models built on old data. Models that wait are taken by a later sqlmesh run.

    Args:
        models: Step keys of the models that this Dagster run materializes, each with its FQN.
        upstream: Each step of this Dagster run, with its direct upstream steps in it.
        succeeded: Steps that have succeeded so far.
        own_step: The model step that asks: Dagster started it, so all that it needs is done.
        attempted: FQNs that a sqlmesh run of this Dagster run has taken before.
        failed: Those of them that did not succeed; what depends on them is not taken, because
            Dagster skips it.
        unselected: The project's other models, as if they were steps; `upstream` has them, too.
    """
    known = {**models, **(unselected or {})}
    ready = {step: False for step, fqn in known.items() if fqn in failed} | {own_step: True}

    def is_ready(step: str) -> bool:
        pending = [step]
        while pending:
            current = pending[-1]
            if current in ready:
                pending.pop()
                continue
            parents = upstream.get(current, ())
            unknown = [p for p in parents if p in known and p not in ready]
            if unknown:
                pending.extend(unknown)
                continue
            ready[current] = all(ready[p] if p in known else p in succeeded for p in parents)
            pending.pop()
        return ready[step]

    return Selection(
        taken=tuple(
            sorted(
                fqn
                for step, fqn in models.items()
                if step == own_step or (fqn not in attempted and is_ready(step))
            )
        ),
        held=frozenset(fqn for step, fqn in known.items() if not is_ready(step)),
    )


def open_again(
    outcomes: Mapping[str, Sequence[ModelOutcome]],
    reads: Mapping[str, Collection[str]],
    retried: str | None = None,
) -> frozenset[str]:
    """Models that were skipped because of others upstream that failed, and that have succeeded since.

    Args:
        outcomes: What became of each model in this Dagster run so far, oldest first.
        reads: What each model of the project reads, by FQN.
        retried: The model whose step is tried again now, which counts as one that succeeds.
    """
    latest = {fqn: found[-1] for fqn, found in outcomes.items() if found}
    failed = {fqn for fqn, last in latest.items() if not last.is_success}
    skipped = {fqn for fqn in failed if latest[fqn].status == "upstream_failed"}
    causes = failed - skipped - {retried}
    repaired = {
        fqn
        for fqn, found in outcomes.items()
        if fqn not in failed - {retried} and not all(outcome.is_success for outcome in found)
    }

    def is_open(fqn: str) -> bool:
        above = _above(fqn, reads)
        return bool(above & repaired) and not above & causes

    return frozenset(filter(is_open, skipped))


def _above(fqn: str, reads: Mapping[str, Collection[str]]) -> set[str]:
    """All that a model reads, directly or through others."""
    found: set[str] = set()
    pending = [fqn]
    while pending:
        new = set(reads.get(pending.pop(), ())) - found
        found |= new
        pending.extend(new)
    return found


def with_unselected(
    upstream: Mapping[str, Collection[str]],
    steps: Mapping[dg.AssetKey, str],
    models: Mapping[dg.AssetKey, str],
    reads: Mapping[dg.AssetKey, Collection[dg.AssetKey]],
) -> dict[str, frozenset[str]]:
    """The steps of a Dagster run, with the models between them that it leaves out.

    Args:
        upstream: Each step of the run, with its direct upstream steps in it.
        steps: The step of each asset of the run.
        models: The FQN of each model of the project, in the run or not.
        reads: What each of them reads.

    Returns:
        As `upstream`, with an entry for each model that has no step, by its FQN.
    """
    names = {**models, **steps}
    graph = {step: frozenset(above) for step, above in upstream.items()}
    for model, read in reads.items():
        above = frozenset(names[key] for key in read if key in names and key != model)
        graph[names[model]] = graph.get(names[model], frozenset()) | above
    return graph


def restated_below(models: Iterable[ModelRecord], fqns: Collection[str]) -> tuple[ModelRecord, ...]:
    """The models that SQLMesh would restate with these: all that read them, directly or not.

    A seed, a model whose restatement is disabled, and models that read only these are not restated.

    Args:
            models: Of the whole project, upstream before downstream.
    """
    restated = set(fqns)
    below = []
    for model in models:
        is_read = model.is_restatable and not model.is_seed
        if model.fqn not in restated and is_read and restated.intersection(model.depends_on):
            restated.add(model.fqn)
            below.append(model)
    return tuple(below)
