"""Commands about registered models: register, promote, rollback, predict, ui."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptune.cli.options import as_json, example, fusion_rule, show, with_home, workers

if TYPE_CHECKING:
    from ptune.home import Home
    from ptune.results.stats import Rule
    from ptune.track.bundle import ProtocolName
    from ptune.track.publish import Weights


@click.command(
    epilog=example(
        "ptune register hand",
        "ptune register hand --rule greedy --per-modality 2",
        "ptune register hand-2 --model hand",
    )
)
@click.argument("studies", metavar="STUDY", nargs=-1, required=True)
@fusion_rule
@click.option("--model", "name", help="Name of the model that it is a candidate of [default: STUDY].")
@click.option(
    "--weights",
    type=click.Choice(["refit", "folds"]),
    default="refit",
    show_default=True,
    help="Train each stream once more, on all subjects, or average the networks of all folds.",
)
@as_json
@workers
@with_home
def register(
    home: Home,
    studies: tuple[str, ...],
    rule: Rule,
    per_modality: int,
    name: str | None,
    weights: Weights,
    as_json: bool,
    workers: int | None,
) -> int:
    """Make the best fused streams of STUDY a model, and that the candidate.

    With --model a study competes with another's champion.
    """
    if len(studies) > 1:
        raise click.UsageError(
            "a model is of one study: `ptune fuse` scores streams of several, but they cannot be registered in one"
        )
    from ptune.track.publish import register_study

    (study,) = studies
    version, fusion = register_study(home, study, workers, rule, per_modality, weights, name)
    model = version.name
    text = f"{model} version {version.version} ({fusion.name}) is the candidate. Next: ptune promote {model}"
    show(
        {"model": model, "version": version.version, "streams": [member.facts() for member in fusion.members]},
        text,
        as_json,
    )
    return 0


@click.command(epilog=example("ptune promote hand", "ptune promote hand --margin 0.02"))
@click.argument("name")
@click.option(
    "--margin",
    default=0.05,
    show_default=True,
    help="How far below zero the interval of the difference from the champion may reach.",
)
@click.option("--override", metavar="REASON", help="Promote against the evidence; recorded with who and when.")
@as_json
@with_home
def promote(home: Home, name: str, margin: float, override: str | None, as_json: bool) -> int:
    """Make the candidate of model NAME its champion, if its evidence allows it.

    The first champion must beat the majority class; a later one must not be inferior to the champion on the same
    videos, by more than a margin.
    """
    from ptune.track.promotion import promote

    done = promote(home, name, margin, override)
    show(done.facts(), done.text(), as_json)
    return 0


@click.command(epilog=example("ptune rollback hand"))
@click.argument("name")
@as_json
@with_home
def rollback(home: Home, name: str, as_json: bool) -> int:
    """Make the former champion of model NAME champion again."""
    from ptune.track.promotion import rollback

    version = rollback(home, name)
    show({"model": name, "version": version}, f"{name} version {version} is the champion again", as_json)
    return 0


@click.command(
    epilog=example(
        "ptune predict walk.mp4 --model gait",
        "ptune predict monday/*.mp4 --model gait --explain why",
        "ptune predict list.csv --model gait --workers 8 --json",
    )
)
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "name", required=True, help="Name of the registered model.")
@click.option("--alias", default="champion", show_default=True)
@click.option(
    "--protocol",
    type=click.Choice(["paper", "fast"]),
    default="paper",
    show_default=True,
    help="Score all snippets of the test protocol, or the few of validation.",
)
@click.option("--device", help="Where to compute, as torch names it [default: the first GPU, else cpu].")
@click.option(
    "--explain",
    "pictures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for attention over time above a film strip of each video. It shows the patient.",
)
@as_json
@workers
@with_home
def predict(
    home: Home,
    videos: tuple[Path, ...],
    name: str,
    alias: str,
    protocol: ProtocolName,
    device: str | None,
    pictures: Path | None,
    as_json: bool,
    workers: int | None,
) -> int:
    """Score VIDEOS with the champion of a registered model.

    A table (CSV or Parquet) among them stands for the videos in its column `video`, or for the parts of them between
    `start_seconds` and `end_seconds`. With --workers, Ray Data scores them side by side.
    """
    from ptune.track.predict import predict_videos, wanted_videos

    answer = predict_videos(home, name, alias, wanted_videos(videos), protocol, device, pictures, workers)
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
