"""Our training step and our test protocol against plain eager float32 I3D in NCDHW: same batch, same device, one run.

    python benchmarks/train.py [RUNS]

A CPU gets a small batch, a GPU the published setting: 2 videos of 4 snippets of 32 frames in training, 64 snippets of
16 frames in the test. Both sides take turns, each first in half of the runs. Ours starts from what the feature store
holds (whole frames, uint8) and crops and scales it within the measured time; the plain one gets the finished input,
though in scoring both get as many snippets at once.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from plain_i3d import PlainI3D

from ptune.config import ExtractConfig, FitSpec, FitVideo, Protocol, StreamConfig
from ptune.extract.store import FeatureStore, open_store
from ptune.ledger import Ledger
from ptune.sample.dataset import training_batches
from ptune.train.device import Acceleration
from ptune.train.fit import Training
from ptune.train.loader import Waiting, on_device
from ptune.train.protocol import score_video
from ptune.train.watch import Step

CLASSES = ("normal", "mild", "severe")
#: Multiply-adds of a 16-frame RGB snippet of 224x224 without the head; two operations each.
OPERATIONS_16 = 2 * 27.8e9
#: Share of them in the first layer, whose input needs no gradient.
FIRST_LAYER = 0.24
#: Dense bfloat16 operations per second. Source: NVIDIA's data sheets of the SXM modules.
PEAK = {"H100": 989e12, "H200": 989e12}


class Taken(NamedTuple):
    """What one run took, in seconds of the clock and of all cores. The latter hardly see who else uses a machine."""

    seconds: float
    cpu_seconds: float


def main(runs: int = 0) -> None:
    acceleration = Acceleration.best()
    gpu = acceleration.device.type == "cuda"
    runs = runs or (20 if gpu else 3)
    settings = {"segments": 4, "snippet_frames": 32} if gpu else {"segments": 2, "snippet_frames": 16}
    protocol = Protocol() if gpu else Protocol(snippets=4, frames=16)
    stream = StreamConfig.parse({"init": "random", "test": protocol.model_dump()} | settings, "benchmark")
    name = torch.cuda.get_device_name() if gpu else "CPU"
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {runs} runs after warm-up, medians")
    with tempfile.TemporaryDirectory() as folder:
        training, plain, store = prepared(Path(folder), stream, acceleration)
        clips = stream.batch_size * stream.segments * stream.snippet_frames / 16
        ours, reference, wait = step_times(training, plain, store, runs)
        report("training step", name, ours, reference, clips * OPERATIONS_16 * (3 - FIRST_LAYER))
        print(f"{'':15} waited for data {100 * wait:.1f} % of the step")
        ours, reference = score_times(training, plain, store, runs)
        report("test protocol", name, ours, reference, protocol.snippets * OPERATIONS_16)


def prepared(folder: Path, stream: StreamConfig, acceleration: Acceleration) -> tuple[Training, PlainI3D, FeatureStore]:
    """Returns a fit that has not begun, the plain network, and features of some videos."""
    extraction = ExtractConfig(width=340, height=256)
    store = open_store(folder, extraction)
    generator = np.random.default_rng(0)
    videos = []
    for number in range(4):
        video = FitVideo(video_id=f"{number:016x}", subject=f"S{number}", score=0, label=number % 3)
        rgb = generator.integers(0, 256, (150, 256, 340, 3), np.uint8)
        store.write(video.video_id, rgb, np.zeros((149, 256, 340, 2), np.int16), 25.0)
        videos.append(video)
    spec = FitSpec(
        stream=stream, classes=CLASSES, fold=0, train=tuple(videos), held_out=(), extraction=extraction.signature()
    )
    training = Training(spec, store, acceleration, None, Ledger(folder))
    return training, PlainI3D(len(CLASSES)).to(acceleration.device), store


def step_times(
    training: Training, plain: PlainI3D, store: FeatureStore, runs: int
) -> tuple[list[Taken], list[Taken], float]:
    """Returns seconds of our steps and of plain ones, and which share of ours waited for data."""
    spec, acceleration = training.spec, training.acceleration
    stream = spec.stream

    def endless():
        epoch = 0
        while True:
            yield from training_batches(spec.train, store, stream, 0, epoch)
            epoch += 1

    batches = Waiting(on_device(endless(), acceleration))
    batch = next(batches)
    x = batch.network_input(stream)
    optimizer = torch.optim.Adam(plain.parameters(), lr=stream.learning_rate)

    def ours() -> None:
        training.scorer.train()
        number = next(count)
        training.step(next(batches), Step(1, number, ()))

    def theirs() -> None:
        plain.train()
        optimizer.zero_grad()
        logits = plain(x).view(len(batch.video_ids), stream.segments, -1).mean(1)
        torch.nn.functional.cross_entropy(logits, batch.labels_B).backward()
        optimizer.step()

    count = iter(range(1, 10**6))
    warm = 3 if acceleration.compiled else 1
    repeat(ours, warm)
    batches.seconds = 0.0
    seconds = alternated(ours, theirs, runs, training)
    return *seconds, batches.seconds / sum(taken.seconds for taken in seconds[0])


def score_times(training: Training, plain: PlainI3D, store: FeatureStore, runs: int) -> tuple[list[Taken], list[Taken]]:
    """Returns seconds in which ours and the plain network score one video."""
    spec, acceleration = training.spec, training.acceleration
    stream, features = spec.stream, store.video(spec.train[0].video_id)
    x = torch.randn(min(stream.test.snippets, 16), 3, stream.test.frames, 224, 224, device=acceleration.device)

    def ours() -> None:
        score_video(training.scorer, features, stream, stream.test, acceleration)

    def theirs() -> None:
        plain.eval()
        with torch.no_grad():
            for _ in range(stream.test.snippets // len(x)):
                plain(x).softmax(1)

    return alternated(ours, theirs, runs, training)


def alternated(
    ours: Callable[[], None], theirs: Callable[[], None], runs: int, training: Training
) -> tuple[list[Taken], list[Taken]]:
    """Returns seconds of each side; after a warm-up they take turns, each first in half of the runs."""
    seconds: tuple[list[Taken], list[Taken]] = ([], [])
    device = training.acceleration.device
    for run in range(runs + 1):
        sides = list(zip((ours, theirs), seconds, strict=True))
        for work, times in sides if run % 2 else reversed(sides):
            wait_for(device)
            start, cpu_start = time.perf_counter(), time.process_time()
            work()
            wait_for(device)
            times.append(Taken(time.perf_counter() - start, time.process_time() - cpu_start))
    return seconds[0][1:], seconds[1][1:]


def repeat(work: Callable[[], None], times: int) -> None:
    for _ in range(times):
        work()


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(what: str, device: str, ours: list[Taken], theirs: list[Taken], operations: float) -> None:
    own, own_cpu = (statistics.median(values) for values in zip(*ours, strict=True))
    plain, plain_cpu = (statistics.median(values) for values in zip(*theirs, strict=True))
    rate = operations / own
    peak = next((value for key, value in PEAK.items() if key in device), None)
    note = f", {100 * rate / peak:.0f} % of bfloat16 peak" if peak else ""
    if device == "CPU":
        note = f"; CPU seconds {own_cpu:.2f} and {plain_cpu:.2f}, ratio {plain_cpu / own_cpu:.2f}"
    line = f"{what:15} ours {own * 1000:9.1f} ms, plain {plain * 1000:9.1f} ms, ratio {plain / own:5.2f}"
    print(f"{line}; {rate / 1e12:.3f} TFLOP/s{note}", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
