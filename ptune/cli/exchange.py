"""Commands that hand a study to other tools: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptune.cli.options import as_json, example, show, with_home

if TYPE_CHECKING:
    from ptune.home import Home


@click.command(epilog=example("ptune export hand", "ptune export hand --to tables"))
@click.argument("study")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Folder [default: exports/STUDY in home].")
@as_json
@with_home
def export(home: Home, study: str, to: Path | None, as_json: bool) -> int:
    """Write the trials and predictions of STUDY as CSV and Parquet, and an Optuna study."""
    from ptune.track.export import export_study

    done = export_study(home, study, to)
    show(done.facts(), done.text(), as_json)
    return 0


COMMANDS = (export,)
