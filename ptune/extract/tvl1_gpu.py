"""Gray frames become TV-L1 optical flow on a GPU: the numbers of `ptune.extract.tvl1_cpu`, byte for byte.

Triton's kernels solve pairs in slots; a pair that is done leaves its slot to the next, so that none waits for another.
Where a pair goes next is decided on the device. `ROUNDS` inner iterations of all slots are recorded once as a CUDA
graph and replayed: nothing is launched one by one. The host learns how many pairs are done from a copy made after each
replay, and reads it while the next replay runs: it neither stops the device nor leaves it without work.

Where Triton is absent, PyTorch solves a batch at a time (`ptune.extract.tvl1_torch`).

Source: section 4.1; Zach, Pock and Bischof 2007; OpenCV's `DualTVL1OpticalFlow` without gamma and initial flow, as its
x86-64 builds compute it on processors with AVX2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptune.config.extraction import TVL1Config
from ptune.extract import tvl1_torch
from ptune.extract.tvl1_levels import Level, Taps, pyramid_levels

Frames = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Array = npt.NDArray[np.float32]

#: Pairs whose frames lie on the device at once, at most.
MAX_PAIRS = 64
#: Pairs in work at once: enough to fill the device, few enough for its cache.
SLOTS = 24
#: Inner iterations between two looks of the host, and between two launches of what comes less often.
ROUNDS = 32
PREPARE_EVERY = 4

#: Pixels that a program takes at once, how often, and warps that share them.
BLOCK = 512
STEPS = 2
WARPS = 4
#: Medians keep many values in registers: more warps, so that each thread has fewer pixels, and a bound.
PREPARE_WARPS = 8
PREPARE_REGISTERS = 128

#: Planes are as large as a multiple of this many pixels: kernels for frames of similar sizes are compiled once.
PLANE_STEP = 2**14

#: Share of the free memory that is taken, and bytes for each pixel of a pair that PyTorch's intermediates take.
_MEMORY_SHARE = 0.4
_TORCH_BYTES = 800
_CPU_BYTES = 2**29


def solve(
    gray: Frames, config: TVL1Config, device: torch.device | str | None = None, executor: str | None = None
) -> Array:
    """Returns the flow from each frame to the next as float32 [T-1,H,W,2] in px/frame, with the CPU's bytes.

    Args:
        gray: uint8 [T,H,W], or float32 [T,H,W] in [0,1].
        config: the solver's parameters.
        device: default the current GPU, without one the CPU.
        executor: a name in `EXECUTORS`; default Triton where it runs.

    Source: section 4.1 names TV-L1 only; OpenCV's `DualTVL1OpticalFlow`.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    height, width = gray.shape[1:]
    # A column of one pixel has no neighbours on either side; only PyTorch's form knows of it.
    chosen = EXECUTORS[executor or ("triton" if _has_triton(place) and width > 1 else "torch")]
    found = [np.empty((0, height, width, 2), np.float32)]
    first = 0
    while first < len(gray) - 1:
        found.append(chosen(gray[first:], config, place))
        first += len(found[-1])
    return found[1] if len(found) == 2 else np.concatenate(found)


def warm_up() -> None:
    """Compiles the kernels for frames of the usual size, or reads them from the cache on disk."""
    if torch.cuda.is_available():
        solve(np.zeros((2, 256, 340), np.uint8), TVL1Config())


def _has_triton(device: torch.device) -> bool:
    return find_spec("triton") is not None and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")


def _free_bytes(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] * _MEMORY_SHARE if device.type == "cuda" else _CPU_BYTES


def _intensity(gray: Frames, device: torch.device) -> Tensor:
    """Returns frames on the device as float32 [T,H,W] in 0 to 255."""
    frames = torch.from_numpy(np.array(gray, order="C")).to(device).float()
    return frames if gray.dtype == np.uint8 else frames * 255.0


def _on_host(flow: Tensor) -> Array:
    """Returns a copy in memory that the GPU can write directly; PyTorch keeps it for the next call once it is free."""
    copy = torch.empty(flow.shape, dtype=flow.dtype, pin_memory=flow.is_cuda)
    found: Array = copy.copy_(flow).numpy()
    return found


def _solve_torch(gray: Frames, config: TVL1Config, device: torch.device) -> Array:
    """Returns the flow of the first pairs, as many as memory allows."""
    height, width = gray.shape[1:]
    pairs = int(min(len(gray) - 1, MAX_PAIRS, max(1, _free_bytes(device) // (_TORCH_BYTES * height * width))))
    levels = pyramid_levels(height, width, config)
    pyramid = tvl1_torch.pyramid(_intensity(gray[: pairs + 1], device), levels)
    flow = tvl1_torch.solve_batch([one[:-1] for one in pyramid], [one[1:] for one in pyramid], levels, config)
    return _on_host(flow.permute(0, 2, 3, 1).contiguous())


def _solve_triton(gray: Frames, config: TVL1Config, device: torch.device) -> Array:
    """Returns the flow of the first pairs, as many as the machine for frames of this size takes."""
    return _machine(gray.shape[1], gray.shape[2], config, device).solve(gray)


#: Solvers of the first pairs of some frames.
EXECUTORS: dict[str, Callable[[Frames, TVL1Config, torch.device], Array]] = {
    "triton": _solve_triton,
    "torch": _solve_torch,
}


class Machine:
    """Memory and recorded launches for frames of one size; solves batches of pairs, one at a time.

    Args:
        height, width: of frames, in pixels.
        config: the solver's parameters.
        device: a GPU, or the CPU under Triton's interpreter.
    """

    def __init__(self, height: int, width: int, config: TVL1Config, device: torch.device) -> None:
        from ptune.extract import tvl1_kernels as kernels
        from ptune.extract import tvl1_pictures as pictures
        from ptune.extract.tvl1_prepare import prepare

        self.config, self.device, self.kernels, self.pictures = config, device, kernels, pictures
        self.prepare = prepare
        self.levels = pyramid_levels(height, width, config)
        pixels, pyramid = self.levels[0].pixels, sum(level.pixels for level in self.levels)
        plane = -(-pixels // PLANE_STEP) * PLANE_STEP
        frame, slot, out = 12 * pyramid, 4 * kernels.PLANES.value * plane, 8 * pixels
        room = _free_bytes(device) - frame
        self.pairs = int(max(1, min(MAX_PAIRS, room // (frame + out + slot))))
        self.slots = min(SLOTS, self.pairs)
        self.programs = [-(-level.pixels // (BLOCK * STEPS)) for level in self.levels]

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        widest = max(16, 1 << (self.programs[0] - 1).bit_length())
        self.frames = zeros(self.pairs + 1, 3, pyramid)
        self.planes = zeros(self.slots, kernels.PLANES.value, plane)
        self.sums = zeros(self.slots, kernels.SUMS.value, widest, dtype=torch.float64)
        self.added = zeros(self.slots)
        self.out = zeros(self.pairs, height, width, 2)
        self.state = zeros(2, self.slots, kernels.FIELDS.value, dtype=torch.int32)
        self.counters = zeros(3, dtype=torch.int32)
        shapes, taps, weights = _tables(self.levels, self.programs)
        self.shapes, self.taps, self.weights = (torch.from_numpy(t).to(device) for t in (shapes, taps, weights))
        limits = [(level.threshold(config), level.slack()) for level in self.levels]
        self.limits = torch.tensor(limits, dtype=torch.float64, device=device)
        self.growth = torch.tensor([1 / config.scale_step], dtype=torch.float64, device=device)
        self.options = {"PLANE": plane, "BLOCK": BLOCK, "STEPS": STEPS, "enable_fp_fusion": False}
        self.sizes = {"SIZE": config.median_size, "WIDEST": widest}
        self.graph: torch.cuda.CUDAGraph | None = None

    def solve(self, gray: Frames) -> Array:
        """Returns the flow of the first pairs of frames [T,H,W] as float32 [N,H,W,2]."""
        pairs = min(len(gray) - 1, self.pairs)
        busy = min(pairs, self.slots)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                self._record()
                self._load(gray[: pairs + 1], busy)
                self._replay(pairs)
        else:
            self._load(gray[: pairs + 1], busy)
            while int(self.counters[self.kernels.DONE.value]) < pairs:
                self._rounds()
        return _on_host(self.out[:pairs])

    def _load(self, gray: Frames, busy: int) -> None:
        """Brings frames to the device, makes their pyramids, and gives the first pairs to the slots."""
        kernels, pictures = self.kernels, self.pictures
        options = {"BLOCK": BLOCK, "num_warps": WARPS, "enable_fp_fusion": False}
        self.frames[: len(gray), 0, : self.levels[0].pixels] = _intensity(gray, self.device).flatten(1)
        for level, programs in enumerate(self.programs):
            grid, place = (programs * STEPS, len(gray)), (level, self.frames.shape[2])
            if level:
                pictures.shrink[grid](self.frames, self.shapes, self.taps, self.weights, *place, **options)
            pictures.differentiate[grid](self.frames, self.shapes, *place, **options)
        state = torch.zeros(self.state.shape[1:], dtype=torch.int32)
        state[:busy, kernels.PAIR.value] = torch.arange(busy, dtype=torch.int32)
        state[:busy, kernels.LEVEL.value] = len(self.levels) - 1
        state[:busy, kernels.STAGE.value] = kernels.START.value
        self.state[0] = state.to(self.device)
        self.counters.copy_(torch.tensor([busy, 0, len(gray) - 1], dtype=torch.int32))

    def _rounds(self) -> None:
        """Launches `ROUNDS` rounds."""
        kernels, config = self.kernels, self.config
        grid = (self.programs[0], self.slots)
        last = len(self.levels) - 1
        where = (self.shapes, self.limits)
        data_step, dual_step = config.lambda_ * config.theta, config.tau / config.theta
        counts = (config.warps, config.outer_iterations, config.inner_iterations)
        for number in range(ROUNDS):
            parity = number % 2
            prepared = number % PREPARE_EVERY == 0
            if prepared:
                self.prepare[grid](
                    self.frames,
                    self.planes,
                    self.sums,
                    self.added,
                    self.out,
                    self.state,
                    *where,
                    self.taps,
                    self.weights,
                    self.growth,
                    self.slots,
                    parity,
                    self.frames.shape[2],
                    last,
                    num_warps=PREPARE_WARPS,
                    maxnreg=PREPARE_REGISTERS,
                    **self.sizes,
                    **self.options,
                )
            kernels.primal[grid](
                self.planes,
                self.sums,
                self.added,
                self.state,
                self.counters,
                *where,
                self.slots,
                parity,
                data_step,
                config.theta,
                last,
                *counts,
                PREPARED=prepared,
                num_warps=WARPS,
                **self.sizes,
                **self.options,
            )
            kernels.dual[grid](
                self.planes, self.state, self.shapes, self.slots, parity, dual_step, num_warps=WARPS, **self.options
            )

    def _record(self) -> None:
        """Records the rounds once, after a run with empty slots that compiles them."""
        if self.graph is None:
            self.state.zero_()
            self._rounds()
            torch.cuda.synchronize(self.device)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._rounds()

    def _replay(self, pairs: int) -> None:
        """Replays the rounds until all pairs are done, one replay ahead of what the host has seen."""
        assert self.graph is not None
        seen = [torch.zeros(3, dtype=torch.int32, pin_memory=True) for _ in range(2)]
        events = [torch.cuda.Event(blocking=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        for number in range(self._most_replays(pairs)):
            self.graph.replay()
            seen[number % 2].copy_(self.counters, non_blocking=True)
            events[number % 2].record()
            if number:
                events[(number - 1) % 2].synchronize()
                if int(seen[(number - 1) % 2][self.kernels.DONE.value]) == pairs:
                    return
        raise RuntimeError("pairs of frames are not done after more iterations than they can have")

    def _most_replays(self, pairs: int) -> int:
        """Returns more replays than any frames need: each iteration accounted for and its changes added one by one."""
        config = self.config
        outer = PREPARE_EVERY + config.inner_iterations * (1 + 2 * PREPARE_EVERY)
        level = PREPARE_EVERY + config.warps * (PREPARE_EVERY + config.outer_iterations * outer)
        return 3 + pairs * (len(self.levels) * level + 2 * PREPARE_EVERY) // ROUNDS


@lru_cache(maxsize=1)
def _machine(height: int, width: int, config: TVL1Config, device: torch.device) -> Machine:
    return Machine(height, width, config, device)


def _tables(
    levels: Sequence[Level], programs: Sequence[int]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Returns the table of levels, int32 [levels,10], and the taps of all resizing, int32 and float32 [taps]."""
    table, firsts, weights = [], [np.zeros(1, np.int32)], [np.zeros(1, np.float32)]
    offset = place = 0

    def put(taps: Taps | None) -> int:
        nonlocal place
        if taps is None:
            return 0
        firsts.append(taps.first)
        weights.append(taps.weight)
        place += len(taps.first)
        return place - len(taps.first) + 1

    for index, level in enumerate(levels):
        # Multiplying by 2^(32 + shift) / width, rounded up, and shifting divides any index by the width.
        shift = (level.width - 1).bit_length() - 1
        magic = -(-(1 << (32 + shift)) // level.width)
        coarser = levels[index + 1].enlarged(level) if index + 1 < len(levels) else (None, None)
        taps = [put(one) for one in (*coarser, level.rows, level.columns)]
        table.append([level.height, level.width, offset, programs[index], magic, shift, *taps])
        offset += level.pixels
    rows = np.array(table, np.int64).astype(np.uint32).view(np.int32)
    return rows, np.concatenate(firsts), np.concatenate(weights)
