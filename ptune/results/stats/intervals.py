"""Confusion counts of each subject become intervals of metrics, by drawing subjects with all their videos.

A draw without a video of some class follows the zero rule of `ptune.metrics.score`, as the pooled metric does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ptune.metrics import metric_of
from ptune.results.stats.cells import Cell, by_subject

Floats = NDArray[np.float64]

#: Resamples of subjects for an interval.
DRAWS = 10_000


def cluster_interval(
    cell: Cell, metric: str, class_names: Sequence[str], level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns the interval of a cell's pooled metric over resampled subjects.

    It speaks of other subjects, under the seeds that were run; not of other seeds.

    Args:
        cell: one table with columns subject, label, probabilities, or one per seed.
        metric: one of `ptune.metrics.METRICS`.
        level: coverage, for example 0.95.

    Raises:
        ValueError: the metric is unknown.
    """
    return interval_of(by_subject(cell, len(class_names)), metric, level, seed)


def interval_of(matrix_SMM: ArrayLike, metric: str, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Returns `cluster_interval` of each subject's confusion counts [S,M,M]."""
    matrix_SMM = np.asarray(matrix_SMM, np.float64)
    counts_BS = resampled_counts(len(matrix_SMM), DRAWS, seed)
    return expanded_percentiles(metric_of(weighted_sums(counts_BS, matrix_SMM), metric), len(matrix_SMM), level)


def expanded_percentiles(values: ArrayLike, subjects: int, level: float) -> tuple[float, float]:
    """Returns the percentile interval, widened for few subjects; for a single one it is unbounded.

    Resampling S subjects has a variance smaller by (S - 1) / S, and its percentiles stand for normal quantiles where
    those of Student's t are due. Source: Hesterberg 2015, section 5.1.
    """
    if subjects < 2:
        return float("-inf"), float("inf")
    tail = stats.norm.cdf(np.sqrt(subjects / (subjects - 1)) * stats.t.ppf((1 - level) / 2, subjects - 1))
    low, high = np.quantile(np.asarray(values, np.float64), [tail, 1 - tail])
    return float(low), float(high)


def resampled_counts(subjects: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Returns how often each subject is drawn, int64 [draws,S]."""
    drawn = np.random.default_rng(seed).integers(0, subjects, (draws, subjects)) + subjects * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * subjects).reshape(draws, subjects)


def weighted_sums(weights_BS: ArrayLike, matrix_SMM: Floats) -> Floats:
    """Returns the confusion counts [B,M,M] of subjects with the given weights.

    Source of speed: draws lie next to each other in memory, so that what follows adds long vectors.
    """
    subjects, classes = matrix_SMM.shape[0], matrix_SMM.shape[-1]
    sums_XB = matrix_SMM.reshape(subjects, -1).T @ np.asarray(weights_BS, np.float64).T
    return np.moveaxis(sums_XB.reshape(classes, classes, -1), -1, 0)
