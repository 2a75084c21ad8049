"""Results of unit tests and linter, next to their results for the models of production.

The tests and rules are those of the files, on both sides: those of then are in no state. Importing this
module imports SQLMesh.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlmesh import Context

from sqlmesh_dagster.engine.plan import plain
from sqlmesh_dagster.engine.reader import unit_tests_by_model
from sqlmesh_dagster.facts.review import CheckReview
from sqlmesh_dagster.facts.verification import Finding, Verification
from sqlmesh_dagster.guard.cancel import CancelToken
from sqlmesh_dagster.upstream.internals import Model, Plan, run_tests

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodeReviewing:
    """What unit tests and linter said of the files, next to what they say of production's models.

    Attributes:
        context: Loaded.
        plan: Of production.
    """

    context: Context
    plan: Plan
    verification: Verification
    cancel: CancelToken

    def checks(self) -> Iterator[CheckReview]:
        """Of what the change edits, and of what fails."""
        failing = {f.model for f in (*self.verification.failures, *self.verification.violations)}
        for fqn in sorted(self._edited | (failing & self.context.models.keys())):
            self.cancel.check()
            yield from self._unit_tests(fqn)
            yield from self._lint(fqn)

    @cached_property
    def _edited(self) -> set[str]:
        diff = self.plan.context_diff
        return {name for name in diff.modified_snapshots if diff.directly_modified(name)} & (
            self.context.models.keys()
        )

    @cached_property
    def _tests(self) -> dict[str, list[str]]:
        return unit_tests_by_model(self.context)

    def _before(self, fqn: str) -> Model | None:
        """The model as production runs it; None where it has none."""
        diff = self.plan.context_diff
        if fqn in diff.modified_snapshots:
            _, old = diff.modified_snapshots[fqn]
            return old.model if old.is_model else None
        is_new = any(added.name == fqn for added in diff.added)
        return None if is_new else self.context.models[fqn]

    def _unit_tests(self, fqn: str) -> Iterator[CheckReview]:
        names = self._tests.get(fqn, [])
        if not names:
            return
        after = _by_rule(self.verification.failures, fqn)
        before = self._failing_before(fqn, names)
        known = [name.rpartition("::")[2] for name in names]
        for rule in dict.fromkeys([*known, *after]):
            yield CheckReview(
                plain(fqn),
                rule,
                None if before is None else before.get(rule, 0),
                after.get(rule, 0),
                kind="unit test",
            )

    def _failing_before(self, fqn: str, names: Sequence[str]) -> Mapping[str, int] | None:
        model = self._before(fqn)
        if model is None:
            return None
        if model is self.context.models[fqn]:
            return _by_rule(self.verification.failures, fqn)

        models: Any = {**self.context.models, fqn: model}

        def run() -> Mapping[str, int]:
            result = run_tests(
                model_test_metadata=self.context.select_tests(tests=list(names)),
                models=models,
                config=self.context.config,
                selected_gateway=self.context.selected_gateway,
                dialect=self.context.default_dialect,
                default_catalog=self.context.default_catalog,
                default_catalog_dialect=self.context.config.dialect or "",
            )
            failed = (*result.failures, *result.errors)
            return Counter(str(getattr(test, "test_name", test)) for test, _ in failed)

        return _where_possible(run, fqn)

    def _lint(self, fqn: str) -> Iterator[CheckReview]:
        found = [f for f in self.verification.violations if f.model == fqn]
        after, before = _by_rule(found, fqn), self._violations_before(fqn)
        for rule in dict.fromkeys([*after, *(before or ())]):
            errors = [f.is_error for f in found if f.rule == rule]
            yield CheckReview(
                plain(fqn),
                rule,
                None if before is None else before.get(rule, 0),
                after.get(rule, 0),
                blocking=any(errors),
                kind="linter",
            )

    def _violations_before(self, fqn: str) -> Mapping[str, int] | None:
        model = self._before(fqn)
        if model is None:
            return None
        if model is self.context.models[fqn]:
            return _by_rule(self.verification.violations, fqn)

        def run() -> Mapping[str, int]:
            return Counter(
                v.rule.name for v in self.context.lint_models([model], raise_on_error=False)
            )

        return _where_possible(run, fqn)


def _by_rule(findings: Iterable[Finding], fqn: str) -> Mapping[str, int]:
    return Counter(f.rule for f in findings if f.model == fqn)


def _where_possible(run: Callable[[], Mapping[str, int]], fqn: str) -> Mapping[str, int] | None:
    """None where production's model cannot be looked at with the tests and rules of now."""
    try:
        return run()
    except Exception:  # rules and tests are the owner's code
        _log.info("Could not look at production's `%s`.", fqn, exc_info=True)
        return None
