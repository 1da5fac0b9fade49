"""Differences of subjects become p values: what if a coin had decided, for each subject, which cell is which?

Up to 16 subjects all outcomes of the coins are tried; beyond, 20,000 random ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptune.metrics import metric_of
from ptune.results.stats.intervals import weighted_sums

Floats = NDArray[np.float64]

#: Up to this many subjects all 2^S sign patterns are enumerated.
EXACT_SUBJECTS = 16
FLIPS = 20_000
CHUNK = 5_000
#: Relative to what is compared: values this close are a tie, and ties count as extreme.
ROUNDING = 1e-12


def sign_flip_test(differences_per_subject: ArrayLike, seed: int = 0) -> float:
    """Returns the one-sided p value that the mean difference is above zero, if each subject's sign were a coin toss.

    Exact for up to 16 subjects; else (k + 1) / 20001, with k random sign patterns at least as extreme.

    Args:
        differences_per_subject: float [S], one number per subject.

    Raises:
        ValueError: no subject, or a difference that is not finite.
    """
    differences = np.asarray(differences_per_subject, np.float64)
    if differences.ndim != 1 or len(differences) == 0 or not np.isfinite(differences).all():
        raise ValueError(f"differences have shape {differences.shape}, expected finite [S] with S >= 1")
    limit = differences.sum() - ROUNDING * max(np.abs(differences).sum(), 1e-300)
    extreme = total = 0
    for flips_BS in _flips(len(differences), np.random.default_rng(seed)):
        extreme += int(((1.0 - 2.0 * flips_BS) @ differences >= limit).sum())
        total += len(flips_BS)
    return _p_value(extreme, total, len(differences))


def exchange_test(pair_2SMM: ArrayLike, metric: str, seed: int = 0) -> float:
    """Returns the two-sided p value of a difference, if for each subject a coin decided which cell is which.

    Exact for up to 16 subjects; else (k + 1) / 20001, with k random exchanges at least as extreme. For a mean over
    subjects this is the sign-flip test. Source: Noreen 1989, approximate randomisation.

    Args:
        pair_2SMM: each subject's confusion counts under both cells.
    """
    return exchange_tests(pair_2SMM, [(0, 1)], metric, seed)[0]


def exchange_tests(cells_CSMM: ArrayLike, pairs: list[tuple[int, int]], metric: str, seed: int = 0) -> list[float]:
    """Returns `exchange_test` of pairs of cells, under the same exchanges.

    Args:
        cells_CSMM: each subject's confusion counts under each cell.
        pairs: indices of cells.
    """
    cells = np.asarray(cells_CSMM, np.float64)
    subjects = cells.shape[1]
    total_CMM = cells.sum(1)
    value_C = metric_of(total_CMM, metric)
    extreme, total = np.zeros(len(pairs), np.int64), 0
    for flips_BS in _flips(subjects, np.random.default_rng([seed, 1])):
        for place, (one, other) in enumerate(pairs):
            moved = weighted_sums(flips_BS, cells[other] - cells[one])
            gaps = np.abs(metric_of(total_CMM[one] + moved, metric) - metric_of(total_CMM[other] - moved, metric))
            extreme[place] += int((gaps >= abs(value_C[one] - value_C[other]) - ROUNDING).sum())
        total += len(flips_BS)
    return [_p_value(int(count), total, subjects) for count in extreme]


def _flips(subjects: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Returns all outcomes of the coins, or random ones; 0 or 1 [B,S] in parts that fit the cache."""
    if subjects <= EXACT_SUBJECTS:
        every = np.arange(2**subjects)[:, None] >> np.arange(subjects) & 1
        return np.array_split(every, -(-len(every) // CHUNK))
    return [random.integers(0, 2, (CHUNK, subjects)) for _ in range(FLIPS // CHUNK)]


def _p_value(extreme: int, total: int, subjects: int) -> float:
    return extreme / total if subjects <= EXACT_SUBJECTS else (extreme + 1) / (total + 1)
