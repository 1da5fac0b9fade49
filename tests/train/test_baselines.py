"""Rows that a reviewer asks for: what predicts without the movement, and a linear model on a network's features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ptune.config import FitVideo
from ptune.extract.circumstances import Circumstances
from ptune.metrics import score_frame, stacked
from ptune.train.crossfit import cross_fit
from ptune.train.nuisance import nuisance_row
from ptune.train.ordinal import ordinal_logistic

CLASSES = ("normal", "mild", "severe")


def cohort(subjects=30, clips=4, seed=0):
    """Videos whose classes differ within a subject, and a fold for each subject."""
    generator = np.random.default_rng(seed)
    videos = [
        FitVideo(
            video_id=f"{subject * clips + clip:016x}", subject=f"S{subject:02d}", score=(0, 1, 3)[label], label=label
        )
        for subject in range(subjects)
        for clip, label in enumerate(generator.integers(0, 3, clips).tolist())
    ]
    return videos, {f"S{subject:02d}": subject % 5 for subject in range(subjects)}


def accuracy(row):
    return score_frame(row.frame, CLASSES)["accuracy"]


def test_a_length_that_gives_the_class_away_is_found_out():
    videos, folds = cohort()
    generator = np.random.default_rng(1)
    known = {
        video.video_id: Circumstances(5 + 4 * video.label + generator.normal(0, 0.5), generator.uniform(80, 120))
        for video in videos
    }
    row = nuisance_row(videos, folds, known, CLASSES)
    assert accuracy(row) > 0.95
    assert row.name == "nuisance only (duration, brightness)"
    assert row.note == "left out: side (the manifest does not say), visit (the manifest does not say)"


def test_a_side_that_gives_the_class_away_is_found_out():
    videos, folds = cohort()
    sides = ("left", "right", "both")
    known = {video.video_id: Circumstances(5.0, 100.0, side=sides[video.label]) for video in videos}
    row = nuisance_row(videos, folds, known, CLASSES)
    assert accuracy(row) == 1.0
    assert row.name == "nuisance only (side)"
    assert "duration (the same in all videos)" in row.note


def test_circumstances_that_say_nothing_predict_about_as_well_as_chance():
    videos, folds = cohort(subjects=60)
    generator = np.random.default_rng(2)
    known = {
        video.video_id: Circumstances(
            generator.uniform(3, 9), generator.uniform(60, 140), generator.choice(["left", "right"]), "1"
        )
        for video in videos
    }
    row = nuisance_row(videos, folds, known, CLASSES)
    assert row.name == "nuisance only (duration, brightness, side)"
    assert row.note == "left out: visit (the same in all videos)"
    assert 0.2 < accuracy(row) < 0.45, "three classes, equally frequent"


def test_what_cannot_be_learnt_from_other_people_is_left_out_with_the_reason():
    videos, folds = cohort(subjects=10)
    known = {
        video.video_id: Circumstances(None if index == 3 else 4.0 + index, 90.0, visit=f"day {video.subject}")
        for index, video in enumerate(videos)
    }
    row = nuisance_row(videos, folds, known, CLASSES)
    assert row.frame is None
    assert row.name == "nuisance only"
    for reason in (
        "duration (not known of 1 videos)",
        "brightness (the same in all videos)",
        "no two subjects share one",
    ):
        assert reason in row.note


def test_the_table_is_like_that_of_a_trial_and_no_video_is_predicted_by_its_own_subject():
    videos, folds = cohort(subjects=10)
    index_of = {video.video_id: index for index, video in enumerate(videos)}
    values = np.arange(len(videos), dtype=float)[:, None]
    learnt_from = []

    def learn(values_ND, labels_N):
        seen = values_ND[:, 0].astype(int)
        assert [videos[index].label for index in seen] == labels_N.tolist()
        learnt_from.append({videos[index].subject for index in seen})

        def predict(held_out_ND):
            assert not {videos[int(index)].subject for index in held_out_ND[:, 0]} & learnt_from[-1]
            return np.eye(3)[held_out_ND[:, 0].astype(int) % 3]

        return predict

    frame = cross_fit(videos[::-1], folds, values[::-1], learn)
    assert len(learnt_from) == 5
    assert list(frame.columns) == ["video_id", "subject", "fold", "score", "label", "probabilities"]
    assert frame["video_id"].tolist() == sorted(video.video_id for video in videos)
    assert (frame["fold"] == frame["subject"].map(folds)).all()
    assert stacked(frame).argmax(1).tolist() == [index_of[video] % 3 for video in frame["video_id"]]
    assert frame["label"].tolist() == [videos[index_of[video]].label for video in frame["video_id"]]


def test_a_training_part_without_a_class_gives_it_no_probability():
    videos = [
        FitVideo(video_id=f"{index:016x}", subject=f"S{index % 6}", score=0, label=2 if index % 6 == 0 else index % 2)
        for index in range(24)
    ]
    folds = {f"S{index}": index for index in range(6)}
    known = {video.video_id: Circumstances(float(index % 5), 90.0) for index, video in enumerate(videos)}
    chances = stacked(nuisance_row(videos, folds, known, CLASSES).frame)
    first = np.array([video.subject == "S0" for video in videos])
    assert (chances[first, 2] == 0).all()
    assert (chances[~first, 2] > 0).all()
    assert np.allclose(chances.sum(1), 1)


def test_one_class_in_training_is_the_only_answer():
    videos = [
        FitVideo(video_id=f"{index:016x}", subject=f"S{index}", score=0, label=int(index == 0)) for index in range(6)
    ]
    folds = {f"S{index}": int(index > 0) for index in range(6)}
    known = {video.video_id: Circumstances(float(index), 90.0 + index) for index, video in enumerate(videos)}
    chances = stacked(nuisance_row(videos, folds, known, CLASSES).frame)
    assert chances[0].tolist() == [1, 0, 0]
    assert ordinal_logistic(np.arange(5.0)[:, None], np.ones(5, np.int64), 3, 1.0)(np.zeros((2, 1))).tolist() == [
        [0, 1, 0],
        [0, 1, 0],
    ]


def test_an_ordinal_model_learns_classes_along_a_line():
    """Severity 0 to 30, cut at 10 and 20: a video in the middle of a class is recognised, one at a boundary torn."""
    severity = np.linspace(0, 30, 61)
    labels = np.digitize(severity, [10, 20])
    model = ordinal_logistic(severity[:, None], labels, 3, 100.0)
    middle = model(np.array([[2.0], [15.0], [28.0]]))
    assert middle.argmax(1).tolist() == [0, 1, 2]
    assert (middle.max(1) > 0.9).all()
    torn = model(np.array([[9.75]]))[0]
    assert torn[:2] == pytest.approx([0.5, 0.5], abs=0.1)
    assert torn[2] < 0.01


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_ordinal_probabilities_are_never_negative_and_sum_to_one(classes):
    generator = np.random.default_rng(classes)
    values, labels = generator.normal(0, 1, (40, 25)), generator.integers(0, classes, 40)
    new = generator.normal(0, 3, (500, 25))
    chances = ordinal_logistic(values, labels, classes, 10.0)(new)
    assert chances.shape == (500, classes)
    assert (chances >= 0).all()
    assert np.allclose(chances.sum(1), 1)


def test_two_classes_are_plain_logistic_regression():
    generator = np.random.default_rng(0)
    values, labels = generator.normal(0, 1, (60, 4)), generator.integers(0, 2, 60)
    scaler = StandardScaler().fit(values)
    peer = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(values), labels)
    ours = ordinal_logistic(values, labels, 2, 0.1)
    assert ours(values) == pytest.approx(peer.predict_proba(scaler.transform(values)))


def test_boundaries_that_cross_are_sorted_not_cut():
    """Labels fall along the values for one boundary and rise for the other, so that P(y > 1) exceeds P(y > 0)."""
    values = np.array([[0.0]] * 10 + [[1.0]] * 10)
    labels = np.array([0] * 5 + [1] * 4 + [2] + [0] * 5 + [2] * 5)
    model = ordinal_logistic(values, labels, 3, 1e6)
    above_0, above_1 = 0.5, np.array([0.1, 0.5])
    chances = model(np.array([[0.0], [1.0]]))
    assert chances[:, 0] == pytest.approx(1 - np.maximum(above_0, above_1), abs=0.01)
    assert chances[:, 2] == pytest.approx(np.minimum(above_0, above_1), abs=0.01)
