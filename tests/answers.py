"""What copier.yml asks, and the answers that the tests render."""

from itertools import cycle
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
_ALONE = ("warehouse", "deployment")
"""Touch few places, or have many choices: each is met once."""
_PAIRED = {name: choices for name, choices in CHOICES.items() if name not in _ALONE}
PAIRWISE = {
    "-".join([*values, *alone]): dict(zip([*_PAIRED, *_ALONE], [*values, *alone], strict=True))
    for values, *alone in zip(
        AllPairs(_PAIRED.values()),
        *(cycle(CHOICES[name]) for name in _ALONE),
        strict=False,
    )
}
"""A small set of renders in which each two choices of different questions meet."""
ANSWERS = {**PAIRWISE, "example": EXAMPLE}
