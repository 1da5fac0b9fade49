"""The whole path on a laptop: a synthetic cohort becomes a promoted champion, and the champion scores unseen people.

Small on purpose: 80x60 frames, a narrow network from random weights, three folds.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ptune.cohort.manifest import Manifest, load_manifest
from ptune.cohort.synthetic import BALANCED_WEIGHTS, SyntheticConfig, render_cohort
from ptune.config import StudyConfig
from ptune.extract.pipeline import extract
from ptune.extract.preview import contact_sheet
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.metrics import majority_class, majority_row, score_frame
from ptune.progress import progress
from ptune.results.stats import AgainstMajority, beats_majority
from ptune.results.table import Table
from ptune.results.tables import UNITS, metrics_headings, metrics_line
from ptune.track.bundle import Bundle
from ptune.track.predict import predict_videos, wanted_videos
from ptune.track.promotion import promote
from ptune.track.publish import StudyOutcome, register_study, run_study
from ptune.track.registry import Registry
from ptune.track.team import in_team

SUBJECTS, HELD_OUT_SUBJECTS, CLIPS = 30, 24, 3
FPS, SECONDS, FRAME = 12.5, (2.6, 3.4), (160, 120)
STUDY: dict[str, Any] = {
    "study": "demo",
    "cohort": "cohort/cohort.csv",
    "task": "hand",
    "objective": {"metric": "f1_macro"},
    "folds": {"count": 3, "seed": 0},
    "budget": {"trials": 6},
    "finalists": {"per": "modality", "count": 1},
    "ensemble": {"fewest_streams": 2},
    "init": "random",
    "extraction": {"width": 80, "height": 60},
    "space": {
        "modality": {"choice": ["rgb", "flow", "mb"]},
        "segments": {"int": [2, 4]},
        "snippet_frames": {"choice": [8, 16]},
        "attention": {"choice": [True, False]},
        "focal.alpha": {"float": [0.25, 1.0]},
        "focal.gamma": {"float": [0.0, 2.0]},
    },
    "fixed": {
        "epochs": 24,
        "batch_size": 8,
        "learning_rate": 0.002,
        "dropout": 0.3,
        "width": 0.125,
        "crop": 48,
        "attention_width": 32,
        "flow_bound": 2.0,
        "boundary_bound": 1.0,
        "validation": {"snippets": 2, "frames": 16},
        "test": {"snippets": 6, "frames": 16},
    },
}


@dataclass(frozen=True)
class DemoResult:
    """What the demo showed."""

    facts: dict[str, Any]
    text: str
    beats_majority: bool


def run_demo(home: Home, seed: int = 0, workers: int | None = None) -> DemoResult:
    """Runs every stage once; run again, it reuses what is there.

    Args:
        seed: of the cohort; each has its own study.
    """
    clock = time.monotonic()
    folder = home.root / f"demo-{seed}"
    study_file = _write_study(folder, seed)
    config = StudyConfig.load(study_file)
    _say(f"1/6 rendering {SUBJECTS} people to learn from and {HELD_OUT_SUBJECTS} to be tested on")
    cohort = load_manifest(_rendered(folder / "cohort", SUBJECTS, 1, seed))
    held_out = load_manifest(_rendered(folder / "held-out", HELD_OUT_SUBJECTS, SUBJECTS + 1, seed))
    sheet = contact_sheet([video.path for video in cohort.videos[:6]], folder / "clips.png")
    _say(f"    have a look: {sheet}")
    _say("2/6 extracting RGB, TV-L1 flow and motion boundaries")
    extract((*cohort.videos, *held_out.videos), config.extraction, home, workers)
    _say("3/6 sweeping modality, segments, snippet length, attention and focal loss over subject-disjoint folds")
    outcome = run_study(config, folder, home, workers)
    _say("4/6 refitting the best fused streams on all subjects, registering and promoting them")
    register_study(home, config.study, workers)
    version, _ = _promoted(home, config.study)
    _say(f"5/6 scoring {len(held_out.videos)} clips of people nobody has seen with champion version {version}")
    frame = _score_held_out(home, config, held_out)
    test = _against_majority(frame, cohort, config)
    _say("6/6 scoring one of their videos as the registered model does it, from the file")
    answer = predict_videos(home, config.study, "champion", wanted_videos([held_out.videos[0].path]))
    seconds = time.monotonic() - clock
    facts = _facts(frame, test, outcome, config) | {"seed": seed, "seconds": round(seconds, 1)}
    text = _closing(facts, frame, test, outcome, answer.text(), config, home, seconds)
    return DemoResult(facts, text, test.p_value < 0.05 and test.difference > 0)


def _write_study(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    study = STUDY | {"study": STUDY["study"] if seed == 0 else f"{STUDY['study']}-{seed}"}
    path.write_text(
        "# The demo's study. Run it again with: ptune sweep study.yaml\n" + yaml.safe_dump(study, sort_keys=False)
    )
    return path


def _rendered(folder: Path, subjects: int, first: int, seed: int) -> Path:
    manifest = folder / "cohort.csv"
    if manifest.exists():
        return manifest
    config = SyntheticConfig(
        task="hand",
        subjects=subjects,
        clips_per_subject=CLIPS,
        first_subject=first,
        # A cohort of the paper's imbalance would need far more clips than minutes allow.
        score_weights=BALANCED_WEIGHTS,
        fps=FPS,
        seconds=SECONDS,
        width=FRAME[0],
        height=FRAME[1],
        seed=seed,
    )
    return render_cohort(folder, config)


def _promoted(home: Home, name: str) -> tuple[str, str]:
    registry, name = Registry(home), in_team(name)
    candidate = registry.version(name, "candidate").version
    champion = registry.champion(name)
    if champion is not None and champion.version == candidate:
        return champion.version, "champion already"
    done = promote(home, name)
    return str(done.version), done.reason


def _score_held_out(home: Home, config: StudyConfig, held_out: Manifest) -> pd.DataFrame:
    """Scores stored features with the champion's own streams, so that flow is not computed twice."""
    bundle: Bundle = Registry(home).bundle(in_team(config.study))
    store = open_store(home.features, config.extraction)
    rows = []
    with progress("score", len(held_out.videos)) as bar:
        for video in held_out.videos:
            score = bundle.score_features(store.video(video.id))
            label = held_out.label(video)
            rows.append({"subject": video.subject, "label": label, "probabilities": score.probabilities.tolist()})
            bar.advance()
    return pd.DataFrame(rows)


def _against_majority(frame: pd.DataFrame, cohort: Manifest, config: StudyConfig) -> AgainstMajority:
    """Compares with the class most frequent among the people learnt from, as a constant answer would have to."""
    classes = len(config.grouping.names)
    answer = majority_class([cohort.label(video) for video in cohort.videos], classes)
    return beats_majority(frame, classes, answer)


def _facts(frame: pd.DataFrame, test: AgainstMajority, outcome: StudyOutcome, config: StudyConfig) -> dict[str, Any]:
    names = config.grouping.names
    return {
        "study": config.study,
        "fusion": outcome.fusion.name if outcome.fusion else "",
        "held_out": {"videos": len(frame), "subjects": test.subjects},
        "champion": score_frame(frame, names),
        "majority": majority_row(frame["label"].to_numpy(), names),
        "gain": {"accuracy": test.difference, "interval": test.interval, "p_value": test.p_value},
        "fits": {"trained": outcome.tally.fits_trained, "reused": outcome.tally.fits_reused},
    }


def _closing(
    facts: dict[str, Any],
    frame: pd.DataFrame,
    test: AgainstMajority,
    outcome: StudyOutcome,
    answer: str,
    config: StudyConfig,
    home: Home,
    seconds: float,
) -> str:
    champion = metrics_line(f"champion ({facts['fusion']})", facts["champion"])
    constant = metrics_line("majority class", facts["majority"], "base")
    caption = f"Synthetic cohort: champion on {len(frame)} clips of {test.subjects} unseen people"
    table = Table(caption, metrics_headings(), (champion, constant), (UNITS,))
    low, high = test.interval
    where = "" if home == Home.open() else f" --home {home.root}"
    return f"""
{table.text()}
Accuracy gained over the majority class, per person: {test.difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}),
p = {test.p_value:.4f}, sign-flip test over people.

One held-out video:
{answer}

Report      {outcome.report}
MLflow UI   ptune ui{where}
Took        {seconds / 60:.1f} minutes ({outcome.tally.fits_trained} fits trained, {outcome.tally.fits_reused} reused)

Your own videos:
  ptune cohort check cohort.csv          columns: video, subject, task, score
  ptune sweep search_spaces/hand.yaml    extracts what is missing, resumes when run again
  ptune register hand && ptune promote hand"""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
