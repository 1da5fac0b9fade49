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
