"""What the update command reads without libraries is what the libraries read."""

from pathlib import Path

import pytest
import yaml
from copier import run_copy
from pathspec import PathSpec

from template_update import answers, ownership
from template_update.errors import Refused
from tests.answers import ANSWERS
from tests.conftest import ROOT, Render
from tests.tree import files

TEXT = (ROOT / "template" / ownership.NAME).read_text()
OWNERS: dict[str, list[str]] = yaml.safe_load(TEXT)
SOURCES = [
    "https://github.com/ada/template.git",
    "/home/ada/with 'quotes' and a very long name, " + "of many words " * 9 + "/template",
    "/home/jörg/数据/😀/" + "a long ü folder " * 8,
    '/home/"ada": #1/{template}',
]
"""Where a template may be; YAML writes each in another way."""


@pytest.mark.parametrize("place", SOURCES)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_answers_are_read_as_yaml_reads_them(place: str, ascii_only: bool) -> None:
    """Quoted, escaped and folded values too."""
    content = {
        "_commit": "v1.0.0",
        "_src_path": place,
        "description": "It's " + "what we sell: & repair, " * 6,
        "python_version": "3.10",
    }
    text = yaml.dump(content, allow_unicode=not ascii_only)
    parsed = answers.parse(f"# Changes here\n{text}")
    assert (parsed.source, parsed.version) == (place, "v1.0.0")
    assert parsed.answers["description"] == content["description"]
    assert parsed.answers["python_version"] == "3.10"


@pytest.mark.parametrize("given", ANSWERS.values(), ids=ANSWERS)
def test_the_answers_of_every_render_are_read(render: Render, given: dict[str, str]) -> None:
    """But for the version, which a render without git has not got."""
    text = (render(**given) / answers.NAME).read_text()
    expected = yaml.safe_load(text)
    parsed = answers.parse(text + "_commit: v1.0.0\n")
    assert parsed.answers == {k: v for k, v in expected.items() if not k.startswith("_")}


def test_an_answers_file_without_a_version_is_refused(source: Path, tmp_path: Path) -> None:
    """Copied from a folder that is not in git: the message says how to get out of it."""
    run_copy(str(source), tmp_path / "project", defaults=True, unsafe=False, quiet=True)
    with pytest.raises(Refused, match="`_commit`"):
        answers.read(tmp_path / "project")


def test_owners_are_told_as_git_would_match_them(render: Render) -> None:
    """For each file of a render, and for names that are nearly a pattern."""
    owners = ownership.parse(TEXT, "my_platform")
    assert {name: list(found) for name, found in owners.patterns.items()} == {
        name: [pattern.replace("<package_name>", "my_platform") for pattern in patterns]
        for name, patterns in OWNERS.items()
    }
    project = render()
    names = [path.relative_to(project).as_posix() for path in files(project)]
    names += ["docs/README.md", "README.md.mine", "tests", "tests/x", "tests/sqlmesh_dagster/x/y"]
    names += ["src/my_platform2/x", "src/my_platform/x/y", "datas/x", "a/data/x", "x/.env"]
    names += ["a/poe_tasks.toml", ".template/x/y", ".template-update", "src/sqlmesh_dagsters/x"]
    for owner, patterns in owners.patterns.items():
        spec = PathSpec.from_lines("gitignore", patterns)
        for name in names:
            assert owners.is_owned_by(owner, name) == spec.match_file(name), (owner, name)
