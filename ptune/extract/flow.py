"""Gray frames become TV-L1 optical flow, and float flow becomes the fixed-point numbers that are stored.

Knows nothing of files. Solvers stand in one table; each pair of frames is solved by itself.

Source: section 4.1; Zach, Pock and Bischof 2007; OpenCV's `DualTVL1OpticalFlow` is the reference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ptune.config.base import nearest
from ptune.config.extraction import TVL1Config
from ptune.errors import ConfigError

#: Stored flow counts in this many px/frame.
FLOW_UNIT = 1 / 1024
#: The largest stored magnitude; the other end of int16 stays unused, so that mirroring is exact.
FLOW_LIMIT = 32767

#: The CPU's quick solver; "opencv" is the reference that it and "cuda" equal byte for byte.
DEFAULT_BACKEND = "cpu"

Gray = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Flow = npt.NDArray[np.float32]
Solver = Callable[[Gray, TVL1Config], Flow]


@dataclass(frozen=True)
class Backend:
    """One implementation of TV-L1.

    Args:
        solve: uint8 [T,H,W], or float32 in [0,1], to float32 [T-1,H,W,2] in px/frame.
        needs_gpu: a worker of it occupies one GPU.
        warm_up: does once what would keep every worker waiting at its first frames.
    """

    solve: Solver
    needs_gpu: bool = False
    warm_up: Callable[[], None] = lambda: None


def tvl1(gray: Gray, backend: str = DEFAULT_BACKEND, config: TVL1Config = TVL1Config()) -> Flow:  # noqa: B008 (frozen)
    """Returns the flow from each frame to the next as float32 [T-1,H,W,2] in px/frame: u to the right, v downward.

    Args:
        gray: uint8 [T,H,W], or float32 in [0,1]; at least one frame.
        backend: a name in `BACKENDS`.
        config: the solver's parameters.

    Raises:
        ConfigError: there is no such backend.
        ValueError: `gray` has another shape or type.
    """
    if gray.ndim != 3 or gray.dtype not in (np.uint8, np.float32) or not gray.size:
        raise ValueError(f"gray is {gray.dtype} {list(gray.shape)}, expected uint8 [T,H,W] or float32 in [0,1]")
    return backend_named(backend).solve(gray, config)


def backend_named(name: str) -> Backend:
    """Returns a backend.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in BACKENDS:
        known = sorted(BACKENDS)
        raise ConfigError("flow backend", f"{name!r} is unknown{nearest(name, known)}", f"one of {', '.join(known)}")
    return BACKENDS[name]


def default_backend() -> str:
    """Returns the quickest backend of this machine: "cuda" where PyTorch sees a GPU, else `DEFAULT_BACKEND`."""
    # A build for CPUs sees none; importing PyTorch to hear so takes seconds.
    if version("torch").endswith("+cpu"):
        return DEFAULT_BACKEND
    import torch

    return "cuda" if torch.cuda.is_available() else DEFAULT_BACKEND


def to_gray(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns the luma of RGB frames uint8 [T,H,W,3] as uint8 [T,H,W] (BT.601 weights)."""
    return np.stack([cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames])


def quantize(flow: Flow) -> npt.NDArray[np.int16]:
    """Returns flow in units of 1/1024 px/frame, rounded, saturating just under +-32 px/frame.

    Args:
        flow: float of any shape in px/frame.

    Raises:
        ValueError: a value is not a number.
    """
    stored = np.empty(flow.shape, np.int16)
    # Frame by frame, so that what is between float and integer stays in the cache.
    for target, frame in zip(np.atleast_2d(stored), np.atleast_2d(flow), strict=True):
        scaled = np.divide(frame, np.float32(FLOW_UNIT))
        np.rint(scaled, out=scaled)
        if np.isnan(scaled).any():
            raise ValueError("flow holds values that are not numbers")
        np.clip(scaled, -FLOW_LIMIT, FLOW_LIMIT, out=scaled)
        target[...] = scaled
    return stored


def dequantize(stored: npt.NDArray[np.int16]) -> Flow:
    """Returns stored flow as float32 in px/frame, exactly."""
    return stored.astype(np.float32) * np.float32(FLOW_UNIT)


def _opencv(gray: Gray, config: TVL1Config) -> Flow:
    optflow: Any = cv2.optflow
    solver = optflow.DualTVL1OpticalFlow_create(
        tau=config.tau,
        lambda_=config.lambda_,
        theta=config.theta,
        nscales=config.scales,
        warps=config.warps,
        epsilon=config.epsilon,
        innnerIterations=config.inner_iterations,
        outerIterations=config.outer_iterations,
        scaleStep=config.scale_step,
        gamma=0.0,
        medianFiltering=config.median_size,
        useInitialFlow=False,
    )
    flow = np.empty((len(gray) - 1, *gray.shape[1:], 2), np.float32)
    for index in range(len(flow)):
        flow[index] = solver.calc(gray[index], gray[index + 1], None)
    return flow


def _cpu(gray: Gray, config: TVL1Config) -> Flow:
    """Shares the pairs out among threads; at its ends a share computes a pyramid that its neighbour computes too."""
    from ptune.extract.tvl1_cpu import solve

    pairs = len(gray) - 1
    threads = min(_cores(), pairs)
    if threads < 2:
        return solve(gray, config)
    edges = np.linspace(0, pairs, threads + 1).astype(int).tolist()
    shares = [gray[first : last + 1] for first, last in pairwise(edges)]
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(solve, shares, [config] * threads)))


def _cores() -> int:
    """Returns how many cores this process may use: Ray gives its workers as many as they asked for."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def _warm_up_cpu() -> None:
    from ptune.extract.tvl1_cpu import warm_up

    warm_up()


def _cuda(gray: Gray, config: TVL1Config) -> Flow:
    import torch

    from ptune.extract.tvl1_gpu import solve

    if not torch.cuda.is_available():
        raise ConfigError("flow backend", "'cuda', but PyTorch sees no GPU", f"{DEFAULT_BACKEND!r} on this machine")
    return solve(gray, config, "cuda")


def _warm_up_cuda() -> None:
    from ptune.extract.tvl1_gpu import warm_up

    warm_up()


BACKENDS: dict[str, Backend] = {
    "cpu": Backend(_cpu, warm_up=_warm_up_cpu),
    "cuda": Backend(_cuda, needs_gpu=True, warm_up=_warm_up_cuda),
    "opencv": Backend(_opencv),
}
