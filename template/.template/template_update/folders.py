"""Answers that say where the owner's folders are; an update moves none of them."""

from pathlib import Path

from template_update.answers import Answers
from template_update.errors import Refused


def refuse_to_leave_behind(root: Path, before: Answers, after: Answers) -> None:
    """The folder that a new answer names must be there.

    Raises:
        Refused: It is not; the commands that move the present one are named.
    """
    for name, old, new in _folders(before, after):
        if old != new and not (root / new).is_dir():
            raise Refused(
                f"With this answer to `{name}`, the project's folder is `{new}`, which is not there;"
                f" yours is `{old}`. Move it first:\n\n{_commands(name, old, new)}\n\n"
                "Then update once more, with the same answer."
            )


def _folders(before: Answers, after: Answers) -> list[tuple[str, str, str]]:
    packages = [f"src/{known.answers.get('package_name', '')}" for known in (before, after)]
    projects = [
        known.answers.get("sqlmesh_project_dir", "sqlmesh_project") for known in (before, after)
    ]
    return [
        ("package_name", packages[0], packages[1]),
        ("sqlmesh_project_dir", projects[0], projects[1]),
    ]


def _commands(name: str, old: str, new: str) -> str:
    was, becomes = Path(old).name, Path(new).name
    lines = [f"git mv {old} {new}"]
    if name == "package_name":
        lines.append(
            f"git grep -lwz {was} -- {new} tests | xargs -0 perl -pi -e 's/\\b{was}\\b/{becomes}/g'"
        )
    lines.append(f'git commit --all --message "Rename {old} to {new}"')
    return "\n".join(f"    {line}" for line in lines)
