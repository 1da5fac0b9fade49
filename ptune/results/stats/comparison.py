"""Two cells of a table on the same videos become a difference with its interval and p value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptune.errors import BadInput
from ptune.metrics import metric_of
from ptune.results.stats.cells import Cell, by_subject, seeds_of, why_not_comparable
from ptune.results.stats.intervals import DRAWS, expanded_percentiles, resampled_counts, weighted_sums
from ptune.results.stats.permutation import exchange_tests

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How two cells differ in one metric.

    Args:
        one, other: pooled over all videos and seeds.
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


def paired_bootstrap(
    one: Cell, other: Cell, metric: str, class_names: Sequence[str], level: float = 0.95, seed: int = 0
) -> Difference:
    """Returns the difference of a pooled metric between two cells.

    Draws without a class follow the zero rule of `ptune.metrics.score`, as the pooled score does.

    Args:
        one, other: a table with columns video_id, subject, label, probabilities and, where there is one, fold; or one
            table per seed, of which the cells need not have equally many.
        metric: one of `ptune.metrics.METRICS`.
        level: coverage of the interval.
        seed: of resampled subjects and of random exchanges.

    Raises:
        ValueError: the metric is unknown.
        BadInput: the cells differ in videos, subjects, labels or folds; says which.
    """
    matrix_CSMM = matrices_of({"the first": one, "the second": other}, len(class_names))
    return compare_matrices(matrix_CSMM[0], matrix_CSMM[1], metric, level, seed)


def matrices_of(cells: dict[str, Cell], classes: int) -> Floats:
    """Returns each subject's confusion counts under each cell, [C,S,M,M].

    Raises:
        BadInput: a cell differs from the first in videos, subjects, labels or folds; says which.
    """
    (first, one), *rest = cells.items()
    for name, cell in rest:
        problem = why_not_comparable(seeds_of(one)[0], seeds_of(cell)[0], (first, name))
        if problem:
            raise BadInput("comparison", problem, "the same videos, subjects, folds and labels in every cell")
    return np.stack([by_subject(cell, classes) for cell in cells.values()])


def compare_matrices(
    one_SMM: ArrayLike, other_SMM: ArrayLike, metric: str, level: float = 0.95, seed: int = 0
) -> Difference:
    """Returns `paired_bootstrap` of each subject's confusion counts [S,M,M], rows true."""
    pair_2SMM = np.stack([np.asarray(one_SMM, np.float64), np.asarray(other_SMM, np.float64)])
    return differences(pair_2SMM, [(0, 1)], metric, level, seed)[0]


def differences(
    cells_CSMM: Floats, pairs: list[tuple[int, int]], metric: str, level: float = 0.95, seed: int = 0
) -> list[Difference]:
    """Returns the difference of each pair of cells, all under the same draws of subjects and exchanges.

    Args:
        cells_CSMM: each subject's confusion counts under each cell.
        pairs: indices of cells.
    """
    subjects = cells_CSMM.shape[1]
    value_C = metric_of(cells_CSMM.sum(1), metric)
    drawn_BS = resampled_counts(subjects, DRAWS, seed)
    value_CB = [metric_of(weighted_sums(drawn_BS, matrix_SMM), metric) for matrix_SMM in cells_CSMM]
    p_values = exchange_tests(cells_CSMM, pairs, metric, seed)
    return [
        Difference(
            float(value_C[one]),
            float(value_C[other]),
            expanded_percentiles(value_CB[one] - value_CB[other], subjects, level),
            p_value,
            subjects,
        )
        for (one, other), p_value in zip(pairs, p_values, strict=True)
    ]
