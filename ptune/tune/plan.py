"""The fixed part of a study: its videos, folds and features, from which every fit's specification follows."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ptune.cohort.folds import assign_folds, fold_warnings
from ptune.cohort.manifest import Manifest, load_manifest
from ptune.config import FitSpec, FitVideo, Modality, StreamConfig, StudyConfig
from ptune.extract.pipeline import extract
from ptune.extract.report import ExtractReport, load_quarantine
from ptune.extract.store import open_store
from ptune.home import Home
from ptune.model.weights import initial_file, weights_hash
from ptune.replay import StudyFacts
from ptune.tune.race import fold_order
from ptune.tune.space import groups


@dataclass(frozen=True)
class Plan:
    """What every trial of a study shares; travels to the workers as it is.

    Args:
        folds: fold of each subject.
        initial_weights: sha256 of the weights that streams of each modality start from where they do not start from
            random ones; fixed here, so that weights added later do not change a study under way.
    """

    config: StudyConfig
    home: Home
    videos: tuple[FitVideo, ...]
    folds: Mapping[str, int]
    cohort: Mapping[str, Any]
    initial_weights: Mapping[Modality, str]
    warnings: tuple[str, ...] = ()

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Folds in the order in which every trial runs them."""
        return fold_order(self.videos, self.folds, self.config.folds.count)

    def spec(self, params: Mapping[str, Any], fold: int) -> FitSpec:
        """Returns the fit of a trial's settings on one fold."""
        own = dict(params)
        return self.fit(self.config.stream(own), self.config.seed_of(own), fold)

    def fit(self, stream: StreamConfig, seed: int, fold: int) -> FitSpec:
        """Returns the fit of a stream on one fold."""
        held_out = tuple(video for video in self.videos if self.folds[video.subject] == fold)
        return FitSpec(
            stream=stream,
            classes=self.config.grouping.names,
            fold=fold,
            train=tuple(video for video in self.videos if video not in held_out),
            held_out=held_out,
            extraction=self.config.extraction.signature(),
            initial_weights="" if stream.init == "random" else self.initial_weights[stream.modality],
            seed=seed,
        )


def read_inputs(
    config: StudyConfig, folder: Path, home: Home, subjects: Container[str] | None = None
) -> tuple[Manifest, dict[Modality, str]]:
    """Reads and checks everything a study needs from the user, before anything is computed or written.

    Args:
        folder: where relative paths in the study start.
        subjects: who takes part; default everybody in the manifest.

    Returns:
        The manifest of the study's task and the hash of the initial weights of each modality.

    Raises:
        BadInput: manifest, task, folds or weights are not usable.
    """
    manifest = load_manifest(folder / config.cohort, config.grouping).for_task(config.task)
    if subjects is not None:
        manifest = replace(manifest, videos=tuple(video for video in manifest.videos if video.subject in subjects))
    _folds(config, manifest, None)
    return manifest, starting_weights(config, home)


def make_plan(
    config: StudyConfig,
    manifest: Manifest,
    initial_weights: Mapping[Modality, str],
    home: Home,
    past: StudyFacts | None = None,
    workers: int | None = None,
) -> tuple[Plan, ExtractReport]:
    """Extracts what is missing and fixes videos and folds; quarantined videos are left out and named.

    Args:
        past: the study as it is, or another with the same folds, whose subjects keep theirs.
    """
    report = extract(manifest.videos, config.extraction, home, workers, retry=False)
    usable = tuple(video for video in manifest.videos if video.id not in report.quarantined)
    return plan_of(config, replace(manifest, videos=usable), initial_weights, home, past), report


def without_known_problems(manifest: Manifest, config: StudyConfig, home: Home) -> Manifest:
    """Returns a manifest without the videos that an earlier extraction could not use."""
    known = load_quarantine(open_store(home.features, config.extraction))
    return replace(manifest, videos=tuple(video for video in manifest.videos if video.id not in known))


def plan_of(
    config: StudyConfig,
    manifest: Manifest,
    initial_weights: Mapping[Modality, str],
    home: Home,
    past: StudyFacts | None = None,
) -> Plan:
    """Returns the plan of a study of all videos of the manifest; arguments as in `make_plan`."""
    folds = _folds(config, manifest, past)
    videos = tuple(
        FitVideo(
            video_id=video.id,
            subject=video.subject,
            score=video.score,
            label=config.grouping.class_of(video.score),
        )
        for video in sorted(manifest.videos, key=lambda video: video.id)
    )
    cohort = {
        "digest": manifest.digest,
        "videos": len(videos),
        "subjects": len(folds),
        "class_counts": manifest.class_counts(),
        "synthetic": manifest.synthetic,
    }
    warnings = fold_warnings(manifest.labels(), folds, config.grouping.names)
    return Plan(config, home, videos, folds, cohort, initial_weights, tuple(warnings))


def starting_weights(config: StudyConfig, home: Home) -> dict[Modality, str]:
    """Returns the hash of the weights that streams of each modality start from; none where all start at random.

    Raises:
        WeightsError: weights are missing from the home.
    """
    if config.points:
        streams = [config.stream(point) for point in config.points]
    else:
        first = {name: dimension.values()[0] for name, dimension in config.space.items()}
        ways = [first | {name: value} for name in ("init", "system") for value in _values(config, name)]
        started = {config.stream(point).init for point in [first, *ways]}
        streams = [StreamConfig.parse({"modality": group}, "modality") for group in groups(config)]
        streams = streams if "kinetics" in started else []
    files = {stream.modality: initial_file(home.weights, stream) for stream in streams if stream.init == "kinetics"}
    return {modality: weights_hash(path) for modality, path in files.items() if path}


def _values(config: StudyConfig, name: str) -> tuple[Any, ...]:
    return config.space[name].values() if name in config.space else ()


def _folds(config: StudyConfig, manifest: Manifest, past: StudyFacts | None) -> dict[str, int]:
    existing = past.folds if past and past.config.folds == config.folds else None
    return assign_folds(manifest.labels(), config.folds.count, config.folds.seed, existing)
