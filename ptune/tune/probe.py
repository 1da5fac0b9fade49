"""A stream becomes the seconds that its training and scoring take on this machine, by a few real steps on noise.

Reads no video and writes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ptune.config import StreamConfig
from ptune.model.folding import folded
from ptune.model.scorer import Scorer, build_scorer
from ptune.sample.augment import centre_view
from ptune.sample.dataset import Piece, TrainingBatch
from ptune.train.device import Acceleration
from ptune.train.loss import focal_loss

#: On a CPU a step is measured on as many of its snippets as have so many pixels: seconds, not a minute.
STEP_PIXELS = 2_000_000
SHORT_SECONDS = 1.0
#: On a GPU, where the first steps compile.
WARM_STEPS, TIMED_STEPS = 2, 3


@dataclass(frozen=True)
class Pace:
    """What a stream costs on one actor.

    Args:
        step_seconds: one training step on a batch of videos.
        snippet_seconds: scoring one snippet of the test protocol.
        how: what was measured, in words.
    """

    step_seconds: float
    snippet_seconds: float
    how: str

    def epoch_seconds(self, stream: StreamConfig, trained: float, held_out: float) -> float:
        """Returns the seconds of one epoch on so many videos, validation included."""
        frames = stream.validation.frames / stream.test.frames
        steps = trained / stream.batch_size
        return steps * self.step_seconds + held_out * stream.validation.snippets * frames * self.snippet_seconds

    def fit_seconds(self, stream: StreamConfig, trained: float, held_out: float) -> float:
        """Returns the seconds of one fit on so many videos, the test protocol included."""
        test = held_out * stream.test.snippets * self.snippet_seconds
        return stream.epochs * self.epoch_seconds(stream, trained, held_out) + test


def measure(stream: StreamConfig, classes: int, height: int, width: int, cores: int = 1) -> Pace:
    """Measures a stream on this machine's GPU, else on `cores` of its CPU.

    Args:
        height, width: of stored features, in pixels.
    """
    acceleration = Acceleration.best()
    scorer = build_scorer(stream, classes)
    acceleration.place(scorer)
    probe = _Probe(stream, scorer, acceleration, height, width)
    on_gpu = acceleration.device.type == "cuda"
    whole = stream.batch_size * stream.segments
    count = whole if on_gpu else max(1, min(whole, STEP_PIXELS // (stream.snippet_frames * stream.crop**2)))
    videos, segments = (stream.batch_size, stream.segments) if count == whole else (1, count)
    with _threads(cores):
        snippet = probe.seconds_to_score(stream.test.frames)
        step = probe.seconds_to_train(videos, segments, *((WARM_STEPS, TIMED_STEPS) if on_gpu else ())) * whole / count
    device = torch.cuda.get_device_name(acceleration.device) if on_gpu else f"{cores} of {os.cpu_count()} CPU cores"
    how = (
        f"{'all' if count == whole else count} of the {whole} snippets of a training step ({stream.batch_size} videos, "
        f"{stream.snippet_frames} frames, {stream.crop} px), and scoring, on {device}"
    )
    return Pace(step, snippet, how)


class _Probe:
    """A network and what it is fed: noise."""

    def __init__(
        self, stream: StreamConfig, scorer: Scorer, acceleration: Acceleration, height: int, width: int
    ) -> None:
        self.stream, self.scorer, self.acceleration = stream, scorer, acceleration
        self.height, self.width = height, width
        self.forward = acceleration.step_of(scorer)
        trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, fused=acceleration.device.type == "cuda")

    def seconds_to_train(self, videos: int, segments: int, warm: int = 0, timed: int = 1) -> float:
        """Returns the seconds of one training step, as `ptune.train.fit` takes it."""
        batch = self._batch(videos, segments, self.stream.snippet_frames)
        self.scorer.train()

        def step() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            for part in batch.parts(max(1, videos // self.stream.accumulate)):
                snippets_NCTHW = part.network_input(self.stream)
                with self.acceleration.autocast():
                    output = self.forward(snippets_NCTHW.view(-1, segments, *snippets_NCTHW.shape[1:]))
                    loss = focal_loss(output.logits, part.labels_B, self.stream.focal)
                torch.autograd.backward(loss)
            self.optimizer.step()

        return self._timed(step, warm, timed)

    @torch.inference_mode()
    def seconds_to_score(self, frames: int) -> float:
        """Returns the seconds of scoring one snippet, in batches as large as the test protocol's."""
        on_gpu = self.acceleration.device.type == "cuda"
        count = min(self.acceleration.snippets_at_once(frames, self.stream.crop), 64) if on_gpu else 1
        batch = self._batch(1, count, frames)
        network = folded(self.scorer)

        def score() -> None:
            with self.acceleration.autocast():
                network.snippet_scores(batch.network_input(self.stream))

        return self._timed(score, WARM_STEPS if on_gpu else 0, TIMED_STEPS if on_gpu else 1) / count

    def _batch(self, videos: int, snippets: int, frames: int) -> TrainingBatch:
        view = centre_view(self.height, self.width, self.stream.crop)
        channels, highest, kind = (3, 256, torch.uint8) if self.stream.modality == "rgb" else (2, 2048, torch.int16)
        pieces = []
        for video in range(videos):
            stored = torch.randint(0, highest, (snippets, frames, self.height, self.width, channels), dtype=kind)
            indices = torch.arange(frames).expand(snippets, frames).numpy()
            pieces.append(Piece(video, indices, [view] * snippets, stored))
        batch = TrainingBatch(tuple(pieces), torch.zeros(videos, dtype=torch.int64), ("",) * videos)
        return batch.moved(lambda tensor: tensor.to(self.acceleration.device))

    def _timed(self, work: Callable[[], None], warm: int, timed: int) -> float:
        for _ in range(warm):
            work()
        self._settle()
        start = time.perf_counter()
        for _ in range(timed):
            work()
        self._settle()
        seconds = (time.perf_counter() - start) / timed
        # What is short is measured once more, without what a first time costs.
        return seconds if warm or seconds > SHORT_SECONDS else self._timed(work, 1, TIMED_STEPS)

    def _settle(self) -> None:
        if self.acceleration.device.type == "cuda":
            torch.cuda.synchronize(self.acceleration.device)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
