"""Metrics agree with scikit-learn, stay finite, and reproduce what table 1 implies for a constant answer."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics as sk

from ptune.metrics import (
    PER_CLASS,
    confusion,
    from_confusion,
    labels_from_counts,
    majority,
    majority_row,
    score,
)

NAMES = ("normal", "mild", "severe", "worst")
M = len(NAMES)
pairs = st.lists(st.tuples(st.integers(0, M - 1), st.integers(0, M - 1)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_agrees_with_scikit_learn_also_for_absent_classes(rows: list[tuple[int, int]]) -> None:
    true, predicted = np.array(rows).T
    ours = score(true, np.eye(M)[predicted], NAMES)
    assert all(np.isfinite(value) for value in ours.values())
    every = list(range(M))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shared = {"labels": every, "zero_division": 0}
        kappa = sk.cohen_kappa_score(true, predicted, labels=every, weights="quadratic")
        rank = spearmanr(true, predicted).statistic
        precision, recall, f1, support = sk.precision_recall_fscore_support(true, predicted, **shared)
        expected = {
            "accuracy": sk.accuracy_score(true, predicted),
            "f1_weighted": sk.f1_score(true, predicted, average="weighted", **shared),
            "f1_macro": sk.f1_score(true, predicted, average="macro", **shared),
            "balanced_accuracy": sk.balanced_accuracy_score(true, predicted),
            "kappa_quadratic": np.nan_to_num(kappa, nan=0.0),
            "mae": sk.mean_absolute_error(true, predicted),
            "within_one": np.mean(np.abs(true - predicted) <= 1),
            "spearman": np.nan_to_num(rank, nan=0.0),
        }
    for index, name in enumerate(NAMES):
        values = (precision[index], recall[index], f1[index], support[index])
        expected |= {f"{kind}.{name}": value for kind, value in zip(PER_CLASS, values, strict=True)}
    assert set(expected) == set(ours)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_confusion_has_true_classes_as_rows() -> None:
    matrix = confusion([0, 0, 2], [1, 1, 2], 3)
    assert matrix.tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_many_confusion_matrices_at_once_equal_one_by_one() -> None:
    matrices = np.random.default_rng(0).integers(0, 9, (5, 3, 3))
    together = from_confusion(matrices)
    for index in range(5):
        for name, value in from_confusion(matrices[index]).items():
            assert together[name][index] == pytest.approx(float(value))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((180, 500, 24), (71.0, 59.0, 27.7)), ((171, 180, 3), (50.8, 34.3, 22.5))],
    ids=["hand", "gait"],
)
def test_majority_of_table_1(counts: tuple[int, ...], expected: tuple[float, ...]) -> None:
    names = NAMES[:3]
    row = majority_row(labels_from_counts(dict(zip(names, counts, strict=True)), names), names)
    found = tuple(round(100 * row[name], 1) for name in ("accuracy", "f1_weighted", "f1_macro"))
    assert found == expected
    assert row["kappa_quadratic"] == row["spearman"] == 0


def test_majority_takes_the_lower_class_on_a_tie() -> None:
    assert majority([2, 1, 2, 1], 3).tolist() == [[0, 1, 0]] * 4


def test_errors_can_be_measured_on_the_clinicians_scale() -> None:
    values = score([0, 2], np.eye(3)[[1, 2]], NAMES[:3], class_scores=(0, 1.5, 3.5))
    assert values["mae"] == pytest.approx(0.75)
    assert values["within_one"] == 0.5


@pytest.mark.parametrize(
    ("labels", "probabilities", "says"),
    [
        ([], np.zeros((0, 3)), "N >= 1"),
        ([0], np.zeros((1, 2)), r"expected \(1, 3\)"),
        ([3], np.zeros((1, 3)), "expected 0 to 2"),
        ([0], np.full((1, 3), np.nan), "not finite"),
    ],
)
def test_nonsense_is_refused(labels: list[int], probabilities: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        score(labels, probabilities, NAMES[:3])
