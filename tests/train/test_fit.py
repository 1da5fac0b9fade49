"""A fit learns, is stored once, and its identity is what determines it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ptune.ledger import Ledger
from ptune.train import checkpoint
from ptune.train.device import Acceleration
from ptune.train.fit import fit_epochs, run_fit
from ptune.train.protocol import load_scorer, score_video
from tests.example_features import CLASSES, example_spec, example_videos, write_features

CPU = Acceleration.best("cpu")


@pytest.fixture(scope="module")
def videos():
    return example_videos()


@pytest.fixture(scope="module")
def store(tmp_path_factory, videos):
    return write_features(tmp_path_factory.mktemp("features"), videos)


def test_a_fit_learns_the_drift_of_unseen_subjects_and_is_trained_once(store, videos, tmp_path):
    spec = example_spec(videos, {"S05", "S06"}, epochs=24, attention=False)
    ledger = Ledger(tmp_path)
    record = run_fit(spec, store, ledger, CPU)
    losses = [epoch["loss"] for epoch in record.history]
    assert losses[-1] < 0.3 * losses[0]
    table = record.predictions().to_pylist()
    assert [row["subject"] for row in table] == ["S05", "S05", "S06", "S06"]
    assert all(np.argmax(row["probabilities"]) == row["label"] for row in table)
    assert all(len(row["attention"]) == spec.stream.test.snippets for row in table)

    again = fit_epochs(spec, store, ledger, CPU)
    assert [epoch.metrics["loss"] for epoch in again] == losses
    with ledger.checkpoint(record.signature) as left:
        assert left is None
    assert 0 < record.summary["data_wait_share"] < 0.5


def test_stored_weights_give_the_stored_predictions(store, videos, tmp_path):
    spec = example_spec(videos, {"S01"}, epochs=1)
    record = run_fit(spec, store, Ledger(tmp_path), CPU)
    scorer = load_scorer(spec.stream, len(CLASSES), record.weights, CPU)
    for row in record.predictions().to_pylist():
        score = score_video(scorer, store.video(row["video_id"]), spec.stream, spec.stream.test, CPU)
        np.testing.assert_allclose(score.probabilities, row["probabilities"], atol=1e-6)


def test_signature_follows_what_determines_the_fit(videos):
    spec = example_spec(videos, {"S06"})
    assert spec.signature() == example_spec(videos, {"S06"}).signature()
    assert spec.model_copy(update={"fold": 3}).signature() == spec.signature()
    others = [
        example_spec(videos, {"S05"}),
        example_spec(videos, {"S06"}, segments=3),
        example_spec(videos, {"S06"}, accumulate=2),
        spec.model_copy(update={"seed": 1}),
        spec.model_copy(update={"initial_weights": "ab"}),
    ]
    assert len({spec.signature(), *(other.signature() for other in others)}) == 6


def test_checkpoint_of_another_file_format_is_passed_over(videos, tmp_path: Path):
    spec, ledger = example_spec(videos, {"S06"}), Ledger(tmp_path)
    ledger.save_checkpoint(spec, lambda path: path.write_bytes(b"not safetensors") and None)
    model = torch.nn.Linear(2, 2)
    assert checkpoint.load(ledger, spec.signature(), model, torch.optim.Adam(model.parameters())) is None
