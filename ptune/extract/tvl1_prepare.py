"""Triton kernel that does for each slot what is no iteration: whatever its stage names.

A new level starts with enlarged flow and dual variables of zero; a warp is linearized; flow is smoothed by medians. A
sum of changes near the threshold is accounted for: what did OpenCV's rounding make of it? Where that stays open, it is
added one by one. The flow of a pair that is done is handed out. Which stage comes next is not known here: `primal` of
`ptune.extract.tvl1_kernels` decides.
"""

from __future__ import annotations

import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from ptune.extract.tvl1_kernels import (
    ACCOUNT,
    ADD,
    CHANGE,
    FIELDS,
    FINISH,
    IDLE,
    INNER,
    ITERATE,
    LEVEL,
    LINEARIZE,
    PAIR,
    PLANES,
    PUX,
    ROUNDED,
    SIDE,
    STAGE,
    START,
    SUMS,
    TERMS,
    UNKNOWN,
    U,
    V,
)
from ptune.extract.tvl1_pictures import (
    FROM_COARSER,
    HEIGHT,
    OFFSET,
    PROGRAMS,
    SHAPE,
    WIDTH,
    helper,
    kernel,
    median,
    remapped,
    resized,
    row_of,
)

#: Adding and subtracting this many units rounds a double to a whole number of them.
_WHOLE = tl.constexpr(1.5 * 2.0**52)


@kernel
def prepare(
    frames: tl.tensor,
    planes: tl.tensor,
    sums: tl.tensor,
    added: tl.tensor,
    out: tl.tensor,
    state: tl.tensor,
    shapes: tl.tensor,
    limits: tl.tensor,
    taps: tl.tensor,
    weights: tl.tensor,
    growth: tl.tensor,
    slots: tl.tensor,
    parity: tl.tensor,
    pyramid: tl.tensor,
    last: tl.tensor,
    SIZE: tl.constexpr,
    WIDEST: tl.constexpr,
    PLANE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Does what each slot waits for, unless that is an iteration.

    Args:
        frames: float32 [frames,3,pyramid].
        out: flow float32 [pairs,H,W,2].
        taps, weights: as those of `shrink`.
        growth: float64 [1], the factor of flow from one level to the next finer one.
    """
    program = tl.program_id(0)
    slot = tl.program_id(1)
    now = state + (parity * slots + slot) * FIELDS
    stage = tl.load(now + STAGE)
    level = tl.load(now + LEVEL)
    shape = shapes + level * SHAPE
    if (stage == IDLE) | (stage == ITERATE) | (program >= tl.load(shape + PROGRAMS)):
        return
    pair = tl.load(now + PAIR).to(tl.int64)
    side = tl.load(now + SIDE)
    width = tl.load(shape + WIDTH)
    height = tl.load(shape + HEIGHT)
    slab = planes + slot.to(tl.int64) * PLANES * PLANE
    if stage == ACCOUNT:
        row = sums + slot * (SUMS * WIDEST)
        _account(row, limits + 2 * level, now, slab, width * height, PLANE, WIDEST, BLOCK, STEPS)
    elif stage == ADD:
        if program == 0:
            total = tl.load(slab + CHANGE * PLANE)
            for pixel in range(1, width * height):
                total += tl.load(slab + CHANGE * PLANE + pixel)
            tl.store(added + slot, total)
    else:
        for step in range(STEPS):
            index = (program * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
            inside = index < width * height
            flow = slab + side * PLANE
            free = slab + (1 - side) * PLANE
            if stage == FINISH:
                place = out + (pair * width * height + index) * 2
                tl.store(place, tl.load(flow + U * PLANE + index, mask=inside), mask=inside)
                tl.store(place + 1, tl.load(flow + V * PLANE + index, mask=inside), mask=inside)
            elif stage == START:
                coarse = level < last
                _enlarge(flow + U * PLANE, free + U * PLANE, shape, taps, weights, growth, index, inside, coarse)
                _enlarge(flow + V * PLANE, free + V * PLANE, shape, taps, weights, growth, index, inside, coarse)
                _clear(slab + PUX * PLANE + index, inside, PLANE)
            else:
                y = row_of(index, shape)
                x = index - y * width
                if stage == LINEARIZE:
                    first = frames + pair * 3 * pyramid + tl.load(shape + OFFSET)
                    _linearize(first, flow, slab + TERMS * PLANE, x, y, index, width, height, inside, pyramid, PLANE)
                if SIZE > 1:
                    middle = median(flow + U * PLANE, x, y, width, height, inside, SIZE)
                    tl.store(free + U * PLANE + index, middle, mask=inside)
                    middle = median(flow + V * PLANE, x, y, width, height, inside, SIZE)
                    tl.store(free + V * PLANE + index, middle, mask=inside)


@helper
def _enlarge(
    coarse: tl.tensor,
    fine: tl.tensor,
    shape: tl.tensor,
    taps: tl.tensor,
    weights: tl.tensor,
    growth: tl.tensor,
    index: tl.tensor,
    inside: tl.tensor,
    exists: tl.tensor,
) -> None:
    value = tl.zeros(index.shape, tl.float32)
    if exists:
        larger = resized(coarse, shape + SHAPE, shape, FROM_COARSER, taps, weights, index, inside)
        value = (larger.to(tl.float64) * tl.load(growth)).to(tl.float32)
    tl.store(fine + index, value, mask=inside)


@helper
def _clear(dual: tl.tensor, inside: tl.tensor, PLANE: tl.constexpr) -> None:
    for plane in tl.static_range(4):
        tl.store(dual + plane * PLANE, tl.zeros(inside.shape, tl.float32), mask=inside)


@helper
def _linearize(
    first: tl.tensor,
    flow: tl.tensor,
    terms: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    index: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    inside: tl.tensor,
    pyramid: tl.tensor,
    PLANE: tl.constexpr,
) -> None:
    second = first + 3 * pyramid
    u = tl.load(flow + U * PLANE + index, mask=inside, other=0.0)
    v = tl.load(flow + V * PLANE + index, mask=inside, other=0.0)
    px = x.to(tl.float32) + u
    py = y.to(tl.float32) + v
    intensity = remapped(second, px, py, width, height, inside)
    dx = remapped(second + pyramid, px, py, width, height, inside)
    dy = remapped(second + 2 * pyramid, px, py, width, height, inside)
    before = tl.load(first + index, mask=inside, other=0.0)
    tl.store(terms + index, dx, mask=inside)
    tl.store(terms + PLANE + index, dy, mask=inside)
    tl.store(terms + 2 * PLANE + index, intensity - dx * u - dy * v - before, mask=inside)


@helper
def _account(
    sums: tl.tensor,
    limit: tl.tensor,
    now: tl.tensor,
    slab: tl.tensor,
    pixels: tl.tensor,
    PLANE: tl.constexpr,
    WIDEST: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Writes what this stretch adds to OpenCV's single-precision sum, and how far off that may be.

    While the sum stays between two powers of two, adding a change adds that change rounded to the sum's unit, but for
    ties, which depend on the sum. Elsewhere, the stretch is known to half a unit for each addition.
    """
    program = tl.program_id(0)
    columns = tl.arange(0, WIDEST)
    row = sums + (tl.load(now + INNER) % 2) * WIDEST
    slack = tl.load(limit + 1)
    own = tl.load(row + program)
    before = tl.sum(tl.load(row + columns, mask=columns < program, other=0.0))
    low = (before * (1.0 - slack)).to(tl.int64, bitcast=True) >> 52
    high = ((before + own) * (1.0 + slack)).to(tl.int64, bitcast=True) >> 52
    # Exponents of doubles; far below those of floats, sums are zero.
    known = (low == high) & (low > 64)
    unit = ((tl.maximum(high, 64) - 23) << 52).to(tl.float64, bitcast=True)
    rounded = tl.zeros((BLOCK,), tl.float64)
    unclear = tl.zeros((BLOCK,), tl.float64)
    side = tl.load(now + SIDE)
    for step in range(STEPS):
        index = (program * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        inside = index < pixels
        flow = slab + side * PLANE + index
        old = slab + (1 - side) * PLANE + index
        du = tl.load(flow + U * PLANE, mask=inside, other=0.0) - tl.load(old + U * PLANE, mask=inside, other=0.0)
        dv = tl.load(flow + V * PLANE, mask=inside, other=0.0) - tl.load(old + V * PLANE, mask=inside, other=0.0)
        change = du * du + dv * dv
        tl.store(slab + CHANGE * PLANE + index, change, mask=inside)
        wide = change.to(tl.float64)
        whole = (wide + unit * _WHOLE) - unit * _WHOLE
        tie = tl.abs(wide - whole) == unit * 0.5
        rounded += whole
        unclear += tl.where(known, tl.where(tie, unit, 0.0), tl.where(inside, unit * 0.5, 0.0))
    tl.store(sums + ROUNDED * WIDEST + program, tl.where(known, tl.sum(rounded), own))
    # Sums of doubles are off by far less than a part in 10^12.
    tl.store(sums + UNKNOWN * WIDEST + program, tl.sum(unclear) + own * 1e-12)
