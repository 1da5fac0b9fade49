"""Trains one fit, epoch by epoch, and stores it in the ledger. Knows nothing of Ray or MLflow."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from ptune.config import FitSpec, Protocol
from ptune.extract.store import FeatureStore
from ptune.ledger import FitRecord, Ledger, predictions_table
from ptune.metrics import score_rows
from ptune.model.inception import InceptionTrunk
from ptune.model.scorer import Scorer, build_scorer
from ptune.model.weights import file_of, load_kinetics
from ptune.sample.dataset import TrainingBatch, training_batches
from ptune.train import checkpoint
from ptune.train.device import Acceleration
from ptune.train.loader import Waiting, on_device
from ptune.train.loss import focal_loss
from ptune.train.protocol import score_videos
from ptune.train.watch import LossWatch, Step

CHECKPOINT_SECONDS = 20.0
#: Of the time of training; where the ledger is slow to reach, checkpoints are rarer.
CHECKPOINT_SHARE = 0.05


@dataclass(frozen=True)
class Saving:
    """When a fit writes checkpoints.

    Args:
        seconds: what an interruption loses at most, but for a step.
        after: epochs at whose end one is written in any case.
    """

    seconds: float
    after: tuple[int, ...] = ()


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
    saving: Saving | None = None,
) -> Generator[Epoch, None, FitRecord]:
    """Yields the epochs of a fit and returns its record.

    A fit that the ledger has yields its stored history without training; an interrupted one continues from its
    checkpoint and yields the epochs it had first.

    Args:
        weights: folder of the initial weights; unused where the fit starts from random ones.
        saving: when checkpoints are written.

    Raises:
        FitFailed: the loss or a weight is not finite; names epoch, batch and videos. The last good checkpoint stays.
        WeightsError: the file that the spec names by its hash is not in `weights`.
    """
    found = ledger.find_fit(spec.signature())
    if found is not None:
        yield from _replayed(found.history)
        return found
    training = Training(spec, store, acceleration, weights, ledger, saving)
    yield from _replayed(training.progress.history)
    while training.progress.epoch < spec.stream.epochs:
        yield training.epoch()
    rows = training.predictions()
    record = ledger.add_fit(
        spec,
        training.progress.history,
        predictions_table(rows),
        to_safetensors({name: value.cpu().contiguous() for name, value in training.scorer.state_dict().items()}),
        training.facts(),
    )
    ledger.discard_checkpoint(record.signature)
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


class Training:
    """Model, optimizer and progress of one unfinished fit."""

    def __init__(
        self,
        spec: FitSpec,
        store: FeatureStore,
        acceleration: Acceleration,
        weights: Path | None,
        ledger: Ledger,
        saving: Saving | None = None,
    ) -> None:
        self.spec, self.store, self.acceleration, self.ledger = spec, store, acceleration, ledger
        self.saving = saving or Saving(CHECKPOINT_SECONDS)
        torch.manual_seed(spec.seed)
        self.scorer: Scorer = build_scorer(spec.stream, len(spec.classes))
        if spec.stream.init == "kinetics":
            assert isinstance(self.scorer.backbone, InceptionTrunk)
            load_kinetics(self.scorer.backbone, file_of(weights, spec.initial_weights))
        acceleration.place(self.scorer)
        self.forward = acceleration.step_of(self.scorer)
        self.watch = LossWatch(spec.signature())
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.scorer.parameters() if parameter.requires_grad],
            lr=spec.stream.learning_rate,
            fused=acceleration.device.type == "cuda",
        )
        found = checkpoint.load(ledger, spec.signature(), self.scorer, self.optimizer)
        self.progress = found or checkpoint.Progress(0, 0, 0.0, [], 0.0)
        self.saved, self.save_seconds = time.monotonic(), 0.0

    def epoch(self) -> Epoch:
        """Trains one epoch (or the rest of one) and validates with the cheap protocol."""
        spec, progress = self.spec, self.progress
        self.scorer.train()
        read = training_batches(spec.train, self.store, spec.stream, spec.seed, progress.epoch, progress.batch)
        batches = Waiting(on_device(read, self.acceleration))
        step = Step(progress.epoch + 1, progress.batch, ())
        clock = time.monotonic()
        for batch in batches:
            step = Step(progress.epoch + 1, progress.batch + 1, batch.video_ids)
            self.step(batch, step)
            progress.batch += 1
            now = time.monotonic()
            progress.stepping, progress.seconds = progress.stepping + now - clock, progress.seconds + now - clock
            progress.waited, batches.seconds = progress.waited + batches.seconds, 0.0
            clock = now
            if self._due(now):
                self.save(step)
        self._settle(step)
        metrics = {"loss": progress.loss_sum / len(spec.train)} | self._validated()
        progress.history.append(metrics)
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        progress.seconds += time.monotonic() - clock
        if self._due(time.monotonic()) or progress.epoch in self.saving.after:
            self.save(step)
        return Epoch(progress.epoch, metrics)

    def step(self, batch: TrainingBatch, step: Step) -> None:
        """Moves the weights once, by the gradient of the batch's mean loss."""
        stream = self.spec.stream
        torch.manual_seed(_step_seed(self.spec.seed, step.epoch - 1, step.batch - 1))
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in batch.parts(stream.batch_size // stream.accumulate):
            snippets_NCTHW = part.network_input(stream)
            with self.acceleration.autocast():
                output = self.forward(snippets_NCTHW.view(-1, stream.segments, *snippets_NCTHW.shape[1:]))
                loss = focal_loss(output.logits, part.labels_B, stream.focal)
            loss = loss * (len(part.video_ids) / len(batch.video_ids))
            torch.autograd.backward(loss)
            losses.append(loss.detach())
        self.watch.see(step, torch.stack(losses).sum())
        self.optimizer.step()

    def save(self, step: Step) -> None:
        """Writes a checkpoint after this step, unless the fit went wrong."""
        self._settle(step)
        clock = time.monotonic()
        checkpoint.save(self.ledger, self.spec, self.scorer, self.optimizer, self.progress)
        self.saved = time.monotonic()
        self.save_seconds = self.saved - clock

    def _due(self, now: float) -> bool:
        return now - self.saved > max(self.saving.seconds, self.save_seconds / CHECKPOINT_SHARE)

    def _settle(self, step: Step) -> None:
        self.progress.loss_sum += self.watch.taken()
        self.watch.check_weights(self.scorer, step)

    def predictions(self) -> list[dict[str, Any]]:
        """Scores the held-out videos with the full test protocol."""
        clock = time.monotonic()
        rows = self._scored(self.spec.stream.test)
        self.progress.seconds += time.monotonic() - clock
        return rows

    def facts(self) -> dict[str, Any]:
        """Returns what is known of the run itself: seconds, device, and the share of its steps that waited for data."""
        progress = self.progress
        return {
            "seconds": progress.seconds,
            "device": self.acceleration.device.type,
            "data_wait_share": progress.waited / progress.stepping if progress.stepping else 0.0,
        }

    def _validated(self) -> dict[str, float]:
        spec = self.spec
        if not spec.held_out:
            return {}
        metrics = score_rows(self._scored(spec.stream.validation), spec.classes)
        return {f"validation.{name}": value for name, value in metrics.items()}

    def _scored(self, protocol: Protocol) -> list[dict[str, Any]]:
        spec = self.spec
        if not spec.held_out:
            return []
        return score_videos(self.scorer, spec.held_out, self.store, spec.stream, protocol, self.acceleration, spec.fold)


def _step_seed(seed: int, epoch: int, batch: int) -> int:
    """Returns the seed of dropout in one step, so that a resumed fit draws what an unbroken one would."""
    return (seed * 1_000_003 + epoch) * 1_000_003 + batch
