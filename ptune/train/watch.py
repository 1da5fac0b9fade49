"""Losses are read without making the device wait, and a fit that went wrong is stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptune.errors import FitFailed


@dataclass(frozen=True)
class Step:
    """Where a loss comes from: epoch and batch from 1, and the videos of the batch."""

    epoch: int
    batch: int
    video_ids: tuple[str, ...]


class LossWatch:
    """Adds up the losses of an epoch.

    On a GPU a loss is read one step late, when its copy has arrived, so that the device always has work queued. On a
    CPU it is read at once.

    Args:
        fit: signature, for errors.
    """

    def __init__(self, fit: str) -> None:
        self.fit = fit
        self._pending: tuple[Step, Tensor, torch.cuda.Event | None] | None = None
        self._sum = 0.0

    def see(self, step: Step, loss: Tensor) -> None:
        """Takes the loss of a step, float scalar, before its gradients are used.

        Raises:
            FitFailed: this loss or the one before is not finite.
        """
        arriving = loss.detach().to("cpu", non_blocking=True)
        arrived = torch.cuda.current_stream(loss.device).record_event() if loss.is_cuda else None
        self._settle()
        self._pending = (step, arriving, arrived)
        if arrived is None:
            self._settle()

    def taken(self) -> float:
        """Returns the sum of loss times videos since it was last taken, all steps included.

        Raises:
            FitFailed: the last loss is not finite.
        """
        self._settle()
        total, self._sum = self._sum, 0.0
        return total

    def _settle(self) -> None:
        if self._pending is None:
            return
        step, loss, arrived = self._pending
        self._pending = None
        if arrived is not None:
            arrived.synchronize()
        value = loss.item()
        if not math.isfinite(value):
            raise self._failed(step, f"loss is {value} on videos {', '.join(step.video_ids)}", "a finite loss")
        self._sum += value * len(step.video_ids)

    def check_weights(self, model: nn.Module, step: Step) -> None:
        """Refuses weights and statistics that are not finite, which a finite loss can leave behind.

        Args:
            step: the last one, the one to be named.

        Raises:
            FitFailed: a value is not finite.
        """
        finite = [value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point()]
        if not torch.stack(finite).all():
            found = f"weights are not finite after videos {', '.join(step.video_ids)}"
            raise self._failed(step, found, "finite weights")

    def _failed(self, step: Step, found: str, expected: str) -> FitFailed:
        where = f"fit {self.fit}, epoch {step.epoch}, batch {step.batch}"
        return FitFailed(where, found, expected, "Lower the learning rate.")
