"""An owner's first hour, in a real terminal and a real browser: `python -m tests.hour FOLDER`.

Clones this repository, does what README's Quick start says with the default answers and with the example's,
and then what people do next: nothing due, a typo, an audit that fails, new data, a plan, a promotion, a
rebuild, and the pages of Dagster's UI. It fails on a stack trace, on a warning, on an error of more than 60
lines or without a next step, and where a page shows an error. FOLDER gets each screen: the terminal as SVG and
text, the pages as PNG.

Needs Linux, `pip install playwright pyte` and Chromium (`CHROMIUM`, by default `/usr/bin/chromium`). It installs
two projects, and takes a quarter of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tests.conftest import ROOT
from tests.webserver import served_at

WIDTH, MOST_LINES, SECONDS = 120, 60, 900
SETS = {"default": "", "example": "--data-file example-answers.yml"}
_STACK = re.compile(
    r"Traceback \(most recent call last\)|^\s+File \".*\", line \d+, in ", re.MULTILINE
)
_WARNING = re.compile(r"\w*Warning: .*|\bDEPRECATION\b.*|.*did not yield expected outputs.*")
_NEXT_STEP = re.compile(r"`[^`]+`|\.(?:sql|py|csv|yaml):\d+|Not done\.")
_PAGES = {
    "catalog": "assets",
    "lineage": "asset-groups",
    "model": "assets/marts/daily_revenue",
    "checks": "assets/marts/daily_revenue?view=checks",
    "runs": "runs",
    "timeline": "overview/activity/timeline",
    "automation": "automation",
}


@dataclass(frozen=True)
class Step:
    """What a person does, and reads.

    Attributes:
        name: Of its screen.
        command: In the project's folder, by the shell.
        says: What must stand on the screen.
        code: Exit code.
        answers: What is typed when it asks.
        before: What the person changes first.
    """

    name: str
    command: str
    says: tuple[str, ...] = ()
    code: int = 0
    answers: str = ""
    before: Callable[[Path], None] | None = None


@dataclass
class Hour:
    """One project's hour.

    Attributes:
        screens: Folder of the screens.
        findings: What a person would stumble over.
    """

    project: Path
    screens: Path
    findings: list[str] = field(default_factory=list)

    def do(self, step: Step) -> None:
        """Runs a step in a terminal, keeps its screen, and looks at it."""
        if step.before is not None:
            step.before(self.project)
        cwd = self.project if self.project.exists() else self.project.parent
        code, output = in_terminal(step.command, cwd, step.answers)
        text = self._keep(step.name, step.command, output)
        print(f"{step.name}: exit {code}, {len(text.splitlines())} lines", flush=True)
        self.findings.extend(f"{step.name}: {what}" for what in looked_at(step, code, text))

    def _keep(self, name: str, command: str, output: bytes) -> str:
        rows = screen_of(output)
        console = Console(record=True, width=WIDTH, file=StringIO())
        console.print(Text(f"$ {command}\n"), Text("\n").join(rows))
        console.save_svg(str(self.screens / f"{name}.svg"), title=name)
        text = "\n".join(row.plain for row in rows)
        (self.screens / f"{name}.txt").write_text(f"$ {command}\n{text}\n")
        return text


def looked_at(step: Step, code: int, text: str) -> Iterator[str]:
    """What is wrong with a screen."""
    if code != step.code:
        yield f"exit code {code} and not {step.code}"
    yield from (f"`{words}` is not said" for words in step.says if words not in text)
    yield from (f"a stack trace: {found[0].strip()}" for found in _STACK.finditer(text))
    yield from (f"a warning: {found[0].strip()}" for found in _WARNING.finditer(text))
    if "***" in text:
        yield "something is hidden that is no secret"
    if step.code and len(text.splitlines()) > MOST_LINES:
        yield f"{len(text.splitlines())} lines for one error"
    if step.code and not _NEXT_STEP.search(text):
        yield "a dead end: no command and no place to go to"


def in_terminal(command: str, cwd: Path, answers: str = "") -> tuple[int, bytes]:
    """Exit code and output of a command whose streams are a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", f"stty cols {WIDTH} rows 50; {command}"],
        cwd=cwd,
        env={**_environment(), "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    output, asked = bytearray(), bool(answers)
    while True:
        ready, _, _ = select.select([ours], [], [], SECONDS)
        try:
            chunk = os.read(ours, 65536) if ready else b""
        except OSError:  # Linux says so when the last process has closed its end
            chunk = b""
        if not chunk:
            break
        output += chunk
        if asked and output.rstrip().endswith(b"[y/N]:"):
            os.write(ours, answers.encode())
            asked = False
    os.close(ours)
    if not ready:
        process.kill()
    return process.wait(), bytes(output)


def _environment() -> dict[str, str]:
    hidden = ("VIRTUAL_ENV", "PYTHONPATH", "DAGSTER_HOME", "CI", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def screen_of(output: bytes) -> list[Text]:
    """What a person sees in the end, a bar that has moved included once."""
    import pyte

    screen = pyte.Screen(WIDTH, 2000)
    pyte.ByteStream(screen).feed(output)
    rows = [_row(screen.buffer[y]) for y in range(screen.cursor.y + 1)]
    while rows and not rows[-1].plain.strip():
        rows.pop()
    return rows


def _row(cells: Any) -> Text:
    text = Text()
    for x in range(WIDTH):
        cell = cells[x]
        color = {"default": "", "brown": "yellow"}.get(cell.fg, cell.fg)
        color = f"#{color}" if re.fullmatch("[0-9a-f]{6}", color) else color
        text.append(cell.data, style=f"{'bold ' if cell.bold else ''}{color}".strip())
    text.rstrip()
    return text


def _append(name: str, row: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        with (project / "data/raw" / name).open("a") as file:
            file.write(f"{row}\n")

    return change


def _without_last_row(name: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        file = project / "data/raw" / name
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))

    return change


def _replaced(old: str, new: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        file = project / "sqlmesh_project/models/marts/daily_revenue.sql"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


def steps(options: str) -> list[Step]:
    """The hour, in its order."""
    block = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)[0]
    start = block.strip().replace("--defaults", f"--defaults {options}".strip())
    poe, bad = ".venv/bin/poe", "990009,99001,,balance,card,1.00,2025-02-03 09:00:00"
    return [
        Step("01-start", f"cd clone && {start}", ("materialized", "Done. Open the UI")),
        Step("02-nothing-due", f"{poe} run", ("up to date", "Done.")),
        Step("03-help", f"{poe} --help", ("run", "rebuild", "promote")),
        Step("04-check", f"{poe} check"),
        Step("05-test", f"{poe} test", ("passed",)),
        Step(
            "06-typo", f"{poe} run", ("FAILED", "amuont"), 1, before=_replaced("amount", "amuont")
        ),
        Step("07-repaired", f"{poe} run", ("Done.",), before=_replaced("amuont", "amount")),
        Step(
            "08-audit",
            f"{poe} run",
            ("FAILED", "workshop_code"),
            1,
            before=_append("payments.csv", bad),
        ),
        Step("09-repaired", f"{poe} run", ("Done.",), before=_without_last_row("payments.csv")),
        Step(
            "10-new-data",
            f"{poe} run",
            ("built", "Done."),
            before=_append("payments.csv", bad.replace("99001,,", "99001,STA,")),
        ),
        Step("11-summary", f"{poe} summary", ("succeeded",)),
        Step("12-plan", f"{poe} plan", ("Nothing to do: `dev` has",)),
        Step("13-first-promotion", f"{poe} promote", ("is applied",), answers="y\n"),
        Step(
            "14-plan-of-a-change",
            f"{poe} plan",
            ("daily_revenue",),
            before=_replaced("SUM(payments.amount)", "SUM(payments.amount + 0)"),
        ),
        Step("15-apply", f"{poe} apply", ("is applied",)),
        Step("16-review", f"SQLMESH_ENVIRONMENT=dev_ada {poe} review", ("daily_revenue",)),
        Step("17-promote", f"{poe} promote", ("is applied",), answers="y\n"),
        Step(
            "18-invalidate",
            f"SQLMESH_ENVIRONMENT=dev_bo {poe} apply && {poe} invalidate dev_bo",
            ("is dropped",),
            answers="y\n",
        ),
        Step(
            "19-rebuild",
            f"SQLMESH_ENVIRONMENT=prod {poe} rebuild marts.daily_revenue --start 2025-01-01 --end 2025-01-07",
            ("built", "Done."),
        ),
        Step("19b-rebuild-in-dev", f"{poe} rebuild marts.daily_revenue", ("poe rebuild",), 1),
        Step("20-wrong-name", f"{poe} rebuild marts.daily_revenu", ("Did you mean",), 1),
        Step("21-doctor", f"{poe} doctor"),
        Step("22-sqlmesh", f"{poe} sqlmesh info --skip-connection", ("Models",)),
        Step("23-drift", f"{poe} drift"),
    ]


def visit(hour: Hour) -> None:
    """Opens the pages of Dagster's UI, and keeps and reads each."""
    from playwright.sync_api import sync_playwright

    tools = f"{hour.project / '.venv/bin'}:{os.environ['PATH']}"
    with (
        served_at(hour.project, {**_environment(), "PATH": tools}) as address,
        sync_playwright() as player,
    ):
        browser = player.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        for name, path in _PAGES.items():
            page.goto(f"{address}/{path}")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(3000)
            page.screenshot(path=str(hour.screens / f"30-{name}.png"))
            text = page.inner_text("body")
            for words in ("Traceback", "PythonError", "unexpected error", "not found"):
                if words in text:
                    hour.findings.append(f"page {name}: `{words}`")
            print(f"page {name}: {len(text.split())} words", flush=True)
        browser.close()


def main() -> int:
    """Two hours; 1 if a person would have stumbled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=SETS, action="append", help="A set of answers.")
    given = parser.parse_args()
    findings: list[str] = []
    for name in given.only or SETS:
        home = given.folder.resolve() / name
        home.mkdir(parents=True)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), "clone"], cwd=home, check=True)
        hour = Hour(home / "my_platform", home / "screens")
        hour.screens.mkdir()
        for step in steps(SETS[name]):
            hour.do(step)
        visit(hour)
        findings.extend(f"{name}: {finding}" for finding in hour.findings)
    print("\n".join(findings) or "Nobody stumbles.")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
