"""Commands about studies: sweep, ablate, status, fuse, report, export, sync."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ptune.cli.options import as_json, example, fusion_rule, show, with_home, workers

if TYPE_CHECKING:
    from ptune.home import Home
    from ptune.results.stats import Rule


@click.command(
    epilog=example(
        "ptune sweep search_spaces/hand.yaml",
        "ptune sweep search_spaces/hand.yaml --dry-run",
        "ptune sweep search_spaces/hand.yaml --as hand-2 --detach",
        "ptune sweep search_spaces/hand.yaml --nested",
    )
)
@click.argument("space", type=click.Path(path_type=Path))
@click.option("--as", "name", help="Run it as a study of another name.")
@click.option("--detach", is_flag=True, help="Run it in a session of its own, which outlives this terminal.")
@click.option("--dry-run", is_flag=True, help="Print what it would take, measured on this machine; write nothing.")
@click.option(
    "--nested", is_flag=True, help="Judge the search itself: run it anew without each fold, which then judges it."
)
@as_json
@workers
@with_home
def sweep(
    home: Home,
    space: Path,
    name: str | None,
    detach: bool,
    dry_run: bool,
    nested: bool,
    as_json: bool,
    workers: int | None,
) -> int:
    """Run, resume or extend the study that SPACE describes."""
    if nested and (detach or dry_run):
        raise click.UsageError("--nested goes with neither --detach nor --dry-run")
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
    if nested:
        from ptune.track.nested import cross_validate_search

        check = cross_validate_search(config, space.parent, home, workers)
        show(check.facts(), check.text(), as_json)
        return 1 if check.interrupted else 0
    from ptune.track.publish import run_study

    outcome = run_study(config, space.parent, home, workers)
    show(outcome.facts(), outcome.text(), as_json)
    return 1 if outcome.failed or outcome.interrupted else 0


def _same_sweep(home: Home, space: Path, name: str | None, workers: int | None) -> list[str]:
    given = [("--home", home.root), ("--features", home.features), ("--as", name), ("--workers", workers)]
    return ["sweep", str(space), *(str(part) for pair in given if pair[1] is not None for part in pair)]


@click.command(
    epilog=example(
        "ptune ablate search_spaces/paper_table2.yaml --dry-run",
        "ptune ablate search_spaces/paper_table2.yaml",
        "ptune ablate search_spaces/leave_one_out.yaml",
    )
)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print what it would take, measured on this machine; write nothing.")
@as_json
@workers
@with_home
def ablate(home: Home, spec: Path, dry_run: bool, as_json: bool, workers: int | None) -> int:
    """Run or resume the ablation that SPEC describes, and print its tables."""
    from ptune.track.ablation import estimate_ablation, load_ablation, run_ablation

    config = load_ablation(spec, home)
    if dry_run:
        found = estimate_ablation(config, spec.parent, home, workers)
        show(found.facts(), found.text(), as_json)
        return 0
    outcome = run_ablation(config, spec.parent, home, workers)
    show(outcome.facts(), outcome.text(), as_json)
    return 1 if outcome.failed or outcome.interrupted else 0


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


@click.command(
    epilog=example(
        "ptune fuse hand",
        "ptune fuse hand --rule greedy --per-modality 4",
        "ptune fuse hand --streams 3 --streams 7",
        "ptune fuse hand hand-2 --streams hand:3 --streams hand-2:0",
    )
)
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.option("--streams", multiple=True, help="Fuse only this trial (repeat it): NUMBER, or STUDY:NUMBER.")
@fusion_rule
@as_json
@with_home
def fuse(
    home: Home,
    studies: tuple[str, ...],
    streams: tuple[str, ...],
    rule: Rule,
    per_modality: int,
    as_json: bool,
) -> int:
    """Search the fusions of finished streams of one STUDY or several, without training."""
    if streams and click.get_current_context().get_parameter_source("per_modality") is not ParameterSource.DEFAULT:
        raise click.UsageError("--streams names the trials: --per-modality does not go with it")
    from ptune.results.summary import summarise

    summary = summarise(home, studies, rule, per_modality, streams)
    show(summary.facts(), summary.text(), as_json)
    return 0


@click.command(epilog=example("ptune report hand", "ptune report hand --with-frames"))
@click.argument("study")
@click.option("--with-frames", is_flag=True, help="Show some of the videos: for a page that stays in this home.")
@with_home
def report(home: Home, study: str, with_frames: bool) -> int:
    """Write the HTML report of STUDY, and its table as Markdown, LaTeX and CSV; print where it is."""
    from ptune.track.publish import write_study_report

    click.echo(write_study_report(home, study, with_frames))
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


COMMANDS = (sweep, ablate, status, fuse, report, export, sync)
