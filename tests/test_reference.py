"""The page of the vendored package says what the code says."""

import re

from tests import reference


def test_the_page_is_what_the_code_says() -> None:
    """`python -m tests.reference` writes it anew."""
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
