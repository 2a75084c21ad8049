"""The commands `update` and `drift`.

Exit codes of `update`, with or without `--preview` and `--review`:
    0  done, or nothing to do
    1  done, and you have something to do: conflicts, saved edits, changes that did not arrive
    2  refused or failed; nothing has changed
`update --check` and `drift` change nothing; 1 means that there is an update, or a difference.
"""

import argparse
import json
import re
import subprocess
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from template_update import drift, stops, undo, update
from template_update.copier import Copier
from template_update.errors import Refused
from template_update.git import Project, forget_the_callers_repository

_REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command on the project in the working directory; returns its exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    forget_the_callers_repository()
    stops.as_interrupts()
    try:
        return _run(Path.cwd(), options)
    except Refused as error:
        return _refuse(str(error), options)
    except KeyboardInterrupt:
        return _refuse("Stopped. Nothing has changed.", options)
    except OSError as error:
        return _refuse(f"{error}. The update is undone.", options)
    except Exception as error:
        # The exit code must not say "done"; whatever this is, `update` has undone itself.
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        return _refuse(f"This should not happen; please report it. {said}", options)


def _run(root: Path, options: argparse.Namespace) -> int:
    if options.command == "drift":
        return _drift(root, options)
    if options.undo:
        return _undo(root, options)
    if options.preview:
        return _preview(root, options)
    return _update(root, options)


def _refuse(reason: str, options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps({"exit_code": _REFUSED, "error": reason}, indent=2))
    print(reason, file=sys.stderr)
    return _REFUSED


def _update(root: Path, options: argparse.Namespace) -> int:
    copier = Copier(options.data, options.trust)
    if options.check:
        report = update.newest(root, copier)
        code = int(report.before != report.after)
    else:
        report = (
            update.review(root, copier)
            if options.review
            else update.update(root, copier, options.to)
        )
        code = report.exit_code
    print(report.as_json() if options.json else report.as_text())
    if not (options.json or options.check or options.preview) and (steps := report.next_steps()):
        print(steps)
    return code


def _preview(root: Path, options: argparse.Namespace) -> int:
    with update.preview(root) as copy:
        code = _update(copy, options)
        if not options.json:
            print("\n## Files (a preview: nothing has changed)\n", flush=True)
            subprocess.run(["git", "-C", str(copy), "add", "--all", "."], check=True)
            command = [
                "git",
                "-C",
                str(copy),
                "diff",
                "--stat",
                "--no-renames",
                "--relative",
                "HEAD",
            ]
            subprocess.run(command, check=True)
    return code


def _undo(root: Path, options: argparse.Namespace) -> int:
    undone = undo.undo(Project.at(root))
    if options.json:
        kept = undone.kept and str(undone.kept)
        print(json.dumps({"exit_code": 0, "restored": undone.paths, "kept": kept}, indent=2))
        return 0
    files = (
        "1 file is as it was"
        if len(undone.paths) == 1
        else f"{len(undone.paths)} files are as they were"
    )
    print(f"{files} before the update.")
    if undone.kept:
        print(f"What you changed in them since is kept in `{undone.kept}`.")
    return 0


def _drift(root: Path, options: argparse.Namespace) -> int:
    found = drift.find(root)
    print(found.as_json() if options.json else found.as_text())
    return found.exit_code


def _pair(text: str) -> str:
    if not re.match(r"\w+=", text):
        raise argparse.ArgumentTypeError(f"`{text}` is not NAME=VALUE, such as `ci=gitlab`.")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python .template",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    update_parser = commands.add_parser(
        "update", help="merge the template's changes into the project"
    )
    mode = update_parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="only say whether there is an update")
    mode.add_argument("--preview", action="store_true", help="only show what an update would do")
    mode.add_argument(
        "--undo", action="store_true", help="undo the last update, if it is not committed"
    )
    mode.add_argument(
        "--review", action="store_true", help="review what plain `copier update` did, uncommitted"
    )
    update_parser.add_argument("--to", metavar="VERSION", help="a tag; by default the newest")
    update_parser.add_argument(
        *("--data", "-d"),
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="change an answer; can be repeated",
    )
    update_parser.add_argument(
        "--trust", action="store_true", help="allow migrations, which only major versions have"
    )
    drift_parser = commands.add_parser("drift", help="list the template's files that differ")
    for command in (update_parser, drift_parser):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser
