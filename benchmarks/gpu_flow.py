"""Checks and times TV-L1 on a GPU: every pair's bytes against the CPU's, pairs a second, where the time goes.

    python benchmarks/gpu_flow.py make FILE.npz    where the clips and OpenCV are: frames, and what their flow must be
    python benchmarks/gpu_flow.py run FILE.npz     on the GPU: Markdown
    python benchmarks/gpu_flow.py tune FILE.npz    on the GPU: pairs a second under other launch settings

`make` reads the clips in ../shared/videos. `run` needs PyTorch, NumPy and Numba; pydantic may be absent.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
VIDEOS = Path(__file__).parents[2] / "shared" / "videos"
BATCH, CLIP_PAIRS = 64, 10
#: Clips whose first pairs are timed: a walk past a still camera, a camera in fast motion.
TIMED = ("walking_outdoors.mp4", "segway_handheld.mp4")
RUNS = 5

#: Bytes that an iteration moves for each pixel: `primal` reads nine floats and writes two, `dual` six and four.
BYTES = 4 * (9 + 2 + 6 + 4)

SETTINGS = [
    {"tau": 0.2, "lambda_": 0.05, "theta": 0.5, "scales": 3, "warps": 2, "epsilon": 0.02},
    {"scale_step": 0.5, "median_size": 3, "inner_iterations": 7, "outer_iterations": 4, "epsilon": 0.001},
    {"scales": 1, "warps": 3, "median_size": 1, "lambda_": 0.4, "tau": 0.1, "inner_iterations": 1},
]


@dataclass
class Case:
    """Frames and the flow that they must have.

    Args:
        name: what it is.
        frames: uint8 [T,H,W].
        settings: fields of `TVL1Config` that are not the defaults.
        scaled: whether the solver gets floats in [0,1].
        hashes: SHA-256 of each pair's flow.
        work: pixels that each pair's inner iterations update, over all levels.
    """

    name: str
    frames: np.ndarray
    settings: dict[str, Any]
    scaled: bool
    hashes: list[str]
    work: list[int]

    def gray(self) -> np.ndarray:
        return self.frames.astype(np.float32) / np.float32(255) if self.scaled else self.frames


# Making the file.


def make(path: str) -> None:
    cases = []
    for name, frames, settings, scaled in sources():
        case = Case(name, frames, settings, scaled, [], [])
        solve_on_cpu(case)
        cases.append(case)
        print(
            f"{name:44} {len(case.hashes):3} pairs, {np.mean(case.work) / frames[0].size:6.0f} iterations", flush=True
        )
    facts = [{**vars(case), "frames": None} for case in cases]
    arrays = {f"frames_{index}": case.frames for index, case in enumerate(cases)}
    np.savez_compressed(path, facts=json.dumps(facts), **arrays)
    print(f"{path}: {Path(path).stat().st_size / 2**20:.1f} MiB")


def sources() -> Iterator[tuple[str, np.ndarray, dict[str, Any], bool]]:
    from ptune.config import ExtractConfig
    from ptune.extract.decode import decode
    from ptune.extract.flow import to_gray

    clips = {}
    for path in sorted(VIDEOS.glob("*.*")):
        if path.suffix in {".mp4", ".avi", ".gif"}:
            clips[path.name] = to_gray(decode(path, ExtractConfig()).frames)
    longest = max(clips, key=lambda name: len(clips[name]))
    for name in TIMED:
        yield f"{name}, {BATCH} pairs", clips[name][: BATCH + 1], {}, False
    for name, gray in clips.items():
        first = max(0, len(gray) - CLIP_PAIRS - 1)
        yield name, gray[first : first + CLIP_PAIRS + 1], {}, False
    small = clips[longest][:5, 40:161, 60:217]
    for number, settings in enumerate(SETTINGS):
        yield f"other settings {number + 1}", np.ascontiguousarray(small), settings, False
    yield "floats in [0,1]", np.ascontiguousarray(small), {}, True
    cut = np.stack([small[0], small[1], small[1], clips[min(clips)][0, :121, :157], np.full((121, 157), 9, np.uint8)])
    yield "still pair, scene cut, flash", cut, {}, False
    for height, width in ((2, 2), (15, 40), (33, 47), (90, 16)):
        noise = np.random.default_rng(height).integers(0, 256, (3, height, width), np.uint8)
        yield f"noise {width}x{height}", noise, {}, False


def solve_on_cpu(case: Case) -> None:
    """Solves pair by pair with the "cpu" backend and notes hashes and work."""
    from ptune.config import TVL1Config
    from ptune.extract import tvl1_cpu

    original, work = tvl1_cpu._iterate, [0]

    def counted(state: np.ndarray, width: int, *rest: Any) -> bool:
        for _ in range(rest[-1]):
            work[0] += state.shape[0] * width
            if not original(state, width, *rest[:-1], 1):
                return False
        return True

    tvl1_cpu._iterate = counted
    gray = case.gray()
    for index in range(len(gray) - 1):
        work[0] = 0
        case.hashes += hashes(tvl1_cpu.solve(gray[index : index + 2], TVL1Config(**case.settings)))
        case.work.append(work[0])
    tvl1_cpu._iterate = original


def hashes(flow: np.ndarray) -> list[str]:
    return [hashlib.sha256(np.ascontiguousarray(pair).tobytes()).hexdigest() for pair in flow]


# Running it on a GPU.


def load(path: str) -> list[Case]:
    with np.load(path) as archive:
        facts = json.loads(str(archive["facts"]))
        return [Case(**{**fact, "frames": archive[f"frames_{index}"]}) for index, fact in enumerate(facts)]


def solver() -> tuple[Any, Any]:
    """Returns the GPU's solver and its settings' class, a plain one where pydantic is absent."""
    try:
        import pydantic  # noqa: F401
    except ImportError:

        @dataclass(frozen=True)
        class TVL1Config:
            tau: float = 0.25
            lambda_: float = 0.15
            theta: float = 0.3
            scales: int = 5
            warps: int = 5
            epsilon: float = 0.01
            inner_iterations: int = 30
            outer_iterations: int = 10
            scale_step: float = 0.8
            median_size: int = 5

        for name in ("ptune.config", "ptune.config.extraction"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].TVL1Config = TVL1Config
    from ptune.config.extraction import TVL1Config
    from ptune.extract import tvl1_gpu

    return tvl1_gpu, TVL1Config


def run(path: str) -> None:
    import torch

    gpu, Settings = solver()
    cases = load(path)
    print(f"# TV-L1 on {torch.cuda.get_device_name()}\n")
    print(f"PyTorch {torch.__version__}, Triton {_version('triton')}, CUDA {torch.version.cuda}\n")
    for executor in ("triton", "torch"):
        print(f"## {executor}: pairs with the CPU's bytes\n\n| frames | size | pairs | identical |\n|---|---|---|---|")
        for case in cases:
            found = hashes(gpu.solve(case.gray(), Settings(**case.settings), "cuda", executor))
            same = sum(one == other for one, other in zip(found, case.hashes, strict=True))
            size = f"{case.frames.shape[2]}x{case.frames.shape[1]}"
            print(f"| {case.name} | {size} | {len(found)} | {same} |", flush=True)
        print()
    speed(gpu, Settings(), cases)
    profile(gpu, Settings(), cases[0])


def speed(gpu: Any, config: Any, cases: list[Case]) -> None:
    """Prints pairs a second in batches, the transfers of frames and flow included."""
    bandwidth = copy_speed()
    print(f"## Speed\n\nMemory, measured by copying: {bandwidth / 1e12:.2f} TB/s. The limit is that of {BYTES} bytes")
    print("for each pixel and iteration at this speed, out of memory and not out of the cache. Iterations are counted")
    print("in frames of full size.\n")
    print("| frames | iterations a pair | executor | pairs/s | limit, pairs/s | share |\n|---|---|---|---|---|---|")
    for case in cases[: len(TIMED)]:
        for executor in ("triton", "torch"):
            rate = len(case.hashes) / timed(gpu, case.frames, config, executor)
            work = statistics.mean(case.work)
            limit = bandwidth / (BYTES * work)
            iterations = work / case.frames[0].size
            print(f"| {case.name} | {iterations:.0f} | {executor} | {rate:.0f} | {limit:.0f} | {rate / limit:.2f} |")
    print()


def timed(gpu: Any, frames: np.ndarray, config: Any, executor: str) -> float:
    """Returns the median seconds of several runs after one that warms up."""
    import torch

    seconds = []
    for _ in range(RUNS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        gpu.solve(frames, config, "cuda", executor)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def copy_speed() -> float:
    """Returns bytes a second, read and written, of a large copy on the device."""
    import torch

    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    target.copy_(source)
    events[0].record()
    for _ in range(10):
        target.copy_(source)
    events[1].record()
    torch.cuda.synchronize()
    return 10 * 2 * source.nbytes / (events[0].elapsed_time(events[1]) / 1e3)


def profile(gpu: Any, config: Any, case: Case) -> None:
    """Prints the time of each kernel over one batch."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    for executor, rows in (("triton", 8), ("torch", 12)):
        with profiled(activities=[ProfilerActivity.CUDA]) as trace:
            gpu.solve(case.frames, config, "cuda", executor)
        kernels = sorted(trace.key_averages(), key=lambda entry: -entry.self_device_time_total)
        total = sum(entry.self_device_time_total for entry in kernels)
        print(f"## Kernels, {executor}: {total / 1e3:.1f} ms on the device\n")
        print("| kernel | launches | ms | us a launch | share |\n|---|---|---|---|---|")
        for entry in kernels[:rows]:
            micros = entry.self_device_time_total
            share = micros / max(total, 1)
            print(
                f"| {entry.key[:60]} | {entry.count} | {micros / 1e3:.2f} | {micros / entry.count:.1f} | {share:.2f} |"
            )
        print()


#: Launch settings to try, one group after the other, each from the best so far.
TRIALS: list[list[dict[str, int]]] = [
    [{"SLOTS": slots} for slots in (8, 12, 16, 24, 32, 48, 64)],
    [
        {"BLOCK": block, "STEPS": steps, "WARPS": warps}
        for block, steps, warps in (
            (256, 2, 2),
            (256, 4, 4),
            (512, 1, 4),
            (512, 2, 4),
            (512, 4, 4),
            (512, 2, 8),
            (1024, 1, 8),
            (1024, 2, 8),
        )
    ],
    [{"PREPARE_EVERY": every} for every in (2, 4, 8)],
    [{"PREPARE_WARPS": warps, "PREPARE_REGISTERS": most} for warps, most in ((4, 128), (8, 64), (8, 128), (8, 168))],
    [{"ROUNDS": rounds} for rounds in (16, 32, 64)],
    [{"SLOTS": slots} for slots in (12, 16, 20, 24, 32, 48, 64)],
]


def tune(path: str) -> None:
    gpu, Settings = solver()
    case = load(path)[0]
    print("| settings | pairs/s | identical |\n|---|---|---|")
    best = 0.0
    for group in TRIALS:
        chosen: dict[str, int] = {}
        for trial in group:
            before = {name: getattr(gpu, name) for name in trial}
            _set(gpu, trial)
            try:
                rate = (len(case.frames) - 1) / timed(gpu, case.frames, Settings(), "triton")
                found = hashes(gpu.solve(case.frames, Settings(), "cuda", "triton"))
                same = sum(one == other for one, other in zip(found, case.hashes, strict=True))
                print(f"| {trial} | {rate:.0f} | {same} of {len(found)} |", flush=True)
            except Exception as error:
                rate = 0.0
                print(f"| {trial} | {type(error).__name__}: {str(error)[:80]} | |", flush=True)
            if rate > best:
                best, chosen = rate, trial
            _set(gpu, before)
        _set(gpu, chosen)
    kept = {name: getattr(gpu, name) for group in TRIALS for trial in group for name in trial}
    print(f"\nbest: {best:.0f} pairs/s with {kept}")


def _set(gpu: Any, values: dict[str, int]) -> None:
    for name, value in values.items():
        setattr(gpu, name, value)
    gpu._machine.cache_clear()


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    {"make": make, "run": run, "tune": tune}[sys.argv[1]](sys.argv[2])
