"""The terminal: a bar that moves where there is one, plain lines where output goes to a file."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sqlmesh_dagster.commands.progress import FAILED, SKIPPED, STOPPED, AssetLine
from sqlmesh_dagster.commands.report import asset_line

_STYLES = {
    FAILED: "bold red",
    SKIPPED: "yellow",
    STOPPED: "yellow",
    "built": "green",
    "materialized": "green",
}


class Screen:
    """Prints the lines of one command; a context manager around its run."""

    def __init__(self, what: str) -> None:
        self.console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            refresh_per_second=4,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, line: AssetLine, width: int) -> None:
        """An asset that has ended; `width` is that of the longest name."""
        self._bar.update(self._task, description="Running", total=line.total, completed=line.number)
        text = asset_line(line, width)
        self.console.print(text, style=_STYLES.get(line.status))

    def say(self, text: str, *, style: str | None = None) -> None:
        """A line, or several."""
        self.console.print(text, style=style)

    def page(self, markdown: str) -> None:
        """A plan or a verification: laid out for a terminal, and as it is for a file."""
        if self.console.is_terminal:
            self.console.print(Markdown(markdown), soft_wrap=False)
        else:
            self.console.print(markdown)
