"""Commands about Ray Jobs: submit, jobs, logs. What is typed here is what would be typed on the cluster."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ptune.cli.options import address, as_json, example, home_options, open_cluster, show, with_cluster

if TYPE_CHECKING:
    from ptune.submit import Cluster, Errand, Job

#: Which argument of a command is a YAML file, and what in it names the study.
YAML = {"sweep": ("space", "study"), "ablate": ("spec", "ablation")}
#: Where a command without a YAML file says what it is about.
ABOUT = ("study", "studies", "name")
#: What only makes sense where one sits.
HERE = ("ui", "demo", "submit", "jobs", "logs")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example(
        "ptune submit sweep search_spaces/hand.yaml --home /shared/ptune",
        "ptune submit --address http://127.0.0.1:8265 -f extract /shared/cohort.csv",
        "ptune submit register hand",
    ),
)
@click.option("-f", "--follow", is_flag=True, help="Print what the job prints until it has ended.")
@as_json
@home_options
@address
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def submit(
    command: tuple[str, ...],
    address: str | None,
    home: Path | None,
    features: str | None,
    ledger: str | None,
    follow: bool,
    as_json: bool,
) -> int:
    """Run a ptune COMMAND as a Ray Job on a cluster. Its YAML file travels; all other paths are the cluster's.

    While a job runs the same command on the same study, none is added.
    """
    places = {"home": home or os.environ.get("PTUNE_HOME"), "features": features}
    places["ledger"] = ledger or os.environ.get("PTUNE_LEDGER")
    errand = _errand(command, {name: str(place) for name, place in places.items() if place})
    cluster = open_cluster(address)
    done = cluster.submit(errand)
    show(done.facts(), done.text(), as_json)
    return _follow(done.job, cluster) if follow else 0


@click.command(epilog=example("ptune jobs", "ptune jobs --address http://127.0.0.1:8265 --json"))
@as_json
@with_cluster
def jobs(cluster: Cluster, as_json: bool) -> int:
    """List the ptune commands that run or ran on a cluster."""
    facts = [job.facts() for job in cluster.jobs()]
    show(facts, _table(facts) if facts else "no ptune job on this cluster yet", as_json)
    return 0


@click.command(epilog=example("ptune logs hand", "ptune logs ptune-sweep-hand-1 -f"))
@click.argument("job", metavar="ID|STUDY")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended; exit 0 if it succeeded, else 1.")
@with_cluster
def logs(cluster: Cluster, job: str, follow: bool) -> int:
    """Print what a job printed, by its id, or the last job of a study."""
    found = cluster.job(job)
    if follow:
        return _follow(found, cluster)
    click.echo(cluster.logs(found), nl=False)
    return 0


def _follow(job: Job, cluster: Cluster) -> int:
    ended = cluster.follow(job, lambda text: click.echo(text, nl=False))
    return 0 if ended.status == "SUCCEEDED" else 1


def _errand(words: tuple[str, ...], places: dict[str, str]) -> Errand:
    """Returns what is to travel for a command line, which is checked as if it ran here."""
    from ptune.submit import Errand

    command, context = _parsed(words)
    if command in HERE or context.params.get("detach"):
        raise click.UsageError(
            f"`{' '.join(words[:1])}{' --detach' if command not in HERE else ''}` is for this machine"
        )
    typed = {param.name: context.get_parameter_source(str(param.name)) for param in context.command.params}
    values = {
        name: context.params[str(name)] for name, source in typed.items() if source is ParameterSource.COMMANDLINE
    }
    values = {name: place for name, place in places.items() if name in typed} | values
    files: dict[str, str] = {}
    if command in YAML:
        argument, key = YAML[command]
        path = Path(values[argument])
        settings, text = _travelling(path, command)
        files[path.name], study = text, str(values.get("name") or settings[key])
    else:
        study = _about(context)
    arguments = [part for param in context.command.params for part in _typed(param, values, files)]
    return Errand(command, study, tuple(arguments), _place(values.get("home", "")), files)


def _parsed(words: tuple[str, ...]) -> tuple[str, click.Context]:
    """Returns a command's whole name, and its context with the values given."""
    context, rest = click.get_current_context().find_root(), list(words)
    names: list[str] = []
    command: click.Command = context.command
    while isinstance(command, click.Group):
        if not rest:
            raise click.UsageError(f"`{' '.join(names)}` lacks a command: {', '.join(command.commands)}")
        name, subcommand, rest = command.resolve_command(context, rest)
        assert subcommand is not None
        names.append(str(name))
        command = subcommand
    return " ".join(names), command.make_context(" ".join(["ptune", *names]), rest)


def _travelling(path: Path, command: str) -> tuple[dict[str, Any], str]:
    """Returns the settings of a YAML file, checked, and the text that stands for it elsewhere.

    That has what the file extends, and the whole path of its cohort.
    """
    from ptune.config import StudyConfig, dump_yaml
    from ptune.config.ablation import load_extended
    from ptune.config.leave_one_out import read_ablation

    if command == "sweep":
        StudyConfig.load(path)
    else:
        read_ablation(path)
    settings: dict[str, Any] = load_extended(path)
    settings["cohort"] = _place(settings["cohort"], path.parent)
    return settings, dump_yaml(settings)


def _typed(param: click.Parameter, values: dict[Any, Any], files: dict[str, str]) -> list[str]:
    """Returns the words of a command line that give a parameter its value, with whole paths."""
    if param.name not in values:
        return []
    value = values[param.name]
    many = param.nargs == -1 or param.multiple
    words = [_word(param, each, files) for each in (value if many else [value])]
    if not isinstance(param, click.Option):
        return words
    if param.is_flag:
        return [param.opts[-1] if value else param.secondary_opts[-1]]
    return [part for word in words for part in (param.opts[-1], word)]


def _word(param: click.Parameter, value: Any, files: dict[str, str]) -> str:
    if param.name in ("home", "features", "ledger"):
        return _place(value)
    if isinstance(value, Path):
        return value.name if value.name in files else _place(value)
    return str(value)


def _place(path: Path | str, folder: Path | None = None) -> str:
    """Returns a place as a cluster can find it: a URI as it is, a path whole."""
    if not str(path) or "://" in str(path):
        return str(path)
    return os.path.abspath((folder or Path()) / Path(path).expanduser())


def _about(context: click.Context) -> str:
    """Returns the study or model that a command is about; else what stands for its arguments, among which are paths."""
    for name in ABOUT:
        value = context.params.get(name)
        if value:
            return value if isinstance(value, str) else str(value[0])
    given = [
        str(context.params[str(param.name)]) for param in context.command.params if isinstance(param, click.Argument)
    ]
    return hashlib.sha256(" ".join(given).encode()).hexdigest()[:8] if given else "home"


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(word.ljust(width) for word, width in line).rstrip() for line in padded)


COMMANDS = (submit, jobs, logs)
