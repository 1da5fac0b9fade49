"""A fit learns, is stored once, resumes exactly, and refuses to go on with a loss that is not a number."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ptune.errors import FitFailed
from ptune.ledger import Ledger
from ptune.train import checkpoint, fit
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
    assert not (record.folder / checkpoint.NAME).exists()


def test_stored_weights_give_the_stored_predictions(store, videos, tmp_path):
    spec = example_spec(videos, {"S01"}, epochs=1)
    record = run_fit(spec, store, Ledger(tmp_path), CPU)
    scorer = load_scorer(spec.stream, len(CLASSES), record.weights, CPU)
    for row in record.predictions().to_pylist():
        score = score_video(scorer, store.video(row["video_id"]), spec.stream, spec.stream.test, CPU)
        np.testing.assert_allclose(score.probabilities, row["probabilities"], atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 4, 7])
def test_a_fit_interrupted_after_any_step_ends_with_the_same_bytes(store, videos, tmp_path, monkeypatch, steps):
    spec = example_spec(videos, {"S06"}, epochs=3)
    whole = load_file(run_fit(spec, store, Ledger(tmp_path / "whole"), CPU).weights)

    class Interrupted(Exception):
        pass

    ledger = Ledger(tmp_path / "parts")
    done = 0
    loss = fit.focal_loss

    def dies_after_checkpoint(*arguments):
        nonlocal done
        if done == steps:
            raise Interrupted
        done += 1
        return loss(*arguments)

    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(fit, "focal_loss", dies_after_checkpoint)
    with pytest.raises(Interrupted):
        run_fit(spec, store, ledger, CPU)
    monkeypatch.setattr(fit, "focal_loss", loss)
    resumed = load_file(run_fit(spec, store, ledger, CPU).weights)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_loss_that_is_not_a_number_ends_the_fit_and_names_the_videos(store, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "focal_loss", lambda logits, labels, focal: logits.sum() * float("nan"))
    spec = example_spec(videos, {"S06"})
    ledger = Ledger(tmp_path)
    with pytest.raises(FitFailed, match=r"epoch 1, batch 1: loss is nan on videos 0{8}"):
        run_fit(spec, store, ledger, CPU)
    assert ledger.find_fit(spec.signature()) is None


def test_signature_follows_what_determines_the_fit(videos):
    spec = example_spec(videos, {"S06"})
    assert spec.signature() == example_spec(videos, {"S06"}).signature()
    assert spec.model_copy(update={"fold": 3}).signature() == spec.signature()
    others = [
        example_spec(videos, {"S05"}),
        example_spec(videos, {"S06"}, segments=3),
        spec.model_copy(update={"seed": 1}),
        spec.model_copy(update={"initial_weights": "ab"}),
    ]
    assert len({spec.signature(), *(other.signature() for other in others)}) == 5


def test_checkpoint_of_another_file_format_is_passed_over(tmp_path: Path):
    (tmp_path / checkpoint.NAME).write_bytes(b"not safetensors")
    model = torch.nn.Linear(2, 2)
    assert checkpoint.load(tmp_path, model, torch.optim.Adam(model.parameters())) is None
