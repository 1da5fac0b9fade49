"""Differences between cells against scipy, statsmodels and worked examples; the subject is the unit throughout."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score
from statsmodels.stats.multitest import multipletests

from ptune.errors import BadInput
from ptune.metrics import from_confusion
from ptune.results.stats import (
    by_subject,
    compare_matrices,
    exchange_test,
    expanded_percentiles,
    holm,
    interval_of,
    paired_bootstrap,
    sign_flip_test,
    why_not_comparable,
)

CLASSES = ("normal", "mild", "severe")


def cell(skill, seed=0, subjects=25, videos=4):
    """Returns predictions of which a share is right; a subject's luck is common to its videos."""
    labels_random, random = np.random.default_rng(0), np.random.default_rng([1, seed])
    labels = labels_random.integers(0, 3, subjects * videos)
    names = np.repeat([f"S{number:02d}" for number in range(subjects)], videos)
    luck = np.repeat(random.normal(0, 0.15, subjects), videos)
    right = random.random(subjects * videos) < skill + luck
    answers = np.where(right, labels, (labels + random.integers(1, 3, subjects * videos)) % 3)
    return pd.DataFrame(
        {
            "video_id": [f"v{number:03d}" for number in range(subjects * videos)],
            "subject": names,
            "fold": np.repeat(np.arange(subjects) % 5, videos),
            "label": labels,
            "probabilities": [row.tolist() for row in np.eye(3)[answers]],
        }
    )


def test_a_difference_is_that_of_scikit_learns_scores():
    one, other = cell(0.8, 1), cell(0.6, 2)
    answers = [np.stack(frame["probabilities"].tolist()).argmax(1) for frame in (one, other)]
    expected = [f1_score(one["label"], answer, average="macro") for answer in answers]
    found = paired_bootstrap(one, other, "f1_macro", CLASSES)
    assert (found.one, found.other) == pytest.approx(expected)
    assert found.difference == pytest.approx(expected[0] - expected[1])


def test_the_interval_is_scipys_bootstrap_of_paired_subjects_but_for_its_widening():
    one, other = cell(0.8, 1), cell(0.65, 2)
    pair = [by_subject(frame, 3) for frame in (one, other)]
    right = [np.trace(part, axis1=1, axis2=2).astype(float) for part in pair]
    gain, total = right[0] - right[1], pair[0].sum((1, 2))
    reference = stats.bootstrap(
        (gain, total),
        lambda gain, total, axis=-1: gain.sum(axis) / total.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    found = paired_bootstrap(one, other, "accuracy", CLASSES)
    width, plain = found.interval[1] - found.interval[0], reference.high - reference.low
    assert plain < width < 1.12 * plain
    assert np.mean(found.interval) == pytest.approx((reference.low + reference.high) / 2, abs=0.01)


def test_widening_makes_intervals_of_means_as_wide_as_students():
    """For normal data and many draws; where the interval lies also follows the skew of the twelve values."""
    data = np.random.default_rng(3).normal(0, 1, 12)
    counts = np.random.default_rng(4).multinomial(12, np.full(12, 1 / 12), 200_000)
    found = expanded_percentiles(counts @ data / 12, 12, 0.95)
    expected = stats.t.interval(0.95, 11, data.mean(), stats.sem(data))
    assert found[1] - found[0] == pytest.approx(expected[1] - expected[0], rel=0.03)
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=0.1)


def test_the_exact_test_tries_every_exchange():
    """Five subjects, f1_macro: the p value by hand is the share of the 32 exchanges that differ as much."""
    pair = np.random.default_rng(5).integers(0, 4, (2, 5, 3, 3)) + np.eye(3, dtype=int)
    gaps = []
    for exchanged in itertools.product((0, 1), repeat=5):
        one = sum(pair[choice, subject] for subject, choice in enumerate(exchanged))
        other = sum(pair[1 - choice, subject] for subject, choice in enumerate(exchanged))
        gaps.append(abs(from_confusion(one)["f1_macro"] - from_confusion(other)["f1_macro"]))
    assert exchange_test(pair, "f1_macro") == pytest.approx(np.mean(np.array(gaps) >= gaps[0] - 1e-12))


def test_for_accuracy_on_equally_many_videos_it_is_the_sign_flip_test():
    one, other = (by_subject(cell(skill, seed, subjects=12), 3) for skill, seed in ((0.8, 1), (0.6, 2)))
    gain = (np.trace(one, axis1=1, axis2=2) - np.trace(other, axis1=1, axis2=2)) / 4
    reference = stats.permutation_test(
        (gain, np.zeros(12)), lambda x, y, axis=-1: (x - y).mean(axis), permutation_type="samples", n_resamples=np.inf
    )
    found = exchange_test(np.stack([one, other]), "accuracy")
    assert found == pytest.approx(reference.pvalue)
    assert found / 2 == pytest.approx(sign_flip_test(gain), abs=1e-9)


def test_random_exchanges_agree_with_all_of_them():
    pair = np.stack([by_subject(cell(skill, seed, subjects=16), 3) for skill, seed in ((0.75, 1), (0.6, 2))])
    exact = exchange_test(pair, "f1_weighted")
    padded = np.concatenate([pair, np.zeros((2, 1, 3, 3), int)], axis=1)
    assert exchange_test(padded, "f1_weighted") == pytest.approx(exact, abs=0.01)


def test_a_cell_compared_with_itself_differs_by_nothing():
    found = paired_bootstrap(cell(0.7), cell(0.7), "f1_weighted", CLASSES)
    assert found.difference == 0
    assert found.interval == (0, 0)
    assert found.p_value == 1


def test_holms_correction_of_his_example_and_of_statsmodels():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    for seed in range(20):
        values = np.random.default_rng(seed).beta(0.3, 2, 12)
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrected_values_keep_their_order_and_are_no_smaller(values):
    corrected = holm(values)
    assert all(value <= after <= 1 for value, after in zip(values, corrected, strict=True))
    assert all(
        corrected[i] <= corrected[j]
        for i, j in itertools.product(range(len(values)), repeat=2)
        if values[i] < values[j]
    )


def test_more_subjects_give_a_shorter_interval():
    few, many = (interval_of(by_subject(cell(0.7, 1, subjects), 3), "accuracy") for subjects in (10, 100))
    assert many[1] - many[0] < 0.6 * (few[1] - few[0])


def test_one_subject_proves_nothing():
    one, other = (by_subject(cell(skill, 1, subjects=1), 3) for skill in (0.9, 0.2))
    found = compare_matrices(one, other, "accuracy")
    assert found.interval == (-np.inf, np.inf)
    assert found.p_value == 1


def test_a_third_seed_of_one_cell_adds_evidence_and_no_weight():
    """Two seeds against three: each cell's counts are means over its seeds, so that equal seeds change nothing."""
    one, other = cell(0.8, 1), cell(0.6, 2)
    plain = paired_bootstrap(one, other, "f1_macro", CLASSES)
    assert paired_bootstrap([one, one], [other] * 3, "f1_macro", CLASSES) == plain
    seeds = [cell(0.8, seed) for seed in (1, 3, 4)]
    found = paired_bootstrap(seeds, other, "accuracy", CLASSES)
    accuracies = [paired_bootstrap(frame, other, "accuracy", CLASSES).one for frame in seeds]
    assert found.one == pytest.approx(np.mean(accuracies))


@pytest.mark.parametrize("metric", ["mae", "within_one", "spearman", "kappa_quadratic"])
def test_the_ordinal_view_is_compared_as_well(metric):
    one, other = cell(0.85, 1), cell(0.5, 2)
    found = paired_bootstrap(one, other, metric, CLASSES)
    low, high = found.interval
    assert low < found.difference < high
    assert (found.difference < 0) == (metric == "mae"), "less error is better"
    assert found.p_value < 0.05


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frame: frame.iloc[1:], "the second lacks v000"),
        (
            lambda frame: frame.assign(video_id=["w" + name for name in frame["video_id"]]),
            "the first lacks wv000, wv001",
        ),
        (
            lambda frame: frame.assign(label=[(frame["label"][0] + 1) % 3, *frame["label"][1:]]),
            "the first and the second have another label for v000 (",
        ),
        (
            lambda frame: frame.assign(fold=(frame["fold"] + 1) % 5),
            "the first and the second have another fold for v000, v001, v002 and 97 more (0 and 1)",
        ),
        (lambda frame: pd.concat([frame, frame.iloc[:1]]), "the second has v000 more than once"),
    ],
)
def test_cells_that_do_not_compare_are_refused_with_the_difference(change, expected):
    one = cell(0.7)
    assert expected in why_not_comparable(one, change(one))
    with pytest.raises(BadInput, match="v000"):
        paired_bootstrap(one, change(one), "accuracy", CLASSES)
    with pytest.raises(BadInput, match="under every seed"):
        paired_bootstrap([one, change(one)], one, "accuracy", CLASSES)


def test_a_refusal_names_no_subject():
    one = cell(0.7)
    other = one.assign(subject=["CANARY", *one["subject"][1:]])
    assert why_not_comparable(one, other) == "the first and the second have another subject for v000"
