"""One cell against always answering the same class: what any model has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ptune.metrics import majority_class, stacked
from ptune.results.stats.intervals import DRAWS, expanded_percentiles, resampled_counts
from ptune.results.stats.permutation import sign_flip_test

if TYPE_CHECKING:
    import pandas as pd


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


def beats_majority(frame: pd.DataFrame, classes: int, answer: int | None = None, seed: int = 0) -> AgainstMajority:
    """Compares predictions with always answering one class; each subject counts once, however many videos it has.

    Args:
        frame: columns subject, label, probabilities.
        classes: M.
        answer: the constant class, for example the majority of other data; default the majority of `frame`,
            which favours the constant.
        seed: of the test and of the interval.
    """
    labels = frame["label"].to_numpy(np.int64)
    constant = majority_class(labels, classes) if answer is None else answer
    gain = (stacked(frame).argmax(1) == labels).astype(np.float64) - (labels == constant)
    names, codes = np.unique(frame["subject"].to_numpy(str), return_inverse=True)
    subjects = len(names)
    gain_S = np.bincount(codes, gain, subjects) / np.bincount(codes, minlength=subjects)
    resampled = resampled_counts(subjects, DRAWS, seed) @ gain_S / subjects
    interval = expanded_percentiles(resampled, subjects, 0.95)
    return AgainstMajority(float(gain_S.mean()), sign_flip_test(gain_S, seed), subjects, interval)
