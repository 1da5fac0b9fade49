"""The predictions of a cell, one out-of-fold table per seed, become counts of each subject, fold and class.

A cell with several seeds counts each video once per seed; the mean over its seeds stands for it, so that cells with
more seeds weigh no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptune.errors import BadInput
from ptune.metrics import confusion, metric_of, score_confusion, stacked

if TYPE_CHECKING:
    import pandas as pd

#: One table, or one per seed: columns video_id, subject, fold, label, probabilities; one row per video.
Cell: TypeAlias = "pd.DataFrame | Sequence[pd.DataFrame]"
Floats = NDArray[np.float64]

#: A number of one class that rests on fewer subjects is not estimable.
ESTIMABLE_SUBJECTS = 3


@dataclass(frozen=True)
class FoldMean:
    """A metric averaged over folds.

    Args:
        mean, deviation: over folds; the deviation is that of a sample (S - 1).
        values: of each fold, in order.
        without: names of classes of which some fold has no video. Such a fold follows the zero rule of
            `ptune.metrics.score`: the class's F1 there is 0, and `f1_macro` averages it in.
    """

    mean: float
    deviation: float
    values: tuple[float, ...]
    without: tuple[str, ...]


@dataclass(frozen=True)
class Support:
    """How much of a class one fold holds."""

    fold: int
    name: str
    videos: int
    subjects: int


def seeds_of(cell: Cell) -> tuple[pd.DataFrame, ...]:
    """Returns the tables of a cell, one per seed.

    Raises:
        BadInput: there is none, or they are not of the same videos.
    """
    frames = tuple(cell) if isinstance(cell, Sequence) else (cell,)
    if not frames:
        raise BadInput("cell", "has no table of predictions", "one per seed")
    for number, frame in enumerate(frames[1:], 2):
        problem = why_not_comparable(frames[0], frame, ("seed 1", f"seed {number}"))
        if problem:
            raise BadInput("cell", problem, "the same videos, subjects, folds and labels under every seed")
    return frames


def by_subject(cell: Cell, classes: int) -> Floats:
    """Returns confusion counts float64 [S,M,M] of each subject, in order of their names, as means over seeds."""
    return np.asarray(np.mean([_counts_by(frame, "subject", classes) for frame in seeds_of(cell)], axis=0))


def pooled_metrics(cell: Cell, class_names: Sequence[str]) -> dict[str, float]:
    """Returns `ptune.metrics.score` of all videos and seeds of a cell together."""
    return score_confusion(by_subject(cell, len(class_names)).sum(0), class_names)


def fold_mean(cell: Cell, metric: str, class_names: Sequence[str]) -> FoldMean:
    """Returns a metric of each fold, its seeds together, and their mean: what most papers print.

    Raises:
        ValueError: the metric is unknown.
    """
    matrix_FMM = np.mean([_counts_by(frame, "fold", len(class_names)) for frame in seeds_of(cell)], axis=0)
    values = metric_of(matrix_FMM, metric)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    absent_M = (matrix_FMM.sum(-1) == 0).any(0)
    without = tuple(name for name, absent in zip(class_names, absent_M, strict=True) if absent)
    return FoldMean(float(values.mean()), deviation, tuple(map(float, values)), without)


def fold_support(cell: Cell, class_names: Sequence[str]) -> list[Support]:
    """Returns how many videos and subjects of each class each fold holds; fold by fold, classes in order."""
    frame = seeds_of(cell)[0]
    found = []
    for fold in sorted(frame["fold"].unique()):
        rows = frame[frame["fold"] == fold]
        for label, name in enumerate(class_names):
            own = rows[rows["label"] == label]
            found.append(Support(int(fold), name, len(own), own["subject"].nunique()))
    return found


def class_subjects(frame: pd.DataFrame, classes: int) -> list[int]:
    """Returns for each class how many subjects have a video of it; columns subject and label are read."""
    pairs = frame[["subject", "label"]].drop_duplicates()
    return [int(count) for count in np.bincount(pairs["label"].to_numpy(np.int64), minlength=classes)]


def pooled_confusion(frame: pd.DataFrame, classes: int) -> NDArray[np.int64]:
    """Returns the confusion counts int64 [M,M] of a table with columns label and probabilities; rows are true."""
    return confusion(frame["label"].to_numpy(), stacked(frame).argmax(1), classes)


def why_not_comparable(
    one: pd.DataFrame, other: pd.DataFrame, names: tuple[str, str] = ("the first", "the second")
) -> str:
    """Returns how the videos, subjects, labels or folds of two tables differ, "" where they do not.

    Videos are named by their ids; what is said of subjects names none of them.

    Args:
        names: what to call the two tables.
    """
    columns = [name for name in ("subject", "label", "fold") if name in one and name in other]
    alike = all(np.array_equal(one[name].to_numpy(), other[name].to_numpy()) for name in ("video_id", *columns))
    if alike and one["video_id"].is_unique:
        return ""
    left, right = (frame.set_index("video_id") for frame in (one, other))
    found = []
    for name, table in zip(names, (left, right), strict=True):
        twice = table.index[table.index.duplicated()].unique()
        if len(twice):
            found.append(f"{name} has {_some(twice)} more than once")
    for name, lacks in ((names[0], right.index.difference(left.index)), (names[1], left.index.difference(right.index))):
        if len(lacks):
            found.append(f"{name} lacks {_some(lacks)}")
    if found:
        return "; ".join(found)
    right = right.loc[left.index]
    for column in columns:
        differs = left.index[left[column].to_numpy() != right[column].to_numpy()]
        if len(differs):
            pair = "" if column == "subject" else f" ({left[column][differs[0]]} and {right[column][differs[0]]})"
            found.append(f"{names[0]} and {names[1]} have another {column} for {_some(differs)}{pair}")
    return "; ".join(found)


def _counts_by(frame: pd.DataFrame, column: str, classes: int) -> NDArray[np.int64]:
    names, codes = np.unique(frame[column].to_numpy(), return_inverse=True)
    cells = (codes * classes + frame["label"].to_numpy(np.int64)) * classes + stacked(frame).argmax(1)
    return np.bincount(cells, minlength=len(names) * classes**2).reshape(len(names), classes, classes)


def _some(videos: Iterable[str]) -> str:
    named = list(videos)
    shown = ", ".join(named[:3])
    return shown if len(named) <= 3 else f"{shown} and {len(named) - 3} more"
