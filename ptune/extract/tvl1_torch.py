"""TV-L1 optical flow of a batch of pairs in plain PyTorch, on any device: OpenCV's numbers, byte for byte.

The form that runs where Triton does not, and the one to read first. All pairs of a batch stand at the same warp; those
that have settled leave the batch. The host looks at the sums every `LOOK` iterations, on the CPU at each.

Tensors: B pairs or frames, H and W pixels, C = 3: intensity in 0 to 255 and its two derivatives.

Source: `ptune.extract.tvl1_cpu`, and OpenCV 5.0.0's remap, resize and medianBlur of floats as measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ptune.config.extraction import TVL1Config
from ptune.extract.tvl1_levels import Level, Taps

#: Iterations between two looks of the host where looking means waiting for a GPU.
LOOK = 6

_TINY = float(np.finfo(np.float32).eps)


def pyramid(frames: Tensor, levels: Sequence[Level]) -> list[Tensor]:
    """Returns frames, float32 [B,H,W] in 0 to 255, at each level as float32 [B,3,H,W]."""
    pictures = []
    for level in levels:
        if level.rows and level.columns:
            frames = resize(frames, level.rows, level.columns)
        pictures.append(differentiate(frames))
    return pictures


def differentiate(frames: Tensor) -> Tensor:
    """Returns frames [B,H,W] and their central differences as [B,3,H,W]; the border is repeated."""
    wide = pad(frames[:, None], (1, 1, 0, 0), mode="replicate")[:, 0]
    high = pad(frames[:, None], (0, 0, 1, 1), mode="replicate")[:, 0]
    dx = (wide[:, :, 2:] - wide[:, :, :-2]) * 0.5
    dy = (high[:, 2:] - high[:, :-2]) * 0.5
    return torch.stack([frames, dx, dy], 1)


def solve_batch(
    before: Sequence[Tensor], after: Sequence[Tensor], levels: Sequence[Level], config: TVL1Config
) -> Tensor:
    """Returns the flow of pairs of pyramids as float32 [B,2,H,W] in px/frame: u to the right, v downward.

    Args:
        before, after: float32 [B,3,H,W] of each level, finest first.
        levels: what each level is.
        config: the solver's parameters.
    """
    flow = torch.zeros_like(before[-1][:, :2])
    coarser = None
    for level, first, second in reversed(list(zip(levels, before, after, strict=True))):
        if coarser is not None:
            larger = resize(flow.flatten(0, 1), *coarser.enlarged(level))
            flow = (larger.double() * (1 / config.scale_step)).float().view(*flow.shape[:2], *larger.shape[1:])
        flow = _refine(flow, first, second, level, config)
        coarser = level
    return flow


def _refine(flow: Tensor, before: Tensor, after: Tensor, level: Level, config: TVL1Config) -> Tensor:
    """Returns the flow [B,2,H,W] moved to the minimum of the energy, warp by warp."""
    dual = flow.new_zeros(len(flow), 2, 2, *flow.shape[2:])
    for _ in range(config.warps):
        terms = linearize(flow, before[:, 0], after)
        going = torch.arange(len(flow), device=flow.device)
        for _ in range(config.outer_iterations):
            smooth = median(flow[going], config.median_size)
            flow[going], dual[going], settled = _iterate(smooth, dual[going], terms[going], level, config)
            going = going[~settled]
            if not len(going):
                break
    return flow


def _iterate(
    flow: Tensor, dual: Tensor, terms: Tensor, level: Level, config: TVL1Config
) -> tuple[Tensor, Tensor, Tensor]:
    """Iterates each pair until its flow settles; returns flow, dual variables and bool [B] whether it settled.

    A pair whose sum of changes lies within rounding of the threshold stands still until the host has added them as
    OpenCV does.
    """
    threshold, slack = level.threshold(config), level.slack()
    count = torch.zeros(len(flow), dtype=torch.int64, device=flow.device)
    settled = torch.zeros(len(flow), dtype=torch.bool, device=flow.device)
    unclear = settled.clone()
    old = flow
    while True:
        for _ in range(LOOK if flow.is_cuda else 1):
            still = settled | unclear | (count == config.inner_iterations)
            moved = primal(flow, dual, terms, config)
            shifted = project(moved, dual, config)
            change = _squares(moved - flow).flatten(1).sum(1, dtype=torch.float64)
            near = (change - threshold).abs() <= slack * change
            unclear = torch.where(still, unclear, near)
            settled = torch.where(still, settled, ~near & ~(change > threshold))
            keep = still[:, None, None, None]
            old, flow = torch.where(keep, old, flow), torch.where(keep, flow, moved)
            dual = torch.where(keep[..., None], dual, shifted)
            count += ~still
        for index in torch.nonzero(unclear)[:, 0].tolist():
            settled[index] = not added_one_by_one(_squares(flow[index] - old[index])) > threshold
        unclear = torch.zeros_like(unclear)
        if bool((settled | (count == config.inner_iterations)).all()):
            return flow, dual, settled


def added_one_by_one(changes: Tensor) -> float:
    """Returns the sum of float32 values, each addition rounded to single precision, in the order of memory."""
    return float(np.add.accumulate(changes.cpu().numpy().ravel(), dtype=np.float32)[-1])


def _squares(step: Tensor) -> Tensor:
    u, v = step.unbind(-3)
    return u * u + v * v


def primal(flow: Tensor, dual: Tensor, terms: Tensor, config: TVL1Config) -> Tensor:
    """Returns the flow [B,2,H,W] after thresholding and a step along the divergence of the dual variables.

    Args:
        flow: float32 [B,2,H,W].
        dual: float32 [B,2,2,H,W]: of u and of v, in x and in y.
        terms: float32 [B,3,H,W] of `linearize`.
        config: the solver's parameters.
    """
    data_step = float(np.float32(config.lambda_ * config.theta))
    theta = float(np.float32(config.theta))
    dx, dy, rho = (term[:, None] for term in terms.unbind(1))
    norm = dx * dx + dy * dy
    residual = rho + (dx * flow[:, :1] + dy * flow[:, 1:])
    reach = norm * data_step
    below, above = residual < -reach, residual > reach
    step = torch.where(below, data_step, torch.where(above, -data_step, -residual / norm))
    moves = below | above | (norm > _TINY)
    steps = torch.where(moves, step * terms[:, :2], 0.0)
    px, py = dual.unbind(2)
    from_above = pad(py[..., :-1, :], (0, 0, 1, 0))
    divergence = (px - pad(px[..., :-1], (1, 0))) + (py - from_above)
    divergence[..., 0] = (px[..., 0] + py[..., 0]) - from_above[..., 0]
    return (flow + steps) + divergence * theta


def project(flow: Tensor, dual: Tensor, config: TVL1Config) -> Tensor:
    """Returns the dual variables [B,2,2,H,W] moved by the flow's forward differences and drawn back."""
    dual_step = float(np.float32(config.tau / config.theta))
    dx = pad(flow[..., 1:] - flow[..., :-1], (0, 1))
    dy = pad(flow[..., 1:, :] - flow[..., :-1, :], (0, 0, 0, 1))
    wide_x, wide_y = dx.double(), dy.double()
    norm = (wide_x * wide_x + wide_y * wide_y).sqrt().float()
    shrink = norm * dual_step + 1.0
    return (dual + torch.stack([dx, dy], 2) * dual_step) / shrink[:, :, None]


def linearize(flow: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Returns the residual's linear model around a flow: warped derivatives and constant part, float32 [B,3,H,W].

    Args:
        flow: float32 [B,2,H,W].
        before: intensity float32 [B,H,W] of the first frames.
        after: float32 [B,3,H,W] of the second frames.
    """
    height, width = before.shape[1:]
    u, v = flow.unbind(1)
    x = torch.arange(width, dtype=torch.float32, device=flow.device) + u
    y = torch.arange(height, dtype=torch.float32, device=flow.device)[:, None] + v
    intensity, dx, dy = remap(after, x, y).unbind(1)
    return torch.stack([dx, dy, intensity - dx * u - dy * v - before], 1)


def remap(pictures: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Returns pictures [B,C,H,W] at places [B,H,W], cubic, zero outside, as `cv2.remap` does."""
    height, width = pictures.shape[2:]
    left, top = x.floor(), y.floor()
    across, down = cubic(x - left), cubic(y - top)
    # Far outside, all taps are zero wherever they lie; near enough, integers hold them.
    column = left.clamp(-4, width + 4).long() - 1
    row = top.clamp(-4, height + 4).long() - 1
    flat = pictures.flatten(2)
    result = None
    for i in range(4):
        line = None
        for j in range(4):
            inside = (row + i >= 0) & (row + i < height) & (column + j >= 0) & (column + j < width)
            index = torch.where(inside, (row + i) * width + column + j, 0).flatten(1)[:, None]
            found = flat.gather(2, index.expand(-1, flat.shape[1], -1)).view_as(pictures)
            value = torch.where(inside[:, None], found, 0.0)
            weight = across[j][:, None]
            line = value * weight if line is None else fused(value, weight, line)
        assert line is not None
        weight = down[i][:, None]
        result = line * weight if result is None else fused(line, weight, result)
    assert result is not None
    return result


def cubic(fraction: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns OpenCV's weights of the four neighbours of a place `fraction` beyond the second."""
    rest = 1.0 - fraction
    square = fraction * fraction
    first = (fraction * (rest * rest)) * -0.75
    last = (square * rest) * -0.75
    slope = fused(fraction, torch.full_like(fraction, 1.25), torch.full_like(fraction, -2.25))
    second = fused(slope, square, torch.ones_like(fraction))
    return first, second, 1.0 - first - second - last, last


def resize(pictures: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Returns pictures [B,H,W] resized as `cv2.resize` does with linear interpolation."""
    first, second, weight = _on(pictures.device, columns)
    left = pictures[:, :, first]
    across = fused(weight.expand_as(left), pictures[:, :, second] - left, left)
    first, second, weight = _on(pictures.device, rows)
    above = across[:, first]
    return fused(weight[:, None].expand_as(above), across[:, second] - above, above)


def _on(device: torch.device, taps: Taps) -> tuple[Tensor, Tensor, Tensor]:
    first, second, weight = (torch.from_numpy(array).to(device) for array in (taps.first, taps.second, taps.weight))
    return first, second, weight


def median(pictures: Tensor, size: int) -> Tensor:
    """Returns the median of each square of `size` pixels of pictures [B,C,H,W]; the border is repeated."""
    if size == 1:
        return pictures
    wide = pad(pictures, (size // 2,) * 4, mode="replicate")
    windows = wide.unfold(2, size, 1).unfold(3, size, 1).flatten(4)
    return windows.median(-1).values


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Returns a * b + c of float32 rounded once, as a fused multiply-add does; PyTorch has none.

    In double precision the product is exact. Rounding the sum to odd keeps it on its side of every float32 midpoint, so
    that rounding it again changes nothing.
    """
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    bits = total.view(torch.int64)
    outward = torch.where((lost > 0) == (total > 0), 1, -1)
    odd = torch.where((lost != 0) & (bits % 2 == 0), bits + outward, bits)
    return odd.view(torch.float64).float()
