"""The versions of production, plan by plan, and the one that a rollback goes back to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from typing import Any

from sqlmesh_dagster.definition.markdown import cell
from sqlmesh_dagster.errors import RollbackRefusedError
from sqlmesh_dagster.facts.plan_summary import PlanSummary, table

_MOST_VERSIONS = 10
_WORDS = {"added": "comes back", "removed": "goes"}
_UNTIL = "Check out the commit that production ran then, and `poe promote --without-review`."


@dataclass(frozen=True)
class ProductionVersion:
    """What production runs from a plan on.

    Attributes:
        plan: Id of SQLMesh's plan.
        previous: Id of the plan before it; None for the first.
        nodes: Pairs of a model's or an audit's name and its fingerprint.
        statements: Before and after runs, as JSON; empty for none.
        requirements: Pairs of a package and its version.
        at: When production was seen with it first, in epoch milliseconds.
        restores: The plan whose version a rollback has brought back.
        run: The Dagster run that applied the plan; None where another program did.
        commit: Of the files, where it is known.
    """

    plan: str
    previous: str | None
    nodes: tuple[tuple[str, str], ...]
    statements: str = ""
    requirements: tuple[tuple[str, str], ...] = ()
    at: int = 0
    restores: str | None = None
    run: str | None = None
    commit: str | None = None

    def is_same(self, other: ProductionVersion) -> bool:
        """Whether both run the same; a restatement is a plan that changes nothing of it."""
        return self._content == other._content

    @property
    def _content(self) -> object:
        return sorted(self.nodes), self.statements, sorted(self.requirements)

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> ProductionVersion:
        """The same again; what a newer version of this package has written, too, is left out."""
        known = {f.name: given[f.name] for f in fields(cls) if f.name in given}
        made = cls(**known)
        return replace(made, nodes=_pairs(made.nodes), requirements=_pairs(made.requirements))


Versions = Mapping[str, ProductionVersion]
"""What production ran, by the id of its plan."""


def version_before(now: ProductionVersion, known: Versions) -> ProductionVersion:
    """The version before the current one; plans that changed nothing are passed over.

    After a rollback, it is what was before that: rollbacks in a row go further back.

    Raises:
        RollbackRefusedError: There was nothing, or it was not recorded.
    """
    at, seen = _origin(now, known), {now.plan}
    while at.previous is not None and at.previous not in seen:
        seen.add(at.previous)
        before = known.get(at.previous)
        if before is None:
            raise RollbackRefusedError(
                f"What production ran before plan `{at.plan}` was not recorded: neither a promotion nor a"
                f" run of Dagster has seen it. {_UNTIL}"
            )
        if not before.is_same(now):
            return before
        at = _origin(before, known)
    raise RollbackRefusedError(
        f"Plan `{at.plan}` is the first that production had; there is nothing to go back to."
    )


def version_named(
    plan: str, now: ProductionVersion, known: Versions, *, is_finished: bool = True
) -> ProductionVersion:
    """The version of a plan.

    Args:
        is_finished: Whether the plan that production was changed by last was.

    Raises:
        RollbackRefusedError: It is not known, or production runs it.
    """
    found = known.get(plan)
    if found is None:
        raise RollbackRefusedError(
            f"What production ran from plan `{plan}` on was not recorded. `poe rollback` shows the plans"
            " that are known."
        )
    if found.is_same(now) and is_finished:
        raise RollbackRefusedError(f"Production runs what it ran from plan `{plan}` on.")
    return found


def undone(now: ProductionVersion, known: Versions) -> tuple[ProductionVersion, ...]:
    """The versions that production was rolled back from, newest last; none if it was not, or if it has them again."""
    found: list[ProductionVersion] = []
    at: ProductionVersion | None = now
    while at is not None and at.restores is not None and at.previous is not None:
        before = known.get(at.previous)
        if before is not None and _origin(at, known).at < _origin(before, known).at:
            found.insert(0, before)
        at = before
    return tuple(found)


def held_back(
    local: Mapping[str, str],
    deployed: Mapping[str, str],
    undone: Sequence[ProductionVersion],
) -> frozenset[str]:
    """The names whose files differ from production because exactly this change was rolled back.

    Args:
        local: Fingerprints in the files, by name.
        deployed: Those of what production runs.
    """
    return frozenset(
        name
        for name in own_differences(local, deployed)
        if any(_own(local.get(name)) == _own(dict(v.nodes).get(name)) for v in undone)
    )


def own_differences(local: Mapping[str, str], deployed: Mapping[str, str]) -> frozenset[str]:
    """What differs by its own text, by name; not what only reads something else."""
    names = local.keys() | deployed.keys()
    return frozenset(n for n in names if _own(local.get(n)) != _own(deployed.get(n)))


@dataclass(frozen=True)
class Rollback:
    """What a rollback does.

    Attributes:
        now: What production runs.
        target: What it goes back to.
        plan: The same in SQLMesh's terms.
        others: What else it could go back to.
    """

    now: ProductionVersion
    target: ProductionVersion
    plan: PlanSummary
    others: tuple[ProductionVersion, ...] = ()

    @property
    def restores(self) -> str:
        """The plan whose version production has afterwards."""
        return self.target.restores or self.target.plan

    @property
    def markdown(self) -> str:
        """All of it."""
        return "\n\n".join(self._sections())

    def _sections(self) -> Iterator[str]:
        yield f"## Rollback of environment `{self.plan.environment}`"
        yield (
            f"Production runs {_told(self.now)}. It goes back to {_told(self.target)}. Nothing is built:"
            " its views show the tables of then again."
        )
        if self.plan.changes:
            yield "### Changes"
            rows = [(c.name, _WORDS.get(c.kind, "is as it was")) for c in self.plan.changes]
            yield table(("model", ""), rows)
        if self.plan.backfills:
            yield "### What the next run builds"
            yield "It was not built while production ran something else."
            rows = [(b.name, b.what) for b in self.plan.backfills]
            yield table(("model", "missing"), rows)
        if self.others:
            yield "### What else production can go back to"
            yield table(
                ("plan, for `--to`", "seen", "Dagster run", "commit"),
                [
                    (v.plan, _when(v.at), (v.run or "")[:8], (v.commit or "")[:12])
                    for v in self.others[:_MOST_VERSIONS]
                ],
            )
        yield from self.plan.text_diffs()


def others_than(
    now: ProductionVersion, target: ProductionVersion, known: Versions
) -> tuple[ProductionVersion, ...]:
    """All other known versions, newest first, each content once."""
    found: list[ProductionVersion] = []
    for version in sorted(known.values(), key=lambda v: -v.at):
        if version.restores is None and not any(
            version.is_same(each) for each in (now, target, *found)
        ):
            found.append(version)
    return tuple(found)


def _origin(version: ProductionVersion, known: Versions) -> ProductionVersion:
    """Where it comes from, if a rollback has brought it back."""
    return known.get(version.restores, version) if version.restores else version


def _own(fingerprint: str | None) -> str | None:
    """The part of a fingerprint that the model's own text makes, and not what it reads."""
    return None if fingerprint is None else "-".join(fingerprint.split("-")[:2])


def _told(version: ProductionVersion) -> str:
    run = f", of Dagster run `{version.run[:8]}`" if version.run else ""
    commit = f", commit `{version.commit[:12]}`" if version.commit else ""
    return f"plan `{cell(version.plan)}`{run}{commit}"


def _when(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1000, timezone.utc):%Y-%m-%d %H:%M} UTC" if at else ""


def _pairs(given: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(a), str(b)) for a, b in given)
