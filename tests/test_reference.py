"""The page of the vendored package says what the code says."""

import re

from tests import reference
from tests.conftest import ROOT


def test_the_page_is_what_the_code_says() -> None:
    """`python -m tests.reference` writes it again."""
    assert reference.PATH.read_text() == reference.text()


def test_every_row_of_the_page_says_something() -> None:
    """No setting, option, module, method or error is left without a description."""
    rows = re.findall(r"^\|([^|]*)\|(.*)\|$", reference.text(), re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, what in rows if not what.strip()] == []


def test_the_modules_that_the_page_leads_to_exist() -> None:
    """ "I want to change …" leads to a file."""
    named = re.findall(r"`((?:\w+/)?\w+\.py)`", reference.HEAD)
    assert len(named) > 10
    missing = [name for name in named if not (reference.PACKAGE / name).is_file()]
    assert [name for name in missing if name != "defs/transform.py"] == []


def test_the_walk_of_a_click_leads_through_at_most_twelve_files() -> None:
    """CONTRIBUTING.md draws it; each file is there, and each is imported by one before it."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## From a click to a row")[2]
    walk = re.findall(r"^ *((?:\w+/)?\w+\.py) ", text.partition("And back")[0], re.MULTILINE)
    assert 8 <= len(walk) <= 12
    sources = {name: (reference.PACKAGE / name).read_text() for name in walk}
    for place, name in enumerate(walk[1:], start=1):
        module = f"sqlmesh_dagster.{name.removesuffix('.py').replace('/', '.')}"
        package, _, last = module.rpartition(".")
        used = (f"from {module} import", f"from {package} import {last}")
        assert any(u in sources[w] for w in walk for u in used), (
            f"{name}, {place} files from the click"
        )
