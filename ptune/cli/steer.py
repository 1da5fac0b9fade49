"""Commands that steer a running study: stop, limit, trial add, trial stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptune.cli.options import address, as_json, example, home_options, open_cluster, open_home, show, with_home

if TYPE_CHECKING:
    from ptune.home import Home
    from ptune.steer import Request


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


@click.command(epilog=example("ptune stop hand", "ptune stop hand --address http://127.0.0.1:8265"))
@click.argument("study")
@as_json
@home_options
@address
def stop(
    study: str, address: str | None, home: Path | None, features: str | None, ledger: str | None, as_json: bool
) -> int:
    """End the sweep that runs STUDY after the present epochs; the same sweep command goes on.

    With --address, end the jobs of STUDY, or the one with this id, on a cluster.
    """
    return (
        _stop_jobs(study, address, as_json)
        if address
        else _stop_sweep(open_home(home, features, ledger), study, as_json)
    )


@click.command(epilog=example("ptune limit hand --max-gpus 4"))
@click.argument("study")
@click.option("--max-gpus", type=click.IntRange(1), required=True, help="At once, at most.")
@as_json
@with_home
def limit(home: Home, study: str, max_gpus: int, as_json: bool) -> int:
    """Let STUDY use so many GPUs from its next tasks on; what has too many pauses at its next rung or fold."""
    from ptune.results.status import require_study
    from ptune.tune.steering import gpus_to_use

    asked = gpus_to_use(require_study(home, study), max_gpus)
    _ask(home, study, asked, f"At most {max_gpus} GPUs from the next tasks on", as_json)
    return 0


def _stop_sweep(home: Home, study: str, as_json: bool) -> int:
    from ptune.errors import BadInput
    from ptune.results.status import require_study
    from ptune.steer import StopStudy

    require_study(home, study)
    if not _ask(home, study, StopStudy(), "Its sweep ends with the present epochs", as_json, only_if_running=True):
        raise BadInput(f"study {study!r}", "no sweep runs it", "a running sweep", "There is nothing to stop.")
    return 0


def _stop_jobs(study: str, address: str, as_json: bool) -> int:
    from ptune.errors import BadInput

    cluster = open_cluster(address)
    jobs = cluster.running(study)
    if not jobs:
        raise BadInput(f"job or study {study!r}", "no job of it runs", "a running job", "There is nothing to stop.")
    ended = [cluster.stop(job) for job in jobs]
    show([job.facts() for job in ended], "\n".join(f"{job.id}: {job.status.lower()}" for job in ended), as_json)
    return 0 if all(job.over for job in ended) else 1


def _ask(home: Home, study: str, request: Request, promise: str, as_json: bool, only_if_running: bool = False) -> bool:
    """Writes a request and tells what becomes of it; returns whether it was written."""
    from ptune.ledger import Ledger
    from ptune.steer import Requests

    ledger = Ledger(home.ledger)
    holder = ledger.study(study).holder()
    if only_if_running and holder is None:
        return False
    Requests(ledger, study).ask(request)
    waits = "No sweep runs this study now: it is done when one does."
    text = f"{promise} (process {holder.pid} on {holder.host})." if holder else waits
    show({"study": study, "request": request.id, "running": holder is not None}, text, as_json)
    return True


COMMANDS = (stop, limit, trial)
