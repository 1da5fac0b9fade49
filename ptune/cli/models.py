"""Commands about registered models: register, promote, rollback, predict, ui."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptune.cli.options import as_json, example, show, with_home, workers

if TYPE_CHECKING:
    from ptune.home import Home


@click.command(epilog=example("ptune register hand"))
@click.argument("study")
@as_json
@workers
@with_home
def register(home: Home, study: str, as_json: bool, workers: int | None) -> int:
    """Refit the best fused streams of STUDY on all subjects and register them as candidate."""
    from ptune.track.publish import register_study

    version, fusion = register_study(home, study, workers)
    text = f"{study} version {version.version} ({fusion.name}) is the candidate. Next: ptune promote {study}"
    show({"model": study, "version": version.version, "streams": list(fusion.members)}, text, as_json)
    return 0


@click.command(epilog=example("ptune promote hand"))
@click.argument("name")
@as_json
@with_home
def promote(home: Home, name: str, as_json: bool) -> int:
    """Make the candidate of model NAME its champion, if its evidence allows it."""
    from ptune.track.registry import Registry

    version, reason = Registry(home).promote(name)
    text = f"{name} version {version.version} is the champion: {reason}"
    show({"model": name, "version": version.version, "reason": reason}, text, as_json)
    return 0


@click.command(epilog=example("ptune rollback hand"))
@click.argument("name")
@with_home
def rollback(home: Home, name: str) -> int:
    """Make the former champion of model NAME champion again."""
    from ptune.track.registry import Registry

    click.echo(f"{name} version {Registry(home).rollback(name).version} is the champion again")
    return 0


@click.command(epilog=example("ptune predict walk.mp4 --model gait"))
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "name", required=True, help="Name of the registered model.")
@click.option("--alias", default="champion", show_default=True)
@as_json
@with_home
def predict(home: Home, videos: tuple[Path, ...], name: str, alias: str, as_json: bool) -> int:
    """Score VIDEOS with the champion of a registered model."""
    from ptune.track.publish import predict_videos

    answer = predict_videos(home, name, alias, videos)
    show(answer.facts(), answer.text(), as_json)
    return 1 if answer.problems else 0


@click.command(epilog=example("ptune ui", "ptune ui --port 5001"))
@click.option("--port", default=5000, show_default=True)
@with_home
def ui(home: Home, port: int) -> None:
    """Serve the MLflow UI of this home to this machine only, until Ctrl-C."""
    import os
    import sys

    from ptune.track.store import connect

    connect(home)
    address = ["--host", "127.0.0.1", "--port", str(port)]
    store = ["--backend-store-uri", home.tracking_uri, "--default-artifact-root", str(home.artifacts)]
    click.echo(f"http://127.0.0.1:{port} (ready in some seconds)")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", "--workers", "1", *address, *store])


COMMANDS = (register, promote, rollback, predict, ui)
