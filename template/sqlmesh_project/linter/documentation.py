"""Rules of this project: a model says what it holds and who answers for it."""

from sqlmesh.core.linter.rule import Rule, RuleViolation
from sqlmesh.core.model import ExternalModel, Model


class NoMissingOwner(Rule):
    """A model names its owner."""

    def check_model(self, model: Model) -> RuleViolation | None:
        if isinstance(model, ExternalModel) or model.owner:
            return None
        return self.violation(
            f"Model `{model.name}` has no `owner`. Add the mail address of a team."
        )


class NoMissingDescription(Rule):
    """A model describes itself and each of its columns."""

    def check_model(self, model: Model) -> RuleViolation | None:
        if not model.description:
            return self.violation(
                f"Model `{model.name}` has no description. Add a block comment above MODEL."
            )
        described = model.column_descriptions or {}
        missing = [
            name
            for name in model.columns_to_types or {}
            # SQLMesh adds and fills the managed ones: `valid_from` and `valid_to`.
            if name not in described and name not in model.managed_columns
        ]
        if not missing:
            return None
        return self.violation(f"Columns of `{model.name}` without a comment: {', '.join(missing)}.")
