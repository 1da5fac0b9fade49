"""Labels and class probabilities become metrics: one confusion matrix, and everything else computed from it.

Knows nothing of subjects, folds or studies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

#: Metrics of a whole prediction; `score` adds precision, recall, f1 and support of each class.
METRICS = (
    "accuracy",
    "f1_weighted",
    "f1_macro",
    "balanced_accuracy",
    "kappa_quadratic",
    "mae",
    "within_one",
    "spearman",
)
PER_CLASS = ("precision", "recall", "f1", "support")
#: Metrics of which less is better.
LOWER_IS_BETTER = {"mae"}

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def score(
    labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], class_scores: Sequence[float] | None = None
) -> dict[str, float]:
    """Returns all metrics of a prediction; the predicted class is the most probable one, ties go to the lower class.

    A quotient whose denominator is zero is 0: precision of a class never predicted, recall and F1 of a class that is
    absent, kappa and rank correlation where labels or predictions are constant. Every value is finite.

    - `f1_macro` averages over all M classes, absent ones included; `f1_weighted` weighs by support.
    - `balanced_accuracy` averages recall over the classes that occur in `labels`.
    - `kappa_quadratic` is Cohen's kappa with squared class-index distance as weight.
    - `mae` and `within_one` are in units of the class index, or of `class_scores` where given.
    - `spearman` is the rank correlation of predicted and true class.
    - `precision.NAME`, `recall.NAME`, `f1.NAME`, `support.NAME` (a count) are those of one class.

    Args:
        labels: int [N], true class in 0..M-1.
        probabilities: float [N,M], finite.
        class_names: M names, mild to severe.
        class_scores: float [M], where each class lies on the clinician's scale.

    Raises:
        ValueError: no video, a shape that does not fit, a label outside the classes, a probability that is not finite.
    """
    labels_N, predicted_N = _checked(labels, probabilities, len(class_names))
    return score_confusion(confusion(labels_N, predicted_N, len(class_names)), class_names, class_scores)


def score_confusion(
    matrix: ArrayLike, class_names: Sequence[str], class_scores: Sequence[float] | None = None
) -> dict[str, float]:
    """Returns `score` of one confusion matrix [M,M], rows true; means of counts over seeds are counts too."""
    formulas = _Formulas(np.asarray(matrix), class_scores)
    values = {metric: float(getattr(formulas, metric)) for metric in METRICS}
    for kind in PER_CLASS:
        value_M = getattr(formulas, kind)
        values |= {f"{kind}.{name}": float(value) for name, value in zip(class_names, value_M, strict=True)}
    return values


def score_rows(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> dict[str, float]:
    """Returns `score` of rows with the keys label and probabilities."""
    labels = [int(row["label"]) for row in rows]
    return score(labels, [row["probabilities"] for row in rows], class_names)


def score_frame(frame: pd.DataFrame, class_names: Sequence[str]) -> dict[str, float]:
    """Returns `score` of a table with columns label and probabilities (one list of M per row)."""
    return score(frame["label"].to_numpy(), stacked(frame), class_names)


def stacked(frame: pd.DataFrame) -> Floats:
    """Returns the column `probabilities` as float64 [N,M]."""
    return np.stack([np.asarray(row, np.float64) for row in frame["probabilities"]])


def confusion(labels: ArrayLike, predicted: ArrayLike, classes: int) -> Counts:
    """Returns counts int64 [M,M]; rows are true classes, columns predicted ones.

    Args:
        labels, predicted: int [N] in 0..M-1.
        classes: M.
    """
    pairs = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def from_confusion(matrix: NDArray[Any], class_scores: Sequence[float] | None = None) -> dict[str, Floats]:
    """Returns `METRICS` of one or many confusion matrices at once, under the zero rule of `score`.

    Args:
        matrix: counts [...,M,M], rows true, each with at least one video.
        class_scores: as in `score`.

    Returns:
        float64 [...] per metric.
    """
    formulas = _Formulas(matrix, class_scores)
    return {metric: getattr(formulas, metric) for metric in METRICS}


def metric_of(matrix: NDArray[Any], metric: str) -> Floats:
    """Returns one metric of many confusion matrices, float64 [...]; arguments as in `from_confusion`.

    Raises:
        ValueError: the metric is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}, expected one of {', '.join(METRICS)}")
    values: Floats = getattr(_Formulas(matrix), metric)
    return values


class _Formulas:
    """Metrics of confusion counts [...,M,M], each computed when asked for; a property for each of `METRICS`."""

    def __init__(self, matrix: NDArray[Any], class_scores: Sequence[float] | None = None) -> None:
        self.counts = np.asarray(matrix, np.float64)
        self.index = np.arange(self.counts.shape[-1], dtype=np.float64)
        place = self.index if class_scores is None else np.asarray(class_scores, np.float64)
        self.distance = np.abs(place[:, None] - place[None, :])
        self.correct = np.diagonal(self.counts, axis1=-2, axis2=-1)

    @cached_property
    def support(self) -> Floats:
        return np.asarray(self.counts.sum(-1))

    @cached_property
    def predicted(self) -> Floats:
        return np.asarray(self.counts.sum(-2))

    @cached_property
    def total(self) -> Floats:
        return np.asarray(self.support.sum(-1))

    @cached_property
    def precision(self) -> Floats:
        return _ratio(self.correct, self.predicted)

    @cached_property
    def recall(self) -> Floats:
        return _ratio(self.correct, self.support)

    @cached_property
    def f1(self) -> Floats:
        return _ratio(2 * self.correct, self.support + self.predicted)

    @property
    def accuracy(self) -> Floats:
        return _ratio(self.correct.sum(-1), self.total)

    @property
    def f1_weighted(self) -> Floats:
        return _ratio((self.f1 * self.support).sum(-1), self.total)

    @property
    def f1_macro(self) -> Floats:
        return np.asarray(self.f1.mean(-1))

    @property
    def balanced_accuracy(self) -> Floats:
        return _ratio(self.recall.sum(-1), (self.support > 0).sum(-1))

    @property
    def kappa_quadratic(self) -> Floats:
        weights = (self.index[:, None] - self.index[None, :]) ** 2
        by_chance = (self.support[..., :, None] * self.predicted[..., None, :] * weights).sum((-2, -1))
        return _ratio(by_chance - (self.counts * weights).sum((-2, -1)) * self.total, by_chance)

    @property
    def mae(self) -> Floats:
        return _ratio((self.counts * self.distance).sum((-2, -1)), self.total)

    @property
    def within_one(self) -> Floats:
        return _ratio((self.counts * (self.distance <= 1)).sum((-2, -1)), self.total)

    @property
    def spearman(self) -> Floats:
        rank_true, rank_predicted = _centred_ranks(self.support), _centred_ranks(self.predicted)
        covariance = (self.counts * rank_true[..., :, None] * rank_predicted[..., None, :]).sum((-2, -1))
        spread = (self.support * rank_true**2).sum(-1) * (self.predicted * rank_predicted**2).sum(-1)
        return np.clip(_ratio(covariance, np.sqrt(spread)), -1.0, 1.0)


def majority(labels: ArrayLike, classes: int) -> Floats:
    """Returns the constant predictor's probabilities, float64 [N,M]: 1 for the most frequent class, 0 elsewhere.

    Args:
        labels: int [N]; between equally frequent classes the lower one is taken.
        classes: M.
    """
    labels_N = np.asarray(labels, np.int64)
    return np.tile(np.eye(classes)[majority_class(labels_N, classes)], (len(labels_N), 1))


def majority_class(labels: ArrayLike, classes: int) -> int:
    """Returns the most frequent class of `labels`, int [N]; ties go to the lower class."""
    return int(np.bincount(np.asarray(labels, np.int64), minlength=classes).argmax())


def majority_row(
    labels: ArrayLike, class_names: Sequence[str], class_scores: Sequence[float] | None = None
) -> dict[str, float]:
    """Returns `score` of always answering the most frequent class: what any stream has to beat."""
    return score(labels, majority(labels, len(class_names)), class_names, class_scores)


def labels_from_counts(class_counts: Mapping[str, int], class_names: Sequence[str]) -> NDArray[np.int64]:
    """Returns int [N], as many labels of each class as `class_counts` says, for the majority row of a mere cohort."""
    counts = [int(class_counts.get(name, 0)) for name in class_names]
    return np.repeat(np.arange(len(counts)), counts)


def _checked(labels: ArrayLike, probabilities: ArrayLike, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    labels_N, probabilities_NM = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels_N.ndim != 1 or len(labels_N) == 0:
        raise ValueError(f"labels have shape {labels_N.shape}, expected [N] with N >= 1")
    if probabilities_NM.shape != (len(labels_N), classes):
        raise ValueError(f"probabilities have shape {probabilities_NM.shape}, expected {(len(labels_N), classes)}")
    if labels_N.min() < 0 or labels_N.max() >= classes:
        raise ValueError(f"labels reach from {labels_N.min()} to {labels_N.max()}, expected 0 to {classes - 1}")
    if not np.isfinite(probabilities_NM).all():
        raise ValueError("a probability is not finite")
    return labels_N.astype(np.int64), probabilities_NM.argmax(1)


def _centred_ranks(counts_M: Floats) -> Floats:
    """Returns the middle rank of each class among sorted values, minus the mean rank."""
    before = np.cumsum(counts_M, -1) - counts_M
    return np.asarray(before + counts_M / 2 - counts_M.sum(-1, keepdims=True) / 2)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)
