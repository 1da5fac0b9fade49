"""Trains one fit, epoch by epoch, and stores it in the ledger. Knows nothing of Ray or MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from ptune.config import FitSpec
from ptune.errors import FitFailed
from ptune.extract.store import FeatureStore
from ptune.ledger import FitRecord, Ledger, predictions_table
from ptune.metrics import score_rows
from ptune.model.inception import InceptionTrunk
from ptune.model.scorer import Scorer, build_scorer
from ptune.model.weights import file_of, load_kinetics
from ptune.sample.dataset import training_batches
from ptune.train import checkpoint
from ptune.train.device import Acceleration
from ptune.train.loss import focal_loss
from ptune.train.protocol import score_videos

CHECKPOINT_SECONDS = 20.0


@dataclass(frozen=True)
class Epoch:
    """One epoch of a fit: its number from 1 and its metrics, `loss` and `validation.*`."""

    number: int
    metrics: dict[str, float]


def fit_epochs(
    spec: FitSpec,
    store: FeatureStore,
    ledger: Ledger,
    acceleration: Acceleration,
    weights: Path | None = None,
) -> Generator[Epoch, None, FitRecord]:
    """Yields the epochs of a fit and returns its record.

    A fit that the ledger has yields its stored history without training; an interrupted one continues from its
    checkpoint and yields the epochs it had first.

    Args:
        weights: folder of the initial weights; unused where the fit starts from random ones.

    Raises:
        FitFailed: the loss is not finite; names epoch and batch.
        WeightsError: the file that the spec names by its hash is not in `weights`.
    """
    found = ledger.find_fit(spec.signature())
    if found is not None:
        yield from _replayed(found.history)
        return found
    training = _Training(spec, store, acceleration, weights, ledger.fit_folder(spec.signature()))
    yield from _replayed(training.progress.history)
    while training.progress.epoch < spec.stream.epochs:
        yield training.epoch()
    rows = training.predictions()
    record = ledger.add_fit(
        spec,
        training.progress.history,
        predictions_table(rows),
        to_safetensors({name: value.cpu().contiguous() for name, value in training.scorer.state_dict().items()}),
        {"seconds": training.progress.seconds, "device": acceleration.device.type},
    )
    checkpoint.discard(record.folder)
    return record


def run_fit(
    spec: FitSpec, store: FeatureStore, ledger: Ledger, acceleration: Acceleration, weights: Path | None = None
) -> FitRecord:
    """Trains a fit to its end, or returns it from the ledger."""
    epochs = fit_epochs(spec, store, ledger, acceleration, weights)
    while True:
        try:
            next(epochs)
        except StopIteration as done:
            record: FitRecord = done.value
            return record


def _replayed(history: list[dict[str, float]]) -> Generator[Epoch, None, None]:
    for number, metrics in enumerate(history, 1):
        yield Epoch(number, metrics)


class _Training:
    """Model, optimizer and progress of one unfinished fit."""

    def __init__(
        self, spec: FitSpec, store: FeatureStore, acceleration: Acceleration, weights: Path | None, folder: Path
    ) -> None:
        self.spec, self.store, self.acceleration, self.folder = spec, store, acceleration, folder
        torch.manual_seed(spec.seed)
        self.scorer: Scorer = build_scorer(spec.stream, len(spec.classes))
        if spec.stream.init == "kinetics":
            assert isinstance(self.scorer.backbone, InceptionTrunk)
            load_kinetics(self.scorer.backbone, file_of(weights, spec.initial_weights))
        acceleration.place(self.scorer)
        self.step_model: Any = torch.compile(self.scorer) if acceleration.compiled else self.scorer
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.scorer.parameters() if parameter.requires_grad],
            lr=spec.stream.learning_rate,
            fused=acceleration.device.type == "cuda",
        )
        found = checkpoint.load(folder, self.scorer, self.optimizer)
        self.progress = found or checkpoint.Progress(0, 0, 0.0, [], 0.0)
        self.saved = time.monotonic()

    def epoch(self) -> Epoch:
        """Trains one epoch (or the rest of one) and validates with the cheap protocol."""
        spec, progress = self.spec, self.progress
        self.scorer.train()
        batches = training_batches(
            spec.train, self.store, spec.stream, spec.seed, progress.epoch, self.acceleration.device, progress.batch
        )
        clock = time.monotonic()
        for batch in batches:
            torch.manual_seed(_step_seed(spec.seed, progress.epoch, progress.batch))
            with self.acceleration.autocast():
                output = self.step_model(batch.snippets_BKCTHW)
                loss = focal_loss(output.logits, batch.labels_B, spec.stream.focal)
            value = loss.item()
            if not math.isfinite(value):
                raise FitFailed(
                    f"fit {spec.signature()}, epoch {progress.epoch + 1}, batch {progress.batch + 1}",
                    f"loss is {value} on videos {', '.join(batch.video_ids)}",
                    "a finite loss",
                    "Lower the learning rate.",
                )
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()
            progress.loss_sum += value * len(batch.video_ids)
            progress.batch += 1
            now = time.monotonic()
            progress.seconds, clock = progress.seconds + now - clock, now
            if now - self.saved > CHECKPOINT_SECONDS:
                self.save()
        metrics = {"loss": progress.loss_sum / len(spec.train)} | self._validated()
        progress.history.append(metrics)
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        progress.seconds += time.monotonic() - clock
        if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.save()
        return Epoch(progress.epoch, metrics)

    def save(self) -> None:
        """Writes a checkpoint."""
        checkpoint.save(self.folder, self.scorer, self.optimizer, self.progress)
        self.saved = time.monotonic()

    def predictions(self) -> list[dict[str, Any]]:
        """Scores the held-out videos with the full test protocol."""
        spec = self.spec
        clock = time.monotonic()
        rows = score_videos(
            self.scorer, spec.held_out, self.store, spec.stream, spec.stream.test, self.acceleration, spec.fold
        )
        self.progress.seconds += time.monotonic() - clock
        return rows

    def _validated(self) -> dict[str, float]:
        spec = self.spec
        if not spec.held_out:
            return {}
        rows = score_videos(
            self.scorer, spec.held_out, self.store, spec.stream, spec.stream.validation, self.acceleration, spec.fold
        )
        return {f"validation.{name}": value for name, value in score_rows(rows, spec.classes).items()}


def _step_seed(seed: int, epoch: int, batch: int) -> int:
    """Returns the seed of dropout in one step, so that a resumed fit draws what an unbroken one would."""
    return (seed * 1_000_003 + epoch) * 1_000_003 + batch
