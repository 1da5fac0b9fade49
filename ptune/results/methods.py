"""The paragraph on methods of a study or an ablation, with its own numbers, ready to paste."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version

from ptune.config import STAGE_VERSIONS
from ptune.config.ablation import AblationConfig
from ptune.replay import StudyFacts
from ptune.results.tables import origin, protocol_name, study_signature

NETWORKS = {
    "i3d": "an Inflated-3D Inception-V1",
    "inception2d": "a 2-D Inception-V1 on stacked frames",
    "slowfast_4x16": "a SlowFast 4x16 ResNet-50",
    "slowfast_8x8": "a SlowFast 8x8 ResNet-50",
}
RULES = (
    "Metrics are computed once, on the pooled out-of-fold predictions; a quotient by zero counts as 0, in resamples "
    "without a class too. Intervals resample subjects with all their videos and are widened for few subjects (expanded "
    "percentiles)."
)


def study_methods(facts: StudyFacts) -> str:
    """Returns what was done in a study."""
    config = facts.config
    ended = [trial.state for trial in facts.trials.values()]
    trained = (
        f"{len(facts.trials)} listed trials were run"
        if config.points
        else f"Settings were searched over {len(facts.trials)} trials, {ended.count('stopped')} of them stopped early,"
    )
    return (
        f"{_data(facts)} {_training(facts)} {trained} with {_folds(facts)} {RULES} The test against the constant "
        "answer flips signs of per-subject differences. The corrected score repeats the choice of trials and fusion "
        "without a sixth of the subjects, drawn anew each time, and scores it on those (after the bootstrap bias "
        "correction of Tsamardinos et al. 2018); trials that were stopped early are never chosen. "
        f"{_versions()} Cohort {str(facts.cohort['digest'])[:12]}, study signature "
        f"{study_signature(facts)[:12]}."
    )


def ablation_methods(config: AblationConfig, studies: Sequence[StudyFacts]) -> str:
    """Returns what was done in an ablation."""
    place = config.compared_with
    reference = f"{place.row}, {place.column}" if place.column else place.row
    seeds = len(config.seeds)
    columns = " and each row's first column with its others" if len(config.columns) > 1 else ""
    described = " ".join(dict.fromkeys([*map(_data, studies), *map(_training, studies)]))
    return (
        f"{described} Each stream was trained with {seeds} seed{'' if seeds == 1 else 's'} in {_folds(studies[0])} "
        f"A cell's confusion counts are the mean over seeds. {RULES} Within each task, every cell was "
        f"compared with {reference}{columns}; differences are paired on the same videos, p values are two-sided and "
        "exchange the two cells within subjects, and Holm's correction runs over each of these families. A cell is "
        "marked as the best only where it is better than every other by Holm's correction over all pairs of cells. "
        f"{_versions()} Ablation signature {config.signature()[:12]}."
    )


def _data(facts: StudyFacts) -> str:
    config, cohort = facts.config, facts.cohort
    groups = ", ".join(
        f"{name} (scores {', '.join(map(str, scores))}; {cohort['class_counts'].get(name, 0)} videos)"
        for name, scores in zip(config.grouping.names, config.grouping.scores, strict=True)
    )
    return (
        f"{origin(facts)}{cohort['videos']} videos of {cohort['subjects']} subjects (task {config.task}) were grouped "
        f"into {groups}. Videos were reduced to {config.extraction.width} x {config.extraction.height} pixels; optical "
        "flow is TV-L1, motion boundaries are spatial derivatives of the flow."
    )


def _training(facts: StudyFacts) -> str:
    streams = [facts.stream(trial) for trial in (facts.finished() or facts.trials.values())]
    epochs = _range([stream.epochs for stream in streams])
    segments = _range([stream.segments for stream in streams])
    frames = _range([stream.snippet_frames for stream in streams])
    initials = {"kinetics": "Kinetics-400 weights", "random": "random weights"}
    initial = " or ".join(sorted({initials[stream.init] for stream in streams}))
    networks = " or ".join(sorted({NETWORKS[stream.backbone] for stream in streams}))
    consecutive = all(stream.sampling == "consecutive" and stream.frame_stride == 1 for stream in streams)
    frames = f"{frames} consecutive frames" if consecutive else f"{frames} frames in order"
    return (
        f"Each stream is {networks} started from {initial} and trained on one snippet of {frames} from each of "
        f"{segments} segments of a video, with Adam and focal loss (gamma 0 and alpha 1 are cross-entropy), for "
        f"{epochs} epochs; the last epoch is used."
    )


def _folds(facts: StudyFacts) -> str:
    folds = facts.config.folds
    return (
        f"{folds.count}-fold cross-validation; no subject is in the training and the held-out part of a fold (seed "
        f"{folds.seed}). Held-out videos were scored with {protocol_name(facts)}, whose class probabilities are "
        "averaged; streams are fused by averaging theirs."
    )


def _versions() -> str:
    names = ("ptune", "torch", "ray", "optuna", "scikit-learn")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    stages = ", ".join(f"{stage} {number}" for stage, number in STAGE_VERSIONS.items())
    return f"Software: Python {platform.python_version()}, {packages}; numerics versions {stages}."


def _range(values: Sequence[int]) -> str:
    if not values:
        return "?"
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
