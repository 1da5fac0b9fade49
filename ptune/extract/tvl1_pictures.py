"""Triton functions that look up pictures: between pixels, at another size, their medians and derivatives.

Each gives OpenCV's bytes; `ptune.extract.tvl1_torch` says the same in PyTorch, under the same names. A picture is a
plane of pixels row after row; a program takes a stretch of pixels in that order.

Source: OpenCV 5.0.0's remap, resize and medianBlur of floats as measured on x86-64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

#: Columns of the table of levels: size; first pixel in a frame's pyramid; programs; what turns dividing by the width
#: into a multiplication; where the taps of this level's rows and columns begin, from the coarser and the finer level.
HEIGHT, WIDTH, OFFSET, PROGRAMS, MAGIC, SHIFT, FROM_COARSER, FROM_FINER = (tl.constexpr(i) for i in (*range(7), 8))
SHAPE = tl.constexpr(10)


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles once for a size and a setting: nothing is assumed of integers, nor that planes are aligned.

    Four aligned pixels a thread would be loaded at once, but their neighbours, four times as many loads, piecemeal.
    """
    fixed = {"planes", "slots", "parity", "pyramid", "level", "last", "warps", "outers", "inners"}
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return triton.jit(function, do_not_specialize=[name for name in names if name in fixed])


def helper(function: Callable[..., Any]) -> Any:
    """Makes a function that kernels call."""
    return triton.jit(function)


@kernel
def shrink(
    frames: tl.tensor,
    shapes: tl.tensor,
    taps: tl.tensor,
    weights: tl.tensor,
    level: tl.tensor,
    pyramid: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Writes the intensity of each frame at a level from that at the next finer one.

    Args:
        frames: float32 [frames,3,pyramid]: intensity and derivatives at all levels.
        shapes: int32 [levels,10].
        taps, weights: int32 and float32 [taps], first neighbours and shares of the second ones.
        BLOCK: pixels of a program.
    """
    shape = shapes + level * SHAPE
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < tl.load(shape + WIDTH) * tl.load(shape + HEIGHT)
    frame = frames + tl.program_id(1).to(tl.int64) * 3 * pyramid
    finer = shape - SHAPE
    value = resized(frame + tl.load(finer + OFFSET), finer, shape, FROM_FINER, taps, weights, index, inside)
    tl.store(frame + tl.load(shape + OFFSET) + index, value, mask=inside)


@kernel
def differentiate(
    frames: tl.tensor, shapes: tl.tensor, level: tl.tensor, pyramid: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """Writes the derivatives of each frame at a level: central differences, the border repeated.

    Args:
        as those of `shrink`.
    """
    shape = shapes + level * SHAPE
    width = tl.load(shape + WIDTH)
    pixels = width * tl.load(shape + HEIGHT)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < pixels
    x = index - row_of(index, shape) * width
    at = frames + tl.program_id(1).to(tl.int64) * 3 * pyramid + tl.load(shape + OFFSET) + index
    left = tl.load(at - (x > 0).to(tl.int32), mask=inside)
    right = tl.load(at + (x < width - 1).to(tl.int32), mask=inside)
    above = tl.load(at - tl.where(index < width, 0, width), mask=inside)
    below = tl.load(at + tl.where(index < pixels - width, width, 0), mask=inside)
    tl.store(at + pyramid, 0.5 * (right - left), mask=inside)
    tl.store(at + 2 * pyramid, 0.5 * (below - above), mask=inside)


@helper
def row_of(index: tl.tensor, shape: tl.tensor) -> tl.tensor:
    """Returns the row of each pixel."""
    magic = tl.load(shape + MAGIC).to(tl.uint32)
    shift = tl.load(shape + SHIFT).to(tl.uint32)
    return (tl.umulhi(index.to(tl.uint32), magic) >> shift).to(tl.int32)


@helper
def remapped(
    picture: tl.tensor,
    px: tl.tensor,
    py: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    inside: tl.tensor,
) -> tl.tensor:
    """Returns a picture at places, cubic, zero outside, as `cv2.remap` does."""
    left = _floor(px)
    top = _floor(py)
    across = cubic(px - left)
    down = cubic(py - top)
    # Far outside, all taps are zero wherever they lie; near enough, integers hold them.
    column = tl.minimum(tl.maximum(left, -4.0), width + 4.0).to(tl.int32) - 1
    row = tl.minimum(tl.maximum(top, -4.0), height + 4.0).to(tl.int32) - 1
    result = px
    for i in tl.static_range(4):
        line = px
        reachable = inside & (row + i >= 0) & (row + i < height)
        for j in tl.static_range(4):
            there = reachable & (column + j >= 0) & (column + j < width)
            found = tl.load(picture + ((row + i) * width + column + j), mask=there, other=0.0)
            line = found * across[j] if j == 0 else tl.fma(found, across[j], line)
        result = line * down[i] if i == 0 else tl.fma(line, down[i], result)
    return result


@helper
def _floor(value: tl.tensor) -> tl.tensor:
    """Returns the whole part; the compiler's own takes tiny negative numbers for zero."""
    near = tl.minimum(tl.maximum(value, -8388608.0), 8388608.0)
    whole = near.to(tl.int32).to(tl.float32)
    whole = tl.where(whole > near, whole - 1.0, whole)
    return tl.where(near == value, whole, value)


@helper
def cubic(fraction: tl.tensor) -> tl.tensor:
    """Returns OpenCV's weights of the four neighbours of a place `fraction` beyond the second."""
    rest = 1.0 - fraction
    square = fraction * fraction
    first = -0.75 * (fraction * (rest * rest))
    last = -0.75 * (square * rest)
    slope = tl.fma(fraction, 1.25, -2.25)
    second = tl.fma(slope, square, 1.0)
    return first, second, 1.0 - first - second - last, last


@helper
def resized(
    source: tl.tensor,
    theirs: tl.tensor,
    ours: tl.tensor,
    origin: tl.constexpr,
    taps: tl.tensor,
    weights: tl.tensor,
    index: tl.tensor,
    inside: tl.tensor,
) -> tl.tensor:
    """Returns pixels of a picture whose size was that of another level, as `cv2.resize` does."""
    y = row_of(index, ours)
    row = tl.load(ours + origin) + y
    column = tl.load(ours + origin + 1) + index - y * tl.load(ours + WIDTH)
    width = tl.load(theirs + WIDTH)
    top = tl.load(taps + row, mask=inside, other=0)
    left = tl.load(taps + column, mask=inside, other=0)
    below = tl.minimum(top + 1, tl.load(theirs + HEIGHT) - 1)
    right = tl.minimum(left + 1, width - 1)
    share = tl.load(weights + column, mask=inside, other=0.0)
    upper = _blended(source + top * width, left, right, share, inside)
    lower = _blended(source + below * width, left, right, share, inside)
    return tl.fma(tl.load(weights + row, mask=inside, other=0.0), lower - upper, upper)


@helper
def _blended(line: tl.tensor, left: tl.tensor, right: tl.tensor, share: tl.tensor, inside: tl.tensor) -> tl.tensor:
    first = tl.load(line + left, mask=inside, other=0.0)
    return tl.fma(share, tl.load(line + right, mask=inside, other=0.0) - first, first)


@helper
def median(
    picture: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    inside: tl.tensor,
    SIZE: tl.constexpr,
) -> tl.tensor:
    """Returns the median of each pixel's square of neighbours; the border is repeated.

    The least and the greatest of more than half of all values cannot be the median: they go, and the next value comes.
    """
    COUNT: tl.constexpr = SIZE * SIZE
    kept = [_neighbour(picture, x, y, width, height, inside, 0, SIZE)]
    for k in tl.static_range(1, COUNT // 2 + 2):
        kept = kept + [_neighbour(picture, x, y, width, height, inside, k, SIZE)]  # noqa: RUF005 (not in Triton)
    for k in tl.static_range(COUNT // 2 + 2, COUNT + 1):
        # COUNT + 2 - k is the last of those kept.
        for i in tl.static_range((COUNT + 3 - k) // 2):
            kept = _ordered(kept, i, COUNT + 2 - k - i)
        for i in tl.static_range(1, (COUNT + 2 - k) // 2 + 1):
            kept = _ordered(kept, 0, i)
        for i in tl.static_range((COUNT + 3 - k) // 2, COUNT + 2 - k):
            kept = _ordered(kept, i, COUNT + 2 - k)
        if k < COUNT:
            value = _neighbour(picture, x, y, width, height, inside, k, SIZE)
            kept = kept[1 : COUNT + 2 - k] + [value]  # noqa: RUF005 (not in Triton)
    return kept[1]


@helper
def _ordered(kept: tl.tensor, i: tl.constexpr, j: tl.constexpr) -> tl.tensor:
    low = tl.minimum(kept[i], kept[j])
    high = tl.maximum(kept[i], kept[j])
    return kept[:i] + [low] + kept[i + 1 : j] + [high] + kept[j + 1 :]  # noqa: RUF005 (not in Triton)


@helper
def _neighbour(
    picture: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    inside: tl.tensor,
    k: tl.constexpr,
    SIZE: tl.constexpr,
) -> tl.tensor:
    column = tl.minimum(tl.maximum(x + (k % SIZE - SIZE // 2), 0), width - 1)
    row = tl.minimum(tl.maximum(y + (k // SIZE - SIZE // 2), 0), height - 1)
    return tl.load(picture + (row * width + column), mask=inside, other=0.0)
