"""CPU-seconds per pair of frames: the "cpu" flow backend against OpenCV's, one thread each, and whether bytes agree.

The ratio is to be 4 at least; the goal is 8. `gpu_flow.py` is the benchmark of the "cuda" backend.

Reads the clips in ../shared/videos, or generates some where there are none.

    python benchmarks/flow.py [PAIRS] [WIDTHxHEIGHT]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np

from ptune.config import ExtractConfig, TVL1Config
from ptune.extract.decode import decode
from ptune.extract.flow import backend_named, to_gray, tvl1

VIDEOS = Path(__file__).parents[2] / "shared" / "videos"


def main(pairs: int = 4, size: str = "340x256") -> None:
    cv2.setNumThreads(1)
    width, height = (int(side) for side in size.split("x"))
    backend_named("cpu").warm_up()
    print(f"{'clip':28} {'pairs':>5} {'identical':>9} {'OpenCV s':>9} {'cpu s':>8} {'ratio':>6}")
    rows = [(name, *measure(gray)) for name, gray in clips(pairs, width, height)]
    for row in [*rows, ("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))]:
        name, count, identical, reference, ours = row
        line = f"{name:28} {count:5} {identical:9} {reference / count:9.4f} {ours / count:8.4f}"
        print(f"{line} {reference / ours:6.2f}")


def measure(gray: np.ndarray) -> tuple[int, int, float, float]:
    """Returns pairs, pairs with the same bytes, and CPU-seconds of OpenCV and of ours."""
    flows, seconds = [], []
    for backend in ("opencv", "cpu"):
        start = time.process_time()
        flows.append(tvl1(gray, backend, TVL1Config()))
        seconds.append(time.process_time() - start)
    identical = sum(one.tobytes() == other.tobytes() for one, other in zip(*flows, strict=True))
    return len(gray) - 1, identical, seconds[0], seconds[1]


def clips(pairs: int, width: int, height: int):
    """Yields names and gray frames uint8 [pairs + 1,height,width]."""
    paths = sorted(path for path in VIDEOS.glob("*.*") if path.suffix in {".mp4", ".avi", ".gif"})
    for path in paths:
        frames = decode(path, ExtractConfig(width=width, height=height)).frames
        first = max(0, (len(frames) - pairs - 1) // 2)
        yield path.name, to_gray(frames[first : first + pairs + 1])
    if not paths:
        for seed in range(3):
            yield f"synthetic {seed}", drifting(pairs, width, height, seed)


def drifting(pairs: int, width: int, height: int, seed: int) -> np.ndarray:
    """Returns a smooth texture that drifts and swells, uint8 [pairs + 1,height,width]."""
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
    frames = []
    for index in range(pairs + 1):
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0.5 * index, 1 + 0.01 * index)
        matrix[:, 2] += (1.5 + seed) * index
        moved = cv2.warpAffine(smooth, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        frames.append(moved.astype(np.uint8))
    return np.stack(frames)


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:3]))
