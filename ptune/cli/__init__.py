"""The command line: parses, calls, prints. Starts without PyTorch, Ray, MLflow or OpenCV.

Exit 0 done, 1 some items failed, 2 bad input.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import click

from ptune import __version__
from ptune.cli import data, jobs, ledger, models, steer, studies
from ptune.errors import BadInput, PtuneError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ptune")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Hyperparameter and ablation studies for scoring movement videos.

    Try it: ptune demo
    """
    if debug:
        os.environ["PTUNE_DEBUG"] = "1"


for room in (data, studies, models, steer, ledger, jobs):
    for command in room.COMMANDS:
        cli.add_command(command)


def _require_submitter() -> None:
    """Refuses a job that another version of ptune submitted: what it was promised there may not hold here.

    Raises:
        BadInput: it is another.
    """
    version = os.environ.get("PTUNE_SUBMITTER", __version__)
    if version != __version__:
        where = "ptune on the cluster"
        raise BadInput(where, f"is {__version__}", f"{version}, as where the job was submitted", "Install one on both.")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command, by default the one on the command line, and exits with its code."""
    # Whoever ends a job politely is answered as Ctrl-C is.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        _require_submitter()
        code = cli(arguments, standalone_mode=False)
    except PtuneError as error:
        if os.environ.get("PTUNE_DEBUG"):
            traceback.print_exc()
        click.echo(f"ptune: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("ptune: stopped. Run the same command again to go on.", err=True)
        code = 1
    except Exception as error:
        if os.environ.get("PTUNE_DEBUG"):
            raise
        click.echo(f"ptune: unexpected {type(error).__name__}: {error}. Run with --debug for the trace.", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
