"""A fit scores unseen subjects by what the videos show: with permuted labels it is at chance.

`PTUNE_FULL=1` permutes them three times.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from ptune.ledger import Ledger
from ptune.metrics import score_rows
from ptune.train.device import Acceleration
from ptune.train.fit import run_fit
from tests.example_features import CLASSES, example_spec, example_videos, write_features

CPU = Acceleration.best("cpu")
SEEDS = range(3 if os.environ.get("PTUNE_FULL") else 1)
FOLDS = 2


@pytest.fixture(scope="module")
def videos():
    return example_videos(subjects=15)


@pytest.fixture(scope="module")
def store(tmp_path_factory, videos):
    return write_features(tmp_path_factory.mktemp("features"), videos)


def out_of_fold_f1(videos, store, root, seed: int, permuted: bool) -> float:
    """Returns the pooled macro F1 of subject-disjoint folds."""
    labels = [video.label for video in videos]
    if permuted:
        labels = np.random.default_rng(seed).permutation(labels).tolist()
    videos = tuple(video.model_copy(update={"label": label}) for video, label in zip(videos, labels, strict=True))
    subjects = sorted({video.subject for video in videos})
    rows = []
    for fold in range(FOLDS):
        spec = example_spec(
            videos, set(subjects[fold::FOLDS]), attention=False, epochs=20, batch_size=8, learning_rate=4e-3
        )
        spec = spec.model_copy(update={"seed": seed, "fold": fold})
        rows += run_fit(spec, store, Ledger(root), CPU).predictions().to_pylist()
    assert len(rows) == len(videos)
    return score_rows(rows, CLASSES)["f1_macro"]


def chance(labels: list[int], repeats: int = 4000) -> np.ndarray:
    """Returns the mean macro F1 over the seeds of answers that are drawn at random, [repeats]."""
    generator = np.random.default_rng(0)
    guesses = generator.integers(0, len(CLASSES), (repeats, len(SEEDS), len(labels)))
    f1 = []
    for label in range(len(CLASSES)):
        truth = np.asarray(labels) == label
        right = (truth & (guesses == label)).sum(-1)
        f1.append(2 * right / (truth.sum() + (guesses == label).sum(-1)))
    return np.mean(f1, axis=0).mean(-1)


def test_permuted_labels_are_predicted_at_chance_and_true_ones_well_above(videos, store, tmp_path):
    by_chance = chance([video.label for video in videos])
    permuted = [out_of_fold_f1(videos, store, tmp_path, seed, permuted=True) for seed in SEEDS]
    true = out_of_fold_f1(videos, store, tmp_path, 0, permuted=False)
    print(f"permuted {permuted}, true {true}, by chance {by_chance.mean():.2f} +- {by_chance.std():.2f}")
    assert np.mean(permuted) < np.quantile(by_chance, 0.99)
    assert true > np.quantile(by_chance, 0.99) + 0.2
