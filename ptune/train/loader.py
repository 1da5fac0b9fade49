"""Batches come to the device before they are needed, read by one thread of their own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from ptune.sample.dataset import Batch
from ptune.train.device import Acceleration

B = TypeVar("B", bound=Batch)
Item = TypeVar("Item")

#: Batches that are read ahead.
DEPTH = 2


class Waiting(Iterator[Item]):
    """An iterator that adds up how long its user waited for the next item, `seconds`.

    With work queued on a GPU the device may be busy meanwhile: then this is an upper bound of what it waits.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self.items = items
        self.seconds = 0.0

    def __next__(self) -> Item:
        """Returns the next item."""
        start = time.monotonic()
        try:
            return next(self.items)
        finally:
            self.seconds += time.monotonic() - start


def on_device(batches: Iterator[B], acceleration: Acceleration) -> Iterator[B]:
    """Yields the batches on the device, in order; read ahead where the settings say so.

    What reading raises is raised here. Closing this iterator early ends its thread.
    """
    if acceleration.device.type == "cuda":
        yield from _copied(batches, acceleration.device)
    elif acceleration.prefetch:
        yield from _read_ahead(batches)
    else:
        yield from batches


def _read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    with ThreadPoolExecutor(1, "ptune-reader") as reader:
        coming = deque(reader.submit(next, items, None) for _ in range(DEPTH))
        while (item := coming.popleft().result()) is not None:
            coming.append(reader.submit(next, items, None))
            yield item


def _copied(batches: Iterator[B], device: torch.device) -> Iterator[B]:
    """Yields batches that another stream of the GPU copies while the current one computes."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copied() -> Iterator[tuple[B, torch.cuda.Event]]:
        for batch in batches:
            with torch.cuda.stream(copying):
                moved = batch.moved(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
                arrived = copying.record_event()
            yield moved, arrived

    for batch, arrived in _read_ahead(copied()):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(arrived)

        def used_there(tensor: Tensor, computing: torch.cuda.Stream = computing) -> Tensor:
            tensor.record_stream(computing)
            return tensor

        yield batch.moved(used_there)
