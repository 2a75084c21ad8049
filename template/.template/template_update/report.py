"""What an update did, for people (Markdown) and for machines (JSON)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from template_update.merge import Finding, Kind

_TITLES = {
    Kind.CONFLICT: "Conflicts: resolve what is between the markers",
    Kind.SAVED: "Your edits that could not be merged, saved in files of their own",
    Kind.CARRIED: "Your edits in files that the template moved, merged into the new paths",
    Kind.RETURNED: "Files that you deleted or renamed, and that the template has moved",
    Kind.RESTORED: "Your edits that Copier had replaced, restored",
    Kind.MISSED: "Changes of the template's that did not arrive",
}
_DONE = (Kind.CARRIED, Kind.RESTORED)
"""Kinds for which the owner has nothing to do."""


@dataclass(frozen=True)
class Report:
    """What a command reports."""

    before: str
    after: str
    findings: tuple[Finding, ...] = ()
    saved_as: Mapping[str, str] = field(default_factory=dict)
    """Where an edit is saved, by the path that it was made in."""
    new_answers: Mapping[str, str] = field(default_factory=dict)
    changelog: str = ""
    changed: tuple[str, ...] = ()
    left: str = ""
    """What an answer leaves for the owner, in one line."""

    @property
    def exit_code(self) -> int:
        """1 if there is something for the owner to do, else 0."""
        return int(bool(self.left) or any(f.kind not in _DONE for f in self.findings))

    def as_json(self) -> str:
        """Every field, with findings by kind."""
        findings = {
            kind.value: [
                {"path": finding.path, "reason": finding.reason}
                | (
                    {"saved_as": self.saved_as[finding.path]}
                    if kind is Kind.SAVED and finding.path in self.saved_as
                    else {}
                )
                for finding in self.findings
                if finding.kind is kind
            ]
            for kind in Kind
        }
        content = {
            "before": self.before,
            "after": self.after,
            "exit_code": self.exit_code,
            **findings,
            "new_answers": dict(self.new_answers),
            "changed": list(self.changed),
            "changelog": self.changelog,
            "left": self.left,
        }
        return json.dumps(content, indent=2)

    def as_text(self) -> str:
        """Markdown, fit for a terminal and for a pull request."""
        if self.before == self.after and not self.findings and not self.changed:
            return f"Up to date: {self.after}."
        is_newer = self.before != self.after
        parts = [
            f"# {'From ' if is_newer else ''}{self.before}{f' to {self.after}' if is_newer else ', with other answers'}"
        ]
        if self.changed:
            parts.append(_count(self.changed))
        for kind, title in _TITLES.items():
            if lines := [self._line(finding) for finding in self.findings if finding.kind is kind]:
                parts.append(f"## {title}\n\n" + "\n".join(lines))
        if self.new_answers:
            lines = [f"- `{name}`: `{value}`" for name, value in self.new_answers.items()]
            parts.append("## New questions, answered by their defaults\n\n" + "\n".join(lines))
        if self.changelog:
            parts.append(self.changelog)
        return "\n\n".join(parts)

    def next_steps(self) -> str:
        """What to do after an update, in Markdown; nothing to do is an empty text."""
        if not self.changed:
            return ""
        is_due = {kind for kind in Kind if any(finding.kind is kind for finding in self.findings)}
        steps = ["See what changed: `git status --no-renames` and `git diff`."]
        if Kind.CONFLICT in is_due:
            steps.append(
                "Resolve the conflicts, which `git grep -nE '^(<<<<<<<|>>>>>>>) (before|after) updating'`"
                " finds, and `git add` each file."
            )
        if Kind.SAVED in is_due:
            steps.append("Copy what you want to keep from the saved files, and delete these files.")
        steps += [self.left] if self.left else []
        steps += [
            "Install and check: `uv sync && uv run poe check && uv run poe test`, or without uv"
            " `.venv/bin/python -m pip install --editable . --group dev && .venv/bin/poe check &&"
            " .venv/bin/poe test`.",
            "Commit, or undo the update with `poe update --undo`.",
        ]
        lines = [f"{number}. {step}" for number, step in enumerate(steps, start=1)]
        return "\n## Next\n\n" + "\n".join(lines)

    def _line(self, finding: Finding) -> str:
        saved = self.saved_as.get(finding.path) if finding.kind is Kind.SAVED else None
        where = f"; yours is in `{saved}`" if saved else ""
        return f"- `{finding.path}`: {finding.reason}{where}"


def _count(changed: tuple[str, ...]) -> str:
    files = "1 file differs" if len(changed) == 1 else f"{len(changed)} files differ"
    return f"{files} from the last commit. Nothing of yours is lost."
