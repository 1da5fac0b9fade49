"""The subject is the unit: tests agree with scipy, and more videos of the same subjects are no more evidence."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import permutation_test

from ptune.results.stats import beats_majority, class_subjects, cluster_interval, sign_flip_test

NAMES = ("normal", "mild", "severe")


def frame_of(subjects: list[str], labels: list[int], predicted: list[int]) -> pd.DataFrame:
    videos = [f"v{number:03d}" for number in range(len(labels))]
    chances = list(np.eye(3)[predicted])
    return pd.DataFrame({"video_id": videos, "subject": subjects, "label": labels, "probabilities": chances})


@pytest.mark.parametrize("seed", range(4))
def test_exact_sign_flips_agree_with_scipy(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.2, 1, 9)
    expected = permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flip_test(values) == pytest.approx(expected.pvalue)


def test_fishers_own_example() -> None:
    """Darwin's 15 pairs of cross- and self-fertilised plants, in eighths of an inch: 863 of 32768 sign patterns give at
    least the observed sum. Source: Fisher 1935, The Design of Experiments, section 21.
    """
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip_test(darwin) == 863 / 32768


def test_ties_count_as_extreme() -> None:
    assert sign_flip_test([0.1, 0.1, 0.1, 0.0]) == pytest.approx(1 / 8)
    assert sign_flip_test([0.0, 0.0]) == 1.0


def test_random_sign_flips_come_near_the_exact_value_and_repeat() -> None:
    values = np.random.default_rng(1).normal(0.35, 1, 20)
    reference = permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=50_000, rng=0
    )
    found = sign_flip_test(values, seed=3)
    assert found == sign_flip_test(values, seed=3)
    assert found == pytest.approx(reference.pvalue, abs=0.01)


def test_never_claims_zero_probability() -> None:
    assert sign_flip_test(np.ones(40)) == pytest.approx(1 / 20_001)


@pytest.mark.parametrize("values", [[], [np.nan]])
def test_nonsense_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        sign_flip_test(values)


def test_repeated_videos_of_a_subject_change_nothing() -> None:
    subjects = [f"s{index % 8}" for index in range(24)]
    labels = [index % 3 for index in range(24)]
    predicted = [label if index % 4 else 1 for index, label in enumerate(labels)]
    once = frame_of(subjects, labels, predicted)
    assert beats_majority(once, 3) == beats_majority(pd.concat([once] * 5, ignore_index=True), 3)


def test_the_constant_itself_gains_nothing() -> None:
    result = beats_majority(frame_of(["a", "b", "b"], [1, 1, 0], [1, 1, 1]), 3)
    assert (result.difference, result.p_value, result.subjects, result.interval) == (0.0, 1.0, 2, (0.0, 0.0))


def test_the_constant_can_come_from_other_data() -> None:
    frame = frame_of(["a", "b"], [1, 1], [1, 1])
    assert beats_majority(frame, 3).difference == 0
    assert beats_majority(frame, 3, answer=0).difference == 1


def test_interval_of_a_metric_holds_the_pooled_value_and_widens_with_fewer_subjects() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200).tolist()
    predicted = [label if rng.random() < 0.7 else int(rng.integers(0, 3)) for label in labels]
    many = frame_of([f"s{index % 50}" for index in range(200)], labels, predicted)
    few = frame_of([f"s{index // 40}" for index in range(200)], labels, predicted)
    accuracy = np.mean(np.array(labels) == np.array(predicted))
    for frame in (many, few):
        low, high = cluster_interval(frame, "accuracy", NAMES)
        assert 0 <= low < accuracy < high <= 1
    assert cluster_interval(few, "accuracy", NAMES) == cluster_interval([few, few], "accuracy", NAMES)
    alone = cluster_interval(frame_of(["s"] * 200, labels, predicted), "f1_weighted", NAMES)
    assert alone == (-np.inf, np.inf)


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="f1_weighted"):
        cluster_interval(frame_of(["a"], [0], [0]), "f2", NAMES)


def test_subjects_per_class() -> None:
    assert class_subjects(frame_of(["a", "a", "b"], [0, 1, 1], [0, 0, 0]), 3) == [1, 2, 0]
