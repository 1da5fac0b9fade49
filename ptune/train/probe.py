"""How fast a stream trains and scores on this machine, by timing real steps on noise of the features' size.

Writes nothing that stays and needs no Ray; knows nothing of studies.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ptune.config import FitSpec, FitVideo, Protocol, StreamConfig
from ptune.extract.store import FeatureStore, VideoFeatures
from ptune.ledger import Ledger
from ptune.sample.dataset import training_batches
from ptune.train.device import Acceleration
from ptune.train.fit import Training
from ptune.train.protocol import video_scores
from ptune.train.watch import Step

#: Snippets that are scored while timing; one where that takes long.
MANY_SNIPPETS = 16
#: What takes no longer is run again.
SHORT_SECONDS, REPEATS = 0.5, 3
#: Frames of a snippet of the small step that stands for one too long to run.
SMALL_FRAMES = 8


@dataclass(frozen=True)
class Speed:
    """What training and scoring take on one device, or on one core where it is a CPU.

    Args:
        train_seconds: of a training step, for each of its videos.
        score_seconds: of scoring, for each frame of a snippet.
        scaled: whether a smaller step was timed and its time multiplied, because a whole one takes too long.
        device: cuda or cpu.
    """

    train_seconds: float
    score_seconds: float
    scaled: bool
    device: str

    def epoch_seconds(self, stream: StreamConfig, trained: float, held_out: float) -> float:
        """Returns what an epoch takes that trains on so many videos and validates on so many."""
        return trained * self.train_seconds + held_out * self._video_seconds(stream.validation)

    def fit_seconds(self, stream: StreamConfig, trained: float, held_out: float) -> float:
        """Returns what a fit takes, its test included."""
        epochs = stream.epochs * self.epoch_seconds(stream, trained, held_out)
        return epochs + held_out * self._video_seconds(stream.test)

    def _video_seconds(self, protocol: Protocol) -> float:
        return protocol.snippets * protocol.frames * self.score_seconds


def measure(
    stream: StreamConfig, height: int, width: int, acceleration: Acceleration, limit_seconds: float = 10.0
) -> Speed:
    """Times a training step and a scoring pass of a stream.

    On a CPU a small step tells whether a whole one would take longer than the limit; then another small one is timed
    instead. The first step of each kind warms up.

    Args:
        height, width: of the stored features in pixels.
        limit_seconds: what a whole step may take.
    """
    # Weights that start elsewhere cost the same.
    stream = stream.model_copy(update={"init": "random"})
    on_gpu = acceleration.device.type == "cuda"
    with _as_one_worker(acceleration):
        store = _Noise(stream, height, width)
        training = _training(stream, store, acceleration)
        spec, scaled, train = training.spec, False, 0.0
        if not on_gpu:
            small = _small(stream)
            training.spec = spec.model_copy(update={"stream": small, "train": spec.train[:1]})
            first = _step_seconds(training, acceleration)
            share = stream.segments * stream.snippet_frames / (small.segments * small.snippet_frames)
            scaled = first * share * stream.batch_size > limit_seconds
            if scaled:
                train = _step_seconds(training, acceleration) * share
            training.spec = spec
        if not scaled:
            # The first compile and record.
            _step_seconds(training, acceleration)
            train = _step_seconds(training, acceleration) / stream.batch_size
        score = _score_seconds(training, acceleration)
    return Speed(train, score, scaled, acceleration.device.type)


def _small(stream: StreamConfig) -> StreamConfig:
    """Returns a stream whose step is short; a batch norm needs more than one value, so that snippets stay two."""
    # The layers of other networks depend on the number of frames.
    frames = min(stream.snippet_frames, SMALL_FRAMES) if stream.backbone == "i3d" else stream.snippet_frames
    return stream.model_copy(update={"segments": 2, "snippet_frames": frames, "batch_size": 1, "accumulate": 1})


@contextmanager
def _as_one_worker(acceleration: Acceleration) -> Iterator[None]:
    """On a CPU a fit has one core."""
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    if acceleration.device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


class _Noise(FeatureStore):
    """Every video is the same noise."""

    def __init__(self, stream: StreamConfig, height: int, width: int) -> None:
        super().__init__(Path())
        frames = max(stream.snippet_frames, stream.test.frames) * stream.frame_stride + 1
        random = np.random.default_rng(0)
        rgb = random.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
        flow = random.integers(-4096, 4096, (frames - 1, height, width, 2), dtype=np.int16)
        self.noise = VideoFeatures(rgb, flow, 25.0)

    def video(self, video_id: str) -> VideoFeatures:
        return self.noise


def _training(stream: StreamConfig, store: FeatureStore, acceleration: Acceleration) -> Training:
    videos = tuple(
        FitVideo(video_id=f"noise-{number}", subject=f"noise-{number}", score=0, label=number % 3)
        for number in range(stream.batch_size)
    )
    classes = tuple(f"class-{number}" for number in range(_classes(stream)))
    spec = FitSpec(stream=stream, classes=classes, fold=-1, train=videos, held_out=(), extraction="noise")
    with tempfile.TemporaryDirectory() as folder:
        return Training(spec, store, acceleration, None, Ledger(Path(folder)))


def _classes(stream: StreamConfig) -> int:
    alpha = stream.focal.alpha
    return max(3, len(alpha)) if isinstance(alpha, tuple) else 3


def _step_seconds(training: Training, acceleration: Acceleration) -> float:
    training.scorer.train()

    def step() -> None:
        spec = training.spec
        (batch,) = training_batches(spec.train, training.store, spec.stream, 0, 0)
        moved = batch.moved(lambda tensor: tensor.to(acceleration.device))
        training.step(moved, Step(1, 1, batch.video_ids))

    return _seconds(step, acceleration)


def _score_seconds(training: Training, acceleration: Acceleration) -> float:
    """Returns seconds per frame."""
    stream = training.spec.stream
    on_gpu = acceleration.device.type == "cuda"
    features = training.store.video("noise")

    def seconds(snippets: int) -> float:
        protocol = Protocol(snippets=snippets, frames=stream.test.frames)
        scored = _seconds(
            lambda: video_scores(training.scorer, [features], stream, protocol, acceleration), acceleration
        )
        return scored / (snippets * stream.test.frames)

    one = seconds(1)
    # Folding the network is paid once a pass: of a short one it is too large a share.
    return seconds(MANY_SNIPPETS) if on_gpu or one * stream.test.frames < SHORT_SECONDS else one


def _seconds(work: Callable[[], object], acceleration: Acceleration) -> float:
    """Returns what work takes; of short work the least of further runs, which others disturb less."""
    first = _run_seconds(work, acceleration)
    return first if first > SHORT_SECONDS else min(_run_seconds(work, acceleration) for _ in range(REPEATS))


def _run_seconds(work: Callable[[], object], acceleration: Acceleration) -> float:
    start = time.perf_counter()
    work()
    if acceleration.device.type == "cuda":
        torch.cuda.synchronize(acceleration.device)
    return time.perf_counter() - start
