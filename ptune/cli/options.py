"""Options and output that commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ptune.home import Home
    from ptune.submit import Cluster

Command = Callable[..., Any]


def home_options(function: Command) -> Command:
    """Adds --home, --features and --ledger."""
    home = click.option(
        "--home", type=click.Path(path_type=Path), help="Where ptune keeps its files [default: ./ptune-home]."
    )
    features = click.option(
        "--features", help="Features elsewhere: a path on another disk, s3://bucket/prefix or gs://bucket/prefix."
    )
    ledger = click.option(
        "--ledger", help="Fits and study events elsewhere: a path, s3://bucket/prefix or gs://bucket/prefix."
    )
    return home(features(ledger(function)))


def open_home(home: Path | None, features: str | None, ledger: str | None) -> Home:
    """Returns the home that the options of `home_options` name, open."""
    from ptune.cluster import in_job, stay_quiet
    from ptune.errors import HomeError
    from ptune.home import Home

    stay_quiet()
    if in_job() and home is None and not os.environ.get("PTUNE_HOME"):
        expected = "a folder that every node of the cluster shares"
        raise HomeError("home", "is not given", expected, "Name it with --home, or PTUNE_HOME there or on the cluster.")
    return Home.open(home, features, ledger)


def with_home(function: Command) -> Command:
    """Adds the options of `home_options` and passes an open home as first argument."""

    @home_options
    @wraps(function)
    def wrapped(home: Path | None, features: str | None, ledger: str | None, **values: Any) -> Any:
        return function(open_home(home, features, ledger), **values)

    return wrapped


address = click.option(
    "--address", help="Dashboard of the cluster, http://HOST:8265 [default: RAY_API_SERVER_ADDRESS, or RAY_ADDRESS]."
)


def open_cluster(address: str | None) -> Cluster:
    """Returns the cluster that --address names, which has answered."""
    from ptune.cluster import stay_quiet

    stay_quiet()
    from ptune.submit import Cluster

    return Cluster(address)


def with_cluster(function: Command) -> Command:
    """Adds --address and passes that cluster as first argument."""

    @address
    @wraps(function)
    def wrapped(address: str | None, **values: Any) -> Any:
        return function(open_cluster(address), **values)

    return wrapped


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for machines.")
workers = click.option("--workers", type=click.IntRange(1), help="CPU cores of a private Ray [default: all].")


def fusion_rule(function: Command) -> Command:
    """Adds --rule and --per-modality: how a fusion is chosen."""
    rule = click.option(
        "--rule",
        type=click.Choice(["average", "weights", "greedy"]),
        default="average",
        show_default=True,
        help="The best plain average, fitted weights (Brier score), or greedy selection with replacement.",
    )
    per_modality = click.option(
        "--per-modality",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="How many of the best trials of each modality may take part.",
    )
    return rule(per_modality(function))


def show(value: Any, text: str, as_json: bool) -> None:
    """Prints `value` as JSON or `text` for people."""
    click.echo(json.dumps(value, indent=1, default=str) if as_json else text)


def example(*lines: str) -> str:
    """Returns the epilog with a command to copy."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
