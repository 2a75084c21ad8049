"""What copier.yml asks, and which answers it takes."""

import importlib.metadata
import keyword
import re
import sys
from pathlib import Path

import pytest
import yaml
from copier import run_copy

from sqlmesh_dagster.warehouses import STATE, WAREHOUSES, variables_of
from tests.answers import CHOICES, COPIER_YML, QUESTIONS
from tests.conftest import Render
from tests.tree import parse_toml

NOT_PACKAGE_NAMES = [
    *(
        "",
        " ",
        ".",
        "..",
        "../evil",
        "/etc/evil",
        "a/b",
        "a\\b",
        "a b",
        "a.b",
        "a-b",
        "a\nb",
        "a\n",
    ),
    *("'a'", '"a"', "`a`", "{{ 7 }}", "$HOME", "a;b", "naïve", "数据", "a\u200bb"),
    *("9lives", "My_Platform", "_private", "__init__", "a__b", "a_", "x" * 200),
    *("dagster", "dagster_webserver", "dg", "sqlmesh", "sqlmesh_dagster", "sqlglot", "duckdb"),
    *("models", "macros", "signals", "config", "tests", "audits", "seeds", "metrics", "linter"),
    *("defs", "definitions", "components", "data", "src", "dagster_home", "sqlmesh_project"),
    *sorted(name for name in (*keyword.kwlist, *keyword.softkwlist)),
    *("json", "types", "logging", "email", "queue", "platform"),
]
NOT_TITLES = [
    "",
    " ",
    ' "quoted"',
    'a"b',
    "a`b",
    "a\\b",
    "a/b",
    "../evil",
    "a\nb",
    "a\tb",
    "x" * 200,
]
NOT_TITLES += ["{{ 7 }}", "{% x %}", "a]b", "<b>", "a#b", "a|b", "a$b", "a\u202eb", "😀"]
BAD_FOLDERS = ["", "..", "/etc", "a/../b", "a//b", "a/", 'a"b', "a b", "{{ 7 }}", "a\n"]
BAD_ANSWERS = {
    "project_name": [*NOT_TITLES, "-a", "'a", ": a", "!tag", "& a"],
    "package_name": NOT_PACKAGE_NAMES,
    "description": [title for title in NOT_TITLES if title not in ("a/b", "../evil")],
    "owner": [
        *("", "data", "team:", "team: data", "team:a\nb", 'team:"a"', "team:" + "x" * 200),
        *("ada@", "@example.com", "ada@example", "ada@example.com\n", "a b@example.com", "../evil"),
    ],
    "python_version": ["3.9", "3.15", "python3", ""],
    "sample": ["huge", ""],
    "sqlmesh_project_dir": ["transform", *BAD_FOLDERS],
    "warehouse": ["oracle", "Postgres", ""],
    "deployment": ["swarm", "Kubernetes", ""],
    "ci": ["jenkins", ""],
}


def test_only_known_settings_are_used() -> None:
    """Copier ignores a misspelt setting silently."""
    settings = {name for name in COPIER_YML if name.startswith("_")}
    assert settings == {
        *("_min_copier_version", "_subdirectory", "_templates_suffix", "_envops"),
        *("_exclude", "_skip_if_exists", "_message_after_copy", "_message_after_update"),
    }


def test_every_question_has_help_a_default_and_a_known_shape() -> None:
    """`--defaults` asks nothing, and a misspelt attribute is not lost."""
    assert len([spec for spec in QUESTIONS.values() if "when" not in spec]) == 8
    for name, spec in QUESTIONS.items():
        assert spec["help"].endswith((".", "?")), name
        assert set(spec) in (
            {"type", "help", "default", "choices"},
            {"type", "help", "default", "validator"},
            {"type", "help", "default", "validator", "when"},
            {"type", "help", "default", "choices", "when"},
        ), name


def test_each_default_passes_its_own_validator(render: Render) -> None:
    """A copy with nothing but defaults succeeds and stores every answer."""
    answers = yaml.safe_load((render() / ".copier-answers.yml").read_text())
    assert set(answers) == {*asked_always(), "_src_path"}


def asked_always() -> set[str]:
    """Questions that don't depend on another answer."""
    return {name for name, spec in QUESTIONS.items() if "when" not in spec}


@pytest.mark.parametrize(
    ("project_name", "package_name"),
    [
        ("My Platform", "my_platform"),
        ("Ada's R&D (v2)", "ada_s_r_d_v2"),
        ("3M Sales", "platform_3m_sales"),
        ("Data", "data_platform"),
        ("SQLMesh", "sqlmesh_platform"),
        ("数据平台", "my_platform"),
        ("Überblick", "berblick"),
        ("a" * 29 + " b", "a" * 29),
    ],
)
def test_the_package_name_derived_from_any_project_name_is_valid(
    source: Path, tmp_path: Path, project_name: str, package_name: str
) -> None:
    """Whoever only names the project never meets a complaint about the package."""
    answers = {"project_name": project_name}
    copy = run_copy(str(source), tmp_path / "out", answers, defaults=True, quiet=True, pretend=True)
    assert copy.answers.combined["package_name"] == package_name


@pytest.mark.parametrize(
    ("question", "answer"),
    [(question, answer) for question, answers in BAD_ANSWERS.items() for answer in answers],
)
def test_a_bad_answer_is_named_and_nothing_is_written(
    source: Path, tmp_path: Path, question: str, answer: str
) -> None:
    """The message says which answer, to which question, and the destination does not exist."""
    with pytest.raises(ValueError) as error:
        run_copy(str(source), tmp_path / "out", {question: answer}, defaults=True, quiet=True)
    assert question in str(error.value)
    if "choices" not in QUESTIONS[question]:
        assert f"`{answer}`" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", BAD_FOLDERS)
def test_a_folder_that_is_none_is_refused(source: Path, tmp_path: Path, answer: str) -> None:
    """Also where the question is asked, because there is no sample."""
    answers = {"sample": "none", "sqlmesh_project_dir": answer}
    with pytest.raises(ValueError, match="sqlmesh_project_dir"):
        run_copy(str(source), tmp_path / "out", answers, defaults=True, quiet=True)


def test_reserved_names_cover_this_python_and_what_a_project_installs(source: Path) -> None:
    """A package may not hide, or be hidden by, the standard library or a direct dependency."""
    listed = set((source / "includes/reserved_names.jinja").read_text().split())
    package_name = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
    assert set(filter(package_name.fullmatch, sys.stdlib_module_names)) <= listed
    dependencies = {"dagster", "sqlmesh", "duckdb", "anyio", "filelock", "pytest", "mypy", "typer"}
    dependencies |= {
        "pydantic",
        "python-dotenv",
        "SQLAlchemy",
        "sqlglot",
        "watchdog",
        "pytest-xdist",
    }
    for package, distributions in importlib.metadata.packages_distributions().items():
        if dependencies & set(distributions) and package_name.fullmatch(package):
            assert package in listed


@pytest.mark.parametrize("warehouse", WAREHOUSES)
def test_the_example_of_env_names_what_the_warehouse_needs(render: Render, warehouse: str) -> None:
    """Every variable that it names exists, and all that must be set are among them; its packages are in the project."""
    project = render(warehouse=warehouse)
    dependencies = parse_toml(project / "pyproject.toml")["project"]["dependencies"]
    packages = {re.split(r"[\[<>=]", line)[0] for line in dependencies}
    assert {WAREHOUSES[warehouse].driver[1], STATE.driver[1]} <= packages
    assert ("databricks-sdk" in packages) is (warehouse == "databricks")  # by a client's secret
    text = (project / ".env.example").read_text()
    named = set(re.findall(r"^# ((?:WAREHOUSE|STATE)_\w+)=", text, re.MULTILINE))
    named -= {"WAREHOUSE_PATH"}
    spec = WAREHOUSES[warehouse]
    needed = {f"WAREHOUSE_{variable.name}" for variable in spec.variables if variable.is_required}
    ways = [{f"WAREHOUSE_{name}" for name in login} for login in spec.logins]
    assert needed <= named <= {*variables_of(spec), *variables_of(STATE, state=True)}
    assert not ways or any(way <= named for way in ways)
    assert f"# SQLMESH_GATEWAY={warehouse}\n" in text


def test_the_choices_are_the_warehouses_that_there_are() -> None:
    """And DuckDB, which needs no variable."""
    assert CHOICES["warehouse"] == ["duckdb", *WAREHOUSES]
