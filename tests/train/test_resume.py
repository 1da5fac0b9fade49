"""A fit that is interrupted anywhere ends as one that was not; one that goes wrong stops and keeps what was good."""

from __future__ import annotations

import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ptune.errors import FitFailed, StorageError
from ptune.ledger import Ledger
from ptune.train import fit
from ptune.train.device import Acceleration
from ptune.train.fit import run_fit
from tests.example_features import example_spec, example_videos, write_features
from tests.example_places import below, s3_server

CPU = Acceleration.best("cpu")
READ_AHEAD = replace(CPU, prefetch=True)
EPOCHS, STEPS = 2, 4
#: Five of the steps of a fit, drawn at random; always another one of them by changing the seed.
INTERRUPTED = sorted(np.random.default_rng(2026).choice(EPOCHS * STEPS, 5, replace=False).tolist())


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def videos():
    return example_videos(subjects=8)


@pytest.fixture(scope="module")
def store(tmp_path_factory, videos):
    return write_features(tmp_path_factory.mktemp("features"), videos)


@pytest.fixture(scope="module")
def spec(videos):
    """A fit that draws whatever can be drawn: snippets, crops, mirror images, dropout; the last batch is smaller."""
    spec = example_spec(videos, {"S08"}, epochs=EPOCHS, dropout=0.5, accumulate=2, crop=16)
    assert -(-len(spec.train) // spec.stream.batch_size) == STEPS
    assert len(spec.train) % spec.stream.batch_size
    return spec


@pytest.fixture(scope="module")
def whole(store, spec, tmp_path_factory):
    return run_fit(spec, store, Ledger(tmp_path_factory.mktemp("whole")), CPU)


def save_after_every_step(monkeypatch) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(fit, "CHECKPOINT_SHARE", float("inf"))


def interrupt(monkeypatch, name: str, after: int) -> None:
    """Makes a function of the fit raise at its call number `after`, counted from 0; earlier ones save a checkpoint."""
    original, calls = getattr(fit, name), 0

    def dies(*arguments):
        nonlocal calls
        if calls == after:
            raise Interrupted
        calls += 1
        return original(*arguments)

    save_after_every_step(monkeypatch)
    monkeypatch.setattr(fit, name, dies)


def assert_same(record, whole) -> None:
    expected, found = load_file(whole.weights), load_file(record.weights)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert record.history == whole.history
    assert record.predictions().equals(whole.predictions())


@pytest.mark.parametrize("step", INTERRUPTED)
def test_a_fit_interrupted_at_any_step_ends_with_the_same_bytes(store, spec, whole, tmp_path, monkeypatch, step):
    ledger = Ledger(tmp_path)
    with monkeypatch.context() as patch:
        # Two parts to a step, of which the second is where it stops: the first has added its gradients by then.
        interrupt(patch, "focal_loss", after=2 * step + 1)
        with pytest.raises(Interrupted):
            run_fit(spec, store, ledger, READ_AHEAD)
    assert_same(run_fit(spec, store, ledger, READ_AHEAD), whole)


def test_a_fit_interrupted_while_it_validates_ends_with_the_same_bytes(store, spec, whole, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, "score_videos", after=1)
        with pytest.raises(Interrupted):
            run_fit(spec, store, ledger, CPU)
    assert_same(run_fit(spec, store, ledger, CPU), whole)


def test_a_fit_whose_node_is_lost_goes_on_from_the_object_store(store, spec, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with s3_server() as bucket:
        place = below(bucket)
        with monkeypatch.context() as patch:
            interrupt(patch, "focal_loss", after=9)
            with pytest.raises(Interrupted):
                run_fit(spec, store, Ledger(place), CPU)
        with Ledger(place).checkpoint(spec.signature()) as path:
            assert all(value > 0 for name, value in load_file(path).items() if name.endswith(".step"))
        assert_same(run_fit(spec, store, Ledger(place), CPU), whole)


def test_checkpoints_are_as_rare_as_they_are_slow(store, spec, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(fit.checkpoint, "save", lambda *arguments: saved.append(arguments))
    save_after_every_step(monkeypatch)
    run_fit(spec, store, Ledger(tmp_path / "fast"), CPU)
    assert len(saved) == EPOCHS * (STEPS + 1)
    saved.clear()
    monkeypatch.setattr(fit, "CHECKPOINT_SHARE", 1e-12)
    run_fit(spec, store, Ledger(tmp_path / "slow"), CPU)
    assert len(saved) == 1


def test_a_checkpoint_that_finds_no_room_is_an_error_in_words_and_the_one_before_stays(
    store, spec, whole, tmp_path, monkeypatch
):
    save_after_every_step(monkeypatch)
    ledger, (soft, hard) = Ledger(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    original, calls = fit.checkpoint.save, []

    def save(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fit.checkpoint, "save", save)
        try:
            with pytest.raises(StorageError, match=r"checkpoint.safetensors: is larger than this process may write"):
                run_fit(spec, store, ledger, CPU)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with ledger.checkpoint(spec.signature()) as path:
        assert {int(value) for name, value in load_file(path).items() if name.endswith(".step")} == {2}
    assert_same(run_fit(spec, store, ledger, CPU), whole)


def test_a_loss_that_is_not_a_number_ends_the_fit_and_keeps_the_last_good_checkpoint(
    store, spec, tmp_path, monkeypatch
):
    original, calls = fit.focal_loss, []

    def breaks(*arguments):
        calls.append(arguments)
        return original(*arguments) * (float("nan") if len(calls) > 4 else 1)

    monkeypatch.setattr(fit, "focal_loss", breaks)
    save_after_every_step(monkeypatch)
    ledger = Ledger(tmp_path)
    with pytest.raises(FitFailed, match=r"epoch 1, batch 3: loss is nan on videos 0{8}"):
        run_fit(spec, store, ledger, READ_AHEAD)
    assert ledger.find_fit(spec.signature()) is None
    with ledger.checkpoint(spec.signature()) as path:
        kept = load_file(path)
    assert all(value.isfinite().all() for value in kept.values())
    assert {int(value) for name, value in kept.items() if name.endswith(".step")} == {2}


def test_weights_that_are_not_finite_are_never_stored(store, spec, tmp_path, monkeypatch):
    class Exploding(torch.autograd.Function):
        @staticmethod
        def forward(context, loss):
            return loss.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    original = fit.focal_loss
    monkeypatch.setattr(fit, "focal_loss", lambda *arguments: Exploding.apply(original(*arguments)))
    save_after_every_step(monkeypatch)
    ledger = Ledger(tmp_path)
    with pytest.raises(FitFailed, match=r"epoch 1, batch 1: weights are not finite after videos"):
        run_fit(spec, store, ledger, CPU)
    with ledger.checkpoint(spec.signature()) as left:
        assert left is None
