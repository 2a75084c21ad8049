"""`python -m sqlmesh_dagster.commands`: what `poe run`, `poe plan` and the others call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from sqlmesh_dagster.commands.location import NotInAProjectError, code_location
from sqlmesh_dagster.commands.request import RunRequest, Scope
from sqlmesh_dagster.guard.texts import whole_dotenv
from sqlmesh_dagster.production import PRODUCTION
from sqlmesh_dagster.surroundings import fault_of_surroundings

if TYPE_CHECKING:
    from sqlmesh_dagster.commands.progress import LaunchedRun
    from sqlmesh_dagster.commands.screen import Screen

_verbose = click.option(
    "--verbose", is_flag=True, help="Show what Dagster and the models print, too."
)
_yes = click.option("--yes", is_flag=True, help="Do not ask first, as in a script.")
_DEFAULT = "dev"
"""What a generated project runs where no variable says otherwise."""
_ENVIRONMENT = "SQLMesh's environment; by default the one that SQLMESH_ENVIRONMENT names."


@click.group()
def main() -> None:
    """Starts Dagster runs of this project in the terminal."""
    root = _root()
    os.chdir(root)
    for name, value in _dotenv(root / ".env").items():
        os.environ.setdefault(name, value or "")
    os.environ["DAGSTER_HOME"] = os.environ.get("DAGSTER_HOME") or str(root / "dagster_home")
    if fault := fault_of_surroundings():
        raise click.ClickException(fault)


@main.command()
@click.argument("selection", nargs=-1)
@_verbose
def run(selection: tuple[str, ...], verbose: bool) -> None:
    """Load what the models read, and build and check every model that is due or has new data.

    SELECTION names assets, e.g. marts.part_sales or 'marts.*', a plus for what is upstream or downstream:
    marts.part_sales+. Or it is Dagster's, e.g. 'group:marts and not kind:csv'. All by default.
    """
    _run_assets("selection" if selection else "all", selection, {}, is_verbose=verbose)


@main.command()
@_verbose
def load(verbose: bool) -> None:
    """Load what the models read, and build no model."""
    _run_assets("loads", (), {}, is_verbose=verbose)


@main.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--start", help="Of the time that is built again; by default all that is done.")
@click.option("--end", help="Of the time that is built again.")
@click.option(
    "--downstream/--no-downstream",
    default=None,
    help="Whether the models that read these are built again, too.",
)
@_verbose
def rebuild(
    models: tuple[str, ...],
    start: str | None,
    end: str | None,
    downstream: bool | None,
    verbose: bool,
) -> None:
    """Build MODELS again, e.g. marts.part_sales, though nothing is due."""
    options = {"build": "all", "start": start, "end": end, "restate_downstream": downstream}
    _run_assets("models", models, options, is_verbose=verbose)


@main.command()
@click.option("--environment", help=_ENVIRONMENT)
@_verbose
def plan(environment: str | None, verbose: bool) -> None:
    """Show what a plan of the environment would change and build."""
    facts = _run_job("_plan_job", {"environment": environment}, is_verbose=verbose)
    planned = facts.get("sqlmesh/environment")
    is_named = bool(environment or planned != _DEFAULT)  # a variable may be of this command alone
    how = f"apply --environment {planned}" if is_named else "apply"
    how = "promote" if planned == PRODUCTION else how
    if facts.get("sqlmesh/nothing_to_do"):
        _say(f"Nothing to do: `{planned}` has the project's files.")
    else:
        _say(f"Nothing is changed yet. `poe {how}` applies the plan.")


@main.command()
@click.option("--environment", help=_ENVIRONMENT)
@_verbose
def apply(environment: str | None, verbose: bool) -> None:
    """Plan the environment, and apply the plan; never production."""
    options = {"environment": environment, "apply": True}
    _say_applied(_run_job("_plan_job", options, is_verbose=verbose))


@main.command()
@click.option("--environment", help=_ENVIRONMENT)
@click.option(
    "--override", help="The reason to promote it, though a rule of `review.toml` stops it."
)
@click.option("--override-by", help="Who decides that: a name in `override_by` of `review.toml`.")
@_verbose
def review(
    environment: str | None, override: str | None, override_by: str | None, verbose: bool
) -> None:
    """Build the project's files in an environment, and show what they do to production's data."""
    options = {"environment": environment, "override": override, "override_by": override_by}
    facts = _run_job("_review_job", options, is_verbose=verbose)
    changes = facts.get("sqlmesh/models_changed")
    _say("`poe promote` applies what was reviewed." if changes else "Nothing to promote.")


@main.command()
@_yes
@click.option(
    "--without-review", is_flag=True, help="Promote, though the newest review is of something else."
)
@click.option(
    "--override", help="The reason to promote it, though a rule of `review.toml` stops it."
)
@click.option("--override-by", help="Who decides that: a name in `override_by` of `review.toml`.")
@_verbose
def promote(
    yes: bool, without_review: bool, override: str | None, override_by: str | None, verbose: bool
) -> None:
    """Show the plan of production, ask, and apply it; obeys the newest review."""
    options: dict[str, Any] = {"environment": PRODUCTION}
    seen: set[str] = set()
    if not yes:
        _must_be_asked("poe promote --yes")
        _run_job("_plan_job", options, is_verbose=verbose, seen=seen)
        _confirm(f"Apply this plan to `{PRODUCTION}`?")
    options |= {"apply": True, "allow_production": True, "without_review": without_review}
    options |= {"override": override, "override_by": override_by}
    _say_applied(_run_job("_plan_job", options, is_verbose=verbose, seen=seen))


@main.command()
@_yes
@click.option("--to", help="The plan whose version it goes back to; by default the one before.")
@_verbose
def rollback(yes: bool, to: str | None, verbose: bool) -> None:
    """Take production back to what it ran before its last change; builds nothing."""
    options: dict[str, Any] = {"to": to}
    if not yes:
        _must_be_asked("poe rollback --yes")
        shown = _run_job("_rollback_job", options, is_verbose=verbose)
        _confirm(f"Take `{PRODUCTION}` back to this?")
        options = {"to": shown["sqlmesh/restores"], "of": shown["sqlmesh/rolls_back"]}
    facts = _run_job("_rollback_job", {**options, "apply": True}, is_verbose=verbose)
    changed, was = facts.get("sqlmesh/models_changed", 0), facts.get("sqlmesh/rolls_back")
    _say(f"`{PRODUCTION}` runs what it ran before: {changed} changed, nothing built.")
    _say(f"The files are as they were. `poe rollback --to {was}` undoes this.")


@main.command()
@click.argument("environment", envvar="SQLMESH_ENVIRONMENT")
@_yes
@_verbose
def invalidate(environment: str, yes: bool, verbose: bool) -> None:
    """Drop the views of ENVIRONMENT, by default of SQLMESH_ENVIRONMENT; never of production."""
    if not yes and environment != PRODUCTION:
        _must_be_asked(f"poe invalidate {environment} --yes")
        _confirm(f"Drop environment `{environment}` with its views?")
    facts = _run_job("_invalidate_job", {"environment": environment}, is_verbose=verbose)
    if facts.get("sqlmesh/existed"):  # the run warns otherwise
        _say(f"Environment `{environment}` is dropped.")


@main.command(hidden=True)
@click.argument("environment", envvar="SQLMESH_ENVIRONMENT")
@_yes
@click.pass_context
def remove(context: click.Context, environment: str, yes: bool) -> None:
    """The old name of `invalidate`, which machines call without `--yes`."""
    click.echo("`poe remove` is now `poe invalidate`. The old name goes with 1.0.", err=True)
    context.invoke(
        invalidate, environment=environment, yes=yes or not sys.stdin.isatty(), verbose=False
    )


@main.command()
@_verbose
def verify(verbose: bool) -> None:
    """Run SQLMesh's unit tests and linter."""
    _run_job("_verify_job", {}, is_verbose=verbose)


@main.command()
def alert() -> None:
    """Send a test message to where alerts go."""
    from sqlmesh_dagster.alerts import Alert, send
    from sqlmesh_dagster.errors import InvalidSettingError

    try:
        send(Alert("Alerts arrive here.", ("This is a test; nothing failed.",), ""), os.environ)
    except (InvalidSettingError, OSError) as error:
        raise click.ClickException(getattr(error, "description", None) or str(error)) from None
    _say("A test message was sent.")


@main.command()
def summary() -> None:
    """Show what the last run did, also one from the UI; after a plan, its page."""
    from sqlmesh_dagster.commands.newest import show_newest
    from sqlmesh_dagster.errors import InstanceError

    try:
        sys.exit(show_newest(_root()))
    except InstanceError as error:
        raise click.ClickException(str(error.description)) from None


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sqlmesh(arguments: tuple[str, ...]) -> None:
    """Any command of SQLMesh, for this project and with its `.env`."""
    program = [sys.executable, "-m", "sqlmesh_dagster.engine.program", *arguments]
    sys.exit(subprocess.run(program, check=False).returncode)


@main.command()
def doctor() -> None:
    """Check whether warehouse, state, locks, privileges and clocks are as runs need them."""
    known = subprocess.run([sys.executable, "-m", "sqlmesh_dagster.engine.diagnosis"], check=False)
    sys.exit(known.returncode)


@main.command()
@click.option("--source", default="duckdb", show_default=True, help="The gateway that data is on.")
@click.option("--environment", help="By default what SQLMESH_ENVIRONMENT says, or prod.")
@click.option("--rebuild", is_flag=True, help="Let the next run build full models and seeds.")
@_yes
def move(source: str, environment: str | None, rebuild: bool, yes: bool) -> None:
    """Copy an environment from the DuckDB file to the warehouse that SQLMESH_GATEWAY names."""
    program = [sys.executable, "-m", "sqlmesh_dagster.engine.moving", "--source", source]
    program += ["--environment", environment] if environment else []
    program += ["--rebuild"] if rebuild else []
    program += ["--yes"] if yes else []
    sys.exit(subprocess.run(program, check=False).returncode)


@main.command(name="check-models")
def check_models() -> None:
    """Lint and test the models, and check their format; stops at the first that fails."""
    program = [sys.executable, "-m", "sqlmesh_dagster.engine.checking"]
    sys.exit(subprocess.run(program, check=False).returncode)


@main.command(name="format")
@click.option("--check", is_flag=True, help="Change nothing; fail if a file would change.")
def format_models(check: bool) -> None:
    """Format the SQL of the models, where SQLMesh's config asks for it."""
    arguments = ["--check"] if check else []
    program = [sys.executable, "-m", "sqlmesh_dagster.engine.formatting", *arguments]
    sys.exit(subprocess.run(program, check=False).returncode)


def _dotenv(path: Path) -> dict[str, str | None]:
    try:
        return whole_dotenv(path)
    except OSError as error:
        said = str(error) if error.errno is None else f"`{path}` cannot be read: {error}"
        raise click.ClickException(f"{said}.") from None


def _root() -> Path:
    try:
        return code_location(Path.cwd()).root
    except NotInAProjectError as error:
        raise click.ClickException(str(error)) from None


def _must_be_asked(command: str) -> None:
    if not sys.stdin.isatty():
        raise click.ClickException(f"There is no terminal to ask in. To do it, run `{command}`.")


def _confirm(question: str) -> None:
    if not click.confirm(question):
        raise click.ClickException("Nothing was changed.")


def _run_assets(
    scope: Scope, names: tuple[str, ...], options: Mapping[str, Any], *, is_verbose: bool
) -> None:
    given = {name: value for name, value in options.items() if value is not None}
    request = RunRequest(uuid4().hex[:12], None, scope, names, given, is_verbose)
    _finish(*_shown(request), is_of_assets=True)


def _run_job(
    suffix: str, options: Mapping[str, Any], *, is_verbose: bool, seen: set[str] | None = None
) -> Mapping[str, Any]:
    """Starts a job, shows it, and gives the facts that it recorded; a page that was `seen` is not shown again."""
    given = {name: value for name, value in options.items() if value is not None}
    request = RunRequest(uuid4().hex[:12], suffix, options=given, is_verbose=is_verbose)
    launched, screen = _shown(request)
    seen = set() if seen is None else seen
    for page in launched.progress.plans:
        if page not in seen:
            screen.page(page)
        seen.add(page)
    _finish(launched, screen, is_of_assets=False)
    return launched.progress.facts


def _shown(request: RunRequest) -> tuple[LaunchedRun, Screen]:
    from sqlmesh_dagster.commands.launch import launch
    from sqlmesh_dagster.commands.screen import Screen

    screen = Screen("Starting")
    with screen:
        return launch(request, Path.cwd(), screen.show), screen


def _finish(launched: LaunchedRun, screen: Screen, *, is_of_assets: bool) -> None:
    """What is wrong, the total and the next step; ends the command where the run failed."""
    from sqlmesh_dagster.commands.report import ending, next_step, total

    is_success = launched.is_success
    for line in ending(launched.progress):
        screen.say(line)
    if launched.error:
        screen.say(f"Error: {launched.error}", style="bold red")
    screen.say("")
    if launched.run_id and (is_of_assets or not is_success):
        screen.say(total(launched.progress, launched.run_id, is_success=is_success))
    if launched.run_id and is_of_assets:
        was_stopped = launched.progress.was_stopped
        screen.say(next_step(Path.cwd(), is_success=is_success, was_stopped=was_stopped))
    if not is_success:
        sys.exit(1)


def _say_applied(facts: Mapping[str, Any]) -> None:
    environment, built = facts.get("sqlmesh/environment"), facts.get("sqlmesh/models_built", 0)
    changed = facts.get("sqlmesh/models_changed", 0)
    if changed or built:
        _say(f"The plan of `{environment}` is applied: {changed} changed, {built} built.")
    else:
        _say(f"No model changed: `{environment}` has the project's files.")


def _say(text: str) -> None:
    click.echo(text)


if __name__ == "__main__":
    main(prog_name="poe")
