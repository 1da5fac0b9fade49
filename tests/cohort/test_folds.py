from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.cohort.folds import assign_folds, fold_warnings
from ptune.errors import FoldError

CLASSES = ("normal", "mild", "severe")

names = st.integers(0, 999).map(lambda number: f"S{number:03d}")
mixed = st.dictionaries(names, st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=5, max_size=40).filter(
    lambda labels: len({label for own in labels.values() for label in own}) > 1
)
pure = st.dictionaries(names, st.tuples(st.integers(0, 2), st.integers(1, 12)), min_size=5, max_size=40)
counts = st.integers(2, 5)
seeds = st.integers(0, 99)


def spread(values, count):
    counter = Counter(values)
    return max(counter[fold] for fold in range(count)) - min(counter[fold] for fold in range(count))


@given(mixed, counts, seeds)
def test_each_subject_has_one_fold_and_no_fold_is_empty_or_crowded(labels, count, seed):
    folds = assign_folds(labels, count, seed)
    assert folds.keys() == labels.keys()
    sizes = Counter(folds.values())
    assert set(sizes) == set(range(count))
    assert max(sizes.values()) <= -(-len(labels) // count)


@given(mixed, counts, seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(labels, count, seed, random):
    shuffled = list(labels.items())
    random.shuffle(shuffled)
    turned = {subject: random.sample(own, len(own)) for subject, own in shuffled}
    assert assign_folds(turned, count, seed) == assign_folds(labels, count, seed)


@given(mixed, mixed, counts, seeds)
def test_added_subjects_never_move_those_before(labels, added, count, seed):
    before = assign_folds(labels, count, seed)
    after = assign_folds(added | labels, count, seed, existing=before)
    assert {subject: after[subject] for subject in before} == before


@given(pure, counts, seeds)
def test_with_one_class_per_subject_folds_differ_by_one_subject_at_most(subjects, count, seed):
    labels = {subject: [label] * videos for subject, (label, videos) in subjects.items()}
    if len({label for label, _ in subjects.values()}) < 2:
        return
    folds = assign_folds(labels, count, seed)
    assert spread(folds.values(), count) <= 1
    for label in range(3):
        assert spread([folds[subject] for subject, own in labels.items() if label in own], count) <= 1


@given(mixed, counts, seeds)
def test_the_rarest_class_is_spread_evenly_even_where_subjects_have_several(labels, count, seed):
    having = {label: [subject for subject, own in labels.items() if label in own] for label in range(3)}
    least = min(len(subjects) for subjects in having.values() if subjects)
    rarest = [subjects for subjects in having.values() if len(subjects) == least]
    if len(rarest) > 1:
        return
    folds = assign_folds(labels, count, seed)
    assert spread([folds[subject] for subject in rarest[0]], count) <= 1


def test_twenty_five_patients_make_five_folds_of_five():
    labels = {f"S{index:02d}": [0] * (index % 4) + [1] * 20 + [2] * 8 * (index < 3) for index in range(25)}
    folds = assign_folds(labels, 5, seed=0)
    assert Counter(folds.values()) == dict.fromkeys(range(5), 5)
    assert len({folds[f"S{index:02d}"] for index in range(3)}) == 3


def test_seeds_differ():
    labels = {f"S{index:02d}": [index % 2] for index in range(12)}
    assert len({tuple(assign_folds(labels, 3, seed).values()) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("labels", "count", "words"),
    [
        ({"S1": [0, 1]}, 2, "1 subject; expected at least 2.*Add videos of other people"),
        ({}, 2, "0 subjects"),
        ({"S1": [0], "S2": [1]}, 5, "2 subjects for 5 folds.*folds.count to 2 or less"),
        ({"S1": [0], "S2": [0]}, 2, "all videos are of one class.*column `score`"),
        ({"S1": [0], "S2": []}, 2, "subject S2 has no video"),
        ({"S1": [0], "S2": [1]}, 1, "at least 2"),
    ],
)
def test_cohorts_that_cannot_be_split_say_why(labels, count, words):
    with pytest.raises(FoldError, match=words):
        assign_folds(labels, count, 0)


def test_existing_folds_must_fit():
    labels = {"S1": [0], "S2": [1], "S3": [0]}
    with pytest.raises(FoldError, match="subject S1 is in fold 4; expected folds 0 to 1"):
        assign_folds(labels, 2, 0, existing={"S1": 4})
    with pytest.raises(FoldError, match="fold 1 has no subject"):
        assign_folds(labels, 2, 0, existing={"S1": 0, "S2": 0, "S3": 0})
    assert assign_folds(labels, 2, 0, existing={"gone": 0}).keys() == labels.keys()


def test_rare_and_missing_classes_are_named():
    labels = {"S1": [0], "S2": [0, 2], "S3": [0]}
    assert fold_warnings(labels, {"S1": 0, "S2": 1, "S3": 2}, CLASSES) == [
        "class 'mild' has no video: the model cannot learn it",
        "class 'severe' has 1 subject, fewer than 3: its numbers are not estimable",
        "class 'severe' is missing from folds 0 and 2",
    ]
