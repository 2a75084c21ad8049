"""No edit and no fix is lost silently, whatever owner and template do to the same file."""

import itertools
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from template_update import moves, ownership
from tests.answers import EXAMPLE
from tests.conftest import ROOT
from tests.update.edits import EDITS, FIXES, THEIRS, Fate
from tests.update.projects import COMMAND, Project, copy, is_carrying
from tests.update.releases import NEXT, RELEASES, Template, clone

PRESETS: dict[str, dict[str, str]] = {
    "full-github": {},
    "example-gitlab": EXAMPLE,
    "minimal-none": {"sample": "minimal", "ci": "none", "python_version": "3.13"},
}
VERSIONS = [*RELEASES, NEXT]
QUICK = {*itertools.pairwise(VERSIONS[-3:]), (VERSIONS[0], NEXT)}
"""The newest steps, and the longest one."""
PAIRS = sorted(
    {*((version, NEXT) for version in RELEASES), *QUICK},
    key=lambda pair: [VERSIONS.index(version) for version in pair],
)
"""From each release to the next one; between two that are released, nothing changes any more."""
JOURNEYS = [
    pytest.param(
        *(pair, preset, turn),
        id=f"{pair[0]}-to-{pair[1]}-{preset}-{turn}",
        marks=() if turn == number and pair in QUICK else pytest.mark.matrix,
    )
    for pair in PAIRS
    for number, preset in enumerate(PRESETS)
    for turn in range(len(EDITS))
]
"""Each edit meets, in one of the turns, each file of the template's."""
FOLDER = "src/sqlmesh_dagster/matrix"


State = dict[str, tuple[bytes | None, bool]]
"""Content of each file, and whether it can be executed."""


def ship_matrix(template: Path) -> None:
    """A file of the template's for each edit and each fix."""
    for name in itertools.starmap("{}__{}.py".format, itertools.product(EDITS, FIXES)):
        path = template / "template" / FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"line_{n} = {n}  # of {name}\n" for n in range(24)))


def fix_matrix(template: Path) -> None:
    """The release after: each file meets its fix."""
    for path in sorted((template / "template" / FOLDER).iterdir()):
        FIXES[path.stem.partition("__")[2]](path)


def read(path: Path) -> bytes | None:
    """The content as git stores it, `text=auto`, or None where there is no file."""
    return path.read_bytes().replace(b"\r\n", b"\n") if path.is_file() else None


def state(root: Path, names: Iterable[str]) -> State:
    """Content of each file, and whether it can be executed."""
    return {name: (read(root / name), os.access(root / name, os.X_OK)) for name in names}


def owned(project: Project, owner: str) -> list[str]:
    """Files of the project that the template owns, or that it shares; the answers are Copier's."""
    answers = yaml.safe_load((project.root / ".copier-answers.yml").read_text())
    text = (ROOT / "template" / ownership.NAME).read_text()
    patterns = ownership.parse(text, answers["package_name"])
    names = [name for name in project.contents() if patterns.is_owned_by(owner, name)]
    return [name for name in names if name != ".copier-answers.yml"]


def own_files(project: Project) -> dict[str, bytes]:
    """What is the owner's: what the template owns or shares left out."""
    others = {*owned(project, "template"), *owned(project, "shared"), ".copier-answers.yml"}
    contents = project.contents()
    made_by_the_matrix = ("src/sqlmesh_dagster/", "tests/sqlmesh_dagster/")
    return {
        name: content
        for name, content in contents.items()
        if name not in others and not name.startswith(made_by_the_matrix) and "/" in name
    }


def edit_own_files(project: Project) -> None:
    """Change one of each three, delete one of each three, and add some."""
    for number, name in enumerate(sorted(own_files(project))):
        path = project.root / name
        if number % 3 == 0:
            path.write_bytes(path.read_bytes() + b"-- mine\n")
        elif number % 3 == 1:
            path.unlink()
    for name in ("data/raw/ours é.csv", "sqlmesh_project/models/a b.sql", "docs/ours.bin"):
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_bytes(b"\0\xff ours")


def is_told(project: Project, report: Mapping[str, Any], name: str, mine: bytes | None) -> bool:
    """Whether the owner's edit is in a conflict, or next to the file, byte for byte."""
    for found in report["conflict"]:
        if name == found["path"] or f"`{name}`" in found["reason"]:
            return found["path"] in project.unmerged() and holds(project, found["path"], name, mine)
    if name in {found["path"] for found in report.get("returned", ())}:
        return mine is None
    saved = {found["path"]: found["saved_as"] for found in report["saved"]}
    return name in saved and read(project.root / saved[name]) == mine


def holds(project: Project, path: str, name: str, mine: bytes | None) -> bool:
    """Whether the index has the owner's version; of a file that was split, the commit has it whole."""
    ours = blob(project, f":2:{path}")
    return ours == mine or (path != name and blob(project, f"HEAD:{name}") == mine)


def blob(project: Project, spec: str) -> bytes:
    """What git has stored; without `text=auto`, which is an edit too, that may be CRLF."""
    command = ["git", "-C", str(project.root), "cat-file", "blob", spec]
    return subprocess.run(command, check=True, capture_output=True).stdout.replace(b"\r\n", b"\n")


def losses(project: Project, report: Mapping[str, Any], fates: Iterable[Fate]) -> dict[str, str]:
    """What is neither in the tree nor reported, by file."""
    missed = {found["path"] for found in report["missed"]}
    lost = {}
    for fate in fates:
        told = is_told(project, report, fate.name, fate.mine)
        if not (fate.is_edit_there or told):
            lost[fate.name] = "edit"
        if not (fate.is_fix_there or told or fate.name in missed):
            lost[fate.name] = lost.get(fate.name, "") + " fix"
        if not (fate.is_mode_there or told or fate.name in missed):
            lost[fate.name] = lost.get(fate.name, "") + " mode"
    return lost


@pytest.fixture(scope="module")
def template(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Every version of the template; only read it."""
    return clone(source, tmp_path_factory.mktemp("versions") / "template")


def fates_of(
    names: Iterable[str], base: State, theirs: State, mine: State, now: State
) -> list[Fate]:
    """Four trees, file by file."""
    return [
        Fate(
            name,
            *(base[name][0], theirs[name][0], mine[name][0], now[name][0]),
            (base[name][1], theirs[name][1], mine[name][1], now[name][1]),
        )
        for name in names
    ]


def moves_of(pristine: Project) -> dict[str, tuple[str, ...]]:
    """Where a version has moved files of the template's."""
    known = pristine.root / moves.NAME
    return moves.parse(known.read_text()) if known.is_file() else {}


def moved_fates(
    moved: Mapping[str, tuple[str, ...]],
    base: State,
    mine: State,
    pristine: Project,
    project: Project,
) -> list[Fate]:
    """Of each file that the template moved; of one that was split, the parts together."""
    fates = []
    for name, places in moved.items():
        if not places or base.get(name, (None,))[0] is None:
            continue
        if (project.root / name).is_symlink():
            continue  # the owner's link is where it was
        theirs, now = (_together(tree, places) for tree in (pristine.root, project.root))
        fates += fates_of([name], base, {name: theirs}, mine, {name: now})
    return fates


def _together(root: Path, places: Iterable[str]) -> tuple[bytes | None, bool]:
    found = state(root, places).values()
    contents = [content for content, _ in found if content is not None]
    return b"".join(contents) if contents else None, all(mode for _, mode in found)


def update(project: Project, new: str) -> dict[str, Any]:
    """By the project's own command, and by a review where that knows of no moved files."""
    if is_carrying(project):
        return project.report("--to", new)
    if (project.root / ".template").is_dir():
        project.report("--to", new)
    else:
        project.update_as_a_bot(new)
    return project.report("--review", program=ROOT / COMMAND)


def count(
    report: Mapping[str, Any], fates: Iterable[Fate], moved: Mapping[str, tuple[str, ...]]
) -> dict[str, int]:
    """What became of the edits, in files that moved and in others."""
    counts = Counter(
        f"in {'a moved' if moved.get(fate.name) else 'another'} file: {became(report, fate)}"
        for fate in fates
        if fate.mine not in (None, fate.base)
    )
    return dict(counts)


def became(report: Mapping[str, Any], fate: Fate) -> str:
    """What became of an edit: in one word of the report's, or there by itself."""
    if fate.name in {found["path"] for found in report["saved"]}:
        return "saved"
    named = [found["path"] + found["reason"] for found in report["conflict"]]
    if any(text.startswith(f"{fate.name}both") or f"`{fate.name}`" in text for text in named):
        return "conflict"
    return "there"


def test_every_edit_meets_every_fix(source: Path, tmp_path: Path) -> None:
    """Each edit and each fix is in the tree, in conflict, saved next to it, or reported."""
    template = clone(source, tmp_path / "template")
    old, new = template.release("90.0.0", ship_matrix), template.release("90.1.0", fix_matrix)
    project = copy(template, tmp_path / "project", old, {})
    pristine = copy(template, tmp_path / "pristine", new, {})
    names = [f"{FOLDER}/{edit}__{fix}.py" for edit, fix in itertools.product(EDITS, FIXES)]
    base = state(project.root, names)
    for name in names:
        EDITS[Path(name).stem.partition("__")[0]](project.root / name)
    project.commit()
    mine = state(project.root, names)

    report = project.report("--to", new)

    now, theirs = state(project.root, names), state(pristine.root, names)
    fates = fates_of(names, base, theirs, mine, now)
    assert len(names) >= 200 and losses(project, report, fates) == {}
    silent = losses(project, {**report, "saved": [], "missed": []}, fates)
    assert len(silent) > 50, "the measure sees what is lost when nothing is told"


@pytest.mark.parametrize(("pair", "preset", "turn"), JOURNEYS)
def test_an_update_between_releases_loses_nothing(
    template: Template,
    tmp_path: Path,
    pair: tuple[str, str],
    preset: str,
    turn: int,
    record_property: Callable[[str, object], None],
) -> None:
    """Edits in the template's files are there or reported; the owner's files are as they were.

    What was not edited is what a fresh copy holds, and a second update changes nothing.
    """
    old, new = (f"v{version}" for version in pair)
    answers = PRESETS[preset]
    project = copy(template, tmp_path / "project", old, answers)
    pristine = copy(template, tmp_path / "pristine", new, answers)
    templates = [name for name in owned(project, "template") if not name.startswith(".template/")]
    templates.remove(".gitattributes")  # says how git reads all others
    theirs = state(pristine.root, templates)
    base = state(project.root, templates)
    # files that the release changes come first, so that most edits meet a fix
    templates.sort(key=lambda name: base[name] == theirs[name])
    edits = [*EDITS.items()][turn:] + [*EDITS.items()][:turn]
    for name, (_, edit) in zip(templates, itertools.cycle(edits), strict=False):
        if base[name][0]:
            edit(project.root / name)
    edit_own_files(project)
    project.commit()
    mine, own = state(project.root, templates), own_files(project)

    report = update(project, new)

    now = state(project.root, templates)
    moved = moves_of(pristine)
    fates = [
        *fates_of([name for name in templates if not moved.get(name)], base, theirs, mine, now),
        *moved_fates(moved, base, mine, pristine, project),
    ]
    assert losses(project, report, fates) == {}
    record_property("edits", count(report, fates, moved))
    assert own_files(project) == own
    arrived = {place for places in moved.values() for place in places}
    untouched = {name for name in owned(pristine, "template") if name not in {*templates, *arrived}}
    assert state(project.root, untouched) == state(pristine.root, untouched)
    if turn == 0:  # a second update takes as long as the first
        project.commit()
        again = project.report("--to", new, program=ROOT / COMMAND)
        assert (again["conflict"], again["saved"]) == ([], [])
        assert project.status() == []


def fix_the_command(template: Path) -> None:
    """The release after: each of the command's files says something more at its third line."""
    for path in (template / "template/.template").rglob("*"):
        if path.suffix in {".py", ".sh", ".toml"}:
            lines = path.read_text().splitlines()
            path.write_text("\n".join([*lines[:2], THEIRS, *lines[2:]]) + "\n")


@pytest.mark.parametrize(
    "edit",
    [
        "insert_first",
        *(pytest.param(e, marks=pytest.mark.matrix) for e in ("append", "executable", "untouched")),
    ],
)
@pytest.mark.parametrize("version", VERSIONS[1:])
def test_an_edited_update_command_updates_itself(
    source: Path, tmp_path: Path, version: str, edit: str
) -> None:
    """Edits in the command are there or reported, as in every file of the template's; 0.1.0 has none."""
    template = clone(source, tmp_path / "template")
    new = template.release("90.0.0", fix_the_command)
    project = copy(template, tmp_path / "project", f"v{version}", {})
    pristine = copy(template, tmp_path / "pristine", new, {})
    names = [
        name
        for name in owned(project, "template")
        if name.startswith(".template/") and not name.endswith(".json")
    ]
    base, theirs = state(project.root, names), state(pristine.root, names)
    for name in names:
        EDITS[edit](project.root / name)
    project.commit()
    mine = state(project.root, names)

    report = project.report("--to", new)

    now = state(project.root, names)
    assert len(names) > 10 and base != theirs
    assert losses(project, report, fates_of(names, base, theirs, mine, now)) == {}
