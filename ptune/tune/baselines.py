"""The rows that a reviewer asks for, of a study's own videos and folds: computed once, then facts of its ledger.

What the manifest says of a video's side and visit goes no further than into these predictions.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptune.cluster import ray_session, run_on_cluster
from ptune.cohort.manifest import Manifest
from ptune.config import Protocol, StreamConfig, signature_of
from ptune.errors import LedgerError, WeightsError
from ptune.extract.circumstances import circumstances
from ptune.extract.store import FeatureStore, open_store
from ptune.ledger import Ledger, StudyLog, predictions_table
from ptune.model.weights import kinetics_path, weights_hash
from ptune.replay import Baseline, StudyFacts, study_baselines
from ptune.train import frozen, nuisance
from ptune.train.device import Acceleration
from ptune.train.frozen import embed, embedding_name, frozen_row
from ptune.train.nuisance import nuisance_row
from ptune.tune.plan import Plan

#: A bump computes the rows of all studies anew when they are run again.
VERSION = 1
#: Videos that a Ray task embeds: what is lost when it is.
VIDEOS_EACH = 8


def reviewer_rows(facts: StudyFacts, plan: Plan, manifest: Manifest, workers: int | None = None) -> list[Baseline]:
    """Returns the rows of a study: nuisance only, and a frozen Kinetics I3D with an ordinal logistic model.

    What the ledger has is not computed again. What is missing is recorded with the reason, and tried again next time.

    Args:
        facts: the study with at least one trial, whose crop and test protocol the frozen network uses; kept up to date.
        manifest: of the study's task; says side and visit of its videos.
        workers: CPU cores of a private Ray.
    """
    ledger = Ledger(plan.home.ledger)
    log = ledger.study(facts.config.study)
    for key, signature, make in (_nuisance(plan, manifest), _frozen(facts, plan, workers)):
        if not _is_recorded(facts.baselines.get(key), signature, log):
            facts.decided.append(log.append("decided", **_recorded(make(), signature, log)))
    return study_baselines(ledger, facts)


#: A row's key, what determines it, and what makes it.
Recipe = tuple[str, str, Callable[[], Baseline]]


def _nuisance(plan: Plan, manifest: Manifest) -> Recipe:
    known = {video.id: video for video in manifest.videos}
    found = circumstances([known[video.video_id] for video in plan.videos], _store(plan))
    signature = _signature(plan, {video: vars(facts) for video, facts in found.items()})
    names = plan.config.grouping.names
    return nuisance.KEY, signature, lambda: nuisance_row(plan.videos, plan.folds, found, names)


def _frozen(facts: StudyFacts, plan: Plan, workers: int | None) -> Recipe:
    try:
        weights = kinetics_path(plan.home.weights)
        digest = weights_hash(weights)
    except WeightsError as error:
        note = f"{error.found}; `ptune weights fetch` gets them"
        # A row that was made while they were there stays.
        signature = facts.baselines.get(frozen.KEY, {"signature": ""})["signature"]
        return frozen.KEY, signature, lambda: Baseline(frozen.KEY, frozen.NAME, None, note)
    stream = facts.stream(min(facts.trials.values(), key=lambda trial: (-trial.revision, trial.number)))
    what = {"weights": digest, "crop": stream.crop, "protocol": stream.test.model_dump()}
    signature = _signature(plan, what | {"extraction": plan.config.extraction.signature()})

    def make() -> Baseline:
        store = _store(plan)
        named = partial(embedding_name, weights=digest, protocol=stream.test, crop=stream.crop)
        names = {video.video_id: named(video.video_id) for video in plan.videos}
        kept = {video: store.kept(name) for video, name in names.items()}
        missing = {video: names[video] for video, content in kept.items() if content is None}
        if missing:
            _embed_missing(plan, store, missing, weights, stream, workers)
            kept |= {video: store.kept(name) for video, name in missing.items()}
        vectors = np.stack([np.load(io.BytesIO(kept[video.video_id] or b"")) for video in plan.videos])
        return frozen_row(plan.videos, plan.folds, vectors, plan.config.grouping.names)

    return frozen.KEY, signature, make


def _embed_missing(
    plan: Plan, store: FeatureStore, names: dict[str, str], weights: Path, stream: StreamConfig, workers: int | None
) -> None:
    missing = list(names)
    parts = [missing[first : first + VIDEOS_EACH] for first in range(0, len(missing), VIDEOS_EACH)]
    calls = [(part, store, [names[video] for video in part], weights, stream.test, stream.crop) for part in parts]
    with ray_session(plan.home, workers):
        run_on_cluster(_embed, calls, "frozen I3D")


def _embed(
    videos: list[str], store: FeatureStore, names: list[str], weights: Path, protocol: Protocol, crop: int
) -> None:
    embed(videos, store, names, weights, protocol, crop, Acceleration.best())


def _store(plan: Plan) -> FeatureStore:
    return open_store(plan.home.features, plan.config.extraction)


def _signature(plan: Plan, what: Any) -> str:
    videos = [[*video.model_dump().values(), plan.folds[video.subject]] for video in plan.videos]
    return signature_of({"version": VERSION, "videos": videos, "classes": plan.config.grouping.names, "what": what})


def _is_recorded(event: dict[str, Any] | None, signature: str, log: StudyLog) -> bool:
    """Returns whether the last event of a row says the same, and its table, where it has one, is whole."""
    if event is None or event["signature"] != signature:
        return False
    try:
        if event["table"]:
            log.table(event["table"])
    except LedgerError:
        return False
    return True


def _recorded(row: Baseline, signature: str, log: StudyLog) -> dict[str, Any]:
    """Stores a row's table and returns the event that names it."""
    table = ""
    if row.frame is not None:
        rows = [{str(name): value for name, value in each.items()} for each in row.frame.to_dict("records")]
        table = log.keep(predictions_table(rows))
    return {
        "what": "baseline",
        "row": row.key,
        "name": row.name,
        "note": row.note,
        "signature": signature,
        "table": table,
    }
