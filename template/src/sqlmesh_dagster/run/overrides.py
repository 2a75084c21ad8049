"""Who promotes a change although a rule stops it, and why: checked, and stored in the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from sqlmesh_dagster.errors import InvalidSettingError, PromotionStoppedError
from sqlmesh_dagster.facts.gates import Gates, Stop


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


def obey(context: dg.OpExecutionContext, broken: Sequence[Stop], override: Override | None) -> None:
    """Stops where a rule is broken, unless somebody may and does override it.

    Raises:
        PromotionStoppedError: With each rule that is broken.
    """
    if not broken:
        return
    lines = "\n".join(f"- {stop}" for stop in broken)
    if override is not None:
        context.log.warning(f"{override.text} What is overridden:\n{lines}")
        return
    raise PromotionStoppedError(
        f"`review.toml` stops the promotion of this change:\n{lines}\nChange the models, or let somebody"
        " who may override it do so: `override` with the reason, `override_by` with the name."
    )
