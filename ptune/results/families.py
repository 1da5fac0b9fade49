"""Cells become pooled numbers and families of comparisons; a cell is one table of predictions per seed.

A cell counts each video once: its confusion counts are the mean over its seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptune.metrics import from_confusion, per_class, score_frame
from ptune.results.comparison import Difference, by_subject, compare_matrices, exchange_test, holm, interval_of

if TYPE_CHECKING:
    import pandas as pd

Frames = Sequence["pd.DataFrame"]


@dataclass(frozen=True)
class FoldMean:
    """Mean and standard deviation of a metric over folds and seeds; a fold without a class follows the zero rule."""

    mean: float
    deviation: float


def seed_mean(frames: Frames, classes: int) -> NDArray[np.float64]:
    """Returns each subject's confusion counts float64 [S,M,M], averaged over seeds."""
    mean: NDArray[np.float64] = np.mean([by_subject(frame, classes) for frame in frames], axis=0)
    return mean


def pooled(frames: Frames, class_names: Sequence[str]) -> dict[str, float]:
    """Returns all metrics of a cell, pooled over folds, subjects and seeds."""
    matrix = seed_mean(frames, len(class_names)).sum(0)
    values = {name: float(value) for name, value in from_confusion(matrix).items()}
    for kind, value_M in per_class(matrix).items():
        values |= {f"{kind}.{name}": float(value) for name, value in zip(class_names, value_M, strict=True)}
    return values


def cell_interval(frames: Frames, metric: str, class_names: Sequence[str]) -> tuple[float, float]:
    """Returns the 95 % interval of a cell's pooled metric over resampled subjects."""
    return interval_of(seed_mean(frames, len(class_names)), metric)


def fold_mean(frames: Frames, metric: str, class_names: Sequence[str]) -> FoldMean:
    """Returns mean and standard deviation of a metric over folds and seeds."""
    values = [score_frame(part, class_names)[metric] for frame in frames for _, part in frame.groupby("fold")]
    return FoldMean(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def fold_support(frame: pd.DataFrame, classes: int) -> dict[int, list[tuple[int, int]]]:
    """Returns for each fold how many videos and subjects each class has there."""
    found = {}
    for fold in sorted(set(frame["fold"])):
        part = frame[frame["fold"] == fold]
        own = [part[part["label"] == label] for label in range(classes)]
        found[int(fold)] = [(len(rows), int(rows["subject"].nunique())) for rows in own]
    return found


def compare_family(
    cells: Mapping[str, Frames], pairs: Sequence[tuple[str, str]], metric: str, class_names: Sequence[str]
) -> list[tuple[Difference, float]]:
    """Returns each pair's difference (first minus second) and its p value after Holm's correction over all pairs.

    Args:
        cells: tables of the same videos by name.
        pairs: the family, declared before its results are seen.
    """
    counts = {name: seed_mean(cells[name], len(class_names)) for pair in pairs for name in pair}
    found = [compare_matrices(counts[one], counts[other], metric) for one, other in pairs]
    return list(zip(found, holm([item.p_value for item in found]), strict=True)) if found else []


def best_of_all(cells: Mapping[str, Frames], metric: str, class_names: Sequence[str], level: float) -> str | None:
    """Returns the cell that is better than every other, or None.

    Holm's correction runs over all pairs of cells: which of them is the best is seen only afterwards.
    """
    counts = {name: seed_mean(frames, len(class_names)) for name, frames in cells.items()}
    value = {name: float(from_confusion(matrix.sum(0))[metric]) for name, matrix in counts.items()}
    best = max(value, key=lambda name: value[name])
    pairs = list(combinations(counts, 2))
    corrected = holm([exchange_test(np.stack([counts[one], counts[other]]), metric) for one, other in pairs])
    against = [p for pair, p in zip(pairs, corrected, strict=True) if best in pair]
    return best if against and max(against) <= level else None
