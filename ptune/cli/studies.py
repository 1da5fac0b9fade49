"""Commands about studies: sweep, status, fuse, report, sync."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptune.cli.options import as_json, example, show, with_home, workers

if TYPE_CHECKING:
    from ptune.home import Home


@click.command(epilog=example("ptune sweep search_spaces/hand.yaml", "ptune sweep search_spaces/hand.yaml --as hand-2"))
@click.argument("space", type=click.Path(path_type=Path))
@click.option("--as", "name", help="Run it as a study of another name.")
@as_json
@workers
@with_home
def sweep(home: Home, space: Path, name: str | None, as_json: bool, workers: int | None) -> int:
    """Run, resume or extend the study that SPACE describes."""
    from ptune.config import StudyConfig
    from ptune.track.publish import run_study

    config = StudyConfig.load(space)
    if name:
        config = StudyConfig.parse(config.model_dump(mode="json", by_alias=True) | {"study": name}, "--as")
    outcome = run_study(config, space.parent, home, workers)
    show(outcome.facts(), outcome.text(), as_json)
    return 1 if outcome.failed or outcome.interrupted else 0


@click.command(epilog=example("ptune status", "ptune status hand --watch", "ptune status hand --watch --json"))
@click.argument("study", required=False)
@click.option("--watch", is_flag=True, help="Go on showing it until Ctrl-C; with --json, one line per change.")
@as_json
@with_home
def status(home: Home, study: str | None, watch: bool, as_json: bool) -> int:
    """Show where STUDY, or every study, stands, from any shell; reads only the ledger."""
    from ptune.results.live import show_studies, watch_studies

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


COMMANDS = (sweep, status, fuse, report, sync)
