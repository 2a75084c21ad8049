"""What copier.yml asks, and the answers that the tests render."""

from typing import Any

import yaml
from allpairspy import AllPairs

from tests.conftest import ROOT

COPIER_YML: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS = {name: spec for name, spec in COPIER_YML.items() if not name.startswith("_")}
CHOICES = {
    name: list(choices.values() if isinstance(choices, dict) else choices)
    for name, spec in QUESTIONS.items()
    if (choices := spec.get("choices"))
}
EXAMPLE: dict[str, str] = yaml.safe_load((ROOT / "example-answers.yml").read_text())
PAIRWISE = {
    "-".join(values): dict(zip(CHOICES, values, strict=True))
    for values in AllPairs(CHOICES.values())
}
"""A small set of renders in which each two choices of different questions meet."""
ANSWERS = {**PAIRWISE, "example": EXAMPLE}
