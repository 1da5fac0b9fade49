"""Out-of-fold predictions become statements with their uncertainty; the subject is the unit, never the video.

Videos of one subject resemble each other, so that a test over videos would claim far more evidence than there is.
Knows nothing of how predictions came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptune.metrics import METRICS, confusion, from_confusion, majority_class, stacked

if TYPE_CHECKING:
    import pandas as pd

#: Up to this many subjects all 2^S sign patterns are enumerated.
EXACT_SUBJECTS = 16
#: A number of one class that rests on fewer subjects is not estimable.
ESTIMABLE_SUBJECTS = 3
FEWEST_DRAWS = 20_000
CHUNK = 5_000


@dataclass(frozen=True)
class AgainstMajority:
    """How a prediction compares with always answering one class.

    Args:
        difference: mean over subjects of the accuracy gained, in -1..1.
        p_value: one-sided, of the hypothesis that nothing was gained.
        subjects: how many subjects it rests on.
        interval: 95 % interval of `difference` from resampled subjects.
    """

    difference: float
    p_value: float
    subjects: int
    interval: tuple[float, float]


def sign_flip_test(differences_per_subject: ArrayLike, seed: int = 0, draws: int = FEWEST_DRAWS) -> float:
    """Returns the one-sided p-value that the mean difference is above zero, if each subject's sign were a coin toss.

    Exact for up to 16 subjects; else (k + 1) / (draws + 1), with k random sign patterns at least as extreme.

    Args:
        differences_per_subject: float [S], one number per subject.
        seed, draws: of the random sign patterns.

    Raises:
        ValueError: no subject, a difference that is not finite, or fewer than 20000 draws.
    """
    differences = np.asarray(differences_per_subject, np.float64)
    if differences.ndim != 1 or len(differences) == 0 or not np.isfinite(differences).all():
        raise ValueError(f"differences have shape {differences.shape}, expected finite [S] with S >= 1")
    if draws < FEWEST_DRAWS:
        raise ValueError(f"{draws} draws, expected at least {FEWEST_DRAWS}")
    subjects = len(differences)
    limit = differences.sum() - 1e-12 * max(np.abs(differences).sum(), 1e-300)
    if subjects <= EXACT_SUBJECTS:
        patterns = np.arange(2**subjects)[:, None] >> np.arange(subjects) & 1
        return float(((2.0 * patterns - 1) @ differences >= limit).mean())
    generator = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, draws, CHUNK):
        signs = generator.integers(0, 2, (min(CHUNK, draws - start), subjects)) * 2.0 - 1
        extreme += int((signs @ differences >= limit).sum())
    return (extreme + 1) / (draws + 1)


def beats_majority(
    frame: pd.DataFrame, classes: int, answer: int | None = None, seed: int = 0, draws: int = FEWEST_DRAWS
) -> AgainstMajority:
    """Compares predictions with always answering one class; each subject counts once, however many videos it has.

    Args:
        frame: columns subject, label, probabilities.
        classes: M.
        answer: the constant class, for example the majority of other data; default the majority of `frame`,
            which favours the constant.
        seed, draws: of the test and of the interval.
    """
    labels = frame["label"].to_numpy(np.int64)
    constant = majority_class(labels, classes) if answer is None else answer
    gain = (stacked(frame).argmax(1) == labels).astype(np.float64) - (labels == constant)
    codes, subjects = _subject_codes(frame)
    gain_S = np.bincount(codes, gain, subjects) / np.bincount(codes, minlength=subjects)
    resampled = _resampled_counts(subjects, draws, seed) @ gain_S / subjects
    return AgainstMajority(
        float(gain_S.mean()), sign_flip_test(gain_S, seed, draws), subjects, _percentiles(resampled, 0.95)
    )


def cluster_interval(
    frame: pd.DataFrame, metric: str, class_names: Sequence[str], level: float = 0.95, seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """Returns the percentile interval of a pooled metric over resampled subjects, each with all its videos.

    Args:
        frame: columns subject, label, probabilities.
        metric: one of `ptune.metrics.METRICS`.
        level: coverage, for example 0.95.

    Raises:
        ValueError: the metric is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}, expected one of {', '.join(METRICS)}")
    classes = len(class_names)
    codes, subjects = _subject_codes(frame)
    predicted = stacked(frame).argmax(1)
    cells = (codes * classes + frame["label"].to_numpy(np.int64)) * classes + predicted
    matrix_S = np.bincount(cells, minlength=subjects * classes**2).reshape(subjects, classes**2)
    matrix_B = (_resampled_counts(subjects, draws, seed) @ matrix_S).reshape(draws, classes, classes)
    return _percentiles(from_confusion(matrix_B)[metric], level)


def class_subjects(frame: pd.DataFrame, classes: int) -> list[int]:
    """Returns for each class how many subjects have a video of it; columns subject and label are read."""
    pairs = frame[["subject", "label"]].drop_duplicates()
    return [int(count) for count in np.bincount(pairs["label"].to_numpy(np.int64), minlength=classes)]


def pooled_confusion(frame: pd.DataFrame, classes: int) -> NDArray[np.int64]:
    """Returns the confusion counts int64 [M,M] of a table with columns label and probabilities; rows are true."""
    return confusion(frame["label"].to_numpy(), stacked(frame).argmax(1), classes)


def _subject_codes(frame: pd.DataFrame) -> tuple[NDArray[np.int64], int]:
    names, codes = np.unique(frame["subject"].to_numpy(str), return_inverse=True)
    return codes, len(names)


def _resampled_counts(subjects: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Returns how often each subject is drawn, int64 [draws,S]."""
    return np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), draws)


def _percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
