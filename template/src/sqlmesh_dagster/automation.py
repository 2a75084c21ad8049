"""Automation conditions for assets that read models."""

from __future__ import annotations

from typing import Any

import dagster as dg


def on_new_data() -> dg.AutomationCondition[Any]:
    """As `AutomationCondition.eager()`, but only new data of an upstream asset counts.

    `eager` requests an asset whenever one that it reads is materialized. A model with nothing due
    is materialized, too, with an unchanged data version; this condition ignores that.

    Returns:
        A condition that can be combined with others.
    """
    new_data: dg.AutomationCondition[Any] = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.data_version_changed()
    ).with_label("any_deps_have_new_data")
    eager = dg.AutomationCondition.eager().with_label("on_new_data")
    return eager.replace("any_deps_updated", new_data)
