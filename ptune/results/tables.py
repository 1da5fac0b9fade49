"""Finished trials and their fusions become one table of metrics.

The row of always answering the majority class is part of every table. Knows nothing of HTML or MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptune.config import signature_of
from ptune.metrics import labels_from_counts, majority_class, majority_row, score_frame
from ptune.replay import Baseline, StudyFacts, TrialFacts
from ptune.results.fusion import Fusion
from ptune.results.stats import ESTIMABLE_SUBJECTS, Support, class_subjects
from ptune.results.table import Line, Table

if TYPE_CHECKING:
    import pandas as pd


def percent(value: float) -> str:
    """Returns a share as percent with one decimal: 0.723 gives 72.3."""
    return _unsigned_zero(f"{100 * value:.1f}")


def decimal(value: float) -> str:
    """Returns a number with two decimals; what rounds to zero has no sign."""
    return _unsigned_zero(f"{value:.2f}")


def _unsigned_zero(text: str) -> str:
    return text.removeprefix("-") if not text.strip("-0.") else text


#: Heading, metric, and how it is written.
COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("accuracy", "accuracy", percent),
    ("weighted F1", "f1_weighted", percent),
    ("macro F1", "f1_macro", percent),
    ("balanced accuracy", "balanced_accuracy", percent),
    ("kappa", "kappa_quadratic", decimal),
    ("MAE", "mae", decimal),
)
UNITS = "Accuracies and F1 in percent; kappa is quadratic; MAE in classes; a quotient by zero counts as 0."


def metrics_line(name: str, metrics: Mapping[str, float], kind: str = "") -> Line:
    """Returns the line of a stream, a fusion or what they are compared with, under `metrics_headings`."""
    return Line((name, *(write(metrics[metric]) for _, metric, write in COLUMNS)), kind)


def metrics_headings() -> tuple[tuple[str, str], ...]:
    """Returns the headings of `metrics_line`."""
    return (("", ""), *(("", heading) for heading, _, _ in COLUMNS))


def study_table(
    facts: StudyFacts,
    frames: Mapping[Any, pd.DataFrame],
    fusion: Fusion | None = None,
    baselines: Sequence[Baseline] = (),
    titles: Mapping[Any, str] | None = None,
) -> Table:
    """Builds the table of a study: finished trials best first, fusions of several streams, rows to compare them with.

    Args:
        frames: out-of-fold tables by trial number, as `ptune.results.fusion.study_frames` returns them.
        fusion: its combinations of two or more streams become rows.
        baselines: as `ptune.replay.study_baselines` returns them; the majority class follows by itself.
        titles: what to call each trial, where not all are the study's.
    """
    names = facts.config.grouping.names
    titles = titles or {key: trial_name(facts.trials[key]) for key in frames}
    lines = [metrics_line(titles[key], score_frame(frame, names)) for key, frame in frames.items()]
    if fusion is not None:
        lines += [metrics_line(item.name, item.metrics) for item in fusion.tried if len(item.members) > 1]
    lines += [
        metrics_line(item.name, score_frame(item.frame, names), "base") for item in baselines if item.frame is not None
    ]
    labels = study_labels(facts, frames)
    if len(labels):
        common = names[majority_class(labels, len(names))]
        lines.append(metrics_line(f"always {common}", majority_row(labels, names), "base"))
    return Table(caption(facts, frames), metrics_headings(), tuple(lines), (UNITS,))


def support_rows(support: Sequence[Support], class_names: Sequence[str]) -> tuple[list[list[str]], list[int]]:
    """Returns a row for each class, its name and `videos (subjects)` in each fold, and the folds."""
    folds = sorted({item.fold for item in support})
    cells = {(item.name, item.fold): f"{item.videos} ({item.subjects})" for item in support}
    return [[name, *(cells[name, fold] for fold in folds)] for name in class_names], folds


def trial_name(trial: TrialFacts) -> str:
    """Returns how a trial is called everywhere: `trial-07 flow`."""
    return f"trial-{trial.number:02d} {trial.group}"


def study_labels(facts: StudyFacts, frames: Mapping[Any, pd.DataFrame]) -> NDArray[np.int64]:
    """Returns the true classes, int [N]: of the predictions, or while there are none, as the cohort counts them."""
    for frame in frames.values():
        return np.asarray(frame["label"], np.int64)
    return labels_from_counts(facts.cohort["class_counts"], facts.config.grouping.names)


def caption(facts: StudyFacts, frames: Mapping[Any, pd.DataFrame]) -> str:
    """Returns what a table rests on: videos, subjects, folds, seed, protocol, signature."""
    frame = next(iter(frames.values()), None)
    videos = len(frame) if frame is not None else facts.cohort["videos"]
    subjects = frame["subject"].nunique() if frame is not None else facts.cohort["subjects"]
    config = facts.config
    return (
        f"{origin(facts)}Study {config.study}, task {config.task}: {videos} videos of {subjects} subjects, "
        f"{config.folds.count} subject-disjoint folds (seed {config.folds.seed}), pooled out-of-fold predictions, "
        f"{protocol_name(facts)}, signature {study_signature(facts)[:12]}."
    )


def origin(facts: StudyFacts) -> str:
    """Returns a sentence that says so where the cohort is synthetic, with a blank behind it; "" elsewhere."""
    return "Synthetic cohort: rendered videos, no patients. " if facts.cohort.get("synthetic") else ""


def protocol_name(facts: StudyFacts) -> str:
    """Returns the test protocol in words: `64 snippets of 16 frames`."""
    trials = facts.finished() or list(facts.trials.values())
    protocols = [facts.stream(trial).test for trial in trials]
    named = dict.fromkeys(f"{item.snippets} snippets of {item.frames} frames" for item in protocols)
    return " or ".join(named) or "no trial yet"


def study_signature(facts: StudyFacts) -> str:
    """Returns the identity of what a study measures: its settings but for the budget, and its cohort's digest."""
    settings = facts.config.model_dump(mode="json", by_alias=True, exclude={"budget", "cohort"})
    return signature_of({"study": settings, "cohort": facts.cohort["digest"]})


def warnings_of(facts: StudyFacts, frames: Mapping[Any, pd.DataFrame], fusion: Fusion | None) -> list[str]:
    """Returns what a reader must know before trusting the table, one sentence each."""
    names, found = facts.config.grouping.names, []
    frame = next(iter(frames.values()), None)
    if frame is not None:
        for index, subjects in enumerate(class_subjects(frame, len(names))):
            if subjects < ESTIMABLE_SUBJECTS:
                found.append(
                    f"Class {names[index]} rests on {subjects} subject{'' if subjects == 1 else 's'}: its own numbers "
                    "are not estimable, and macro F1 and balanced accuracy depend on it."
                )
        for fold, part in frame.groupby("fold"):
            absent = sorted(set(range(len(names))) - set(part["label"]))
            if absent:
                listed = ", ".join(names[index] for index in absent)
                found.append(f"Fold {fold} holds no video of class {listed}; only pooled metrics are meaningful there.")
    if fusion is not None:
        if fusion.missing:
            found.append(f"No finished trial of {', '.join(fusion.missing)}: fusions with it were not tried.")
        found.append(
            f"The best of {_count(len(frames), 'finished trial')} and {_count(fusion.combinations, 'combination')} was "
            "picked on the data it is measured on: its value is optimistic, and the corrected one stands beside it."
        )
    return found + unfinished(facts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unfinished(facts: StudyFacts) -> list[str]:
    """Returns how many trials failed and how many still run, one sentence each."""
    found = []
    for state, text in (("failed", "failed"), ("running", "not finished yet")):
        count = sum(trial.state == state for trial in facts.trials.values())
        if count:
            found.append(f"{_count(count, 'trial')} {text}.")
    return found
