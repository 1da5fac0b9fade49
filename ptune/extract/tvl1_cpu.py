"""Gray frames become TV-L1 optical flow on the CPU: OpenCV's numbers, byte for byte, in fewer passes over memory.

OpenCV writes every intermediate of an iteration as an image. Here one sweep over the rows updates the flow of row y,
then the dual variables of row y - 1, while both are in cache; what an iteration touches of a row lies side by side.
Each frame's pyramid and gradients serve both pairs that it belongs to. Warping, median and resizing are OpenCV's own.

To keep the bytes, every operation keeps OpenCV's order, nothing contracts into a fused multiply-add, and norms are
square roots in double precision. That holds for OpenCV's x86-64 builds.

Source: section 4.1; Zach, Pock and Bischof 2007; OpenCV's `DualTVL1OpticalFlow` without gamma and initial flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numba
import numpy as np
import numpy.typing as npt

from ptune.config.extraction import TVL1Config

Frames = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Array = npt.NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

#: OpenCV makes no pyramid level with a side below this.
MIN_LEVEL_SIDE = 16

#: Planes of a row of a level: flow; warped derivatives, their squared norm and the constant part of the residual; dual
#: variables of u and of v; squared change of the flow. No plane that `_primal_row` writes lies before PUX or PVX, whose
#: left neighbours it reads: the compiler's test for overlap would send it down its slow path.
U, V, WX, WY, NORM, RHO, PUX, PUY, PVX, PVY, CHANGE = range(11)
PLANES = 11

#: Floats of a vector register and of a cache line: rows are padded to full ones.
_LINE = 16
_TINY = np.float32(np.finfo(np.float32).eps)
_ROUNDING = 2.0**-24


def _compiled(function: Function) -> Function:
    """Compiles on first use; kept on disk where a folder for it can be written."""
    options = {"nogil": True, "fastmath": False, "error_model": "numpy"}
    try:
        compiled: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        compiled = numba.njit(**options)(function)
    return compiled


def solve(gray: Frames, config: TVL1Config) -> Array:
    """Returns the flow from each frame to the next as float32 [T-1,H,W,2] in px/frame, with OpenCV's bytes.

    Args:
        gray: uint8 [T,H,W], or float32 [T,H,W] in [0,1].
        config: the solver's parameters.

    Source: section 4.1 names TV-L1 only; OpenCV's `DualTVL1OpticalFlow`.
    Differs: OpenCV reads outside frames that are one pixel high or wide; here their border is repeated.
    """
    flow = np.empty((len(gray) - 1, *gray.shape[1:], 2), np.float32)
    if not len(flow):
        return flow
    before = _pyramid(gray[0], config)
    levels = [_Level(*image.shape[:2]) for image in before]
    for index in range(len(flow)):
        after = _pyramid(gray[index + 1], config)
        coarser = None
        for level, first, second in reversed(list(zip(levels, before, after, strict=True))):
            level.start(coarser, config)
            level.refine(first, second, config)
            coarser = level
        flow[index, ..., 0] = levels[0].u
        flow[index, ..., 1] = levels[0].v
        before = after
    return flow


def warm_up() -> None:
    """Compiles whatever `solve` needs, or reads it from the cache on disk."""
    solve(np.zeros((2, MIN_LEVEL_SIDE, MIN_LEVEL_SIDE), np.uint8), TVL1Config(scales=1, warps=1))


class _Level:
    """Working memory of one pyramid level.

    Args:
        height, width: size in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        stride = -(-(width + 1) // _LINE) * _LINE
        self.shape = (height, width)
        self.state = _aligned_zeros(height, PLANES * stride)
        self.no_row = np.zeros(stride, np.float32)
        self.sums = np.zeros(stride, np.float32)
        self.map_x = np.empty((height, width), np.float32)
        self.map_y = np.empty((height, width), np.float32)
        self.warped = np.empty((height, width, 3), np.float32)
        self.u = self.state[:, U * stride :][:, :width]
        self.v = self.state[:, V * stride :][:, :width]

    def start(self, coarser: _Level | None, config: TVL1Config) -> None:
        """Takes over the flow of the next coarser level, zero where there is none; the dual variables become zero."""
        self.state[:] = 0
        if coarser is None:
            return
        for mine, theirs in ((self.u, coarser.u), (self.v, coarser.v)):
            cv2.resize(theirs, self.shape[::-1], dst=mine, interpolation=cv2.INTER_LINEAR)
            cv2.multiply(mine, 1 / config.scale_step, dst=mine)

    def refine(self, before: Array, after: Array, config: TVL1Config) -> None:
        """Moves the flow to the minimum of the energy, warp by warp."""
        area = self.shape[0] * self.shape[1]
        threshold = np.float32(config.epsilon * config.epsilon * area)
        data_step = np.float32(config.lambda_ * config.theta)
        dual_step = np.float32(config.tau / config.theta)
        theta = np.float32(config.theta)
        for _ in range(config.warps):
            _targets(self.state, self.map_x, self.map_y)
            cv2.remap(after, self.map_x, self.map_y, cv2.INTER_CUBIC, dst=self.warped)
            _linearize(self.state, before, self.warped)
            for _ in range(config.outer_iterations):
                if config.median_size > 1:
                    cv2.medianBlur(self.u, config.median_size, dst=self.u)
                    cv2.medianBlur(self.v, config.median_size, dst=self.v)
                if not _iterate(
                    self.state,
                    self.shape[1],
                    self.no_row,
                    self.sums,
                    data_step,
                    theta,
                    dual_step,
                    threshold,
                    config.inner_iterations,
                ):
                    break


def _aligned_zeros(rows: int, columns: int) -> Array:
    """Returns float32 zeros [rows,columns] that start at a cache line."""
    memory = np.zeros(rows * columns + _LINE, np.float32)
    first = -(memory.ctypes.data // memory.itemsize) % _LINE
    return memory[first : first + rows * columns].reshape(rows, columns)


def _pyramid(frame: Frames, config: TVL1Config) -> list[Array]:
    """Returns a frame at each scale, finest first: float32 [H,W,3], intensity in 0 to 255 and its two derivatives."""
    image = frame.astype(np.float32)
    if frame.dtype != np.uint8:
        image *= np.float32(255)
    levels = []
    for scale in range(config.scales):
        if scale:
            image = cv2.resize(image, None, fx=config.scale_step, fy=config.scale_step, interpolation=cv2.INTER_LINEAR)
            if min(image.shape) < MIN_LEVEL_SIDE:
                break
        level = np.empty((*image.shape, 3), np.float32)
        _differentiate(image, level)
        levels.append(level)
    return levels


@_compiled
def _differentiate(image: Array, level: Array) -> None:
    """Writes intensity and central differences [H,W,3]; the border is repeated."""
    height, width = image.shape
    half = np.float32(0.5)
    for y in range(height):
        row = image[y]
        above = image[max(y - 1, 0)]
        below = image[min(y + 1, height - 1)]
        for x in range(width):
            level[y, x, 0] = row[x]
            level[y, x, 1] = half * (row[min(x + 1, width - 1)] - row[max(x - 1, 0)])
            level[y, x, 2] = half * (below[x] - above[x])


@_compiled
def _targets(state: Array, map_x: Array, map_y: Array) -> None:
    """Writes where each pixel goes."""
    height, width = map_x.shape
    stride = state.shape[1] // PLANES
    for y in range(height):
        u = state[y, U * stride :]
        v = state[y, V * stride :]
        for x in range(width):
            map_x[y, x] = np.float32(x) + u[x]
            map_y[y, x] = np.float32(y) + v[x]


@_compiled
def _linearize(state: Array, before: Array, warped: Array) -> None:
    """Writes the residual's linear model around the present flow."""
    height, width = warped.shape[:2]
    stride = state.shape[1] // PLANES
    for y in range(height):
        row = state[y]
        for x in range(width):
            dx = warped[y, x, 1]
            dy = warped[y, x, 2]
            row[WX * stride + x] = dx
            row[WY * stride + x] = dy
            row[NORM * stride + x] = dx * dx + dy * dy
            row[RHO * stride + x] = (
                warped[y, x, 0] - dx * row[U * stride + x] - dy * row[V * stride + x] - before[y, x, 0]
            )


@_compiled
def _iterate(
    state: Array,
    width: int,
    no_row: Array,
    sums: Array,
    data_step: np.float32,
    theta: np.float32,
    dual_step: np.float32,
    threshold: np.float32,
    limit: int,
) -> bool:
    """Iterates until the flow settles; returns False if it did, True after `limit` iterations without that.

    OpenCV adds the squared changes one by one in single precision, and where that sum crosses the threshold decides the
    bytes. Column sums are quicker and near enough to decide, except within the rounding of so many additions: only then
    are the changes added one by one.
    """
    height = state.shape[0]
    stride = state.shape[1] // PLANES
    slack = math.expm1((height * width + height) * _ROUNDING)
    for _ in range(limit):
        sums[:] = np.float32(0)
        for y in range(height):
            row = state[y]
            above = state[max(y - 1, 0)]
            _primal_row(
                stride,
                row[WX * stride :],
                row[WY * stride :],
                row[NORM * stride :],
                row[RHO * stride :],
                row[U * stride :],
                row[V * stride :],
                row[PUX * stride - 1 :],
                row[PUY * stride :],
                above[PUY * stride :] if y else no_row,
                row[PVX * stride - 1 :],
                row[PVY * stride :],
                above[PVY * stride :] if y else no_row,
                row[CHANGE * stride :],
                sums,
                data_step,
                theta,
            )
            if y:
                _dual_row(
                    stride,
                    width,
                    above[U * stride :],
                    row[U * stride :],
                    above[PUX * stride :],
                    above[PUY * stride :],
                    dual_step,
                )
                _dual_row(
                    stride,
                    width,
                    above[V * stride :],
                    row[V * stride :],
                    above[PVX * stride :],
                    above[PVY * stride :],
                    dual_step,
                )
        last = state[height - 1]
        _dual_row(
            stride, width, last[U * stride :], last[U * stride :], last[PUX * stride :], last[PUY * stride :], dual_step
        )
        _dual_row(
            stride, width, last[V * stride :], last[V * stride :], last[PVX * stride :], last[PVY * stride :], dual_step
        )
        error = 0.0
        for x in range(width):
            error += np.float64(sums[x])
        if abs(error - threshold) <= slack * (error + threshold):
            error = _change_one_by_one(state, width)
        if not error > threshold:
            return False
    return True


@_compiled
def _change_one_by_one(state: Array, width: int) -> float:
    first = CHANGE * (state.shape[1] // PLANES)
    error = np.float32(0)
    for y in range(state.shape[0]):
        changes = state[y, first:]
        for x in range(width):
            error += changes[x]
    return np.float64(error)


@_compiled
def _primal_row(
    count: int,
    wx: Array,
    wy: Array,
    norm: Array,
    rho: Array,
    u: Array,
    v: Array,
    pux_left: Array,
    puy: Array,
    puy_above: Array,
    pvx_left: Array,
    pvy: Array,
    pvy_above: Array,
    change: Array,
    sums: Array,
    data_step: np.float32,
    theta: np.float32,
) -> None:
    """Updates the flow of one row: thresholding, then a step along the divergence of the dual variables.

    `pux_left` and `pvx_left` start one element early, so that index x is the left neighbour of x.
    """
    u_old = u[0]
    v_old = v[0]
    step_u, step_v = _threshold(wx[0], wy[0], norm[0], rho[0], u_old, v_old, data_step)
    u_first = (u_old + step_u) + theta * (pux_left[1] + puy[0] - puy_above[0])
    v_first = (v_old + step_v) + theta * (pvx_left[1] + pvy[0] - pvy_above[0])
    change_first = _squares(u_first - u_old, v_first - v_old)
    sum_first = sums[0] + change_first
    for x in range(count):
        u_old = u[x]
        v_old = v[x]
        step_u, step_v = _threshold(wx[x], wy[x], norm[x], rho[x], u_old, v_old, data_step)
        u_new = (u_old + step_u) + theta * ((pux_left[x + 1] - pux_left[x]) + (puy[x] - puy_above[x]))
        v_new = (v_old + step_v) + theta * ((pvx_left[x + 1] - pvx_left[x]) + (pvy[x] - pvy_above[x]))
        u[x] = u_new
        v[x] = v_new
        squares = _squares(u_new - u_old, v_new - v_old)
        change[x] = squares
        sums[x] += squares
    u[0] = u_first
    v[0] = v_first
    change[0] = change_first
    sums[0] = sum_first


@_compiled
def _threshold(
    wx: np.float32,
    wy: np.float32,
    norm: np.float32,
    rho: np.float32,
    u: np.float32,
    v: np.float32,
    data_step: np.float32,
) -> tuple[np.float32, np.float32]:
    """Returns the step of the flow that lowers the data term."""
    residual = rho + (wx * u + wy * v)
    reach = data_step * norm
    below = residual < -reach
    above = residual > reach
    step = -residual / norm
    step = data_step if below else (-data_step if above else step)
    moves = below | above | (norm > _TINY)
    return (step * wx if moves else np.float32(0)), (step * wy if moves else np.float32(0))


@_compiled
def _squares(a: np.float32, b: np.float32) -> np.float32:
    return a * a + b * b


@_compiled
def _dual_row(count: int, width: int, flow: Array, below: Array, px: Array, py: Array, dual_step: np.float32) -> None:
    """Updates the dual variables of one row from the flow's forward differences."""
    last = width - 1
    px_last, py_last = _project(np.float32(0), below[last] - flow[last], px[last], py[last], dual_step)
    for x in range(count):
        px[x], py[x] = _project(flow[x + 1] - flow[x], below[x] - flow[x], px[x], py[x], dual_step)
    px[last] = px_last
    py[last] = py_last


@_compiled
def _project(
    dx: np.float32, dy: np.float32, px: np.float32, py: np.float32, dual_step: np.float32
) -> tuple[np.float32, np.float32]:
    norm = np.float32(math.sqrt(np.float64(dx) * np.float64(dx) + np.float64(dy) * np.float64(dy)))
    shrink = np.float32(1) + dual_step * norm
    return (px + dual_step * dx) / shrink, (py + dual_step * dy) / shrink
