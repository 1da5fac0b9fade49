"""Commands about studies: sweep, status, stop, trial, fuse, report, sync."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptune.cli.options import as_json, example, show, with_home, workers

if TYPE_CHECKING:
    from ptune.home import Home
    from ptune.steer import Request


@click.command(
    epilog=example(
        "ptune sweep search_spaces/hand.yaml",
        "ptune sweep search_spaces/hand.yaml --dry-run",
        "ptune sweep search_spaces/hand.yaml --as hand-2 --detach",
    )
)
@click.argument("space", type=click.Path(path_type=Path))
@click.option("--as", "name", help="Run it as a study of another name.")
@click.option("--detach", is_flag=True, help="Run it in a session of its own, which outlives this terminal.")
@click.option("--dry-run", is_flag=True, help="Print what it would take, measured on this machine; write nothing.")
@as_json
@workers
@with_home
def sweep(
    home: Home, space: Path, name: str | None, detach: bool, dry_run: bool, as_json: bool, workers: int | None
) -> int:
    """Run, resume or extend the study that SPACE describes."""
    from ptune.config import StudyConfig

    config = StudyConfig.load(space)
    if name:
        config = StudyConfig.parse(config.model_dump(mode="json", by_alias=True) | {"study": name}, "--as")
    if dry_run:
        from ptune.tune.estimate import estimate_study

        found = estimate_study(config, space.parent, home, workers)
        show(found.facts(), found.text(), as_json)
        return 0
    if detach:
        from ptune.cli.detached import detach as run_detached

        begun = run_detached(_same_sweep(home, space, name, workers), config.study, home)
        show(begun.facts(), begun.text(), as_json)
        return begun.code or 0
    from ptune.track.publish import run_study

    outcome = run_study(config, space.parent, home, workers)
    show(outcome.facts(), outcome.text(), as_json)
    return 1 if outcome.failed or outcome.interrupted else 0


def _same_sweep(home: Home, space: Path, name: str | None, workers: int | None) -> list[str]:
    given = [("--home", home.root), ("--features", home.features), ("--as", name), ("--workers", workers)]
    return ["sweep", str(space), *(str(part) for pair in given if pair[1] is not None for part in pair)]


@click.command(epilog=example("ptune status", "ptune status hand --watch", "ptune status hand --watch --json"))
@click.argument("study", required=False)
@click.option("--watch", is_flag=True, help="Go on showing it until Ctrl-C; with --json, one line per change.")
@as_json
@with_home
def status(home: Home, study: str | None, watch: bool, as_json: bool) -> int:
    """Show where STUDY, or every study, stands, from any shell; reads only the ledger."""
    from ptune.results.watch import show_studies, watch_studies

    if watch:
        with suppress(KeyboardInterrupt):
            watch_studies(home, study, as_json)
    else:
        show_studies(home, study, as_json)
    return 0


@click.command(epilog=example("ptune fuse hand"))
@click.argument("study")
@as_json
@with_home
def fuse(home: Home, study: str, as_json: bool) -> int:
    """Score every combination of modalities of STUDY without training."""
    from ptune.results.summary import summarise

    summary = summarise(home, study)
    show(summary.facts(), summary.text(), as_json)
    return 0


@click.command(epilog=example("ptune report hand"))
@click.argument("study")
@with_home
def report(home: Home, study: str) -> int:
    """Write the HTML report of STUDY and print where it is."""
    from ptune.results.summary import report_study

    click.echo(report_study(home, study))
    return 0


@click.command(epilog=example("ptune sync hand"))
@click.argument("study")
@with_home
def sync(home: Home, study: str) -> int:
    """Bring the MLflow runs of STUDY up to what the ledger says."""
    from ptune.track.project import Projector

    done = Projector(home, study).sync()
    click.echo(f"{done.created} runs created, {done.updated} brought up to date")
    return 0


@click.group()
def trial() -> None:
    """Steer a running study, trial by trial."""


@trial.command("add", epilog=example("ptune trial add hand modality=flow segments=4 attention=no learning_rate=1e-4"))
@click.argument("study")
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE...")
@as_json
@with_home
def add_trial(home: Home, study: str, settings: tuple[str, ...], as_json: bool) -> int:
    """Run a trial with these SETTINGS next, even beyond the study's budget of trials."""
    from ptune.results.status import require_study
    from ptune.tune.steering import trial_to_add

    asked = trial_to_add(require_study(home, study), settings)
    _ask(home, study, asked, "The trial is the next to run", as_json)
    return 0


@trial.command("stop", epilog=example("ptune trial stop hand 7"))
@click.argument("study")
@click.argument("number", type=int)
@as_json
@with_home
def stop_trial(home: Home, study: str, number: int, as_json: bool) -> int:
    """End trial NUMBER of STUDY; it counts as stopped by hand."""
    from ptune.results.status import require_study
    from ptune.tune.steering import trial_to_stop

    asked = trial_to_stop(require_study(home, study), number)
    _ask(home, study, asked, f"Trial {number} ends with its present epoch", as_json)
    return 0


@click.command(epilog=example("ptune stop hand"))
@click.argument("study")
@as_json
@with_home
def stop(home: Home, study: str, as_json: bool) -> int:
    """End the sweep that runs STUDY after the present epochs; the same sweep command goes on."""
    from ptune.errors import BadInput
    from ptune.results.status import require_study
    from ptune.steer import StopStudy

    require_study(home, study)
    if not _ask(home, study, StopStudy(), "Its sweep ends with the present epochs", as_json, only_if_running=True):
        raise BadInput(f"study {study!r}", "no sweep runs it", "a running sweep", "There is nothing to stop.")
    return 0


def _ask(home: Home, study: str, request: Request, promise: str, as_json: bool, only_if_running: bool = False) -> bool:
    """Writes a request and tells what becomes of it; returns whether it was written."""
    from ptune.ledger import Ledger
    from ptune.steer import Requests, launch_of

    folder = Ledger(home.ledger).study(study).folder
    launch = launch_of(folder)
    if only_if_running and launch is None:
        return False
    Requests(folder).ask(request)
    waits = "No sweep runs this study now: it is done when one does."
    text = f"{promise} (process {launch.pid})." if launch else waits
    show({"study": study, "request": request.id, "running": launch is not None}, text, as_json)
    return True


COMMANDS = (sweep, status, stop, trial, fuse, report, sync)
