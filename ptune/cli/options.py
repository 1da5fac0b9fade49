"""Options and output that commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def with_home(function: Command) -> Command:
    """Adds --home, --features and --ledger and passes an open home as first argument."""

    @click.option(
        "--home", type=click.Path(path_type=Path), help="Where ptune keeps its files [default: ./ptune-home]."
    )
    @click.option("--features", type=click.Path(path_type=Path), help="Feature store on another disk.")
    @click.option("--ledger", help="Fits and study events elsewhere: a path, s3://bucket/prefix or gs://bucket/prefix.")
    @wraps(function)
    def wrapped(home: Path | None, features: Path | None, ledger: str | None, **values: Any) -> Any:
        from ptune.cluster import stay_quiet
        from ptune.home import Home

        stay_quiet()
        return function(Home.open(home, features, ledger), **values)

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
