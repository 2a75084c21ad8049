"""The Pythons that a project says it runs on are those of what it installs."""

from importlib.metadata import metadata

from packaging.specifiers import SpecifierSet

from tests.conftest import Render
from tests.tree import parse_toml


def test_a_project_ends_where_dagster_does(render: Render) -> None:
    """Else uv picks a newer Python, and fails."""
    project = parse_toml(render() / "pyproject.toml")["project"]
    ours = SpecifierSet(project["requires-python"])
    dagsters = SpecifierSet(metadata("dagster")["Requires-Python"])
    for version in (f"3.{minor}" for minor in range(10, 30)):
        assert ours.contains(version) == dagsters.contains(version), version
