"""Who promotes a change though a rule stops it, and why: checked, and kept in the run. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmesh_dagster.errors import InvalidSettingError
from sqlmesh_dagster.facts.gates import Gates


@dataclass(frozen=True)
class Override:
    """Attributes:
    by: As in `override_by` of the owner's file.
    """

    by: str
    reason: str

    @property
    def text(self) -> str:
        """A sentence."""
        return f"{self.by} overrides the rules of `review.toml`: {self.reason.rstrip('.')}."

    @property
    def metadata(self) -> dict[str, str]:
        """What the run's page says of it."""
        return {"sqlmesh/overridden_by": self.by, "sqlmesh/override": self.reason}


def override_of(gates: Gates, reason: str | None, by: str | None) -> Override | None:
    """What the options say.

    Raises:
        InvalidSettingError: Only one of both is given, or that person may not.
    """
    if not reason and not by:
        return None
    if not reason or not by:
        raise InvalidSettingError(
            "`override` needs the reason, and `override_by` the name; give both."
        )
    if by not in gates.override_by:
        may = ", ".join(f"`{name}`" for name in gates.override_by) or "nobody"
        raise InvalidSettingError(
            f"`{by}` may not override the rules of `review.toml`; its `override_by` names {may}."
        )
    return Override(by, reason)
