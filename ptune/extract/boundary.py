"""Optical flow becomes motion boundaries, its spatial derivatives, which a uniform camera pan does not have.

Knows nothing of how flow is computed or stored.

A pan vanishes; a zoom by a factor of 1 + a per frame leaves the constant Bu = Bv = a, a roll by c radians per frame
leaves Bu = -c, Bv = c.

Source: equation 3; Dalal, Triggs and Schmid 2006, "Human detection using oriented histograms of flow and appearance".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def motion_gradients(flow: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats, Floats]:
    """Returns du/dx, du/dy, dv/dx, dv/dy as float32 [...,H,W] in px/frame per px.

    Central differences (f[i+1] - f[i-1]) * 0.5 with indices clamped to the image, in float32: mirroring an image
    and differentiating it commute to the last bit.

    Args:
        flow: float [...,H,W,2] in px/frame, u to the right first, then v downward.

    Raises:
        ValueError: the last axis does not hold u and v.
    """
    if flow.ndim < 3 or flow.shape[-1] != 2:
        raise ValueError(f"flow has shape {flow.shape}, expected [...,H,W,2]")
    u, v = flow[..., 0].astype(np.float32), flow[..., 1].astype(np.float32)
    return _central(u, -1), _central(u, -2), _central(v, -1), _central(v, -2)


def motion_boundaries(flow: npt.NDArray[Any]) -> Floats:
    """Returns Bu = du/dx + du/dy and Bv = dv/dx + dv/dy as float32 [...,H,W,2] in px/frame per px.

    The boundaries of a mirrored flow are Bu' = mirror(du/dx - du/dy) and Bv' = mirror(dv/dy - dv/dx): they are not
    the mirrored boundaries.

    Args:
        flow: float [...,H,W,2] in px/frame.

    Source: equation 3, with f the sum. Differs: none known; the paper does not state its derivative's mask or border.
    """
    ux, uy, vx, vy = motion_gradients(flow)
    return np.stack([ux + uy, vx + vy], axis=-1)


def mirror_flow(flow: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the flow [...,H,W,2] of the mirrored video: columns reversed, u negated."""
    mirrored: npt.NDArray[Any] = flow[..., ::-1, :].copy()
    mirrored[..., 0] = -mirrored[..., 0]
    return mirrored


def _central(field: Floats, axis: int) -> Floats:
    last = field.shape[axis] - 1
    index = np.arange(last + 1)
    after = np.take(field, np.minimum(index + 1, last), axis)
    before = np.take(field, np.maximum(index - 1, 0), axis)
    slope: Floats = (after - before) * np.float32(0.5)
    return slope


class MotionStatistics:
    """Sums up flow and boundaries of one video, chunk by chunk, from every second row and column.

    Percentiles come from histograms: steps of 1/64 px/frame up to 64, of 1/256 px/frame per px up to 16.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self._values = self._clipped = 0
        self._flow_sum = self._boundary_sum = 0.0
        self._flow = np.zeros(4096, np.int64)
        self._boundary = np.zeros(4096, np.int64)

    def add(self, flow: Floats) -> None:
        """Takes flow [T,H,W,2] in px/frame."""
        size = np.abs(flow[:, ::2, ::2])
        edge = np.abs(motion_boundaries(flow)[:, ::2, ::2])
        self._values += size.size
        self._clipped += int((size >= self.bound).sum())
        self._flow_sum += float(size.sum(dtype=np.float64))
        self._boundary_sum += float(edge.sum(dtype=np.float64))
        self._flow += _histogram(size, 64)
        self._boundary += _histogram(edge, 256)

    def summary(self) -> dict[str, float]:
        """Returns the share of components at the storage bound, means and 99.9th percentiles of absolute values."""
        count = max(self._values, 1)
        return {
            "clipped_share": self._clipped / count,
            "flow_mean": self._flow_sum / count,
            "flow_p999": _percentile(self._flow, 0.999) / 64,
            "boundary_mean": self._boundary_sum / count,
            "boundary_p999": _percentile(self._boundary, 0.999) / 256,
        }


def _histogram(values: Floats, per_unit: int) -> npt.NDArray[np.int64]:
    bins = np.minimum(values * per_unit, 4095).astype(np.int64)
    return np.bincount(bins.ravel(), minlength=4096)


def _percentile(counts: npt.NDArray[np.int64], share: float) -> int:
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum())) + 1 if counts.any() else 0
