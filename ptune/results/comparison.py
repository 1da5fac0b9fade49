"""Two cells of a table on the same videos become a difference with its interval and p value; the subject is the unit.

Knows nothing of how predictions came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ptune.metrics import METRICS, from_confusion, stacked
from ptune.results.stats import EXACT_SUBJECTS, FEWEST_DRAWS

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

#: Resamples of subjects for an interval.
DRAWS = 10_000
CHUNK = 5_000


@dataclass(frozen=True)
class Difference:
    """How two cells differ in one metric.

    Args:
        one, other: pooled over all videos.
        interval: of `one - other`, at the level that was asked for.
        p_value: two-sided, of the hypothesis that the cells are exchangeable within each subject.
        subjects: how many there are.
    """

    one: float
    other: float
    interval: tuple[float, float]
    p_value: float
    subjects: int

    @property
    def difference(self) -> float:
        """One minus other."""
        return self.one - self.other


def compare(
    one: pd.DataFrame,
    other: pd.DataFrame,
    metric: str,
    class_names: Sequence[str],
    level: float = 0.95,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """Returns the difference of a pooled metric between two cells.

    Resamples without a class follow the zero rule of `ptune.metrics.score`, as the pooled score does.

    Args:
        one, other: columns video_id, subject, label, probabilities; one row per video.
        metric: one of `ptune.metrics.METRICS`.
        level: coverage of the interval.
        seed, draws: of resampled subjects and of random exchanges.

    Raises:
        ValueError: the metric is unknown, or the cells do not compare; says which videos differ, and how.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}, expected one of {', '.join(METRICS)}")
    problem = why_not_comparable(one, other)
    if problem:
        raise ValueError(problem)
    matrices = np.stack([by_subject(frame, len(class_names)) for frame in (one, other)])
    return compare_matrices(matrices[0], matrices[1], metric, level, seed, draws)


def compare_matrices(
    one_SMM: ArrayLike, other_SMM: ArrayLike, metric: str, level: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> Difference:
    """Returns the same from each subject's confusion counts [S,M,M], rows true."""
    pair_2SMM = np.stack([np.asarray(one_SMM, np.float64), np.asarray(other_SMM, np.float64)])
    subjects = pair_2SMM.shape[1]
    pooled = from_confusion(pair_2SMM.sum(1))[metric]
    counts_BS = np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), draws)
    resampled = [_metric(counts_BS, matrix_SMM, metric) for matrix_SMM in pair_2SMM]
    interval = expanded_percentiles(resampled[0] - resampled[1], subjects, level)
    return Difference(float(pooled[0]), float(pooled[1]), interval, exchange_test(pair_2SMM, metric, seed), subjects)


def interval_of(matrix_SMM: ArrayLike, metric: str, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Returns the interval of one cell's pooled metric from each subject's confusion counts [S,M,M]."""
    matrix_SMM = np.asarray(matrix_SMM, np.float64)
    subjects = len(matrix_SMM)
    counts_BS = np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), DRAWS)
    return expanded_percentiles(_metric(counts_BS, matrix_SMM, metric), subjects, level)


def expanded_percentiles(values: ArrayLike, subjects: int, level: float) -> tuple[float, float]:
    """Returns the percentile interval, widened for few subjects.

    Resampling S subjects has a variance smaller by (S - 1) / S, and its percentiles stand for normal quantiles where
    those of Student's t are due. Source: Hesterberg 2015, section 5.1.
    """
    if subjects < 2:
        return float("-inf"), float("inf")
    tail = stats.norm.cdf(np.sqrt(subjects / (subjects - 1)) * stats.t.ppf((1 - level) / 2, subjects - 1))
    low, high = np.quantile(np.asarray(values, np.float64), [tail, 1 - tail])
    return float(low), float(high)


def exchange_test(pair_2SMM: ArrayLike, metric: str, seed: int = 0, draws: int = FEWEST_DRAWS) -> float:
    """Returns the two-sided p value of a difference, if for each subject a coin decided which cell is which.

    All 2^S exchanges for up to 16 subjects; else (k + 1) / (draws + 1), with k random exchanges at least as extreme.
    For a mean over subjects this is the sign-flip test. Source: Noreen 1989, approximate randomisation.

    Args:
        pair_2SMM: each subject's confusion counts under both cells.
    """
    pair = np.asarray(pair_2SMM, np.float64)
    subjects = pair.shape[1]
    observed = abs(_gap(pair.sum(1), metric)) - 1e-12
    change_SMM = pair[1] - pair[0]
    if subjects <= EXACT_SUBJECTS:
        patterns = np.arange(2**subjects)[:, None] >> np.arange(subjects) & 1
        return float((_gaps(patterns, pair, change_SMM, metric) >= observed).mean())
    generator = np.random.default_rng([seed, 1])
    extreme = 0
    for start in range(0, draws, CHUNK):
        patterns = generator.integers(0, 2, (min(CHUNK, draws - start), subjects))
        extreme += int((_gaps(patterns, pair, change_SMM, metric) >= observed).sum())
    return (extreme + 1) / (draws + 1)


def holm(p_values: ArrayLike) -> list[float]:
    """Returns p values corrected for a family of tests, in the order given. Source: Holm 1979."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1.0)
    return [float(value) for value in corrected]


def by_subject(frame: pd.DataFrame, classes: int) -> NDArray[np.int64]:
    """Returns confusion counts int64 [S,M,M] of each subject, in order of their names; columns as in `compare`."""
    names, codes = np.unique(frame["subject"].to_numpy(str), return_inverse=True)
    cells = (codes * classes + frame["label"].to_numpy(np.int64)) * classes + stacked(frame).argmax(1)
    return np.bincount(cells, minlength=len(names) * classes**2).reshape(len(names), classes, classes)


def why_not_comparable(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """Returns how the videos, subjects, labels or folds of two cells differ; "" where they do not."""
    left, right = (frame.set_index("video_id") for frame in (one, other))
    for name, frame in (("the first", left), ("the second", right)):
        twice = frame.index[frame.index.duplicated()]
        if len(twice):
            return f"{name} cell has video {twice[0]} twice"
    missing, extra = left.index.difference(right.index), right.index.difference(left.index)
    if len(missing) or len(extra):
        shown = ", ".join(map(str, [*missing, *extra][:5]))
        return f"{len(missing)} videos only in the first cell, {len(extra)} only in the second: {shown}"
    right = right.loc[left.index]
    for column in ("subject", "label", "fold"):
        if column in left and column in right:
            differs = left.index[left[column].to_numpy() != right[column].to_numpy()]
            if len(differs):
                first = differs[0]
                return (
                    f"{len(differs)} videos have another {column}, the first {first}: "
                    f"{left.loc[first, column]} and {right.loc[first, column]}"
                )
    return ""


def _metric(counts_BS: NDArray[np.int64], matrix_SMM: Floats, metric: str) -> Floats:
    classes = matrix_SMM.shape[-1]
    flat = counts_BS @ matrix_SMM.reshape(len(matrix_SMM), -1)
    return from_confusion(flat.reshape(-1, classes, classes))[metric]


def _gaps(patterns_BS: NDArray[np.int64], pair_2SMM: Floats, change_SMM: Floats, metric: str) -> Floats:
    """Returns the absolute differences where the subjects of a pattern have changed cells."""
    classes = change_SMM.shape[-1]
    moved = (patterns_BS @ change_SMM.reshape(len(change_SMM), -1)).reshape(-1, classes, classes)
    total_2MM = pair_2SMM.sum(1)
    one, other = from_confusion(total_2MM[0] + moved)[metric], from_confusion(total_2MM[1] - moved)[metric]
    return np.abs(one - other)


def _gap(total_2MM: Floats, metric: str) -> float:
    one, other = from_confusion(total_2MM)[metric]
    return float(one - other)
