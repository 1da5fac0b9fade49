"""Studies with invented predictions and small real networks, so that models can be registered without training."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import save

from ptune.config import FitSpec, FitVideo, StudyConfig
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.ledger import Ledger, predictions_table
from ptune.metrics import score
from ptune.model.scorer import build_scorer
from ptune.results.summary import summarise
from ptune.track.evidence import gather_evidence
from ptune.track.history import IDENTITY
from ptune.track.registry import FILES, Registry
from ptune.tune.study import refit
from tests.example_features import CLASSES, EXTRACTION, example_stream

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SUBJECT = "CANARYPERSON"


def videos_of(subjects: int, first: int = 0) -> tuple[FitVideo, ...]:
    """Returns four videos of each subject: two mild ones, one normal, one severe."""
    found = []
    for subject in range(first, first + subjects):
        for clip, (score_, label) in enumerate(((1, 1), (2, 1), (0, 0), (3, 2))):
            found.append(
                FitVideo(
                    video_id=f"{subject:08x}{clip:08x}", subject=f"{SUBJECT}-{subject:03d}", score=score_, label=label
                )
            )
    return tuple(found)


def add_study(home: Home, name: str, skill: float, subjects: int = 12, first: int = 0, folds: int = 3) -> None:
    """Adds a study with one finished trial, which names the class of a video with the probability `skill`.

    Studies of the same subjects have the same videos; more skill is right wherever less skill is.

    Args:
        first: number of the first subject.
    """
    ledger, videos = Ledger(home.ledger), videos_of(subjects, first)
    _add_features(home, videos)
    params = {"modality": "flow"}
    fixed = example_stream().model_dump(mode="json", exclude={"modality"})
    config = StudyConfig.parse(
        {
            "study": name,
            "cohort": "cohort.csv",
            "task": "hand",
            "folds": {"count": folds},
            "budget": {"trials": 1},
            "init": "random",
            "extraction": EXTRACTION.model_dump(mode="json"),
            "space": {"modality": {"choice": ["flow", "mb"]}},
            "fixed": {key: value for key, value in fixed.items() if key != "init"},
        },
        "example",
    )
    places = {video.subject: int(video.subject[-3:]) % folds for video in videos}
    counts = {label: sum(video.label == index for video in videos) for index, label in enumerate(CLASSES)}
    cohort = {"digest": f"{first:064x}", "videos": len(videos), "subjects": subjects, "class_counts": counts}
    log, stream, rows = ledger.study(name), config.stream(params), []
    log.append("opened", study=config.model_dump(mode="json", by_alias=True), cohort=cohort, folds=places)
    log.append("proposed", trial=0, group="flow", params=params)
    for fold in range(folds):
        held_out = tuple(video for video in videos if places[video.subject] == fold)
        spec = FitSpec(
            stream=stream,
            classes=CLASSES,
            fold=fold,
            train=tuple(video for video in videos if places[video.subject] != fold),
            held_out=held_out,
            extraction=EXTRACTION.signature(),
            # What else would tell fits of two studies apart, were they not invented.
            seed=int(skill * 1000),
        )
        found = [_prediction(video, fold, skill) for video in held_out]
        record = ledger.add_fit(spec, [{"loss": 1.0}], predictions_table(found), b"not used", {"seconds": 1.0})
        log.append("fitted", trial=0, fold=fold, fit=record.signature, reused=False, seconds=1.0)
        rows += found
    metrics = score([row["label"] for row in rows], [row["probabilities"] for row in rows], CLASSES)
    log.append("finished", trial=0, value=metrics["f1_weighted"], metrics=metrics)
    ledger.add_fit(refit(spec), [{"loss": 1.0}], predictions_table([]), _weights(), {"seconds": 1.0})


def offer_judged(home: Home, model: str, study: str, files_of: ModelVersion) -> int:
    """Makes a candidate with the evidence of a study and the files of another version, which are not sent again."""
    registry = Registry(home)
    tags = gather_evidence(summarise(home, study), Ledger(home.ledger)).tags()
    tags |= {IDENTITY: f"{study} with other files", FILES: files_of.tags[FILES]}
    made = registry.add_version(model, files_of.source, files_of.run_id, tags)
    history = registry.history(model)
    with history.changing():
        history.record("registered", made)
    return int(made.version)


def _add_features(home: Home, videos: Iterable[FitVideo]) -> None:
    """Stores two gray frames of each video."""
    store = open_store(home.features, EXTRACTION)
    rgb, flow = np.zeros((2, 32, 40, 3), np.uint8), np.zeros((1, 32, 40, 2), np.int16)
    for video in videos:
        if not store.has(video.video_id):
            store.write(video.video_id, rgb, flow, 25.0, {"video": {"source_fps": 25.0}})


@cache
def _weights() -> bytes:
    return bytes(save(build_scorer(example_stream(), len(CLASSES)).state_dict()))


def _prediction(video: FitVideo, fold: int, skill: float) -> dict[str, Any]:
    luck, wrong = np.random.default_rng(int(video.video_id, 16)).random(2)
    named = video.label if luck < skill else (video.label + 1 + int(2 * wrong)) % len(CLASSES)
    probabilities = np.full(len(CLASSES), 0.1)
    probabilities[named] = 0.8
    return video.model_dump() | {"fold": fold, "probabilities": probabilities.tolist(), "attention": [1.0]}
