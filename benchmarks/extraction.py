"""What the extraction pipeline adds to pure flow, how it scales to two workers, and what memory a long video takes.

python benchmarks/extraction.py scale [PAIRS]       one and two workers, and flow alone on as many processes
python benchmarks/extraction.py memory [FRAMES]     peak memory of each worker for 500 and for FRAMES frames
python benchmarks/extraction.py store               random 32-frame snippets against a copy of as many bytes
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from ptune.cluster import ray_session
from ptune.cohort.manifest import Video
from ptune.config import ExtractConfig, TVL1Config
from ptune.extract.flow import backend_named, to_gray, tvl1
from ptune.extract.pipeline import extract
from ptune.extract.store import open_store
from ptune.home import Home

SIZE = (340, 256)
FULL = ExtractConfig()
#: As much memory as the default solver, in a hundredth of its time.
LIGHT = ExtractConfig(flow=TVL1Config(scales=2, warps=1, inner_iterations=1, outer_iterations=1))


def scale(pairs: int = 3000) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        # Two short videos and a long one, which both workers have to share.
        lengths = [pairs // 4, pairs // 4, pairs - 2 * (pairs // 4)]
        videos = [clip(folder / f"{index}.mp4", length + 1, index) for index, length in enumerate(lengths)]
        backend_named("cpu").warm_up()
        with ray_session(Home.open(folder / "ray"), 2):
            extract([clip(folder / "first.mp4", 20, 9)], LIGHT, Home.open(folder / "warm"), 2, "cpu")
            seconds = {}
            for workers in (1, 2):
                start = time.perf_counter()
                extract(videos, FULL, Home.open(folder / str(workers)), workers, "cpu")
                seconds[workers] = time.perf_counter() - start
        store = open_store(Home.open(folder / "1").features, FULL)
        frames = [store.video(video.id).rgb for video in videos]
        pure = {workers: flow_alone(frames, workers) for workers in (1, 2)}
    print(f"{'workers':>8} {'pairs':>6} {'pipeline s':>11} {'flow alone s':>13} {'ratio':>6}")
    for workers in (1, 2):
        ratio = seconds[workers] / pure[workers]
        print(f"{workers:8} {pairs:6} {seconds[workers]:11.1f} {pure[workers]:13.1f} {ratio:6.2f}")
    print(f"two workers against one: pipeline {seconds[1] / seconds[2]:.2f}, flow alone {pure[1] / pure[2]:.2f}")


def flow_alone(videos: list[np.ndarray], workers: int) -> float:
    """Returns the seconds that as many processes take for the flow of all pairs, frames in memory."""
    gray = [to_gray(frames) for frames in videos]
    pieces = [frames[first : first + 33] for frames in gray for first in range(0, len(frames) - 1, 32)]
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_one_core) as pool:
        pool.map(_solve, [piece[:2] for piece in pieces[:workers]])
        start = time.perf_counter()
        pool.map(_solve, pieces, chunksize=1)
        return time.perf_counter() - start


def _one_core() -> None:
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def _solve(gray: np.ndarray) -> int:
    return len(tvl1(gray, "cpu", FULL.flow))


WORKER = """
import resource, sys
from pathlib import Path
from benchmarks.extraction import LIGHT, peak
from ptune.extract.workers import DecodeWorker, FlowWorker
path, store = sys.argv[1:]
row = {"id": "video", "path": path, "config": LIGHT.model_dump_json(by_alias=True), "store": store, "backend": "cpu",
       "allow_damaged": False, "start_seconds": 0.0, "end_seconds": float("inf")}
rows = DecodeWorker()(row)
decoding = peak(resource.RUSAGE_SELF)
last = [FlowWorker()(row) for row in rows][-1]
assert last["status"] == "done", last
print(decoding, peak(resource.RUSAGE_CHILDREN), peak(resource.RUSAGE_SELF))
"""


def memory(frames: int = 5000) -> None:
    print(f"{'frames':>7} {'decode worker MB':>17} {'its child MB':>13} {'flow worker MB':>15}")
    found = []
    with tempfile.TemporaryDirectory() as name:
        for count in (500, frames):
            path = Path(name) / f"{count}.mp4"
            clip(path, count, 0)
            store = Path(name) / f"store{count}"
            command = [sys.executable, "-c", WORKER, str(path), str(store)]
            run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
            found.append([float(value) for value in run.stdout.split()])
            print(f"{count:7} {found[-1][0]:17.0f} {found[-1][1]:13.0f} {found[-1][2]:15.0f}")
    ratios = [long / short for short, long in zip(*found, strict=True)]
    print(f"{'ratio':>7} {ratios[0]:17.2f} {ratios[1]:13.2f} {ratios[2]:15.2f}")


def peak(who: int) -> float:
    """Returns the peak resident memory of this process, or of the largest of its children that ended, in MB."""
    return resource.getrusage(who).ru_maxrss / 1024


def store(snippets: int = 300) -> None:
    frames, count = 2000, 32
    with tempfile.TemporaryDirectory() as name:
        features = open_store(Path(name), FULL)
        random = np.random.default_rng(0)
        rgb = random.integers(0, 256, (frames, SIZE[1], SIZE[0], 3), np.uint8)
        flow = random.integers(-3000, 3000, (frames - 1, SIZE[1], SIZE[0], 2), np.int16)
        features.write("video", rgb, flow, 25.0)
        start = time.perf_counter()
        features.video("video")
        print(f"first open, checksums verified: {time.perf_counter() - start:.2f} s for {frames} frames")
        starts = random.integers(0, frames - count - 1, snippets)
        for modality, plain in (("rgb", rgb), ("flow", flow)):
            read = [_seconds(features.read, "video", modality, int(i), count) for i in starts]
            copied = [_seconds(plain.__getitem__, slice(i, i + count)) for i in starts]
            size = plain[:count].nbytes / 1e9
            one, other = statistics.median(read), statistics.median(copied)
            print(
                f"{modality:5} {count}-frame snippet: {1000 * one:.2f} ms ({size / one:.1f} GB/s), "
                f"copy from memory {1000 * other:.2f} ms, ratio {one / other:.2f}"
            )


def _seconds(read, *arguments) -> float:
    """Returns the time to read a view and to copy it."""
    start = time.perf_counter()
    np.array(read(*arguments))
    return time.perf_counter() - start


def clip(path: Path, frames: int, seed: int) -> Video:
    """Encodes a textured disc that swings over a textured ground, H.264 at 640x480."""
    random = np.random.default_rng(seed)
    ground, disc = (cv2.GaussianBlur(random.integers(0, 256, (480, 640), np.uint8), (0, 0), 3) for _ in range(2))
    ground, disc = (cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX) for image in (ground, disc))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for index in range(frames):
            x = int(320 + 150 * np.sin(index / 12 + seed))
            mask = np.zeros_like(ground)
            cv2.circle(mask, (x, 240), 90, 255, -1)
            image = np.where(mask > 0, np.roll(disc, x, 1), ground)
            picture = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, 2), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    identity = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Video(identity, path, f"S{seed}", "hand", 0, seed + 2)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("scale", "memory", "store"):
        sys.exit(__doc__)
    {"scale": scale, "memory": memory, "store": store}[sys.argv[1]](*(int(value) for value in sys.argv[2:3]))
