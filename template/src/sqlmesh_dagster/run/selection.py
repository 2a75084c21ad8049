"""Which models one sqlmesh run takes: pure, so that it is read and tested without a database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from sqlmesh_dagster.definition.records import ModelRecord


def select_models(
    *,
    models: Mapping[str, str],
    upstream: Mapping[str, Collection[str]],
    succeeded: Collection[str],
    own_step: str,
    attempted: Collection[str],
    failed: Collection[str],
) -> tuple[str, ...]:
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

    Returns:
        FQNs, sorted; the asking step's own model is always among them.
    """
    ready = {step: False for step, fqn in models.items() if fqn in failed} | {own_step: True}

    def is_ready(step: str) -> bool:
        pending = [step]
        while pending:
            current = pending[-1]
            if current in ready:
                pending.pop()
                continue
            parents = upstream.get(current, ())
            unknown = [p for p in parents if p in models and p not in ready]
            if unknown:
                pending.extend(unknown)
                continue
            ready[current] = all(ready[p] if p in models else p in succeeded for p in parents)
            pending.pop()
        return ready[step]

    return tuple(
        sorted(
            fqn
            for step, fqn in models.items()
            if step == own_step or (fqn not in attempted and is_ready(step))
        )
    )


def restated_below(models: Iterable[ModelRecord], fqns: Collection[str]) -> tuple[ModelRecord, ...]:
    """What SQLMesh would build again with these models: all that reads them, directly or not.

    A seed, and a model whose restatement is disabled, is left alone, and so is what only it leads to.

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
