"""Triton kernels that carry many pairs of frames through TV-L1, each pair at its own place in the algorithm.

Memory holds a few slots; a slot holds one pair's planes and its place: level, warp, outer and inner iteration. A round
is a launch of `primal` and one of `dual`: an inner iteration of every pair that iterates. Before every few rounds
`prepare` (`ptune.extract.tvl1_prepare`) does what comes less often, such as warping. `primal` alone decides where its
pair goes next. All its programs decide the same from the same sums; one writes it down, for the launches that follow.
The host decides nothing.

The numbers are those of `ptune.extract.tvl1_torch`, whose functions have the same names: no contraction to fused
multiply-adds but where OpenCV has them, IEEE division, norms in double precision. Programs take pixels in the order of
memory, so that their sums are sums over stretches of OpenCV's one-by-one summation.
"""

from __future__ import annotations

import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

from ptune.extract.tvl1_pictures import HEIGHT, PROGRAMS, SHAPE, WIDTH, helper, kernel, row_of

#: Columns of a slot's state: its pair; where it stands; which of two buffers holds its flow; what it waits for.
PAIR, LEVEL, WARP, OUTER, INNER, SIDE, STAGE = (tl.constexpr(i) for i in range(7))
FIELDS = tl.constexpr(8)

#: What a slot waits for: nothing; its flow at a new level, a warp, a median, the next iteration, an account of the
#: rounding in its sum of changes, that sum one by one, the copy of its flow.
IDLE, START, LINEARIZE, MEDIAN, ITERATE, ACCOUNT, ADD, FINISH = (tl.constexpr(i) for i in range(8))

#: Planes of a slot: flow, twice; terms of `linearize`; dual variables of u and of v; squared change of the flow.
U, V, TERMS, PUX, PUY, PVX, PVY, CHANGE = (tl.constexpr(i) for i in (0, 2, 4, 7, 8, 9, 10, 11))
PLANES = tl.constexpr(12)

#: Rows of a slot's sums, one value for each program: changes of an even and of an odd iteration; of `ACCOUNT` the
#: changes as rounded, and how far off that may be.
ROUNDED, UNKNOWN = tl.constexpr(2), tl.constexpr(3)
SUMS = tl.constexpr(4)

#: Counters: the next pair to begin, pairs that are done, all pairs.
NEXT, DONE, TOTAL = (tl.constexpr(i) for i in range(3))

_TINY = tl.constexpr(2.0**-23)
#: Lost in any square of a float but zero; the root of zero is slow.
_NEXT_TO_NOTHING = tl.constexpr(2.0**-900)


@helper
def _int(value: tl.constexpr) -> tl.tensor:
    return tl.full((), value, tl.int32)


@kernel
def primal(
    planes: tl.tensor,
    sums: tl.tensor,
    added: tl.tensor,
    state: tl.tensor,
    counters: tl.tensor,
    shapes: tl.tensor,
    limits: tl.tensor,
    slots: tl.tensor,
    parity: tl.tensor,
    data_step: tl.tensor,
    theta: tl.tensor,
    last: tl.tensor,
    warps: tl.tensor,
    outers: tl.tensor,
    inners: tl.tensor,
    PREPARED: tl.constexpr,
    SIZE: tl.constexpr,
    WIDEST: tl.constexpr,
    PLANE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Decides where each slot goes; where that is an iteration, moves its flow and sums the squared changes.

    Args:
        planes: float32 [slots,12,PLANE].
        sums: float64 [slots,4,WIDEST].
        added: float32 [slots], sums one by one.
        state: int32 [2,slots,8]; this round reads half `parity` and writes the other.
        counters: int32 [3].
        shapes: int32 [levels,10].
        limits: float64 [levels,2]: threshold, share by which sums may be off.
        last: the coarsest level.
        PREPARED: whether `prepare` ran just before.
        SIZE: the median's, in pixels.
        WIDEST: at least the programs of the finest level, a power of two.
        BLOCK, STEPS: pixels that a program takes at once, and how often.
    """
    program = tl.program_id(0)
    slot = tl.program_id(1)
    now = state + (parity * slots + slot) * FIELDS
    stage = tl.load(now + STAGE)
    level = tl.load(now + LEVEL)
    shape = shapes + level * SHAPE
    programs = tl.load(shape + PROGRAMS)
    if (program >= programs) | ((stage == IDLE) & (program > 0)):
        return
    pair = tl.load(now + PAIR)
    warp = tl.load(now + WARP)
    outer = tl.load(now + OUTER)
    inner = tl.load(now + INNER)
    side = tl.load(now + SIDE)

    judged = stage == ITERATE
    if PREPARED:
        judged = judged | (stage == ACCOUNT) | (stage == ADD)
    row = sums + slot * (SUMS * WIDEST)
    leaves = _int(0)
    threshold = tl.load(limits + 2 * level)
    slack = tl.load(limits + 2 * level + 1)
    change, doubt = _summed(row, added + slot, stage, inner, programs, judged, slack, PREPARED, WIDEST)
    if judged:
        stage, outer, inner, leaves = _judged(stage, outer, inner, outers, inners, change, doubt, threshold, SIZE)
    elif PREPARED:
        stage, side, pair, level = _followed(stage, side, pair, level, last, counters, SIZE)
    if leaves == 1:
        warp += 1
        stage = _int(LINEARIZE)
        if warp == warps:
            warp = _int(0)
            stage = tl.where(level > 0, START, FINISH)
            level = tl.maximum(level - 1, 0)
    moves = (stage == ITERATE).to(tl.int32)
    if program == 0:
        then = state + ((1 - parity) * slots + slot) * FIELDS
        _write(then, pair, level, warp, outer, inner + moves, side ^ moves, stage)
    if moves == 1:
        slab = planes + slot.to(tl.int64) * PLANES * PLANE
        total = tl.zeros((BLOCK,), tl.float64)
        for step in range(STEPS):
            index = (program * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
            total += _moved(slab, side, shape, index, data_step, theta, PLANE).to(tl.float64)
        tl.store(row + ((inner + 1) % 2) * WIDEST + program, tl.sum(total))


@helper
def _summed(
    row: tl.tensor,
    added: tl.tensor,
    stage: tl.tensor,
    inner: tl.tensor,
    programs: tl.tensor,
    judged: tl.tensor,
    slack: tl.tensor,
    PREPARED: tl.constexpr,
    WIDEST: tl.constexpr,
) -> tl.tensor:
    """Returns the sum of changes and how far off OpenCV's may be from it."""
    columns = tl.arange(0, WIDEST)
    counted = columns < tl.where(judged, programs, 0)
    which = tl.where(stage == ITERATE, inner % 2, ROUNDED)
    change = tl.sum(tl.load(row + which * WIDEST + columns, mask=counted, other=0.0))
    doubt = slack * change
    if PREPARED:
        if stage == ACCOUNT:
            doubt = tl.sum(tl.load(row + UNKNOWN * WIDEST + columns, mask=counted, other=0.0))
        if stage == ADD:
            change = tl.load(added).to(tl.float64)
            doubt = doubt * 0.0 - 1.0
    return change, doubt


@helper
def _judged(
    stage: tl.tensor,
    outer: tl.tensor,
    inner: tl.tensor,
    outers: tl.tensor,
    inners: tl.tensor,
    change: tl.tensor,
    doubt: tl.tensor,
    threshold: tl.tensor,
    SIZE: tl.constexpr,
) -> tl.tensor:
    """Returns stage, outer and inner iteration after an iteration, and 1 where the warp is left."""
    leaves = _int(0)
    if tl.abs(change - threshold) <= doubt:
        stage = tl.where(stage == ITERATE, ACCOUNT, ADD)
    else:
        stage = _int(ITERATE)
        leaves = (change <= threshold).to(tl.int32)
        if inner == inners:
            outer += 1
            inner = _int(0)
            leaves = tl.where(outer == outers, 1, leaves)
            if SIZE > 1:
                stage = _int(MEDIAN)
        if leaves == 1:
            outer = _int(0)
            inner = _int(0)
    return stage, outer, inner, leaves


@helper
def _followed(
    stage: tl.tensor,
    side: tl.tensor,
    pair: tl.tensor,
    level: tl.tensor,
    last: tl.tensor,
    counters: tl.tensor,
    SIZE: tl.constexpr,
) -> tl.tensor:
    """Returns stage, side, pair and level after `prepare` has done what a slot waited for."""
    if stage == FINISH:
        stage = _int(IDLE)
        if tl.program_id(0) == 0:
            tl.atomic_add(counters + DONE, 1)
            pair = tl.atomic_add(counters + NEXT, 1)
            if pair < tl.load(counters + TOTAL):
                stage = _int(START)
                level = last
    elif stage != IDLE:
        side = tl.where((stage == START) | (SIZE > 1), 1 - side, side)
        stage = tl.where(stage == START, LINEARIZE, ITERATE)
    return stage, side, pair, level


@helper
def _write(
    then: tl.tensor,
    pair: tl.tensor,
    level: tl.tensor,
    warp: tl.tensor,
    outer: tl.tensor,
    inner: tl.tensor,
    side: tl.tensor,
    stage: tl.tensor,
) -> None:
    tl.store(then + PAIR, pair)
    tl.store(then + LEVEL, level)
    tl.store(then + WARP, warp)
    tl.store(then + OUTER, outer)
    tl.store(then + INNER, inner)
    tl.store(then + SIDE, side)
    tl.store(then + STAGE, stage)


@helper
def _moved(
    slab: tl.tensor,
    side: tl.tensor,
    shape: tl.tensor,
    index: tl.tensor,
    data_step: tl.tensor,
    theta: tl.tensor,
    PLANE: tl.constexpr,
) -> tl.tensor:
    """Moves the flow of some pixels and returns their squared changes."""
    width = tl.load(shape + WIDTH)
    inside = index < width * tl.load(shape + HEIGHT)
    first = index == row_of(index, shape) * width
    base = slab + index
    flow = base + side * PLANE
    u = tl.load(flow + U * PLANE, mask=inside, other=0.0)
    v = tl.load(flow + V * PLANE, mask=inside, other=0.0)
    dx = tl.load(base + TERMS * PLANE, mask=inside, other=0.0)
    dy = tl.load(base + (TERMS + 1) * PLANE, mask=inside, other=0.0)
    rho = tl.load(base + (TERMS + 2) * PLANE, mask=inside, other=0.0)
    norm = dx * dx + dy * dy
    residual = rho + (dx * u + dy * v)
    reach = data_step * norm
    below = residual < -reach
    above = residual > reach
    step = tl.where(below, data_step, tl.where(above, -data_step, tl.div_rn(-residual, norm)))
    acts = below | above | (norm > _TINY)
    along_u = _divergence(base + PUX * PLANE, base + PUY * PLANE, index, width, inside, first)
    along_v = _divergence(base + PVX * PLANE, base + PVY * PLANE, index, width, inside, first)
    moved_u = (u + tl.where(acts, step * dx, 0.0)) + theta * along_u
    moved_v = (v + tl.where(acts, step * dy, 0.0)) + theta * along_v
    flow = base + (1 - side) * PLANE
    tl.store(flow + U * PLANE, moved_u, mask=inside)
    tl.store(flow + V * PLANE, moved_v, mask=inside)
    du = moved_u - u
    dv = moved_v - v
    return tl.where(inside, du * du + dv * dv, 0.0)


@helper
def _divergence(
    px: tl.tensor, py: tl.tensor, index: tl.tensor, width: tl.tensor, inside: tl.tensor, first: tl.tensor
) -> tl.tensor:
    across = tl.load(px, mask=inside, other=0.0)
    left = tl.load(px - 1, mask=inside & ~first, other=0.0)
    down = tl.load(py, mask=inside, other=0.0)
    above = tl.load(py - width, mask=inside & (index >= width), other=0.0)
    return tl.where(first, (across + down) - above, (across - left) + (down - above))


@kernel
def dual(
    planes: tl.tensor,
    state: tl.tensor,
    shapes: tl.tensor,
    slots: tl.tensor,
    parity: tl.tensor,
    dual_step: tl.tensor,
    PLANE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Moves the dual variables of each pair whose flow `primal` has moved.

    Args:
        as those of `primal`.
    """
    program = tl.program_id(0)
    slot = tl.program_id(1)
    now = state + ((1 - parity) * slots + slot) * FIELDS
    shape = shapes + tl.load(now + LEVEL) * SHAPE
    if (tl.load(now + STAGE) != ITERATE) | (program >= tl.load(shape + PROGRAMS)):
        return
    width = tl.load(shape + WIDTH)
    pixels = width * tl.load(shape + HEIGHT)
    slab = planes + slot.to(tl.int64) * PLANES * PLANE
    side = tl.load(now + SIDE)
    for step in range(STEPS):
        index = (program * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        inside = index < pixels
        right = inside & (index - row_of(index, shape) * width < width - 1)
        lower = index < pixels - width
        base = slab + index
        flow = base + side * PLANE
        _project(flow + U * PLANE, base + PUX * PLANE, base + PUY * PLANE, width, inside, right, lower, dual_step)
        _project(flow + V * PLANE, base + PVX * PLANE, base + PVY * PLANE, width, inside, right, lower, dual_step)


@helper
def _project(
    flow: tl.tensor,
    px: tl.tensor,
    py: tl.tensor,
    width: tl.tensor,
    inside: tl.tensor,
    right: tl.tensor,
    lower: tl.tensor,
    dual_step: tl.tensor,
) -> None:
    here = tl.load(flow, mask=inside, other=0.0)
    next_x = tl.load(flow + 1, mask=right, other=0.0)
    next_y = tl.load(flow + width, mask=lower, other=0.0)
    across = tl.load(px, mask=inside, other=0.0)
    down = tl.load(py, mask=inside, other=0.0)
    dx = tl.where(right, next_x - here, 0.0)
    dy = tl.where(lower, next_y - here, 0.0)
    wide_x = dx.to(tl.float64)
    wide_y = dy.to(tl.float64)
    # Products of floats are exact in double precision: fused or not, the sum is the same.
    square = tl.fma(wide_x, wide_x, tl.fma(wide_y, wide_y, _NEXT_TO_NOTHING))
    shrink = 1.0 + dual_step * tl.sqrt(square).to(tl.float32)
    tl.store(px, tl.div_rn(across + dual_step * dx, shrink), mask=inside)
    tl.store(py, tl.div_rn(down + dual_step * dy, shrink), mask=inside)
