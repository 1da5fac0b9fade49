"""One declared family of differences, and the one cell that may be marked as best."""

import itertools
import time

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from ptune.errors import BadInput
from ptune.results.stats import best_cell, compare_family, exchange_test, fold_mean, fold_support, paired_bootstrap
from ptune.results.stats.family import best_place
from ptune.results.stats.permutation import exchange_tests
from tests.results.test_comparison import CLASSES, cell


def counts(skills, subjects=25, videos=4, seed=0):
    """Returns confusion counts [C,S,3,3] of cells that are right with the given chances."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, (subjects, videos))
    found = np.zeros((len(skills), subjects, 3, 3))
    for place, skill in enumerate(skills):
        answers = np.where(random.random(labels.shape) < skill, labels, (labels + 1) % 3)
        np.add.at(found[place], (np.arange(subjects)[:, None], labels, answers), 1)
    return found


def test_each_difference_is_its_own_and_only_p_values_know_the_family():
    cells = {"full": cell(0.8, 1), "no attention": cell(0.7, 2), "no focal loss": cell(0.5, 3)}
    pairs = [("full", "no attention"), ("full", "no focal loss")]
    found = compare_family(cells, pairs, "f1_weighted", CLASSES)
    for comparison, (one, other) in zip(found, pairs, strict=True):
        assert (comparison.one, comparison.other) == (one, other)
        assert comparison.found == paired_bootstrap(cells[one], cells[other], "f1_weighted", CLASSES)
    p_values = [comparison.found.p_value for comparison in found]
    assert [comparison.corrected for comparison in found] == pytest.approx(multipletests(p_values, method="holm")[1])


def test_the_smallest_family_is_one_test():
    (only,) = compare_family({"a": cell(0.8, 1), "b": cell(0.6, 2)}, [("a", "b")], "accuracy", CLASSES)
    assert only.corrected == only.found.p_value


def test_a_cell_is_best_only_if_it_beats_every_other():
    """The second cell answers as the first does for all but one subject, so that nothing tells them apart."""
    good, poor, worse = cell(0.95, 1), cell(0.5, 2), cell(0.4, 3)
    nearly = good.copy()
    nearly.loc[:3, "probabilities"] = poor["probabilities"][:4]
    assert best_cell({"poor": poor, "good": good, "worse": worse}, "accuracy", CLASSES) == "good"
    assert best_cell({"poor": poor, "good": good, "nearly": nearly}, "accuracy", CLASSES) is None
    assert best_cell({"poor": poor, "good": good}, "mae", CLASSES) == "good", "the least error is best"
    assert best_cell({"good": good}, "accuracy", CLASSES) is None, "alone, it is better than nobody"


def test_the_best_needs_p_values_that_survive_all_pairs_of_the_table():
    """Three cells are three pairs, although only two of them are the best one's."""
    cells = counts([0.78, 0.55, 0.55], seed=4)
    pairs = list(itertools.combinations(range(3), 2))
    p_values = exchange_tests(cells, pairs, "accuracy")
    corrected = multipletests(p_values, method="holm")[1]
    expected = 0 if corrected[0] <= 0.05 and corrected[1] <= 0.05 else None
    assert best_place(cells, "accuracy") == expected
    assert p_values == [exchange_test(cells[list(pair)], "accuracy") for pair in pairs]


def test_fourteen_cells_and_their_91_pairs_take_seconds():
    cells = counts(np.linspace(0.5, 0.8, 14), subjects=60, videos=12)
    start = time.process_time()
    best_place(cells, "f1_macro")
    assert time.process_time() - start < 15


def test_cells_and_pairs_that_do_not_fit_are_refused():
    cells = {"a": cell(0.8, 1), "b": cell(0.8, 1).iloc[1:]}
    with pytest.raises(BadInput, match="b lacks v000"):
        best_cell(cells, "accuracy", CLASSES)
    with pytest.raises(BadInput, match="no cell is named 'c'; expected a, b"):
        compare_family(cells, [("a", "c")], "accuracy", CLASSES)
    assert compare_family(cells, [], "accuracy", CLASSES) == []


def test_fold_means_and_their_deviation_by_hand():
    """Two folds of two videos: one right of two, then two of two; no fold of the second holds class 2."""
    frame = cell(0.5, subjects=4, videos=1).assign(
        fold=[0, 0, 1, 1], label=[0, 2, 0, 1], probabilities=[row.tolist() for row in np.eye(3)[[0, 0, 0, 1]]]
    )
    found = fold_mean(frame, "accuracy", CLASSES)
    assert found.values == (0.5, 1.0)
    assert found.mean == 0.75
    assert found.deviation == pytest.approx(np.sqrt(0.125))
    assert found.without == ("mild", "severe")
    assert fold_mean(frame, "f1_macro", CLASSES).values[1] == pytest.approx(2 / 3), "the absent class counts as 0"
    assert [(row.fold, row.name, row.videos, row.subjects) for row in fold_support(frame, CLASSES)] == [
        (0, "normal", 1, 1), (0, "mild", 0, 0), (0, "severe", 1, 1),
        (1, "normal", 1, 1), (1, "mild", 1, 1), (1, "severe", 0, 0),
    ]  # fmt: skip
