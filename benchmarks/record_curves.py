"""Records real fits of the synthetic cohort, from which `race.py` replays studies without training.

64 configurations x 5 folds: the objective after each epoch and the out-of-fold probabilities at the end. Resumes when
run again; about half an hour on one core.

python benchmarks/record_curves.py [FILE]        default benchmarks/curves.npz
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import optuna
import torch

from ptune.cohort.folds import assign_folds
from ptune.cohort.manifest import load_manifest
from ptune.cohort.synthetic import SyntheticConfig, render_cohort
from ptune.config import FitSpec, FitVideo, StudyConfig
from ptune.extract.pipeline import extract_video
from ptune.extract.store import open_store
from ptune.ledger import Ledger
from ptune.progress import progress
from ptune.train.device import Acceleration
from ptune.train.fit import run_fit
from ptune.tune.space import suggest

CONFIGURATIONS, FOLDS = 64, 5
COHORT = SyntheticConfig(
    task="hand",
    subjects=30,
    clips_per_subject=3,
    fps=12.5,
    seconds=(2.4, 3.2),
    width=160,
    height=120,
    score_weights=(1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6),
)
STUDY = {
    "study": "curves",
    "cohort": "cohort/cohort.csv",
    "task": "hand",
    "objective": {"metric": "f1_macro"},
    "folds": {"count": FOLDS},
    "init": "random",
    "extraction": {"width": 64, "height": 48},
    "space": {
        "modality": {"choice": ["rgb", "flow", "mb"]},
        "segments": {"int": [1, 4]},
        "snippet_frames": {"choice": [8, 16]},
        "attention": {"choice": [True, False]},
        "attention_width": {"int": [8, 64], "log": True, "when": {"attention": True}},
        "focal.gamma": {"float": [0.0, 4.0]},
        "learning_rate": {"float": [1e-4, 2e-2], "log": True},
        "dropout": {"float": [0.0, 0.7]},
    },
    "fixed": {
        "epochs": 9,
        "batch_size": 8,
        "width": 0.125,
        "crop": 40,
        "flow_bound": 2.0,
        "boundary_bound": 1.0,
        "validation": {"snippets": 2, "frames": 16},
        "test": {"snippets": 4, "frames": 16},
    },
}


def record(target: Path, folder: Path) -> None:
    config = StudyConfig.parse(STUDY, "benchmark")
    manifest_path = folder / "cohort" / "cohort.csv"
    manifest = load_manifest(manifest_path if manifest_path.exists() else render_cohort(folder / "cohort", COHORT))
    store = open_store(folder / "features", config.extraction)
    for video in manifest.videos:
        if not store.has(video.id):
            features, extra = extract_video(video.path, config.extraction)
            store.write(video.id, features.rgb, features.flow, features.fps, extra)
    folds = assign_folds(manifest.labels(), FOLDS, 0, None)
    videos = tuple(
        FitVideo(video_id=item.id, subject=item.subject, score=item.score, label=config.grouping.class_of(item.score))
        for item in sorted(manifest.videos, key=lambda item: item.id)
    )
    points = configurations(config)
    ledger, device = Ledger(folder / "ledger"), Acceleration.best("cpu")
    places = {video.video_id: number for number, video in enumerate(videos)}
    values = np.zeros((CONFIGURATIONS, FOLDS, config.stream(points[0]).epochs), np.float32)
    probabilities = np.zeros((CONFIGURATIONS, len(videos), len(config.grouping.names)), np.float32)
    seconds = np.zeros((CONFIGURATIONS, FOLDS), np.float32)
    with progress("record", CONFIGURATIONS * FOLDS) as bar:
        for number, params in enumerate(points):
            for fold in range(FOLDS):
                held_out = tuple(video for video in videos if folds[video.subject] == fold)
                spec = FitSpec(
                    stream=config.stream(params),
                    classes=config.grouping.names,
                    fold=fold,
                    train=tuple(video for video in videos if video not in held_out),
                    held_out=held_out,
                    extraction=config.extraction.signature(),
                )
                record = run_fit(spec, store, ledger, device)
                values[number, fold] = [row["validation.f1_macro"] for row in record.history]
                for row in record.predictions().to_pylist():
                    probabilities[number, places[row["video_id"]]] = row["probabilities"]
                seconds[number, fold] = record.summary["seconds"]
                bar.advance()
    np.savez_compressed(
        target,
        study=json.dumps(STUDY),
        points=json.dumps(points),
        values=values,
        probabilities=probabilities,
        seconds=seconds,
        labels=np.array([video.label for video in videos], np.int8),
        subjects=np.unique([video.subject for video in videos], return_inverse=True)[1].astype(np.int16),
        folds=np.array([folds[video.subject] for video in videos], np.int8),
    )


def configurations(config: StudyConfig) -> list[dict[str, object]]:
    """Returns points drawn at random, modalities in turn."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    modalities = config.space["modality"].choice or ()
    return [suggest(study.ask(), config, str(modalities[number % 3])) for number in range(CONFIGURATIONS)]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("curves.npz")
    record(chosen, Path("build/curves"))
