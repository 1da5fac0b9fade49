"""A small invented study in a ledger: nine trials over three folds, some stopped, one failed, one running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ptune.config import FitSpec, FitVideo, StudyConfig
from ptune.ledger import Ledger, predictions_table
from ptune.metrics import score

CLASSES = ("normal", "mild", "severe")
SUBJECT = "CANARYSUBJECT"
MANIFEST = "canary_cohort_file.csv"
MODALITIES = ("rgb", "flow", "mb", "flow", "mb", "rgb", "flow", "mb", "rgb")
SKILL = {"rgb": 0.35, "flow": 0.75, "mb": 0.7}


def example_config(name: str = "hand", epochs: int = 12, metric: str = "f1_weighted") -> StudyConfig:
    values = {
        "study": name,
        "cohort": MANIFEST,
        "task": "hand",
        "objective": {"metric": metric},
        "folds": {"count": 3, "seed": 0},
        "budget": {"trials": 9},
        "init": "random",
        "space": {
            "modality": {"choice": ["rgb", "flow", "mb"]},
            "segments": {"int": [2, 8]},
            "learning_rate": {"float": [1e-6, 1e-3], "log": True},
            "focal.gamma": {"float": [0.0, 5.0]},
            "attention": {"choice": [True, False]},
        },
        "fixed": {"epochs": epochs, "test": {"snippets": 8, "frames": 16}, "validation": {"snippets": 2, "frames": 16}},
    }
    return StudyConfig.parse(values, "example")


def example_videos(subjects: int = 12, each: int = 5, seed: int = 0) -> list[FitVideo]:
    rng = np.random.default_rng(seed)
    videos = []
    for subject in range(subjects):
        lean = rng.normal(1.4, 0.9)
        for video in range(each):
            score_ = int(np.clip(round(rng.normal(lean, 0.6)), 0, 4))
            label = (0, 1, 1, 2, 2)[score_]
            name = f"v{subject:02d}{video:02d}"
            videos.append(FitVideo(video_id=name, subject=f"{SUBJECT}-{subject:02d}", score=score_, label=label))
    return videos


def example_study(
    root: Path,
    name: str = "hand",
    epochs: int = 12,
    trials: int = 9,
    subjects: int = 12,
    turned: int = 0,
    metric: str = "f1_weighted",
) -> Ledger:
    """Fills a ledger under `root` and returns it.

    Args:
        turned: by how many folds every subject is moved on.
    """
    config, videos, ledger = example_config(name, epochs, metric), example_videos(subjects), Ledger(root)
    folds = {subject: (index + turned) % 3 for index, subject in enumerate(sorted({video.subject for video in videos}))}
    counts = {CLASSES[index]: sum(video.label == index for video in videos) for index in range(3)}
    cohort = {"digest": "ab12" * 8, "videos": len(videos), "subjects": subjects, "class_counts": counts}
    log = ledger.study(name)
    with log.lease():
        log.append("opened", study=config.model_dump(mode="json", by_alias=True), cohort=cohort, folds=folds)
        for number in range(trials):
            _trial(ledger, config, videos, folds, number)
    return ledger


def _trial(ledger: Ledger, config: StudyConfig, videos: list[FitVideo], folds: dict[str, int], number: int) -> None:
    rng, log = np.random.default_rng(100 + number), ledger.study(config.study)
    modality = MODALITIES[number % 9]
    params: dict[str, Any] = {
        "modality": modality,
        "segments": int(rng.integers(2, 9)),
        "learning_rate": float(10 ** rng.uniform(-6, -3)),
        "focal.gamma": float(rng.uniform(0, 5)),
        "attention": number != 5,
    }
    log.append("proposed", trial=number, group=modality, params=params)
    stream = config.stream(params)
    rows, step = [], 0
    for fold in range(3):
        for epoch in range(1, stream.epochs + 1):
            step += 1
            value = float(SKILL[modality] * (1 - np.exp(-epoch / 4)) + rng.normal(0, 0.03))
            metrics = {"loss": float(np.exp(-epoch / 5) + rng.uniform(0, 0.05))}
            metrics |= {f"validation.{key}": value for key in ("f1_weighted", "accuracy", "f1.severe")}
            log.append("reported", trial=number, fold=fold, epoch=epoch, step=step, value=value, metrics=metrics)
        if fold == 0 and number in (5, 8):
            log.append("stopped", trial=number, step=step, reason="below the median of finished trials")
            return
        if fold == 0 and number == 6:
            log.append("failed", trial=number, reason=f"/data/{SUBJECT}-03/visit.mp4 is damaged")
            return
        held_out = tuple(video for video in videos if folds[video.subject] == fold)
        train = tuple(video for video in videos if folds[video.subject] != fold)
        spec = FitSpec(
            stream=stream, classes=CLASSES, fold=fold, train=train, held_out=held_out, extraction="e" * 32, seed=0
        )
        found = [_prediction(video, fold, SKILL[modality], rng) for video in held_out]
        history = [{"loss": 1.0 / epoch} for epoch in range(1, stream.epochs + 1)]
        record = ledger.add_fit(spec, history, predictions_table(found), b"weights", {"seconds": 61.0})
        rows += found
        log.append("fitted", trial=number, fold=fold, fit=record.signature, reused=False, seconds=61.0)
        if number == 7:
            return
    metrics = score([row["label"] for row in rows], [row["probabilities"] for row in rows], CLASSES)
    log.append("finished", trial=number, value=metrics[config.objective.metric], metrics=metrics)


def _prediction(video: FitVideo, fold: int, skill: float, rng: np.random.Generator) -> dict[str, Any]:
    hard = np.random.default_rng(int(video.video_id[1:])).normal(0, 1, 3)
    logits = 0.7 * rng.normal(0, 1, 3) + 0.9 * hard
    logits[video.label] += 1.9 * skill
    probabilities = np.exp(logits) / np.exp(logits).sum()
    time = np.linspace(0, 1, 8)
    attention = 0.4 + 0.3 * np.sin(3 * time + video.label) + rng.normal(0, 0.05, 8)
    return video.model_dump() | {
        "fold": fold,
        "probabilities": probabilities.tolist(),
        "attention": np.clip(attention, 0, 1).tolist(),
    }
